/**
 * Every intervention and read-out against attention materialised in PyTorch (test/fixtures/plain_decoder.py): all
 * trials of the fixture in one request, so that the sharing planner is under test as well.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readFolder } from '../../lib/checkpoint/folder.js';
import { Engine, type RunResult } from '../../lib/engine.js';
import { capturePattern, captureTopKeys, layerRange } from '../../lib/hooks/interventions.js';
import { buildPrompt } from '../../lib/processor/prompt.js';
import type { Capture, Intervention, Prompt, Range, Site, Trial, TrialResult } from '../../lib/types.js';
import { relativeError } from '../support/compare.js';
import { fixturePath, type ParityCase, readFixtureJson, readFixtureTensors } from '../support/fixture.js';
import { parityMessages } from '../support/prompts.js';

const model = 'untied-gqa';
interface HookRecord {
  readonly messages: ParityCase['messages'];
  readonly sourceMessages: ParityCase['messages'];
  readonly rows: number;
  readonly nextPosition: number;
  readonly trials: readonly {
    readonly id: string;
    readonly interventions: readonly Record<string, unknown>[];
    readonly logitsRows: readonly number[];
    readonly greedy?: readonly number[];
  }[];
}
const record = readFixtureJson<HookRecord>(`hooks/${model}.json`);
const afterSoftmax = readFixtureJson<HookRecord>(`hooks/${model}-pattern.json`);
const specs = [...record.trials, ...afterSoftmax.trials];
const tensors = new Map([
  ...readFixtureTensors(`hooks/${model}.safetensors`),
  ...readFixtureTensors(`hooks/${model}-pattern.safetensors`),
]);
/** Layer whose scores and probabilities the trial "read-outs" edits both. */
const readLayer = 2;
const expected = (name: string): Float32Array => tensors.get(name)!.data;

/** JSON has no Infinity: an open end is null there. */
const open = (ranges: unknown): Range[] =>
  (ranges as [number, number | null][]).map(([start, end]) => [start, end ?? Number.POSITIVE_INFINITY]);

function fromRecord(raw: Record<string, unknown>): Intervention {
  const value = raw.value as number | { tensor: string } | { trial: string; span?: unknown } | undefined;
  let resolved: Intervention['value'];
  if (typeof value === 'object') {
    if ('tensor' in value) resolved = expected(value.tensor);
    else resolved = { trial: value.trial, ...(value.span === undefined ? {} : { span: open(value.span) }) };
  } else {
    resolved = value;
  }
  return {
    ...(raw as unknown as Intervention),
    ...(raw.rows === undefined ? {} : { rows: open(raw.rows) }),
    ...(raw.keys === undefined ? {} : { keys: (raw.keys as unknown[]).map(open) }),
    ...(resolved === undefined ? {} : { value: resolved }),
  };
}

let engine: Engine;
let prompt: Prompt;
let run: RunResult;
const layers = 4;
const sites: readonly Site[] = ['resid_pre', 'q', 'k', 'v', 'z', 'attn_out', 'resid_mid', 'mlp_out', 'resid_post'];
const siteLayers = [1, 3];

