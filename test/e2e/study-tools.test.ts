/** From a folder of checkpoints to two compared runs, as a newcomer goes: init, plan, study, report A B. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { look, studyText } from '../../lib/cli/init.js';
import { run as runCli } from '../../lib/cli/program.js';
import { compareRuns } from '../../lib/experiments/compare.js';
import { previewStudy } from '../../lib/experiments/preview.js';
import { writeReport } from '../../lib/experiments/report.js';
import { compareFindings } from '../../lib/experiments/report-compare.js';
import { runStudy } from '../../lib/experiments/study.js';
import { parseStudy, readStudy, studyFolder, withPathsFrom } from '../../lib/experiments/study-file.js';
import { summarize } from '../../lib/experiments/summary.js';
import { summarySchema } from '../../lib/experiments/summary-schema.js';

const lab = (path: string): string => fileURLToPath(new URL(`../../lab/${path}`, import.meta.url));
let work: string;
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), 'galvani-tools-'));
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** A study of few items of the lab. */
function small(seed: number, extra: object = {}) {
  return parseStudy(
    {
      name: 'small',
      models: { in: lab('checkpoints/in'), rl: lab('checkpoints/rl') },
      data: { items: lab('data/eval.jsonl'), pairs: lab('data/pairs.jsonl') },
      protocol: { maxTokens: 48 },
      seed,
      controls: { self: true, random: 1 },
      experiments: {
        localize: {
          vision: { models: ['rl'], tasks: ['ocr'], modes: ['single'], itemsPerTask: 8 },
          reasoning: { models: ['in', 'rl'], tasks: ['dsum'], itemsPerTask: 8 },
        },
        characterize: { models: ['in', 'rl'], spectra: false },
      },
      ...extra,
    },
    'test',
  );
}

describe('init', () => {
  test('finds the lab, guesses stages, and writes a file that is a study with every experiment', () => {
    const found = look(lab(''), 3);
    expect(found.models.map(({ name, stage }) => [name, stage])).toEqual([
      ['base', 'base'],
      ['in', 'in'],
      ['in-more', 'other'],
      ['rl', 'rl'],
      ['rl-frozen-early', 'frozen'],
      ['rl-frozen-late', 'frozen'],
      ['rl-frozen-mid', 'frozen'],
    ]);
    expect([found.items, found.pairs]).toEqual([[lab('data/eval.jsonl')], [lab('data/pairs.jsonl')]]);
    const file = join(work, 'study.yaml');
    writeFileSync(file, studyText(found, file));
    const study = withPathsFrom(readStudy(file), studyFolder(file));
    expect(study.models.rl).toBe(lab('checkpoints/rl'));
    expect(Object.keys(study.experiments)).toEqual(['localize', 'attend', 'characterize', 'transfer', 'freeze']);
    expect(study.experiments.freeze!.frozen).toEqual({
      'rl-frozen-early': 'early',
      'rl-frozen-late': 'late',
      'rl-frozen-mid': 'mid',
    });
    expect(
      readFileSync(file, 'utf8')
        .split('\n')
        .filter((line) => line.includes('#')).length,
    ).toBeGreaterThan(15);
  });

  test('what the folder cannot give stands in the file as a comment, odd names are quoted', () => {
    const dir = join(work, 'two: of them');
    mkdirSync(dir, { recursive: true });
    cpSync(lab('checkpoints/in'), join(dir, 'sft #1'), { recursive: true });
    cpSync(lab('checkpoints/rl'), join(dir, 'grpo'), { recursive: true });
    const file = join(dir, 's.yaml');
    writeFileSync(file, studyText(look(dir, 2), file));
    const study = readStudy(file);
    expect(study.models).toEqual({ grpo: 'grpo', 'sft #1': 'sft #1' });
    expect(Object.keys(study.experiments)).toEqual(['characterize']);
    expect(readFileSync(file, 'utf8')).toContain('  # transfer:');
  });

  test('refuses to overwrite, to write nothing of use, and folders that do not exist', async () => {
    const code = (...args: string[]) => runCli(['node', 'galvani', 'init', ...args]);
    const empty = join(work, 'empty');
    mkdirSync(empty);
    const file = join(work, 'written', 'study.yaml');
    expect(await code(lab(''), '--out', file)).toBe(0);
    expect(await code(lab(''), '--out', file)).toBe(1);
    expect(await code(lab(''), '--out', file, '--force')).toBe(0);
    expect(await code(empty)).toBe(1);
    expect(await code(join(work, 'nowhere'))).toBe(1);
    expect(await code(lab('checkpoints/base'), '--out', join(work, 'one.yaml'))).toBe(1);
    expect(existsSync(join(work, 'one.yaml'))).toBe(false);
  });
});

