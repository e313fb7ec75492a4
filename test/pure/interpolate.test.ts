/** From IN to RL step by step, on made-up models whose truth is known; numbers worked out by hand. */
import { describe, expect, test } from 'vitest';
import { type Blend, graftOfBlend, partOf } from '../../lib/checkpoint/blend.js';
import type { QuestionItem } from '../../lib/data/items.js';
import type { PlanContext } from '../../lib/experiments/context.js';
import { interpolationBlocks, interpolationFindings } from '../../lib/experiments/report-interpolate.js';
import { parseStudy } from '../../lib/experiments/study-file.js';
import { planTransfer, type TransferModel, transferModels } from '../../lib/experiments/transfer.js';
import { analyzeTransfer } from '../../lib/experiments/transfer-analyze.js';
import {
  asTheyFit,
  defaultInterpolation,
  type Interpolation,
  interpolationCurves,
} from '../../lib/experiments/transfer-interpolate.js';
import { blendFingerprint, graftFingerprint } from '../../lib/run/fingerprint.js';
import type { Trial } from '../../lib/types.js';
import { asked, asker, observe } from './fake-study.js';

const context: PlanContext = { prompter: asker, seed: 7 };
const totalLayers = 9;
const cuts = [3, 6] as const;
const parents = { in: 'sft', rl: 'grpo' };
const groups = { vision: ['see'], visualReasoning: ['think'], textReasoning: ['text'] };
const items = (task: string, n: number, extra: Partial<QuestionItem> = {}): QuestionItem[] =>
  Array.from({ length: n }, (_, i) => ({
    id: `${task} ${i}`,
    task,
    question: `${task} ${i}`,
    answer: `${i % 7}`,
    rule: { kind: 'number' },
    ...extra,
  }));
const identity = (model: string): string => model;
const identityOf = (blend: Blend): string => blendFingerprint(blend, totalLayers, identity);

function plannedCurves(wanted: Partial<Interpolation>, policies: readonly ('early' | 'in')[] = ['in']) {
  const variants = transferModels({ totalLayers, cuts, policies, parents, random: 0, seed: 3, also: [] });
  const known = new Map(
    [...variants].reverse().map(({ graft, meta }) => [graftFingerprint(graft!, identity), meta] as const),
  );
  const shape = { totalLayers, cuts };
  const interpolation = { ...defaultInterpolation, ...wanted };
  return { variants, ...interpolationCurves(interpolation, parents, shape, identityOf, known) };
}

/** How far the layers of a region (or `rest`) of a model are RL's, from 0 to 1. */
function shareOf(
  variants: readonly TransferModel[],
  models: ReturnType<typeof plannedCurves>['models'],
  opened: string,
) {
  const graft = variants.find((one) => one.opened === opened)?.graft;
  const blend = models.find((one) => one.opened === opened)?.blend;
  const donor = (name: string): number => (name === 'grpo' ? 1 : 0);
  return (layer: number | 'rest'): number => {
    if (graft) return donor(layer === 'rest' ? graft.vision : graft.layers[layer]!);
    const part = partOf(layer === 'rest' ? 'vision.patch_embed' : `layers.${layer}.gate`, blend!);
    return part === 'blend' ? blend!.alpha : part === 'to' ? 1 : 0;
  };
}

async function analyzed(
  wanted: Partial<Interpolation>,
  right: (share: (layer: number | 'rest') => number, question: string, sight: string) => boolean | null,
  policies: readonly ('early' | 'in')[] = ['in'],
) {
  const { variants, curves, models } = plannedCurves(wanted, policies);
  const all = [...items('see', 20, { image: 'x.png' }), ...items('think', 20, { image: 'x.png', description: 'text' })];
  const answer = (trial: Trial): string => {
    const { question, sight } = asked(trial);
    const isRight = right(shareOf(variants, models, trial.model), question, sight);
    return isRight === null ? 'cut' : isRight ? `${Number(question.split(' ')[1]) % 7}` : '99';
  };
  const cutOff = (trial: Trial): boolean => answer(trial) === 'cut';
  const observed = [];
  for (const own of [variants, models]) {
    const plan = planTransfer(context, { models: own, items: all, groups });
    observed.push(...(await observe(plan, { answer }, cutOff)).observed);
  }
  const facts = { cuts, models: variants.map(({ meta, description }) => ({ ...meta, description })), curves, seed: 1 };
  const result = analyzeTransfer(observed, facts);
  const curve = (region: string, measure = 'accuracy', group = 'visualReasoning') =>
    result.interpolation!.curves.find(
      (one) => one.region === region && one.measure === measure && one.group === group && one.component === 'all',
    )!;
  return { result, curve, curves, models };
}

