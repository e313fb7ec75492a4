/** The demo's study with few items: every experiment, one report, opened in a browser where there is one. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { readStudy, studyFolder, withPathsFrom } from '../../lib/experiments/study-file.js';
import { type SummaryFile, summarySchema } from '../../lib/experiments/summary-schema.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const places = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const browserPath = places.find((place) => place !== undefined && existsSync(place));

let out: string;
let printed: string;
let summary: SummaryFile;
beforeAll(() => {
  const path = join(root, 'lab', 'study.yaml');
  const { output: _, ...study } = withPathsFrom(readStudy(path), studyFolder(path));
  const few = { itemsPerTask: 6 };
  const { localize, attend, characterize, transfer, freeze, reference } = study.experiments;
  out = mkdtempSync(join(tmpdir(), 'galvani-study-'));
  const experiments = {
    localize: { vision: { ...localize!.vision, ...few }, reasoning: { ...localize!.reasoning, ...few } },
    attend: { ...attend, ...few },
    characterize,
    transfer: { ...transfer, ...few },
    freeze: { ...freeze, ...few },
    reference: { ...reference, itemsPerTask: 3 },
  };
  writeFileSync(join(out, 'study.yaml'), stringify(JSON.parse(JSON.stringify({ ...study, experiments }))));
  const run = spawnSync(
    process.execPath,
    [join(root, 'dist', 'cli', 'main.js'), 'study', join(out, 'study.yaml'), '--out', out],
    { encoding: 'utf8', maxBuffer: 2 ** 26 },
  );
  expect(run.stderr).toContain('localize-vision');
  expect(run.status).toBe(0);
  printed = run.stdout;
  summary = summarySchema.parse(JSON.parse(readFileSync(join(out, 'summary.json'), 'utf8')));
}, 240_000);
afterAll(() => rmSync(out, { recursive: true, force: true }));

test('every experiment ran to its end, and nothing failed', () => {
  for (const part of ['localizeVision', 'localizeReasoning', 'attend', 'characterize', 'transfer', 'freeze'] as const) {
    expect(summary[part], part).not.toBeNull();
  }
  for (const { experiment, planned, done } of summary.progress) expect(done, experiment).toBe(planned);
  expect(summary.progress.map(({ experiment }) => experiment)).toContain('freeze-check');
});

test('identities that hold whatever the weights are', () => {
  // Swapping the image rows in all layers is the source run: nothing else differs between the two prompts.
  for (const cell of summary.localizeVision!.cells.filter(({ mode, layer }) => mode === 'suffix' && layer === 0)) {
    expect(cell.toSource.successes, cell.task).toBe(cell.toSource.n);
  }
  // A suffix of one layer is that layer.
  const last = summary.localizeVision!.cells.filter(({ layer }) => layer === 8);
  for (const task of new Set(last.map((cell) => cell.task))) {
    const [suffix, single] = last.filter((cell) => cell.task === task);
    expect(suffix!.change).toEqual(single!.change);
  }
  // The grafts IN and RL are the parents.
  const transfer = (model: string) => summary.transfer!.policies[0]!.accuracy.filter((cell) => cell.model === model);
  const freeze = (model: string) => summary.freeze!.againstFull.filter((cell) => cell.model === model);
  for (const [graft, parent] of [
    ['IN', 'in'],
    ['RL', 'rl'],
  ] as const) {
    expect(transfer(graft).map(({ accuracy }) => accuracy)).toEqual(freeze(parent).map(({ accuracy }) => accuracy));
  }
  // Frozen runs left their region untouched and changed the rest.
  expect(summary.freeze!.checks.map(({ region, changedInside }) => [region, changedInside])).toEqual([
    ['early', []],
    ['mid', []],
    ['late', []],
  ]);
  // The update of the decoder is its regions'.
  const cells = summary.characterize!.cells.filter(({ comparison }) => comparison === 'base → in → rl');
  const square = (group: string) => cells.find((cell) => cell.group === group)!.steps[1]!.frobeniusNorm ** 2;
  expect(square('early') + square('mid') + square('late')).toBeCloseTo(square('decoder'), 9);
});

test('controls changed nothing, and every deviation of the published protocol is judged', () => {
  const self = summary.localizeVision!.controls.filter(({ control }) => control === 'self');
  expect(self.length).toBeGreaterThan(50);
  expect(self.every(({ change }) => change.successes === 0)).toBe(true);
  const same = summary.localizeReasoning!.controls.filter(({ control }) => control === 'self');
  expect(same.every(({ test: paired }) => paired!.lost + paired!.gained === 0)).toBe(true);
  expect(summary.reference!.verdicts).toHaveLength(9);
  expect(summary.reference!.verdicts.filter(({ changes }) => changes === null)).toEqual([]);
  // Swapped from layer 0 with the image kept once is the source run; the appended copies begin after the first token.
  expect(summary.reference!.append.length).toBe(6 * 9);
});

test('the terminal shows tables, findings and where the report is', () => {
  expect(printed).toContain('early:mid:late');
  expect(printed).toContain('What the numbers say\n1. In visual reasoning');
  expect(printed).toContain(join(out, 'report.html'));
  expect(summary.findings.some(({ significant }) => significant === false)).toBe(true); // six items show little
});

if (browserPath === undefined) console.warn('study report in a browser: skipped, no Chromium here (set CHROMIUM)');
test.skipIf(browserPath === undefined)('the report opens without network, and every chart has its marks', async () => {
  const browser = await chromium.launch({ executablePath: browserPath!, args: ['--no-sandbox'] });
  try {
    for (const { width, colorScheme } of [
      { width: 1200, colorScheme: 'light' },
      { width: 390, colorScheme: 'dark' },
    ] as const) {
      const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
      const faults: string[] = [];
      page.on('pageerror', (error) => faults.push(String(error)));
      page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
      page.on('request', (request) => !/^(file|data):/.test(request.url()) && faults.push(request.url()));
      await page.goto(pathToFileURL(join(out, 'report.html')).href);
      // A chart is drawn twice, for wide and narrow pages; one of the two is visible.
      const marks = (await page.evaluate(
        `[...document.querySelectorAll('figure .chart')].map((chart) => [
          chart.closest('figure').id + ': ' + chart.querySelector('svg').getAttribute('aria-label'),
          [...chart.querySelectorAll('.mark')].filter((mark) => mark.checkVisibility()).length])`,
      )) as [string, number][];
      expect(marks.length).toBeGreaterThan(25);
      for (const [chart, count] of marks) expect(count, chart).toBeGreaterThan(0);
      expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
      expect(await page.locator('.answers li').count()).toBe(summary.findings.length);
      expect(faults).toEqual([]);
      await page.close();
    }
  } finally {
    await browser.close();
  }
});
