import { describe, expect, test } from 'vitest';
import { blockGraft, defaultCuts, describeGraft, paperGrafts, regionOf, regions } from '../../lib/checkpoint/graft.js';
import { GalvaniError } from '../../lib/errors.js';
import {
  captureKeyMass,
  captureMass,
  capturePattern,
  captureTopKeys,
  knockout,
  scale,
  skipLayer,
  swapImage,
  swapLayers,
  zeroAblate,
} from '../../lib/hooks/interventions.js';
import { siteInfo, sites } from '../../lib/hooks/sites.js';
import { resolveSpan, rowCount, spanNames, withoutRows } from '../../lib/hooks/spans.js';

const prompt = {
  ids: new Int32Array(20),
  spans: {
    image: [
      [3, 7],
      [9, 11],
    ],
    question: [[12, 18]],
    empty: [],
  },
} as const;

describe('spans', () => {
  test('named spans resolve to sorted disjoint ranges', () => {
    expect(resolveSpan(prompt, 'image')).toEqual([
      [3, 7],
      [9, 11],
    ]);
    expect(
      resolveSpan(prompt, [
        [5, 9],
        [2, 6],
        [9, 10],
      ]),
    ).toEqual([[2, 10]]);
    expect(rowCount(resolveSpan(prompt, 'image'))).toBe(6);
  });
  test('all reaches into the generated rows, prompt and generated split there', () => {
    expect(resolveSpan(prompt, 'all')).toEqual([[0, Number.POSITIVE_INFINITY]]);
    expect(resolveSpan(prompt, 'prompt')).toEqual([[0, 20]]);
    expect(resolveSpan(prompt, 'generated')).toEqual([[20, Number.POSITIVE_INFINITY]]);
    expect(resolveSpan(prompt, 'last')).toEqual([[19, 20]]);
  });
  test.each(['caption', 'empty', 'toString'])('an unknown or empty span %s lists those that exist', (name) => {
    expect(() => resolveSpan(prompt, name, 'rows')).toThrow(GalvaniError);
    expect(() => resolveSpan(prompt, name, 'rows')).toThrow(
      /rows: this prompt has no span .*it has all, .*image.*question/,
    );
  });
  test('malformed ranges are refused', () => {
    expect(() => resolveSpan(prompt, [[5, 3]])).toThrow(/\[5, 3\)/);
    expect(() => resolveSpan(prompt, [[-1, 3]])).toThrow(GalvaniError);
    expect(() => resolveSpan(prompt, [[18, 22]])).toThrow(/crosses the end of the prompt/);
    expect(() => resolveSpan(prompt, [[4, 4]])).toThrow(/empty/);
  });
  test('spanNames lists own and built-in names once', () => {
    expect(spanNames(prompt)).toEqual(['image', 'question', 'empty', 'all', 'prompt', 'generated', 'first', 'last']);
  });
  test('withoutRows punches holes', () => {
    expect(
      withoutRows(
        [
          [0, 10],
          [12, 14],
        ],
        [
          [0, 1],
          [4, 6],
          [9, 13],
        ],
      ),
    ).toEqual([
      [1, 4],
      [6, 9],
      [13, 14],
    ]);
    expect(withoutRows([[0, 3]], [[0, 3]])).toEqual([]);
  });
});

