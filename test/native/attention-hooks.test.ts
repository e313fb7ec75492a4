/**
 * Hooks inside attention through the engine: top keys and explicit patterns recomputed from each other, edits of the
 * probabilities recomputed from captured values, what read-outs must not see, and requests that are refused.
 */
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Engine } from '../../lib/engine.js';
import {
  captureEntropy,
  captureKeyMass,
  captureMass,
  capturePattern,
  captureTopKeys,
  knockout,
  layerRange,
  scale,
  zeroAblate,
} from '../../lib/hooks/interventions.js';
import type { Capture, GenerationOptions, Intervention, SpanRef, Trial, TrialResult } from '../../lib/types.js';
import { imagePrompt, randomImage, writeRandomModel } from '../support/random-model.js';

const layers = 4;
const heads = 4;
const headDim = 8;
let dir: string;
let engine: Engine;
beforeAll(async () => {
  dir = writeRandomModel({ layers, seed: 1 });
  engine = await Engine.open({ threads: 2 });
  await engine.addModel('m', dir);
});
afterAll(async () => {
  await engine.close();
  rmSync(dir, { recursive: true });
});

const prompt = imagePrompt(randomImage(11));
const n = prompt.ids.length;
const generate = (maxTokens: number): GenerationOptions => ({ maxTokens, stopTokens: [] });
const trial = (id: string, interventions: readonly Intervention[], tokens = 0): Trial => ({
  id,
  prompt,
  model: 'm',
  interventions,
  generate: generate(tokens),
});
const logits: Intervention = { site: 'logits', op: 'capture', layers: [], rows: 'all', name: 'logits' };

async function run(...trials: Trial[]): Promise<(id: string) => TrialResult> {
  const { outcomes } = await engine.run(trials);
  return (id) => {
    const outcome = outcomes.find((o) => o.id === id)!;
    if (!outcome.ok) throw outcome.error;
    return outcome.result;
  };
}