const number = (question: string): number => Number(question.split(' ')[1]);

describe('which models', () => {
  test('the ends are the grafts that are asked anyway, every other point is a model of its own', () => {
    const { curves, models } = plannedCurves({});
    expect(models.map(({ opened }) => opened)).toEqual(
      ['early', 'mid', 'late'].flatMap((region) => [0.25, 0.5, 0.75].map((alpha) => `${alpha} RL in ${region}`)),
    );
    expect(curves.map(({ points }) => points.map(({ alpha }) => alpha))).toEqual(
      Array(3).fill([0, 0.25, 0.5, 0.75, 1]),
    );
    expect(curves.map(({ points }) => [points[0]!.model, points[4]!.model])).toEqual([
      ['IN', 'RL:IN:IN'],
      ['IN', 'IN:RL:IN'],
      ['IN', 'IN:IN:RL'],
    ]);
    expect(curves[1]!.points[2]).toEqual({
      alpha: 0.5,
      model: '0.5 RL in mid',
      variant: 'blend',
      policy: 'in',
      description: '0.5 sft + 0.5 grpo in layers 3–5; all else sft',
    });
  });

  test('under another policy only IN is there already; whole ends in RL; α beyond the ends and twice', () => {
    const wanted = { alphas: [1.5, 0.5, -0.5, 0.5, 1], regions: ['whole', 'early'] as const };
    const { curves, models } = plannedCurves(wanted, ['early']);
    expect(curves.map(({ region }) => region)).toEqual(['early', 'whole']);
    expect(curves[0]!.points.map(({ alpha }) => alpha)).toEqual([-0.5, 0, 0.5, 1, 1.5]);
    const found = (i: number) =>
      curves[i]!.points.filter(({ variant }) => variant === 'block').map(({ model }) => model);
    expect(found(0)).toEqual(['IN']);
    expect(found(1)).toEqual(['IN', 'RL']);
    expect(models).toHaveLength(4 + 3);
    expect(graftOfBlend(models.find(({ opened }) => opened === '1 RL in early')!.blend, 9)).toMatchObject({
      head: 'sft',
    });
  });

  test('components of layers; of every weight there is one', () => {
    const { curves, models } = plannedCurves({
      alphas: [0.5],
      regions: ['late', 'whole'],
      components: ['mlp', 'attn', 'all'],
    });
    expect(curves.map(({ region, component }) => `${region} ${component}`)).toEqual([
      'late all',
      'late attn',
      'late mlp',
      'whole all',
    ]);
    // α = 1 of a half of a layer is no graft: it is asked.
    expect(models.map(({ opened }) => opened)).toContain('1 RL in MLPs of late');
  });

  test('in memory as many as fit, in order; what fits nowhere stands alone', () => {
    expect(asTheyFit([3, 3, 3, 9, 1, 1], (bytes) => bytes, 6)).toEqual([[3, 3], [3], [9], [1, 1]]);
    expect(asTheyFit([0, 0, 5], (bytes) => bytes, 0)).toEqual([[0, 0], [5]]);
    expect(asTheyFit([], () => 1, 6)).toEqual([]);
  });
});