beforeAll(async () => {
  engine = await Engine.open();
  const { config } = await engine.addModel('m', fixturePath(`models/${model}`));
  expect(config.decoder.layers).toBe(layers);
  prompt = await buildPrompt(engine.processor('m'), parityMessages(record));
  const source = await buildPrompt(engine.processor('m'), parityMessages({ messages: record.sourceMessages }));
  expect([prompt.ids.length, prompt.nextPosition]).toEqual([record.rows, record.nextPosition]);
  const read = { layers: [readLayer], rows: 'prompt', phase: 'prefill' } as const;
  const trials = specs.map(
    (spec): Trial => ({
      id: spec.id,
      prompt,
      model: 'm',
      interventions: [
        ...spec.interventions.map(fromRecord),
        ...(spec.id === 'read-outs'
          ? [capturePattern({ name: 'pattern', ...read }), captureTopKeys({ name: 'top', ...read, k: 5 })]
          : []),
        {
          site: 'logits',
          op: 'capture',
          layers: [],
          rows: spec.logitsRows.map((row): Range => [row, row + 1]),
          phase: 'prefill',
          name: 'logits',
        },
      ],
      generate: { maxTokens: spec.greedy?.length ?? 0, stopTokens: [] },
    }),
  );
  const last: Intervention = {
    site: 'logits',
    op: 'capture',
    layers: [],
    rows: 'last',
    phase: 'prefill',
    name: 'logits',
  };
  const all = layerRange(0, layers);
  const keys = layerRange(0, record.rows).map((row): Range[] => [[row, row + 1]]);
  const looking: Intervention[] = [
    { site: 'attn_logits', op: 'capture', measure: 'mass', layers: all, rows: 'prompt', keys, name: 'pattern' },
    {
      site: 'attn_logits',
      op: 'capture',
      measure: 'mass',
      layers: all,
      rows: 'question',
      keys: ['image', 'system'],
      name: 'mass',
    },
    { site: 'attn_logits', op: 'capture', measure: 'entropy', layers: all, rows: 'prompt', name: 'entropy' },
    { site: 'attn_logits', op: 'capture', measure: 'lse', layers: all, rows: 'prompt', name: 'lse' },
    { site: 'attn_logits', op: 'capture', measure: 'keyMass', layers: all, rows: 'question', name: 'keyMass' },
    ...sites.map((site): Intervention => ({ site, op: 'capture', layers: siteLayers, rows: 'prompt', name: site })),
    { site: 'z', op: 'capture', layers: [1], heads: [2, 3], rows: 'last', name: 'two heads' },
    captureTopKeys({ name: 'top', layers: all, rows: 'prompt', k: 5 }),
    capturePattern({ name: 'rows', layers: all, rows: 'last' }),
  ];
  run = await engine.run([
    ...trials,
    { id: 'source', prompt: source, model: 'm', interventions: [last] },
    { id: 'looking', prompt, model: 'm', interventions: looking },
  ]);
});
afterAll(() => engine.close());

function result(id: string): TrialResult {
  const outcome = run.outcomes.find((o) => o.id === id)!;
  if (!outcome.ok) throw outcome.error;
  return outcome.result;
}

describe('interventions', () => {
  test.each(specs.map((spec) => [spec.id, spec] as const))('%s', (id, spec) => {
    const actual = result(id);
    expect(relativeError(actual.captures.logits!.data, expected(`${id}/logits`))).toBeLessThanOrEqual(1e-4);
    if (spec.greedy) expect([...actual.tokens]).toEqual(spec.greedy);
  });
  test('the source run', () => {
    expect(relativeError(result('source').captures.logits!.data, expected('source/logits'))).toBeLessThanOrEqual(1e-4);
  });
});