describe('explicit patterns and top keys', () => {
  const all = layerRange(0, layers);
  const look = (rows: SpanRef): Intervention[] => [
    capturePattern({ name: 'pattern', layers: all, rows }),
    captureMass({
      name: 'keys',
      layers: all,
      rows,
      keys: layerRange(0, n + 4).map((key): SpanRef => [[key, key + 1]]),
    }),
  ];

  test('the pattern is the mass of single keys, bit for bit; rows of later tokens are longer', async () => {
    const { pattern, keys } = (await run(trial('t', look('all'), 5)))('t').captures;
    const rows = n + 4;
    expect(pattern!.shape).toEqual([layers, rows, heads, rows]);
    expect(pattern).toEqual(keys);
    pattern!.data.forEach((p, i) => {
      const row = Math.floor(i / (rows * heads)) % rows;
      const visible = i % rows <= row;
      if (visible ? !(p >= 0 && p <= 1) : p !== 0) throw new Error(`row ${row}, key ${i % rows}: ${p}`);
    });
  });

  /** Largest first, of equal ones the earlier key; recomputed from a pattern. */
  function largest({ data, shape }: Capture, k: number): { keys: number[]; weights: number[] } {
    const [, rows, , columns] = shape as [number, number, number, number];
    const keys: number[] = [];
    const weights: number[] = [];
    for (let at = 0; at < data.length; at += columns) {
      const row = (at / columns / heads) % rows;
      const order = layerRange(0, row + 1).sort((a, b) => data[at + b]! - data[at + a]! || a - b);
      for (let i = 0; i < k; i++) {
        keys.push(order[i] ?? -1);
        weights.push(order[i] === undefined ? 0 : data[at + order[i]!]!);
      }
    }
    return { keys, weights };
  }

  test.each([1, 4, 32])('the top %i keys are the largest of the pattern', async (k) => {
    const top = captureTopKeys({ name: 'top', layers: all, rows: 'all', k });
    const get = await run(trial('t', [top, ...look('all')], 5));
    const { top: got, pattern } = get('t').captures;
    expect(got!.shape).toEqual([layers, n + 4, heads, k]);
    const expected = largest(pattern!, k);
    expect([...got!.keys!]).toEqual(expected.keys);
    expect([...got!.data]).toEqual(expected.weights);
    expect(Math.max(...got!.keys!)).toBeGreaterThanOrEqual(n); // generated keys are keys
  });

  test('captures of one run with rows and heads of their own are parts of the whole', async () => {
    const whole = { layers: [1, 3], rows: 'all' } as const;
    const part = {
      layers: [3],
      rows: [
        [n - 2, n],
        [n, n + 2],
      ] as const,
      heads: [1, 2],
    } as const;
    const get = await run(
      trial(
        't',
        [
          captureTopKeys({ name: 'top', ...whole, k: 6 }),
          captureTopKeys({ name: 'some top', ...part, k: 2 }),
          capturePattern({ name: 'pattern', ...whole }),
          capturePattern({ name: 'some pattern', ...part }),
          captureKeyMass({ name: 'received', layers: [3], rows: part.rows }),
          captureEntropy({ name: 'entropy', ...part }),
          captureEntropy({ name: 'none', layers: [1], rows: 'generated', phase: 'prefill' }),
          captureTopKeys({ name: 'no keys', layers: [1], rows: 'generated', phase: 'prefill', k: 2 }),
        ],
        4,
      ),
    );
    const {
      top,
      pattern,
      received,
      entropy,
      none,
      'some top': some,
      'some pattern': rows,
      'no keys': nothing,
    } = get('t').captures;
    const total = n + 3;
    const columns = n + 2; // of the last captured row
    expect(rows!.shape).toEqual([1, 4, 2, columns]);
    expect(some!.shape).toEqual([1, 4, 2, 2]);
    for (let r = 0; r < 4; r++)
      for (let h = 0; h < 2; h++) {
        const at = (total + n - 2 + r) * heads + 1 + h; // layer 3 is the second
        const here = r * 2 + h;
        const long = pattern!.data.subarray(at * total, (at + 1) * total);
        expect(rows!.data.subarray(here * columns, (here + 1) * columns)).toEqual(long.subarray(0, columns));
        expect(some!.data.subarray(here * 2, here * 2 + 2)).toEqual(top!.data.subarray(at * 6, at * 6 + 2));
        expect(some!.keys!.subarray(here * 2, here * 2 + 2)).toEqual(top!.keys!.subarray(at * 6, at * 6 + 2));
        const nats = long.reduce((sum, p) => sum - (p > 0 ? p * Math.log(p) : 0), 0);
        expect(entropy!.data[here]).toBeCloseTo(nats, 5);
        for (let key = 0; key < columns; key++) {
          const sum = layerRange(0, 4).reduce(
            (s, q) => s + pattern!.data[((total + n - 2 + q) * heads + 1 + h) * total + key]!,
            0,
          );
          expect(received!.data[(1 + h) * columns + key]).toBeCloseTo(sum / 4, 6);
        }
      }
    expect(none!.data).toHaveLength(0);
    expect([nothing!.data.length, nothing!.keys!.length]).toEqual([0, 0]);
    expect(pattern!.keys).toBeUndefined();
  });

  test('keys cut from a row are neither in its pattern nor among its top keys', async () => {
    const cut = knockout({ layers: [2], queries: 'question', keys: 'image', heads: [1] });
    const rows = { layers: [2], rows: 'question' } as const;
    const get = await run(
      trial('t', [cut, captureTopKeys({ name: 'top', ...rows, k: 32 }), capturePattern({ name: 'pattern', ...rows })]),
    );
    const { top, pattern } = get('t').captures;
    const [from, to] = prompt.spans.image![0]!;
    for (let r = 0; r < 5; r++) {
      const seen = n - 5 + r + 1;
      const keys = (head: number): number[] => [
        ...top!.keys!.subarray((r * heads + head) * 32, (r * heads + head + 1) * 32),
      ];
      expect(keys(0).filter((key) => key >= 0)).toHaveLength(seen);
      expect(keys(1).filter((key) => key >= 0)).toHaveLength(seen - (to - from));
      expect(keys(1).some((key) => key >= from && key < to)).toBe(false);
      expect(pattern!.data.subarray((r * heads + 1) * n + from, (r * heads + 1) * n + to).every((p) => p === 0)).toBe(
        true,
      );
    }
  });
});

