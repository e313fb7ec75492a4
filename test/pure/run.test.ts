import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { GalvaniError } from '../../lib/errors.js';
import { swapImage } from '../../lib/hooks/interventions.js';
import { folderFingerprint, graftFingerprint } from '../../lib/run/fingerprint.js';
import { contentKey, trialKeys } from '../../lib/run/key.js';
import { Ledger } from '../../lib/run/ledger.js';
import type { Bundle, Plan } from '../../lib/run/plan.js';
import { RunDir, type RunRecord, readRunRecord } from '../../lib/run/run-dir.js';
import { execute, limitsFor } from '../../lib/run/runner.js';
import { mergeRun, observations, ownsGroup, parseShard, shardFromEnvironment } from '../../lib/run/shards.js';
import type { Trial } from '../../lib/types.js';
import { FakeEngine, type FakeOptions, fakePrompt } from './fake-engine.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'galvani-run-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const fingerprint = (model: string): string => `weights of ${model}`;

/** A pair: source, target and three swaps. */
function pair(i: number): Bundle {
  const source = fakePrompt([1, 50, 50, 7, i], { image: [1, 3] }, `source ${i}`);
  const target = fakePrompt([1, 50, 50, 7, i], { image: [1, 3] }, `target ${i}`);
  const generate = { maxTokens: 4 };
  const trials: Trial[] = [
    { id: 'source', prompt: source, model: 'rl', generate },
    { id: 'target', prompt: target, model: 'rl', generate },
    ...[0, 1, 2].map((layer) => ({
      id: `suffix ${layer}`,
      prompt: target,
      model: 'rl',
      interventions: swapImage({ source: 'source', mode: 'suffix', layer, totalLayers: 3 }),
      generate,
      score: { tokens: [5, 6], klTo: 'target' },
    })),
  ];
  return {
    group: `pair ${i}`,
    trials: trials.map((trial) => ({ trial, label: `pair ${i} ${trial.id}`, meta: { pair: i, condition: trial.id } })),
  };
}

const plan = (pairs: number): Plan => ({
  experiment: 'localize',
  trials: pairs * 5,
  bundles: () => Array.from({ length: pairs }, (_, i) => pair(i)),
});

async function run(pairs: number, options: FakeOptions = {}, extra: Partial<Parameters<typeof execute>[0]> = {}) {
  const engine = new FakeEngine(options);
  const ledger = new Ledger(join(dir, 'ledger.jsonl'));
  try {
    const summary = await execute({ engine, ledger, plan: plan(pairs), fingerprint, ...extra });
    return { engine, summary };
  } finally {
    ledger.close();
  }
}

const ledgerText = (): string => readFileSync(join(dir, 'ledger.jsonl'), 'utf8');

describe('content key', () => {
  const keys = (bundle: Bundle, print = fingerprint) => trialKeys(bundle.trials, print);

  test('is the same for equal content, whatever ids and spans are called', () => {
    const renamed = pair(0).trials.map(({ trial, ...rest }) => ({
      ...rest,
      trial: {
        ...trial,
        id: `x ${trial.id}`,
        interventions: trial.interventions?.map((record) => ({
          ...record,
          rows: [[1, 3]] as const,
          layers: [...record.layers].reverse(),
          value: { trial: 'x source' },
        })),
        ...(trial.score ? { score: { ...trial.score, klTo: 'x target' } } : {}),
      },
    }));
    const a = keys(pair(0));
    const b = trialKeys(renamed as unknown as Bundle['trials'], fingerprint);
    for (const id of a.keys()) expect(b.get(`x ${id}`)).toBe(a.get(id));
  });

  test('changes with the image, the weights, the layer, the options and the referenced trial', () => {
    const base = keys(pair(0));
    expect(keys(pair(1)).get('suffix 0')).not.toBe(base.get('suffix 0'));
    expect(keys(pair(0), (model) => `${model} again`).get('target')).not.toBe(base.get('target'));
    expect(new Set(base.values()).size).toBe(5);
    const other = pair(0).trials.map((planned) =>
      planned.trial.id === 'source'
        ? { ...planned, trial: { ...planned.trial, prompt: fakePrompt([1, 50, 50, 7, 0], { image: [1, 3] }, 'other') } }
        : planned,
    );
    expect(trialKeys(other, fingerprint).get('suffix 0')).not.toBe(base.get('suffix 0'));
    expect(trialKeys(other, fingerprint).get('target')).toBe(base.get('target'));
  });

  test('ignores sampling options where nothing is sampled', () => {
    const [first] = pair(0).trials;
    const key = (generate: Trial['generate']) =>
      trialKeys([{ trial: { ...first!.trial, generate: generate! } }], fingerprint).get('source');
    expect(key({ maxTokens: 4, seed: 3 })).toBe(key({ maxTokens: 4 }));
    expect(key({ maxTokens: 4, seed: 3, temperature: 1 })).not.toBe(key({ maxTokens: 4, temperature: 1 }));
  });

  test('refuses dangling and circular references', () => {
    const { trials } = pair(0);
    expect(() => trialKeys(trials.slice(1), fingerprint)).toThrow(/refers to source, which is not in its bundle/);
    const a: Trial = { ...trials[0]!.trial, id: 'a', score: { klTo: 'b' } };
    const b: Trial = { ...trials[0]!.trial, id: 'b', score: { klTo: 'a' } };
    expect(() => trialKeys([{ trial: a }, { trial: b }], fingerprint)).toThrow(/circle/);
  });
});