describe('the numbers', () => {
  test('a gain that comes with its region, item by item, is a straight line; the other regions stay flat', async () => {
    // Of 20 items 4 are right anyway; item i of the others once the middle is RL's by more than (i − 4) / 16.
    const { curve, result } = await analyzed({}, (share, question, sight) => {
      if (question.startsWith('see') || sight === 'description') return false;
      return number(question) < 4 || share(4) > (number(question) - 4) / 16;
    });
    const mid = curve('mid');
    expect(mid.points.map(({ rate }) => [rate.successes, rate.n])).toEqual([4, 8, 12, 16, 20].map((k) => [k, 20]));
    expect(mid.points.map(({ test: one }) => one && [one.gained, one.lost, one.difference])).toEqual([
      null,
      [4, 0, 0.2],
      [8, 0, 0.4],
      [12, 0, 0.6],
      [16, 0, 0.8],
    ]);
    // Exact McNemar: 2 · 2⁻¹⁶; twelve tests (three regions, four steps), and it is the smallest of them.
    expect(mid.points[4]!.test!.p).toBeCloseTo(2 ** -15, 12);
    expect(mid.points[4]!.test!.pHolm).toBeCloseTo(12 * 2 ** -15, 12);
    expect(mid.bend!.mean).toBeCloseTo(0, 12);
    for (const other of [curve('early'), curve('late')]) {
      expect(other.points.every(({ rate }) => rate.successes === 4)).toBe(true);
      expect(other.points[3]!.test).toMatchObject({ difference: 0, gained: 0, lost: 0, pHolm: 1 });
      expect(other.bend).toMatchObject({ mean: 0, low: 0, high: 0, p: 1 });
    }
    // At α = 0.5 it is 2 · 2⁻⁸ times the ten tests left: not yet significant.
    expect(mid.points[2]!.test!.pHolm).toBeCloseTo(10 * 2 ** -7, 12);
    const [finding] = interpolationFindings(result.interpolation);
    expect(finding!.significant).toBe(true);
    expect(finding!.text).toContain('mid is significantly better than IN first at α = 0.75 (+60.0 points');
    expect(finding!.text).toContain('at α = 1 by +80.0 points');
    expect(finding!.text).toContain('No path departs significantly from the straight line');
    expect(finding!.text).not.toContain('early');
  });

  test('all at once at the first step is a bend upward: (3/4 + 1/2 + 1/4) / 3 of a gain of one', async () => {
    const { curve, result } = await analyzed({}, (share, _, sight) => sight !== 'description' && share(1) > 0.2);
    // y(α) = 1 from α = 0.25 on: above the line by 0.75, 0.5, 0.25.
    expect(curve('early').bend!.mean).toBeCloseTo(0.5, 12);
    expect(curve('early').bend!.pHolm).toBeLessThan(0.001);
    expect(interpolationFindings(result.interpolation)[0]!.text).toContain(
      'The path of early lies above the straight line between its ends (+50.0 points (+50.0, +50.0), Holm-adjusted p < 0.001): the change comes early',
    );
    // A loss that comes at the last step lies above the line, too, and late.
    const lost = await analyzed({}, (share, _, sight) => sight !== 'description' && share(1) < 1);
    expect(lost.curve('early').bend!.mean).toBeCloseTo(0.5, 12);
    expect(interpolationFindings(lost.result.interpolation)[0]!.text).toMatch(
      /early is significantly worse.*comes late/s,
    );
  });

  test('a valley between two equal ends; steps beyond the ends are no part of the bend', async () => {
    const { curve } = await analyzed({ alphas: [-1, 0.5, 2] }, (share) => share(1) === 0 || share(1) === 1);
    const early = curve('early', 'accuracy', 'vision');
    expect(early.points.map(({ alpha, rate }) => [alpha, rate.rate])).toEqual([
      [-1, 0],
      [0, 1],
      [0.5, 0],
      [1, 1],
      [2, 0],
    ]);
    expect(early.bend).toMatchObject({ mean: -1, n: 20 });
    const beyond = await analyzed({ alphas: [2] }, () => true);
    expect(beyond.curve('early').bend).toBeNull();
    expect(interpolationFindings(beyond.result.interpolation)).toEqual([]);
  });

  test('ability measures have curves of their own; M_rea is accuracy on text and not listed twice', async () => {
    // Seeing comes with the late layers, and what is told with the early ones.
    const { curve, result } = await analyzed({ alphas: [0.5] }, (share, question, sight) => {
      if (question.startsWith('see')) return sight === 'image' ? share(8) >= 0.5 : false;
      return sight === 'image' || share(0) >= 0.5;
    });
    expect(new Set(result.interpolation!.curves.map(({ measure, group }) => `${group} ${measure}`))).toEqual(
      new Set(['vision accuracy', 'vision M_vis', 'visualReasoning accuracy', 'visualReasoning M_v2r']),
    );
    expect(curve('late', 'M_vis', 'vision').points.map(({ rate }) => rate.rate)).toEqual([0, 1, 1]);
    expect(curve('early', 'M_v2r').points.map(({ rate }) => rate.rate)).toEqual([0, 1, 1]);
    expect(curve('early').points.map(({ rate }) => rate.rate)).toEqual([1, 1, 1]);
  });

  test('an answer that was cut off is missing from its pair and its bend, not wrong', async () => {
    const { curve } = await analyzed({}, (share, question, sight) =>
      share(1) === 0.5 && number(question) < 5 ? null : sight === 'image' && share(1) > 0.6,
    );
    const [, , half] = curve('early').points;
    expect(half!.rate).toMatchObject({ n: 15, truncated: 5, failed: 0, successes: 0 });
    expect(half!.test).toMatchObject({ n: 15, excluded: 5 });
    expect(curve('early').bend).toMatchObject({ n: 15, missing: 5 });
    // 0.25 and 0.5 lie below the line by just that, 0.75 above it by a quarter.
    expect(curve('early').bend!.mean).toBeCloseTo((-0.25 - 0.5 + 0.25) / 3, 12);
  });

  test('one name under two policies is two models: the ends of a curve are those of policy in', async () => {
    const { curve } = await analyzed(
      { alphas: [0.5] },
      (share, _, sight) => sight === 'image' && share('rest') === 0 && share(1) >= 0.5,
      ['early', 'in'],
    );
    expect(curve('early').points.map(({ rate, select }) => [rate.rate, select.policy])).toEqual([
      [0, 'early'],
      [1, 'in'],
      [1, 'in'],
    ]);
  });

  test('the report has a chart for every group, with the steps and the bends in tables', async () => {
    const { result } = await analyzed({}, (share) => share(1) > 0.6);
    const blocks = interpolationBlocks(result.interpolation);
    expect(blocks.map((block) => 'id' in block && block.id)).toEqual([
      'transfer-alpha-vision',
      'transfer-alpha-visualreasoning',
      'transfer-bends',
      'transfer-interpolation',
    ]);
    const table = blocks[3]!.kind === 'table' ? blocks[3]!.table.rows : [];
    expect(table).toHaveLength(4 * 3 * 5); // groups and measures, regions, α
    expect(interpolationBlocks(null)).toEqual([]);
    expect(interpolationFindings(null)).toEqual([]);
  });
});

