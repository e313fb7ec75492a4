/**
 * Maps of patches over a picture, one panel a model, with selectors that the page's script works. Without the script the
 * first choice is shown.
 */
import { escapeHtml } from './format.js';

/** One number per patch for each step of the slider. */
export interface PatchLayer {
  readonly label: string;
  /** Row-major over the grid. */
  readonly values: readonly number[];
  /** Patches that are marked and do not set the scale. */
  readonly marked: readonly number[];
}

export interface PatchPanel {
  /** E.g. the model; equal over views, so that panels keep their place. */
  readonly name: string;
  readonly layers: readonly PatchLayer[];
}

/** One setting of the selectors: which numbers are shown. */
export interface PatchView {
  readonly label: string;
  readonly panels: readonly PatchPanel[];
  /** Names of the two panels whose difference (second − first) is the last panel. */
  readonly difference?: readonly [from: string, to: string];
}

export interface PictureMapSpec {
  readonly id: string;
  readonly title: string;
  /** A data URL; null draws the patches alone. */
  readonly picture: { readonly url: string; readonly width: number; readonly height: number } | null;
  readonly grid: readonly [rows: number, columns: number];
  readonly views: readonly PatchView[];
  /** Trusted markup under the panels. */
  readonly below: string;
}

/** Several pictures under one set of selectors; all have the same views and steps in the same order. */
export function pictureMaps(specs: readonly PictureMapSpec[], unit: string): string {
  const [first] = specs;
  const steps = first?.views[0]?.panels[0]?.layers.map(({ label }) => label) ?? [];
  if (!first || steps.length === 0) return '';
  const views = [...new Set(specs.flatMap((spec) => spec.views.map(({ label }) => label)))];
  const options = views.map((label, i) => `<option value="${i}">${escapeHtml(label)}</option>`).join('');
  const data = JSON.stringify({ unit, steps, views, pictures: specs.map((spec) => dataOf(spec, views)) });
  return (
    `<div class="pictures" data-maps="${first.id}-maps">` +
    `<div class="pick"><label>Attention of <select>${options}</select></label>` +
    `<label>in <output>${escapeHtml(steps[0]!)}</output> <input type="range" min="0" max="${steps.length - 1}" value="0" aria-label="layer"></label></div>` +
    specs.map((spec) => pictureHtml(spec, unit)).join('') +
    `<script type="application/json" id="${first.id}-maps">${data.replaceAll('<', '\\u003c')}</script></div>`
  );
}

interface PanelData {
  /** [step][patch] */
  readonly v: readonly (readonly number[])[];
  readonly s: readonly (readonly number[])[];
}

/** views[v][panel]; null where the picture lacks the view. */
function dataOf(spec: PictureMapSpec, views: readonly string[]): (PanelData[] | null)[] {
  return views.map((label) => {
    const view = spec.views.find((one) => one.label === label);
    if (!view) return null;
    return panelsOf(view).map(({ layers }) => ({
      v: layers.map(({ values }) => values.map((value) => Number(value.toPrecision(3)))),
      s: layers.map(({ marked }) => marked),
    }));
  });
}

/** The panels of a view, its difference last. */
function panelsOf({ panels, difference }: PatchView): readonly PatchPanel[] {
  if (!difference) return panels;
  const [from, to] = difference.map((name) => panels.find((panel) => panel.name === name));
  if (!from || !to) return panels;
  const layers = to.layers.map(
    ({ label, values, marked }, i): PatchLayer => ({
      label,
      values: values.map((value, p) => value - from.layers[i]!.values[p]!),
      marked: [...new Set([...marked, ...from.layers[i]!.marked])],
    }),
  );
  return [...panels, { name: differenceName(difference), layers }];
}

function differenceName([from, to]: readonly [string, string]): string {
  return `${to} − ${from}`;
}

function pictureHtml(spec: PictureMapSpec, unit: string): string {
  const [view] = spec.views;
  if (!view) return '';
  const panels = panelsOf(view);
  const plain = spec.picture ? [panelHtml('the picture', pictureSvg(spec, null, 0, false))] : [];
  const most = scaleOf(panels.slice(0, view.panels.length), 0);
  const change = panels.length > view.panels.length ? scaleOf(panels.slice(view.panels.length), 0) : null;
  const maps = panels.map((panel, i) => {
    const isChange = i >= view.panels.length;
    return panelHtml(panel.name, pictureSvg(spec, panel, isChange ? (change ?? 0) : most, isChange));
  });
  return (
    `<div class="picture" id="${spec.id}"><h4>${escapeHtml(spec.title)}</h4><div class="panels">${[...plain, ...maps].join('')}</div>` +
    legendHtml(most, change, unit) +
    spec.below +
    '</div>'
  );
}

function panelHtml(name: string, svg: string): string {
  return `<div class="panel">${svg}<span>${escapeHtml(name)}</span></div>`;
}