describe('edits of the probabilities', () => {
  const seen = { layers: [1], rows: 'all' } as const;
  const readOuts: Intervention[] = [
    captureMass({ name: 'mass', ...seen, keys: ['image', 'question'] }),
    captureEntropy({ name: 'entropy', ...seen }),
    { site: 'attn_logits', op: 'capture', measure: 'lse', name: 'lse', ...seen },
    captureKeyMass({ name: 'received', ...seen }),
    captureTopKeys({ name: 'top', ...seen, k: 3 }),
    capturePattern({ name: 'pattern', ...seen }),
  ];

  test('z is the sum of scaled probabilities times values; the read-outs are those of the softmax', async () => {
    const place = { layers: [1], rows: 'question', keys: ['image'], heads: [0, 3] } as const;
    const values: Intervention[] = ['v', 'z'].map(
      (site): Intervention => ({ site: site as 'v', op: 'capture', name: site, ...seen }),
    );
    const get = await run(
      trial('plain', [...readOuts, ...values]),
      trial('scaled', [scale('pattern', { ...place, value: 0.3 }), ...readOuts, ...values]),
      trial('cut', [zeroAblate('pattern', place), ...readOuts, ...values]),
    );
    const { pattern, v, z } = get('plain').captures;
    for (const [id, factor] of [
      ['scaled', 0.3],
      ['cut', 0],
    ] as const) {
      const after = get(id).captures;
      for (const name of ['mass', 'entropy', 'lse', 'received', 'top', 'pattern', 'v'])
        expect(after[name]).toEqual(get('plain').captures[name]);
      let worst = 0;
      let moved = 0;
      for (let row = 0; row < n; row++)
        for (let h = 0; h < heads; h++)
          for (let d = 0; d < headDim; d++) {
            let sum = 0;
            for (let key = 0; key <= row; key++) {
              const edited = row >= n - 5 && (h === 0 || h === 3) && key >= 3 && key < 9;
              const p = pattern!.data[(row * heads + h) * n + key]! * (edited ? factor : 1);
              sum += p * v!.data[(key * 2 + Math.floor(h / 2)) * headDim + d]!;
            }
            const at = (row * heads + h) * headDim + d;
            worst = Math.max(worst, Math.abs(after.z!.data[at]! - sum));
            moved = Math.max(moved, Math.abs(after.z!.data[at]! - z!.data[at]!));
          }
      expect(worst).toBeLessThan(1e-6);
      expect(moved).toBeGreaterThan(1e-3);
    }
  });

  test('identities, bit for bit, in prefill and decode', async () => {
    const at = { layers: [1, 2] } as const;
    const image = { ...at, keys: ['image'] } as const;
    const cut = knockout({ ...at, queries: 'all', keys: 'image' });
    const get = await run(
      ...(
        [
          ['plain', []],
          ['by 1', [scale('pattern', { ...image, value: 1 })]],
          ['by 2', [scale('pattern', { ...at, value: 2 })]],
          ['z by 2', [scale('z', { ...at, value: 2 })]],
          ['none', [zeroAblate('pattern', at)]],
          ['no z', [zeroAblate('z', at)]],
          ['zero', [zeroAblate('pattern', image)]],
          ['by 0', [scale('pattern', { ...image, value: 0 })]],
          ['by 4', [scale('pattern', { ...image, value: 4 })]],
          ['by 8, by 1/2', [scale('pattern', { ...image, value: 8 }), scale('pattern', { ...image, value: 0.5 })]],
          ['knockout', [cut]],
          ['knockout, by 4', [scale('pattern', { ...image, value: 4 }), cut]],
        ] as [string, Intervention[]][]
      ).map(([id, edits]) => trial(id, [...edits, logits], 5)),
    );
    const same = (a: string, b: string): void => expect(get(a).captures.logits).toEqual(get(b).captures.logits);
    same('by 1', 'plain');
    same('by 2', 'z by 2');
    same('none', 'no z');
    same('zero', 'by 0');
    same('by 4', 'by 8, by 1/2');
    same('knockout, by 4', 'knockout');
    const { data } = get('plain').captures.logits!;
    for (const id of ['by 2', 'none', 'zero', 'by 4', 'knockout'])
      expect(get(id).captures.logits!.data).not.toEqual(data);
    expect(get('zero').captures.logits!.data).not.toEqual(get('knockout').captures.logits!.data); // not renormalised
  });
});