describe('plan', () => {
  test('counts what the run then does, times a sample, and writes nothing', async () => {
    const study = small(1);
    const before = readdirSync(work);
    const preview = await previewStudy(study, { sampleSeconds: 1 });
    expect(readdirSync(work)).toEqual(before);
    const [vision, reasoning, weights] = preview.parts;
    // two unpatched runs, and nine layers with two controls each; an unablated run, nine layers, two controls
    expect(vision!.trials).toBe(8 * (2 + 9 * 3));
    expect(reasoning!.trials).toBe(8 * 2 * (1 + 9 + 2));
    expect(weights).toMatchObject({ trials: 0, measurements: 16, seconds: null });
    for (const part of [vision!, reasoning!]) {
      expect(part.seconds).toBeGreaterThan(0);
      expect(part.sampled).toBeGreaterThan(0);
      expect(part.errors).toEqual([]);
    }
    expect(preview.power[0]).toMatchObject({ what: 'change from layer to layer, ocr', n: 8, tests: 8 });
    // Eight pairs can find only huge changes, and none once eight tests share the 5 %.
    expect(preview.power[0]!.alone.half).toBeGreaterThan(0.5);
    expect(preview.power[0]!.forTenPoints).toBeGreaterThan(200);
    const unsampled = await previewStudy(study, { sampleSeconds: 0 });
    expect(unsampled.parts.map(({ trials }) => trials)).toEqual(preview.parts.map(({ trials }) => trials));
    expect(unsampled.parts.every(({ seconds }) => seconds === null)).toBe(true);
  });

  test('rooms of memory are plans of one part, counted as they are, however little of each is sampled', async () => {
    const transfer = { in: 'in', rl: 'rl', policy: 'in', interpolate: { alphas: [0.5] } };
    const study = small(1, { experiments: { transfer } });
    // Room for one of the three models at a time.
    const preview = await previewStudy(study, { sampleSeconds: 0.5, blendBytes: 700_000 });
    const whole = await previewStudy(study, { sampleSeconds: 0 });
    const [grafts, steps] = preview.parts;
    expect(preview.parts.map(({ trials }) => trials)).toEqual(whole.parts.map(({ trials }) => trials));
    expect(steps!.trials).toBe((3 * grafts!.trials) / 10); // eight grafts and two random ones
    expect(steps!.sampled).toBeLessThan(steps!.trials);
    expect(steps!.text).toMatch(/3 more models, up to 0\.\d MiB of weights each, as many as fit in memory at a time/);
    expect(whole.parts[1]!.text).toContain('all in memory at a time');
    expect(preview.power.at(-1)).toMatchObject({ tests: 3 * 2 });
  });

  test('a later stage is scaled up from what the sample saw of the earlier one', async () => {
    const experiments = { attend: { models: ['in', 'rl'], writer: 'rl', tasks: ['dsum'], itemsPerTask: 6 } };
    const preview = await previewStudy(small(1, { experiments }), { sampleSeconds: 20 });
    // 12 texts, and at most every model reading both texts; a text cut off at the limit is not read.
    expect(preview.parts[0]!.trials).toBeGreaterThan(12 + 12);
    expect(preview.parts[0]!.trials).toBeLessThanOrEqual(12 + 24);
  });
});

