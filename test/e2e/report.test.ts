/** The report in a real browser. Needs Chromium: $CHROMIUM, or one of the usual places; else it says so and is skipped. */

import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { renderHtml } from '../../lib/report/html.js';
import { pictureMaps } from '../../lib/report/picture-map.js';
import { demoMarks, demoReport } from './demo-report.js';

const places = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];
const executablePath = places.find((place) => place !== undefined && existsSync(place));
if (executablePath === undefined) {
  console.warn(
    'report in a browser: skipped, no Chromium here (set CHROMIUM, or install Debian\'s "chromium" package)',
  );
}

// The functions below run in the page; as text, since the tests are compiled without the browser's types.
const overlaps = `(() => {
  const found = [];
  for (const svg of document.querySelectorAll('.chart > svg')) {
    if (svg.getBoundingClientRect().width === 0) continue;
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map((text) => {
      const box = text.getBBox();
      const turned = text.hasAttribute('transform');
      return { text: text.textContent, turned, box, client: text.getBoundingClientRect() };
    });
    const name = svg.getAttribute('aria-label') + ' ' + svg.getAttribute('class') + ': ';
    for (const { text, client } of texts) {
      if (client.left < frame.left - 1 || client.right > frame.right + 1) found.push(name + text + ' leaves the chart');
    }
    for (let i = 0; i < texts.length; i++) for (let j = i + 1; j < texts.length; j++) {
      const [a, b] = [texts[i], texts[j]];
      // Slanted labels are parallel: their boxes may cross where their letters do not.
      if (a.turned || b.turned) continue;
      const x = Math.min(a.box.x + a.box.width, b.box.x + b.box.width) - Math.max(a.box.x, b.box.x);
      const y = Math.min(a.box.y + a.box.height, b.box.y + b.box.height) - Math.max(a.box.y, b.box.y);
      // Line boxes hold room above and below the letters.
      if (x > 0.5 && y > 3.5) found.push(name + a.text + ' | ' + b.text);
    }
  }
  return found;
})()`;
const marksByFigure = `Object.fromEntries([...document.querySelectorAll('figure')].map((figure) => [
  figure.id,
  [...figure.querySelectorAll('.chart > svg .mark')].filter((mark) => mark.checkVisibility()).length,
]))`;
const width = '[document.documentElement.scrollWidth, innerWidth]';