function legendHtml(most: number, change: number | null, unit: string): string {
  const bar = (kind: string, low: string, high: string): string =>
    `<span class="scale"><b class="low">${low}</b><i class="${kind}"></i><b class="high">${high}</b></span>`;
  return (
    `<p class="patch-legend">${bar('more', '0', percent(most))}` +
    (change === null ? '' : bar('both', `−${percent(change)}`, `+${percent(change)}`)) +
    `<span class="patch-unit">${escapeHtml(unit)}; <i class="sink"></i> taken for a sink, outside the scale</span></p>`
  );
}

function percent(value: number): string {
  return `${Number((100 * value).toPrecision(2))}%`;
}

/** Largest number of a step over the panels, marked patches left out. */
function scaleOf(panels: readonly PatchPanel[], step: number): number {
  const all = panels.flatMap(({ layers }) => {
    const { values, marked } = layers[step]!;
    const free = values.filter((_, i) => !marked.includes(i));
    return (free.length > 0 ? free : values).map(Math.abs);
  });
  return Math.max(...all, 1e-9);
}

/** Patch (row, column) covers its share of the whole picture: processors stretch, they do not crop. */
function pictureSvg(spec: PictureMapSpec, panel: PatchPanel | null, most: number, isChange: boolean): string {
  const [rows, columns] = spec.grid;
  const [width, height] = spec.picture ? [spec.picture.width, spec.picture.height] : [columns, rows];
  const image = spec.picture
    ? `<image href="${spec.picture.url}" width="${width}" height="${height}" preserveAspectRatio="none"/>`
    : `<rect class="no-picture" width="${width}" height="${height}"/>`;
  const layer = panel?.layers[0];
  const cells = (layer?.values ?? []).map((value, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const share = Math.min(1, Math.abs(value) / most);
    const kind = value < 0 ? 'less' : 'more';
    const place = `x="${place2((column * width) / columns)}" y="${place2((row * height) / rows)}" width="${place2(width / columns)}" height="${place2(height / rows)}"`;
    return `<rect class="patch ${kind}${layer!.marked.includes(i) ? ' sink' : ''}" ${place} fill-opacity="${(0.82 * share).toFixed(3)}"><title>row ${row + 1}, column ${column + 1}: ${(100 * value).toPrecision(3)}%</title></rect>`;
  });
  const label = panel ? `${spec.title}, ${panel.name}` : spec.title;
  const veil = panel && spec.picture ? `<rect class="veil" width="${width}" height="${height}"/>` : '';
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(label)}"${panel ? ` data-panel="${isChange ? 'change' : 'map'}"` : ''}>${image}${veil}${cells.join('')}</svg>`;
}

function place2(value: number): string {
  return String(Number(value.toFixed(2)));
}

/** What the script of the page does with them. */
export const pictureScript = `
  for (const root of document.querySelectorAll('.pictures')) {
    const { steps, pictures } = JSON.parse(document.getElementById(root.dataset.maps).textContent);
    const [select, slider, output] = ['select', 'input', 'output'].map((name) => root.querySelector(name));
    const percent = (value) => Number((100 * value).toPrecision(2)) + '%';
    const scale = (panels, step) => Math.max(1e-9, ...panels.flatMap(({ v, s }) => {
      const free = v[step].filter((_, i) => !s[step].includes(i));
      return (free.length > 0 ? free : v[step]).map(Math.abs);
    }));
    const draw = () => {
      const step = Number(slider.value);
      output.textContent = steps[step];
      root.querySelectorAll('.picture').forEach((picture, p) => {
        const panels = pictures[p][select.value];
        picture.classList.toggle('unseen', !panels);
        if (!panels) return;
        const svgs = [...picture.querySelectorAll('svg[data-panel]')];
        const of = (kind) => panels.filter((_, i) => svgs[i].dataset.panel === kind);
        const most = { map: scale(of('map'), step), change: of('change').length ? scale(of('change'), step) : 0 };
        svgs.forEach((svg, i) => {
          const { v, s } = panels[i];
          svg.querySelectorAll('.patch').forEach((rect, c) => {
            const value = v[step][c];
            rect.setAttribute('class', 'patch ' + (value < 0 ? 'less' : 'more') + (s[step].includes(c) ? ' sink' : ''));
            rect.setAttribute('fill-opacity', (0.82 * Math.min(1, Math.abs(value) / most[svg.dataset.panel])).toFixed(3));
            rect.firstChild.textContent = rect.firstChild.textContent.replace(/:.*/, ': ' + (100 * value).toPrecision(3) + '%');
          });
        });
        const ends = picture.querySelectorAll('.patch-legend b');
        ends[1].textContent = percent(most.map);
        if (ends[3]) { ends[2].textContent = '\\u2212' + percent(most.change); ends[3].textContent = '+' + percent(most.change); }
      });
    };
    for (const control of [select, slider]) control.addEventListener('input', draw);
    draw();
  }
`;