describe('read-outs of the unedited run', () => {
  const n = record.rows;
  // Both sides are float32: a score s carries about |s|·ε·√K of rounding, K the sums behind it (layers · (q, o, up, down)); a probability (or a mass) then
  // moves by at most half of it: dp = p(1 − p)(ds − mean ds), |ds − mean ds| ≤ 2 |ds|.
  const largestScore = expected('attention/lse').reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const { width, mlpWidth } = readFolder(fixturePath(`models/${model}`)).config.decoder;
  const scoreError = largestScore * 2 ** -23 * Math.sqrt(layers * (3 * width + mlpWidth));
  const heads = 4;
  /** The materialised probability [L, H, n, n]. */
  const pattern = (layer: number, head: number, row: number, key: number): number =>
    expected('attention/pattern')[((layer * heads + head) * n + row) * n + key]!;

  test('mass of single keys is the attention pattern', () => {
    const { data, shape } = result('looking').captures.pattern!;
    expect(shape).toEqual([layers, n, heads, n]);
    let worst = 0;
    for (let l = 0; l < layers; l++)
      for (let r = 0; r < n; r++)
        for (let h = 0; h < heads; h++)
          for (let k = 0; k < n; k++)
            worst = Math.max(worst, Math.abs(data[((l * n + r) * heads + h) * n + k]! - pattern(l, h, r, k)));
    expect(worst).toBeLessThan(scoreError / 2);
  });

  /** Largest probabilities in place, and the one that the fixture gives the key named there. */
  function topError(top: Capture, of: (layer: number, head: number, row: number, key: number) => number): number {
    const [captured, rows, , k] = top.shape as [number, number, number, number];
    let worst = 0;
    for (let l = 0; l < captured; l++)
      for (let row = 0; row < rows; row++)
        for (let h = 0; h < heads; h++) {
          const sorted = layerRange(0, n).map((key) => of(l, h, row, key));
          sorted.sort((a, b) => b - a);
          for (let i = 0; i < k; i++) {
            const at = ((l * rows + row) * heads + h) * k + i;
            const key = top.keys![at]!;
            const there = key < 0 ? 0 : of(l, h, row, key);
            worst = Math.max(worst, Math.abs(top.data[at]! - sorted[i]!), Math.abs(top.data[at]! - there));
          }
        }
    return worst;
  }

  test('top keys are the largest of the pattern; explicit rows are its rows', () => {
    const { top, rows } = result('looking').captures;
    expect(top!.shape).toEqual([layers, n, heads, 5]);
    expect(topError(top!, pattern)).toBeLessThan(scoreError / 2);
    let worst = 0;
    rows!.data.forEach((p, i) => {
      const [l, h] = [Math.floor(i / (heads * n)), Math.floor(i / n) % heads];
      worst = Math.max(worst, Math.abs(p - pattern(l, h, n - 1, i % n)));
    });
    expect(rows!.shape).toEqual([layers, 1, heads, n]);
    expect(worst).toBeLessThan(scoreError / 2);
  });

  test('under edits of scores and probabilities they describe the softmax of the edited scores', () => {
    const { pattern: got, top } = result('read-outs').captures;
    const softmax = expected('read-outs/pattern'); // [H, n, n]
    const of = (_: number, head: number, row: number, key: number): number => softmax[(head * n + row) * n + key]!;
    let worst = 0;
    let moved = 0;
    got!.data.forEach((p, i) => {
      const [row, head, key] = [Math.floor(i / (heads * n)), Math.floor(i / n) % heads, i % n];
      worst = Math.max(worst, Math.abs(p - of(0, head, row, key)));
      moved = Math.max(moved, Math.abs(p - pattern(readLayer, head, row, key)));
    });
    expect(worst).toBeLessThan(scoreError / 2);
    expect(moved).toBeGreaterThan(0.01);
    expect(topError(top!, of)).toBeLessThan(scoreError / 2);
  });

  test('mass of spans, keyMass, entropy and lse', () => {
    const { mass, keyMass, entropy, lse } = result('looking').captures;
    const question = layerRange(...(prompt.spans.question![0] as [number, number]));
    const spans = [prompt.spans.image!, prompt.spans.system!].map((ranges) =>
      ranges.flatMap(([a, b]) => layerRange(a, b)),
    );
    expect(mass!.shape).toEqual([layers, question.length, heads, 2]);
    expect(keyMass!.shape).toEqual([layers, heads, n]);
    const worst = { mass: 0, keyMass: 0, entropy: 0, lse: 0 };
    const raise = (name: keyof typeof worst, error: number): void => {
      worst[name] = Math.max(worst[name], Math.abs(error));
    };
    for (let l = 0; l < layers; l++)
      for (let h = 0; h < heads; h++) {
        question.forEach((row, i) => {
          spans.forEach((keys, s) => {
            const sum = keys.reduce((total, key) => total + pattern(l, h, row, key), 0);
            raise('mass', mass!.data[((l * question.length + i) * heads + h) * 2 + s]! - sum);
          });
        });
        for (let key = 0; key < n; key++) {
          const mean = question.reduce((total, row) => total + pattern(l, h, row, key), 0) / question.length;
          raise('keyMass', keyMass!.data[(l * heads + h) * n + key]! - mean);
        }
        for (let row = 0; row < n; row++) {
          let bits = 0;
          for (let key = 0; key <= row; key++) {
            const p = pattern(l, h, row, key);
            if (p > 0) bits -= p * Math.log(p);
          }
          raise('entropy', entropy!.data[(l * n + row) * heads + h]! - bits);
          raise('lse', lse!.data[(l * n + row) * heads + h]! - expected('attention/lse')[(l * heads + h) * n + row]!);
        }
      }
    expect(worst.mass).toBeLessThan(scoreError / 2);
    expect(worst.keyMass).toBeLessThan(scoreError / 2);
    expect(worst.entropy).toBeLessThan(scoreError * Math.log(n));
    expect(worst.lse).toBeLessThan(scoreError);
  });

  test.each(sites)('%s', (site) => {
    const { data } = result('looking').captures[site]!;
    const half = data.length / 2;
    siteLayers.forEach((layer, i) => {
      const stored = tensors.get(`sites/${layer}/${site}`)!;
      expect(stored.data.length).toBe(half);
      expect(relativeError(data.subarray(i * half, (i + 1) * half), stored.data)).toBeLessThanOrEqual(1e-4);
    });
  });

  test('a capture of some heads is a part of the capture of all', () => {
    const some = result('looking').captures['two heads']!;
    const all = result('looking').captures.z!;
    const headDim = all.shape[3]!;
    expect(some.shape).toEqual([1, 1, 2, headDim]);
    const from = ((n - 1) * heads + 2) * headDim; // layer 1 is the first captured, last row, heads 2 and 3
    expect(some.data).toEqual(all.data.slice(from, from + 2 * headDim));
  });
});
