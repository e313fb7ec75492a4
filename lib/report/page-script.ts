/** The script of the page: hover read-out, series switches, table download, theme switch, place in the contents. */

import { pictureScript } from './picture-map.js';

/** Without it the report stays whole: marks keep their titles, all series show. */
export const pageScript: string = `
(() => {
  'use strict';
  const tip = document.createElement('div');
  tip.className = 'tip';
  tip.setAttribute('aria-hidden', 'true');
  document.body.append(tip);
  // The read-out takes the place of the browser's own title bubbles; the words stay as labels.
  for (const title of document.querySelectorAll('.chart [data-v]>title')) {
    title.parentNode.setAttribute('aria-label', title.textContent);
    title.remove();
  }
  const line = (mark) => {
    const row = document.createElement('div');
    const dot = document.createElement('i');
    const color = [...mark.classList].find((name) => /^c[0-7m]$/.test(name));
    if (color) { dot.className = color; row.append(dot); }
    if (mark.dataset.s) { const name = document.createElement('span'); name.textContent = mark.dataset.s; row.append(name); }
    row.append(mark.dataset.v);
    return row;
  };
  const show = (target, at) => {
    const hit = target.closest('.hit');
    const found = hit
      ? [...hit.ownerSVGElement.querySelectorAll('.mark:not(.off)')].filter((m) => m.dataset.i === hit.dataset.i)
      : [target.closest('[data-v]')].filter(Boolean);
    if (found.length === 0) { tip.style.visibility = 'hidden'; return; }
    const key = (hit || found[0]).dataset.k;
    tip.textContent = '';
    if (key) { const head = document.createElement('b'); head.textContent = key; tip.append(head); }
    tip.append(...found.map(line));
    const box = tip.getBoundingClientRect();
    const x = at.x + 16 + box.width > innerWidth ? at.x - box.width - 14 : at.x + 16;
    const y = at.y + 16 + box.height > innerHeight ? at.y - box.height - 14 : at.y + 16;
    tip.style.transform = 'translate(' + Math.max(4, x) + 'px,' + Math.max(4, y) + 'px)';
    tip.style.visibility = 'visible';
  };
  let at = { x: -1, y: -1 };
  const follow = () => {
    const target = document.elementFromPoint(at.x, at.y);
    if (target && target.closest('.chart>svg')) show(target, at);
    else tip.style.visibility = 'hidden';
  };
  for (const type of ['pointermove', 'pointerdown']) {
    document.addEventListener(type, (event) => { at = { x: event.clientX, y: event.clientY }; follow(); });
  }
  // What lies under a pointer that stands still changes with the page.
  document.addEventListener('scroll', follow, { passive: true });
  document.addEventListener('click', (event) => {
    const button = event.target instanceof Element ? event.target.closest('button') : null;
    if (!button) return;
    if (button.dataset.series) {
      const on = button.getAttribute('aria-pressed') !== 'true';
      button.setAttribute('aria-pressed', String(on));
      for (const part of (button.closest('.multiples') || button.closest('.chart')).querySelectorAll('.series-' + button.dataset.series)) part.classList.toggle('off', !on);
    } else if (button.dataset.csv) {
      const text = document.getElementById(button.dataset.csv).textContent;
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([JSON.parse(text)], { type: 'text/csv' }));
      link.download = button.dataset.name;
      link.click();
      URL.revokeObjectURL(link.href);
    } else if (button.classList.contains('theme')) {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme:dark)').matches;
      root.dataset.theme = dark ? 'light' : 'dark';
    }
  });
${pictureScript}
  const links = new Map([...document.querySelectorAll('nav.contents a')].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const a of links.values()) a.classList.remove('here');
      links.get(entry.target.id)?.classList.add('here');
    }
  }, { rootMargin: '-10% 0px -80% 0px' });
  for (const section of document.querySelectorAll('section[id]')) seen.observe(section);
})();
`;