describe('runner and ledger', () => {
  test('a second run computes nothing and changes nothing', async () => {
    const first = await run(3);
    expect(first.summary).toMatchObject({ planned: 15, computed: 15, skipped: 0, failed: 0, finished: true });
    const text = ledgerText();
    const second = await run(3);
    expect(second.engine.requests).toHaveLength(0);
    expect(second.summary).toMatchObject({ planned: 15, computed: 0, skipped: 15 });
    expect(ledgerText()).toBe(text);
  });

  test('more pairs add only their own trials', async () => {
    await run(2);
    const { engine } = await run(3);
    expect(engine.trialsRun).toBe(5);
  });

  test('bundles are never split, requests stay within the limits', async () => {
    const { engine } = await run(5, {}, { limits: { trials: 12, promptRows: 1000 } });
    expect(engine.requests.map((request) => request.length)).toEqual([10, 10, 5]);
    rmSync(join(dir, 'ledger.jsonl'));
    const rows = await run(4, {}, { limits: { trials: 512, promptRows: 50 } });
    expect(rows.engine.requests.map((request) => request.length)).toEqual([10, 10]);
    expect(limitsFor({ layers: 28, kvHeads: 4, headDim: 128 }, 2 ** 31).promptRows).toBe(18724);
  });

  test('equal trials of different bundles are one computation and one row', async () => {
    const twice: Plan = { ...plan(1), bundles: () => [pair(0), { ...pair(0), group: 'again' }] };
    const { engine, summary } = await run(1, {}, { plan: twice });
    expect(engine.trialsRun).toBe(5);
    expect(summary.computed).toBe(5);
  });

  test('rows hold text, counts, scores and reduced captures', async () => {
    const [bundle] = [pair(0)];
    const reduce = { name: 'sum', apply: () => ({ sum: [1, 2] }) };
    const reducing: Plan = {
      ...plan(1),
      bundles: () => [{ ...bundle, trials: bundle.trials.map((planned) => ({ ...planned, reduce })) }],
    };
    await run(1, {}, { plan: reducing });
    const rows = ledgerText()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(rows[2]).toMatchObject({
      kind: 'trial',
      label: 'pair 0 suffix 0',
      tokens: 4,
      truncated: false,
      score: { logprobs: [-1, -2], kl: 0.25 },
      reduced: { sum: [1, 2] },
    });
  });

  test('a failure is a row, is retried once per run, and its retry replaces it', async () => {
    const fail = (trial: Trial) =>
      trial.interventions?.[0]?.layers.length === 1 ? new GalvaniError('SHAPE_MISMATCH', 'no') : undefined;
    const first = await run(2, { fail });
    expect(first.summary).toMatchObject({ computed: 10, failed: 2, retried: 0 });
    const again = await run(2, { fail });
    expect(again.summary).toMatchObject({ skipped: 8, computed: 2, failed: 2, retried: 2 });
    expect(again.engine.trialsRun).toBe(6); // each retry takes its source and target along
    const last = await run(2);
    expect(last.summary).toMatchObject({ skipped: 8, computed: 2, failed: 0, retried: 2 });
    expect(mergeRun(dir).rows.size).toBe(10);
    expect([...mergeRun(dir).rows.values()].filter((row) => row.kind === 'failed')).toEqual([]);
  });

  test('a request refused as a whole is split until the culprit stands alone', async () => {
    const refuse = (trials: readonly Trial[]) =>
      trials.some(({ prompt }) => prompt.ids[4] === 2) ? new GalvaniError('OUT_OF_MEMORY', 'too big') : undefined;
    const { summary } = await run(4, { refuse });
    expect(summary).toMatchObject({ computed: 20, failed: 5 });
    const failed = [...mergeRun(dir).rows.values()].filter((row) => row.kind === 'failed');
    expect(failed.every(({ label }) => label.startsWith('pair 2'))).toBe(true);
  });

  test('a non-finite number never reaches the ledger as a gap', async () => {
    const broken: Plan = {
      ...plan(1),
      bundles: () => [
        {
          group: 'x',
          trials: [{ ...pair(0).trials[0]!, reduce: { name: 'nan', apply: () => ({ mass: [Number.NaN] }) } }],
        },
      ],
    };
    await run(1, {}, { plan: broken });
    expect(ledgerText()).toMatch(/"failed".*reduced\.mass\.0.*NaN, which is not a finite number/);
  });

  test('abort ends at once, stopping ends after the request under way', async () => {
    const aborted = new AbortController();
    aborted.abort(new GalvaniError('ABORTED', 'stop'));
    await expect(run(2, {}, { signal: aborted.signal })).rejects.toThrow('stop');
    expect(ledgerText()).toBe('');
    const { summary } = await run(3, {}, { stopping: () => true, limits: { trials: 5, promptRows: 1000 } });
    expect(summary).toMatchObject({ computed: 5, finished: false });
    const rest = await run(3);
    expect(rest.summary).toMatchObject({ skipped: 5, computed: 10, finished: true });
  });
});

