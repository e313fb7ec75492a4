import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  attentionReducer,
  type HeadSpan,
  headSpans,
  type LayerAttention,
  outliers,
} from '../../lib/experiments/attend-reduce.js';
import { depthTrend, spearman } from '../../lib/experiments/characterize-analyze.js';
import { layerList } from '../../lib/experiments/report-parts.js';
import { parseStudy, readStudy, withPathsFrom } from '../../lib/experiments/study-file.js';
import { studyJsonSchema, undescribed } from '../../lib/experiments/study-schema.js';
import { summaryJsonSchema } from '../../lib/experiments/summary-schema.js';
import { pack, unpack } from '../../lib/run/packed.js';
import type { TrialResult } from '../../lib/types.js';
import { fakePrompt } from './fake-engine.js';

const repository = (path: string): string => new URL(`../../${path}`, import.meta.url).pathname;

describe('study file', () => {
  const small = { name: 's', models: { a: 'a', b: 'b' }, data: { items: 'i', pairs: 'p' } };
  const parse = (experiments: object, extra: object = {}) =>
    parseStudy({ ...small, ...extra, experiments }, 'study.yaml');

  test('the demo study is one, and its paths are taken from its folder', () => {
    const study = withPathsFrom(readStudy(repository('lab/study.yaml')), '/there');
    expect(study.models.rl).toBe('/there/checkpoints/rl');
    expect(study.data.pairs).toBe('/there/data/pairs.jsonl');
    expect(study.experiments.freeze?.frozen['rl-frozen-late']).toBe('late');
  });

  test('defaults are filled in', () => {
    const study = parse({ localize: { vision: { models: ['a'] } } });
    expect(study).toMatchObject({ seed: 1, protocol: { maxTokens: 256 }, data: { rules: {} } });
    expect(study.experiments.localize?.vision).toEqual({
      models: ['a'],
      modes: ['suffix', 'single'],
      width: 3,
      resize: 'refuse',
    });
  });

  test.each([
    [
      { localize: { vision: { models: ['c'] } } },
      {},
      /'c' is not one of models: a, b\n {2}→ at experiments\.localize\.vision\.models/,
    ],
    [
      { localize: { vision: { models: ['a'], mode: 'suffix' } } },
      {},
      /Unrecognized key: "mode"\n {2}→ at experiments\.localize\.vision/,
    ],
    [{ localize: { vision: { models: ['a'], modes: ['all'] } } }, {}, /experiments\.localize\.vision\.modes\[0\]/],
    [{ attend: { models: ['a'], writer: 'b' } }, {}, /writer 'b' is not one of its models/],
    [{ transfer: { in: 'a', rl: 'a' } }, {}, /in and rl are the same model/],
    [{ transfer: { in: 'a', rl: 'b', policy: 'late' } }, {}, /experiments\.transfer\.policy/],
    [{ freeze: { before: 'a', full: 'b', frozen: { a: 'top' } } }, {}, /experiments\.freeze\.frozen\.a/],
    [{ freeze: { before: 'a', full: 'b' } }, { data: {} }, /need data\.items/],
    [{ characterize: { models: ['a'] } }, {}, /experiments\.characterize\.models/],
    [{}, {}, /no experiment; expected at least one of localize/],
    [{ attend: { models: ['a'], writer: 'a' } }, { protocol: { maxTokens: 0 } }, /protocol\.maxTokens/],
    [{ attend: { models: ['a'], writer: 'a' } }, { sead: 3 }, /Unrecognized key: "sead"/],
  ])('a fault is named with its place: %j', (experiments, extra, message) => {
    expect(() => parse(experiments, extra)).toThrow(message);
  });

  test('YAML faults carry the line', () => {
    expect(() => readStudy(repository('nowhere.yaml'))).toThrow(/no such study file/);
  });
});

test('docs/summary.schema.json is the schema of summary.json', async () => {
  await expect(`${JSON.stringify(summaryJsonSchema(), null, 2)}\n`).toMatchFileSnapshot(
    repository('docs/summary.schema.json'),
  );
  expect(readFileSync(repository('docs/study.md'), 'utf8')).toContain('summary.schema.json');
});

test('docs/study.schema.json is the schema of a study file, and every field has a meaning', async () => {
  await expect(`${JSON.stringify(studyJsonSchema(), null, 2)}\n`).toMatchFileSnapshot(
    repository('docs/study.schema.json'),
  );
  expect(undescribed).toEqual([]);
  expect(readFileSync(repository('docs/study.md'), 'utf8')).toContain('study.schema.json');
  expect(readFileSync(repository('lab/study.yaml'), 'utf8')).toContain('$schema=../docs/study.schema.json');
});