describe('two runs', () => {
  const dir = (name: string): string => join(work, name);
  beforeAll(async () => {
    await runStudy(small(1), { out: dir('a'), threads: 2 });
    await runStudy(small(1), { out: dir('again'), threads: 1 });
    await runStudy(small(2), { out: dir('seed 2') });
    const swapped = small(1, { models: { in: lab('checkpoints/in'), rl: lab('checkpoints/in-more') } });
    await runStudy(swapped, { out: dir('other rl') });
  }, 120_000);

  test('a directory says what computed it, and its summary fits the schema', () => {
    const summary = summarize(dir('a'));
    writeReport(dir('a'), summary);
    expect(
      summarySchema.safeParse(JSON.parse(readFileSync(join(dir('a'), 'summary.json'), 'utf8'))).error,
    ).toBeUndefined();
    const [start, end] = summary.history;
    expect(start).toMatchObject({ kind: 'start', shard: '0/1', environment: { threads: 2 } });
    expect(start!.kind === 'start' && start!.dependencies.sharp).toMatch(/^\d+\.\d+\.\d+/);
    expect(end).toMatchObject({ kind: 'end', finished: true, failed: 0 });
    expect(Object.keys(summary.data)).toEqual(['items', 'pairs']);
  });

  test('the same study again reproduces every text and value, on another number of threads', () => {
    const comparison = compareRuns(dir('a'), dir('again'));
    expect(comparison.settings).toEqual([]);
    expect(comparison.shared).toMatchObject({ differentTexts: 0, differentValues: 0, measurements: 16 });
    expect(comparison.shared.trials).toBeGreaterThan(300);
    expect(comparison.rates.every(({ paired }) => paired!.lost + paired!.gained === 0)).toBe(true);
    expect(compareFindings(comparison)[1]!.text).toContain('the runs reproduce each other');
  });

  test('another seed asks other items: what is shared is paired, the setting is named', () => {
    const { settings, rates } = compareRuns(dir('a'), dir('seed 2'));
    expect(settings).toEqual([{ what: 'seed', a: '1', b: '2' }]);
    expect(rates.some(({ paired, a }) => paired !== null && paired.n < a.n)).toBe(true);
  });

  test('other weights under the same name are told, and a rate that moved is found', () => {
    const comparison = compareRuns(dir('a'), dir('other rl'));
    expect(comparison.settings.map(({ what }) => what)).toEqual(['weights of rl']);
    const cell = comparison.rates.find(({ condition }) => condition === 'model=rl task=dsum part=none')!;
    expect(cell.b.rate!).toBeLessThan(cell.a.rate!); // in-more did not learn what rl did
    expect(cell.paired!.difference).toBeCloseTo(cell.b.rate! - cell.a.rate!, 12);
    const same = comparison.rates.find(({ condition }) => condition === 'model=in task=dsum part=none')!;
    expect(same.paired).toMatchObject({ lost: 0, gained: 0 });
  });

  test('an edited ledger is noticed as work that is not reproduced', () => {
    cpSync(dir('again'), dir('edited'), { recursive: true });
    const path = join(dir('edited'), 'ledger.jsonl');
    const rows = readFileSync(path, 'utf8').trim().split('\n');
    const edited = rows.map((line) => line.replace(/"text":"[^"]*"/, '"text":"<answer> 999 </answer>"'));
    writeFileSync(path, `${edited.join('\n')}\n`);
    const comparison = compareRuns(dir('a'), dir('edited'));
    expect(comparison.shared.differentTexts).toBeGreaterThan(300);
    expect(compareFindings(comparison)[1]!.text).toContain('equal work gave unequal results');
  });

  test('the command writes a page and refuses what is no run', async () => {
    const code = await runCli(['node', 'galvani', 'report', dir('a'), dir('seed 2'), '--out', dir('compared')]);
    expect(code).toBe(0);
    expect(readdirSync(dir('compared')).sort()).toEqual(['compare.html', 'compare.json', 'compare.md']);
    expect(await runCli(['node', 'galvani', 'report', dir('a'), dir('nowhere')])).toBe(1);
  });
});