describe('refused, each trial by itself', () => {
  const place = { layers: [0], rows: 'last' } as const;
  const at = { site: 'attn_logits', op: 'capture', name: 'x', ...place } as const;
  const cases: [string, Intervention, string, RegExp][] = [
    ['capture at pattern', { ...at, site: 'pattern' }, 'BAD_ARGUMENT', /read at attn_logits, with measure: 'pattern'/],
    ['a site by another name', { ...at, site: 'attn_probs' as 'z' }, 'BAD_ARGUMENT', /one of resid_pre, .*pattern/],
    ['knockout at pattern', { ...at, site: 'pattern', op: 'knockout' }, 'BAD_ARGUMENT', /takes zero, scale/],
    ['a negative factor', scale('pattern', { ...place, value: -1 }), 'BAD_ARGUMENT', /factor ≥ 0, got -1/],
    ['a negative factor of scores', scale('attn_logits', { ...place, value: -1 }), 'BAD_ARGUMENT', /factor ≥ 0/],
    ['infinite in float32', scale('pattern', { ...place, value: 1e300 }), 'BAD_ARGUMENT', /float32, got 1e\+300/],
    ['no factor', { ...at, site: 'pattern', op: 'scale' }, 'BAD_ARGUMENT', /needs a factor/],
    ['in the vision tower', { ...at, site: 'pattern', op: 'zero', tower: 'vision' }, 'UNSUPPORTED', /decoder only/],
    ['a KV head', zeroAblate('pattern', { ...place, heads: [4] }), 'BAD_ARGUMENT', /head 4 does not exist/],
    ['keys elsewhere', zeroAblate('z', { ...place, keys: ['image'] }), 'BAD_ARGUMENT', /attn_logits and pattern/],
    ['no measure', at, 'BAD_ARGUMENT', /measure: expected mass, .*, topKeys, pattern; got none/],
    ['an unknown measure', { ...at, measure: 'argmax' as 'mass' }, 'BAD_ARGUMENT', /got 'argmax'/],
    ['top keys of none', captureTopKeys({ ...at, k: 0 }), 'BAD_ARGUMENT', /topKeys gives 1 to 32 keys, got 0/],
    ['33 top keys', captureTopKeys({ ...at, k: 33 }), 'BAD_ARGUMENT', /got 33; for more, capture the pattern/],
    ['k missing', { ...at, measure: 'topKeys' }, 'BAD_ARGUMENT', /got undefined/],
    ['k of a mass', { ...at, measure: 'entropy', k: 3 }, 'BAD_ARGUMENT', /k belongs to measure topKeys/],
    ['keys of a pattern', { ...at, measure: 'pattern', keys: ['image'] }, 'BAD_ARGUMENT', /only mass takes key spans/],
  ];
  test.each(cases)('%s', async (_, bad, code, message) => {
    const { outcomes } = await engine.run([trial('bad', [bad]), trial('good', [logits])]);
    const [failed, fine] = outcomes;
    expect(failed!.ok).toBe(false);
    if (!failed!.ok) {
      expect(failed!.error.code).toBe(code);
      expect(failed!.error.message).toMatch(/trial 'bad', interventions\[0\]/);
      expect(failed!.error.message).toMatch(message);
    }
    expect(fine!.ok).toBe(true);
  });

  test('a pattern beyond 2^30 numbers', async () => {
    const everything = capturePattern({ name: 'p', layers: layerRange(0, layers), rows: 'all' });
    const { outcomes } = await engine.run([trial('bad', [everything], 10_000), trial('good', [logits])]);
    expect(outcomes.map((o) => o.ok)).toEqual([false, true]);
    if (!outcomes[0]!.ok) expect(outcomes[0]!.error.message).toMatch(/at most 2\^30 in one capture/);
  });
});