describe('attention reducer', () => {
  // Rows 8 and 9 of 10 look; the image is rows 2–5, the question 6–7, the text 8–9.
  const prompt = fakePrompt(Array(10).fill(1), { image: [2, 6], question: [6, 8], answer: [8, 10], final: [8, 10] });
  const keys = { first: [[0, 1]], image: [[2, 6]], question: [[6, 8]], think: [], final: [[8, 10]] } as const;
  const reduce = (mass: number[], received: number[], heads: number) =>
    attentionReducer(keys, ['think', 'final']).apply(
      {
        captures: {
          'mass final': { data: Float32Array.from(mass), shape: [1, 2, heads, 4] },
          'keys final': { data: Float32Array.from(received), shape: [1, heads, 10] },
        },
      } as unknown as TrialResult,
      prompt,
    ) as { final: Record<string, number[]> };

  test('means over rows and heads, mass over share of the keys a row can see', () => {
    // two rows, two heads: first, image, question, text
    const mass = [0.1, 0.4, 0.2, 0.1, 0.3, 0.2, 0.2, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.4, 0.2, 0.3];
    const received = Array(20).fill(0.1);
    const { final, ...rest } = reduce(mass, received, 2);
    expect(rest).toEqual({}); // no think span, no entry
    expect(final.tokens).toBe(2);
    expect(final.first![0]).toBeCloseTo(0.15, 6);
    expect(final.image![0]).toBeCloseTo(0.4, 6);
    expect(final.other![0]).toBeCloseTo(1 - 0.15 - 0.4 - 0.175 - 0.15, 6);
    // rows 8 and 9 see 9 and 10 keys, 4 of them image: mean of mass·9/4 and mass·10/4
    expect(final.imagePerShare![0]).toBeCloseTo((0.3 * (9 / 4) + 0.5 * (10 / 4)) / 2, 6);
    const byHead = (final as unknown as LayerAttention).byHead;
    expect(byHead.shape).toEqual([1, 2, headSpans.length]);
    const heads = unpack(byHead);
    const at = (head: number, span: HeadSpan) => heads[head * headSpans.length + headSpans.indexOf(span)];
    expect(at(0, 'image')).toBeCloseTo(0.5, 4);
    expect(at(1, 'image')).toBeCloseTo(0.3, 4);
    expect(at(0, 'first')).toBeCloseTo(0.1, 4);
    expect(at(1, 'final')).toBeCloseTo(0.2, 4);
    expect(at(0, 'other')).toBeCloseTo(1 - 0.1 - 0.5 - 0.15 - 0.1, 4);
    expect(at(0, 'imageSinks')).toBe(0);
  });

  test('sinks are taken out of mass, of the whole and of the key count', () => {
    const mass = Array(8).fill(0.25);
    //                first        image, one key swallows       question     text
    const received = [0.2, 0.0, 0.02, 0.03, 0.04, 0.4, 0.1, 0.1, 0.06, 0.05];
    const { final } = reduce(mass, received, 1);
    expect(final.sinks).toEqual([1]);
    const heads = unpack((final as unknown as LayerAttention).byHead);
    expect(heads[headSpans.indexOf('imageSinks')]).toBeCloseTo(0.4, 4);
    const rest = 1 - 0.2 - 0.4;
    expect(final.imageSinkFree![0]).toBeCloseTo(0.09 / rest, 5);
    expect(final.imageSinkFreePerShare![0]).toBeCloseTo(0.09 / rest / (3 / (9.5 - 1 - 1)), 4);
  });

  test('outliers by the modified z-score', () => {
    expect(outliers([1, 1.1, 0.9, 1.05, 9])).toEqual([false, false, false, false, true]);
    expect(outliers([1, 1, 1, 9])).toEqual([false, false, false, false]); // no spread to measure against
    expect(outliers([])).toEqual([]);
    expect(outliers([5, 4, 3, 2, 1])).toEqual(Array(5).fill(false));
  });
});

test('packed numbers come back within half a step, and refuse what they cannot hold', () => {
  const values = Array.from({ length: 24 }, (_, i) => (i * 0.37) % 1);
  for (const bits of [8, 16] as const) {
    const packed = pack(values, [2, 12], bits);
    const half = packed.max / 2 / (2 ** bits - 1);
    unpack(packed).forEach((value, i) => {
      expect(Math.abs(value - values[i]!)).toBeLessThanOrEqual(half * (1 + 1e-9));
    });
  }
  expect([...unpack(pack([0, 0], [2], 8))]).toEqual([0, 0]);
  expect(() => pack([0.1, -0.1], [2], 8)).toThrow(/from 0 to 0.1, got -0.1 at 1/);
  expect(() => pack([0.1], [2], 8)).toThrow(/holds 2, got 1/);
  expect(() => unpack({ ...pack([0.1, 0.2], [2], 8), shape: [3] })).toThrow(/expected 3 bytes, got 2/);
});

describe('small parts', () => {
  test('rank correlation and its permutation p', () => {
    expect(spearman([1, 2, 3], [10, 20, 15])).toBeCloseTo(0.5, 12);
    expect(spearman([1, 2, 3, 4], [1, 1, 1, 1])).toBeNull();
    expect(spearman([1, 2], [1, 2])).toBeNull();
    // all 120 orders of five: only the two monotone ones are as extreme
    expect(depthTrend([1, 2, 3, 4, 5])!.p).toBeCloseTo(2 / 120, 2);
    expect(depthTrend([1, 2, 3, 4, 5])).toEqual(depthTrend([1, 2, 3, 4, 5]));
  });
  test('lists of layers', () => {
    expect(layerList([3, 0, 1, 2, 7, 5])).toBe('layers 0–3, 5 and 7');
    expect(layerList([4])).toBe('layer 4');
  });
});