describe('the file', () => {
  test('a torn last line is cut off, its trial computed again, nothing else', async () => {
    await run(2);
    const whole = ledgerText();
    const lines = whole.split('\n');
    writeFileSync(join(dir, 'ledger.jsonl'), whole.slice(0, whole.length - lines.at(-2)!.length / 2));
    const { summary } = await run(2);
    expect(summary).toMatchObject({ skipped: 9, computed: 1 });
    expect(ledgerText()).toBe(whole);
  });

  test('damage elsewhere is an error that names the line', async () => {
    await run(1);
    writeFileSync(join(dir, 'ledger.jsonl'), ledgerText().replace(/^.*\n/, '{"key": broken\n'));
    await expect(run(1)).rejects.toThrow(/ledger\.jsonl: line 1 is not JSON/);
  });

  test('two writers are refused, a dead one is not', () => {
    const path = join(dir, 'ledger.jsonl');
    const first = new Ledger(path);
    expect(() => new Ledger(path)).toThrow(/is writing this run/);
    first.close();
    expect(existsSync(`${path}.lock`)).toBe(false);
    writeFileSync(`${path}.lock`, '999999999\n');
    new Ledger(path).close();
  });

  test('a new question keeps the ledger and drops the plan', () => {
    const record = (items: number): RunRecord => ({
      format: 1,
      galvani: '0',
      node: '20',
      definition: { items },
      models: [],
      data: {},
      facts: {},
    });
    {
      using open = new RunDir(dir, record(1));
      open.planLog.append([{ experiment: 'a', key: 'k', meta: {} }]);
      open.planLog.append([{ experiment: 'a', key: 'k', meta: {} }]);
      open.ledger.append([{ kind: 'measure', key: 'k', label: 'k', value: 1 }]);
    }
    {
      using same = new RunDir(dir, record(1));
      same.planLog.append([{ experiment: 'a', key: 'k', meta: {} }]);
    }
    expect(observations(mergeRun(dir), 'a')).toEqual([
      { key: 'k', meta: {}, row: { kind: 'measure', key: 'k', label: 'k', value: 1 } },
    ]);
    new RunDir(dir, record(2)).close();
    expect(mergeRun(dir).plan).toEqual([]);
    expect(mergeRun(dir).rows.size).toBe(1);
    expect(readRunRecord(dir).definition).toEqual({ items: 2 });
  });
});

test('another part of the same study adds to a run; other weights start its plan anew', () => {
  const record = (
    name: string,
    fingerprint: string,
    facts: RunRecord['facts'],
    data: RunRecord['data'] = {},
  ): RunRecord => ({
    format: 1,
    galvani: '0',
    node: '20',
    definition: { study: 1 },
    models: [{ name, dir: name, fingerprint, layers: 2 }],
    data,
    facts,
  });
  const plan = (...args: Parameters<typeof record>): void => {
    using open = new RunDir(dir, record(...args));
    open.planLog.append([{ experiment: args[0], key: args[1], meta: {} }]);
    open.ledger.append([]);
  };
  plan('a', '1', { cuts: [1, 2] });
  plan('b', '2', { flaws: [] });
  expect(readRunRecord(dir)).toMatchObject({
    models: [{ name: 'a' }, { name: 'b' }],
    facts: { cuts: [1, 2], flaws: [] },
  });
  expect(mergeRun(dir).plan.map(({ experiment }) => experiment)).toEqual(['a', 'b']);
  plan('a', '3', {});
  expect(readRunRecord(dir).models.map(({ name }) => name)).toEqual(['a']);
  expect(mergeRun(dir).plan.map(({ key }) => key)).toEqual(['3']);
  plan('b', '4', {}, { items: 'as they were' });
  expect(mergeRun(dir).plan).toHaveLength(2);
  plan('b', '4', {}, { items: 'edited' });
  expect(mergeRun(dir).plan).toHaveLength(1);
});