describe('interventions', () => {
  test('swap modes cover the layers METHODS names', () => {
    expect(swapLayers('suffix', 2, 5)).toEqual([2, 3, 4]);
    expect(swapLayers('single', 2, 5)).toEqual([2]);
    expect(swapLayers('prefix', 2, 5)).toEqual([0, 1, 2]);
    expect(swapLayers('window', 2, 5, 3)).toEqual([2, 3, 4]);
    expect(() => swapLayers('window', 3, 5, 3)).toThrow(/do not fit/);
    expect(() => swapLayers('single', 5, 5)).toThrow(/expected 0 … 4/);
  });
  test('a swap patches keys and values once, at prefill, with the same span of the source', () => {
    const swap = swapImage({ source: 's', mode: 'suffix', layer: 1, totalLayers: 3, heads: [0] });
    expect(swap.map((i) => i.site)).toEqual(['k', 'v']);
    for (const i of swap) {
      expect(i).toMatchObject({ op: 'patch', layers: [1, 2], rows: 'image', heads: [0], phase: 'prefill' });
      expect(i.value).toEqual({ trial: 's', span: 'image' });
    }
  });
  test('skipping zeroes both sublayers; knockout and captures act on scores', () => {
    expect(skipLayer(4)).toEqual([
      { site: 'attn_out', op: 'zero', layers: [4] },
      { site: 'mlp_out', op: 'zero', layers: [4] },
    ]);
    expect(knockout({ layers: [0], queries: 'question', keys: 'image' })).toEqual({
      site: 'attn_logits',
      op: 'knockout',
      layers: [0],
      rows: 'question',
      keys: ['image'],
    });
    expect(captureMass({ name: 'm', layers: [0], rows: 'last', keys: ['image'] }).measure).toBe('mass');
    expect(captureKeyMass({ name: 'm', layers: [0], rows: 'last' }).measure).toBe('keyMass');
    const top = captureTopKeys({ name: 't', layers: [1], rows: 'last', heads: [2], k: 5 });
    expect(top).toEqual({
      ...{ site: 'attn_logits', op: 'capture', measure: 'topKeys' },
      ...{ name: 't', layers: [1], rows: 'last', heads: [2], k: 5 },
    });
    expect(capturePattern({ name: 'p', layers: [0], rows: 'last' }).measure).toBe('pattern');
    expect(scale('pattern', { layers: [0], keys: ['image'], value: 0.5 })).toEqual({
      ...{ site: 'pattern', op: 'scale', layers: [0], keys: ['image'], value: 0.5 },
    });
  });
  test('every builder uses a site and op the table allows', () => {
    const all = [
      ...swapImage({ source: 's', mode: 'single', layer: 0, totalLayers: 2 }),
      ...skipLayer(0),
      knockout({ layers: [0], queries: 'all', keys: 'image' }),
      captureTopKeys({ name: 't', layers: [0], rows: 'last', k: 1 }),
      capturePattern({ name: 'p', layers: [0], rows: 'last' }),
      zeroAblate('pattern', { layers: [0], keys: ['image'] }),
      scale('pattern', { layers: [0], value: 0.5 }),
    ];
    for (const i of all) expect(siteInfo(i.site).ops).toContain(i.op);
    expect(sites).toHaveLength(12);
    expect(() => siteInfo('hidden' as 'k')).toThrow(/expected one of resid_pre/);
  });
});

describe('grafts', () => {
  test('thirds as the paper cuts them', () => {
    expect(defaultCuts(28)).toEqual([9, 18]);
    expect(defaultCuts(9)).toEqual([3, 6]);
    expect(regions(28, [8, 20]).map((r) => r.end - r.start)).toEqual([8, 12, 8]);
    expect(regionOf(8, regions(28))).toBe('early');
    expect(regionOf(9, regions(28))).toBe('mid');
    expect(regionOf(27, regions(28))).toBe('late');
    expect(() => regions(9, [6, 3])).toThrow(/0 < mid < late < 9/);
    expect(() => regionOf(28, regions(28))).toThrow(GalvaniError);
  });
  test('the eight names are the eight assignments of two donors to three blocks', () => {
    expect(new Set(Object.values(paperGrafts).map(String)).size).toBe(8);
  });
  test.each([
    ['early', 'in', 'in'],
    ['ends', 'in', 'rl'],
    ['rl', 'rl', 'rl'],
    ['in', 'in', 'in'],
  ] as const)('policy %s', (policy, first, last) => {
    const graft = blockGraft({ blocks: 'IN:IN:RL', totalLayers: 4, cuts: [1, 3], policy });
    expect(graft.layers).toEqual(['in', 'in', 'in', 'rl']);
    expect([graft.embed, graft.vision, graft.projector]).toEqual([first, first, first]);
    expect([graft.norm, graft.head]).toEqual([last, last]);
  });
  test('names of the opened parents, and the description', () => {
    const graft = blockGraft({
      blocks: ['rl', 'in', 'in'],
      totalLayers: 9,
      policy: 'ends',
      names: { in: 'sft', rl: 'grpo' },
    });
    expect(describeGraft(graft)).toBe('layers grpo×3 sft×6; vision, projector, embeddings grpo; norm, head sft');
    expect(() => blockGraft({ blocks: 'IN:XX:RL', totalLayers: 9, policy: 'early' })).toThrow(/IN:RL:RL/);
    expect(() => blockGraft({ blocks: 'IN', totalLayers: 9, policy: 'late' as 'early' })).toThrow(
      /early, in, rl, ends/,
    );
  });
});