describe.skipIf(executablePath === undefined)('report in a browser', () => {
  let browser: Browser;
  let folder: string;
  let url: string;
  const complaints: string[] = [];
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'galvani-report-'));
    const file = join(folder, 'report.html');
    writeFileSync(file, renderHtml(demoReport));
    url = pathToFileURL(file).href;
    browser = await chromium.launch({
      executablePath: executablePath!,
      args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    });
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const open = async (viewport: number, colorScheme: 'light' | 'dark' = 'light'): Promise<Page> => {
    const page = await browser.newPage({ viewport: { width: viewport, height: 900 }, colorScheme });
    page.on('console', (message) => complaints.push(`console ${message.type()}: ${message.text()}`));
    page.on('pageerror', (error) => complaints.push(`page error: ${error.message}`));
    page.on('request', (request) => {
      if (request.url() !== url && !request.url().startsWith('data:')) complaints.push(`request: ${request.url()}`);
    });
    await page.goto(url);
    return page;
  };

  test.each([360, 390, 768, 1024, 1440, 1600])(
    'at %i px: all marks, no overflow, no labels on each other',
    async (px) => {
      const page = await open(px);
      const marks = (await page.evaluate(marksByFigure)) as Record<string, number>;
      expect(Object.fromEntries(Object.entries(marks).filter(([id]) => id in demoMarks))).toEqual(demoMarks);
      const [scroll, inner] = (await page.evaluate(width)) as [number, number];
      expect(scroll).toBeLessThanOrEqual(inner);
      expect(await page.evaluate(overlaps)).toEqual([]);
      await page.close();
      expect(complaints).toEqual([]);
    },
  );

  test('light and dark follow the system, the button turns them', async () => {
    const ground = 'getComputedStyle(document.body).backgroundColor';
    const light = await open(800, 'light');
    const dark = await open(800, 'dark');
    const [pale, deep] = [await light.evaluate(ground), await dark.evaluate(ground)];
    expect(pale).not.toBe(deep);
    await dark.click('button.theme');
    expect(await dark.evaluate(ground)).toBe(pale);
    await light.click('button.theme');
    expect(await light.evaluate(ground)).toBe(deep);
    await light.emulateMedia({ media: 'print' });
    expect(await light.evaluate(`getComputedStyle(document.documentElement).getPropertyValue('--page')`)).toBe(
      await dark.evaluate(`getComputedStyle(document.documentElement).getPropertyValue('--page')`),
    );
    await light.close();
    await dark.close();
  });

  test('hover reads out all series of a layer, the legend hides one, a table is saved', async () => {
    const page = await open(1200);
    await page.hover('#change svg.wide .hit[data-i="20"] rect');
    const tip = page.locator('.tip');
    expect(await tip.isVisible()).toBe(true);
    expect(await tip.textContent()).toMatch(/Layer 20[\s\S]*Counting[\s\S]*OCR[\s\S]*Grounding[\s\S]*Recognition/);
    expect(await tip.textContent()).toMatch(/\(\d+\.\d–\d+\.\d\), n = 75/);
    await page.click('#change button[data-series=ocr]');
    const visible =
      '[...document.querySelectorAll("#change svg.wide .mark")].filter((m) => m.checkVisibility()).length';
    expect(await page.evaluate(visible)).toBe(demoMarks.change! - 28);
    await page.hover('#change svg.wide .hit[data-i="20"] rect');
    expect(await tip.textContent()).not.toMatch(/OCR/);
    await page.click('#attention button[data-series=base]');
    const inAll = '[...document.querySelectorAll("#attention .mark")].filter((m) => m.checkVisibility()).length';
    expect(await page.evaluate(inAll)).toBe((demoMarks.attention! * 2) / 3);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#paired .save')]);
    expect(download.suggestedFilename()).toBe('paired.csv');
    await page.close();
  });

  test('the maps over a picture follow their selector and their slider', async () => {
    const layer = (label: string, values: number[], marked: number[] = []) => ({ label, values, marked });
    const view = (label: string, scale: number) => ({
      label,
      panels: [
        { name: 'in', layers: [layer('layer 0', [0.1, 0.2, 0, 0.4]), layer('layer 1', [scale, 0, 0, 0.5], [3])] },
        { name: 'rl', layers: [layer('layer 0', [0.1, 0.2, 0, 0.4]), layer('layer 1', [0, scale, 0, 0.5], [3])] },
      ],
      difference: ['in', 'rl'] as const,
    });
    const spec = {
      id: 'map-1',
      title: 'item 1',
      picture: null,
      grid: [2, 2] as const,
      views: [view('reasoning', 0.2), view('answer', 0.8)],
      below: '',
    };
    const block = { kind: 'chart' as const, id: 'maps', title: 'Maps', caption: '', svg: pictureMaps([spec], 'mass') };
    const file = join(folder, 'maps.html');
    writeFileSync(
      file,
      renderHtml({ ...demoReport, sections: [{ id: 'attention', title: 'Attention', blocks: [block] }] }),
    );
    const page = await browser.newPage();
    const faults: string[] = [];
    page.on('pageerror', (error) => faults.push(error.message));
    await page.goto(pathToFileURL(file).href);
    const svg = (panel: number) => page.locator(`svg[data-panel] >> nth=${panel}`);
    const said = async (panel: number, row: number, column: number) => {
      const { width: w, height: h } = (await svg(panel).boundingBox())!;
      await svg(panel).hover({ position: { x: (w * (column + 0.5)) / 2, y: (h * (row + 0.5)) / 2 } });
      return svg(panel).locator('title').textContent();
    };
    /** Red, green, blue and opacity of the four patches, as the browser decodes them. */
    const pixels = (panel: number): Promise<number[]> =>
      page.evaluate(`(async () => {
          const picture = new Image();
          picture.src = document.querySelectorAll('svg[data-panel] .patches')[${panel}].getAttribute('href');
          await picture.decode();
          const canvas = Object.assign(document.createElement('canvas'), { width: 2, height: 2 });
          const context = canvas.getContext('2d');
          context.drawImage(picture, 0, 0);
          return [...context.getImageData(0, 0, 2, 2).data];
        })()`);
    const opacity = async (panel: number) => (await pixels(panel)).filter((_, i) => i % 4 === 3);
    const output = page.locator('.pick output');
    const most = page.locator('.patch-legend .high').first();
    expect(await output.textContent()).toBe('layer 0');
    expect(await opacity(0)).toEqual([52, 105, 0, 209]); // a quarter, a half, none and the whole of 0.82
    expect(await said(0, 1, 1)).toBe('row 2, column 2: 40.0%');
    expect(await said(2, 1, 1)).toBe('row 2, column 2: 0.00%'); // rl − in
    await page.locator('.pick input').fill('1');
    expect(await output.textContent()).toBe('layer 1');
    expect(await said(0, 0, 0)).toBe('row 1, column 1: 20.0%');
    expect(await said(2, 0, 0)).toBe('row 1, column 1: -20.0%');
    const [red, , blue, shown] = await pixels(2);
    expect(red).toBeGreaterThan(blue!); // orange: less
    expect(shown).toBe(209);
    expect(await svg(0).locator('.sink').count()).toBe(1); // and it does not set the scale:
    expect(await opacity(0)).toEqual([209, 0, 0, 209]);
    expect(await most.textContent()).toBe('20%');
    await page.locator('.pick select').selectOption({ label: 'answer' });
    expect(await said(1, 0, 1)).toBe('row 1, column 2: 80.0%');
    expect(await most.textContent()).toBe('80%');
    await page.close();
    expect(faults).toEqual([]);
  });

  test('without scripts every mark keeps its title', async () => {
    const context = await browser.newContext({ javaScriptEnabled: false });
    const page = await context.newPage();
    await page.goto(url);
    expect(await page.locator('.chart svg .mark:not(:has(title))').count()).toBe(0);
    expect(await page.locator('#change svg.wide .mark title').first().textContent()).toMatch(/^Counting, Layer 0: \d/);
    await context.close();
  });

  test('nothing was asked of the network, nothing was complained of', () => {
    expect(complaints).toEqual([]);
  });
});