describe('in a study file', () => {
  const study = (interpolate: unknown) =>
    parseStudy(
      {
        name: 'x',
        models: { in: 'a', rl: 'b' },
        data: { items: 'x.jsonl' },
        experiments: { transfer: { in: 'in', rl: 'rl', interpolate } },
      },
      'study.yaml',
    ).experiments.transfer!.interpolate;

  test('{} takes the defaults', () => {
    expect(study({})).toEqual({ alphas: [0.25, 0.5, 0.75], regions: ['early', 'mid', 'late'], components: ['all'] });
  });

  test.each([
    [{ alphas: [Number.NaN] }, /alphas\[0\]/],
    [{ alphas: [Number.POSITIVE_INFINITY] }, /alphas\[0\]/],
    [{ alphas: ['half'] }, /expected number/],
    [{ alphas: [] }, /alphas/],
    [{ alphas: [1, 0] }, /0 and 1 are always there/],
    [{ regions: ['middle'] }, /"early"\|"mid"\|"late"\|"layers"\|"whole"/],
    [{ components: ['norm'] }, /"all"\|"attn"\|"mlp"/],
    [{ regions: ['whole'], components: ['mlp'] }, /region 'whole' goes with component 'all'/],
    [{ alpha: [0.5] }, /alpha/],
  ])('%j is refused', (interpolate, message) => {
    expect(() => study(interpolate)).toThrow(message);
  });
});