describe('shards', () => {
  test('every group belongs to exactly one shard, and the merge is the whole run', async () => {
    const groups = Array.from({ length: 200 }, (_, i) => `pair ${i}`);
    const owned = [0, 1, 2].map((index) => groups.filter((group) => ownsGroup({ index, count: 3 }, group)));
    expect(owned.flat().sort()).toEqual([...groups].sort());
    for (const part of owned) expect(part.length).toBeGreaterThan(40);

    const record: RunRecord = { format: 1, galvani: '0', node: '20', definition: {}, models: [], data: {}, facts: {} };
    for (const index of [0, 1, 2]) {
      using open = new RunDir(dir, record, { index, count: 3 });
      const { ledger, planLog } = open;
      await execute({
        engine: new FakeEngine(),
        ledger,
        planLog,
        plan: plan(9),
        fingerprint,
        shard: { index, count: 3 },
      });
    }
    const merged = mergeRun(dir);
    expect(merged.files).toEqual(['ledger.0-of-3.jsonl', 'ledger.1-of-3.jsonl', 'ledger.2-of-3.jsonl']);
    expect(merged.rows.size).toBe(45);
    expect(observations(merged, 'localize')).toHaveLength(45);
    await run(9);
    const whole = mergeRun(dir);
    expect(whole.rows.size).toBe(45);
  });

  test('reads i/n and array jobs', () => {
    expect(parseShard('2/4')).toEqual({ index: 2, count: 4 });
    for (const bad of ['4/4', '1', '-1/2', '1/0', 'a/b']) expect(() => parseShard(bad)).toThrow(GalvaniError);
    expect(shardFromEnvironment({})).toBeUndefined();
    expect(
      shardFromEnvironment({ SLURM_ARRAY_TASK_ID: '5', SLURM_ARRAY_TASK_MIN: '4', SLURM_ARRAY_TASK_COUNT: '3' }),
    ).toEqual({ index: 1, count: 3 });
  });

  test('a folder without a ledger says so', () => {
    expect(() => mergeRun(dir)).toThrow(/is this a run directory/);
    expect(() => mergeRun(join(dir, 'none'))).toThrow(/no such run directory/);
  });
});

describe('fingerprint', () => {
  test('follows the content, not the place', () => {
    const folder = (name: string, byte: number): string => {
      const path = mkdtempSync(join(dir, name));
      writeFileSync(join(path, 'config.json'), '{}');
      const header = Buffer.from('{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}');
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(BigInt(header.length));
      writeFileSync(join(path, 'model.safetensors'), Buffer.concat([size, header, Buffer.from([1, 2, 3, byte])]));
      return path;
    };
    const a = folder('a', 4);
    expect(folderFingerprint(folder('b', 4))).toBe(folderFingerprint(a));
    expect(folderFingerprint(folder('c', 5))).not.toBe(folderFingerprint(a));
    const before = folderFingerprint(a);
    appendFileSync(join(a, 'config.json'), ' ');
    expect(folderFingerprint(a)).not.toBe(before);
    expect(() => folderFingerprint(dir)).toThrow(/no \*\.safetensors/);
  });

  test('a graft is its parents, part by part', () => {
    const graft = { layers: ['a', 'b'], embed: 'a', vision: 'a', projector: 'a', norm: 'a', head: 'b' };
    const named = { layers: ['x', 'y'], embed: 'x', vision: 'x', projector: 'x', norm: 'x', head: 'y' };
    const weights: Record<string, string> = { a: '1', b: '2', x: '1', y: '2' };
    const print = (name: string): string => weights[name]!;
    expect(graftFingerprint(graft, print)).toBe(graftFingerprint(named, print));
    expect(graftFingerprint({ ...graft, head: 'a' }, print)).not.toBe(graftFingerprint(graft, print));
    expect(contentKey({ b: 1, a: undefined })).toBe(contentKey({ b: 1 }));
  });
});
