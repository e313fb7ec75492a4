/** Studies of checkpoints whose answer is known because it was planted: the study must name it, and nothing else. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findings } from '../../lib/experiments/report.js';
import { runStudy } from '../../lib/experiments/study.js';
import { parseStudy } from '../../lib/experiments/study-file.js';
import { summarize } from '../../lib/experiments/summary.js';
import { layerOf, plant, withLowRank } from '../support/planted.js';

const lab = (path: string): string => fileURLToPath(new URL(`../../lab/${path}`, import.meta.url));
const [sft, rl] = [lab('checkpoints/in'), lab('checkpoints/rl')];
let work: string;
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), 'galvani-planted-'));
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

async function study(name: string, models: object, experiments: object, controls: object = {}) {
  const out = join(work, `run ${name}`);
  const data = {
    items: lab('data/eval.jsonl'),
    pairs: lab('data/pairs.jsonl'),
    // Asked with their image alone: no second condition is needed here.
    groups: { vision: [], visualReasoning: [], textReasoning: ['dsum', 'diff'] },
  };
  await runStudy(parseStudy({ name, models, data, protocol: { maxTokens: 48 }, controls, experiments }, name), { out });
  const summary = summarize(out);
  expect(summary.progress.filter(({ failed, missing }) => failed + missing > 0)).toEqual([]);
  return {
    summary,
    text: findings(summary)
      .map((one) => one.text)
      .join('\n'),
  };
}

describe('an ability carried by one region: RL’s early layers in IN', () => {
  let found: Awaited<ReturnType<typeof study>>;
  beforeAll(async () => {
    const planted = plant(sft, join(work, 'early'), (name) => ((layerOf(name) ?? 9) < 3 ? { from: rl } : undefined));
    found = await study(
      'early',
      { in: sft, rl: planted },
      {
        characterize: { models: ['in', 'rl'], spectra: false },
        transfer: {
          in: 'in',
          rl: 'rl',
          policy: 'in',
          tasks: ['dsum', 'diff'],
          interpolate: { alphas: [0.5], itemsPerTask: 60 },
        },
        freeze: { before: 'in', full: 'rl', frozen: { rl: 'early' }, tasks: ['dsum'], itemsPerTask: 4 },
      },
      { random: 1 },
    );
  }, 240_000);

  test('the weights name the layers, all others are bit for bit the same', () => {
    const layers = found.summary.characterize!.cells.filter(({ kind }) => kind === 'layer');
    const changed = layers.filter(({ steps }) => steps[0]!.unchangedFraction! < 1).map(({ layer }) => layer);
    expect(changed).toEqual([0, 1, 2]);
    expect(found.text).toContain('changed layers 0–2; the other 6 decoder layers are bit for bit as they were');
    const shares = found.summary.characterize!.regionShares;
    expect(shares.map(({ region, share }) => [region, share])).toEqual([
      ['early', 1],
      ['mid', 0],
      ['late', 0],
    ]);
    // One set of 84 is the planted one: the region stands out as far as nine layers allow.
    expect(shares[0]!.p).toBeLessThan(0.05);
  });

  test('the grafts name the region: the others contribute exactly nothing', () => {
    const [early, mid, late] = found.summary.transfer!.policies[0]!.regions;
    expect(early!.shapley.pHolm).toBeLessThan(0.05);
    expect(early!.share).toBeCloseTo(1, 12);
    for (const other of [mid!, late!]) {
      expect(other.shapley).toMatchObject({ mean: 0, low: 0, high: 0, pHolm: 1 });
      expect(other.added).toMatchObject({ lost: 0, gained: 0 });
    }
    expect(found.text).toContain('RL’s gain is carried by early (');
  });

  test('from IN to RL that region’s curve rises to RL, the others are IN at every step', () => {
    const curves = found.summary.transfer!.interpolation!.curves.filter(({ measure }) => measure === 'accuracy');
    expect(curves.map(({ region, points }) => [region, points.map(({ alpha, model }) => [alpha, model])])).toEqual(
      [
        ['early', 'RL:IN:IN'],
        ['mid', 'IN:RL:IN'],
        ['late', 'IN:IN:RL'],
      ].map(([region, end]) => [
        region,
        [
          [0, 'IN'],
          [0.5, `0.5 RL in ${region}`],
          [1, end],
        ],
      ]),
    );
    const [early, mid, late] = curves;
    expect(early!.points[2]!.test).toMatchObject({ n: 120 });
    expect(early!.points[2]!.test!.pHolm).toBeLessThan(0.05);
    expect(early!.points[2]!.test!.difference).toBeGreaterThan(0.05);
    // Equal weights are not blended: every step is IN, answer by answer.
    for (const other of [mid!, late!]) {
      for (const { test: step } of other.points.slice(1)) expect(step).toMatchObject({ gained: 0, lost: 0, pHolm: 1 });
      expect(other.bend).toMatchObject({ mean: 0, low: 0, high: 0 });
    }
    expect(found.text).toMatch(/From IN to RL by steps of α .*: early is significantly better/);
  });

  test('a freeze of that region is refuted tensor by tensor', () => {
    const [check] = found.summary.freeze!.checks;
    expect(check!.changedInside.length).toBeGreaterThan(0);
    expect(check!.changedInside.every((name) => layerOf(name)! < 3)).toBe(true);
    expect(found.text).toContain('did not hold');
  });
});

test('a gain outside the layers is not given to a block', async () => {
  const planted = plant(sft, join(work, 'rest'), (name) => (layerOf(name) === undefined ? { from: rl } : undefined));
  const { summary, text } = await study(
    'rest',
    { in: sft, rl: planted },
    {
      characterize: { models: ['in', 'rl'], spectra: false },
      transfer: { in: 'in', rl: 'rl', policy: ['early', 'in', 'rl'], tasks: ['dsum', 'diff'], itemsPerTask: 25 },
    },
  );
  expect(text).toContain('left every decoder layer bit for bit as it was');
  const players = summary.transfer!.fourParts.map(({ player, shapley }) => [player, shapley.mean === 0]);
  expect(players.slice(0, 3)).toEqual([
    ['early', true],
    ['mid', true],
    ['late', true],
  ]);
  const gain = summary.transfer!.policies[0]!.accuracy.find(({ model, task }) => model === 'RL' && task === null)!
    .test!;
  expect(summary.transfer!.fourParts[3]!.shapley.mean).toBeCloseTo(gain.difference!, 12);
  // The published policy gives all of it to the early block: the confound, reproduced.
  const early = summary.transfer!.policies[0]!.regions.find(({ player }) => player === 'early')!;
  expect(early.shapley.mean).toBeCloseTo(gain.difference!, 12);
}, 120_000);

test('a rank-8 update stored in bf16: eight values above the rounding floor, though the effective rank says otherwise', async () => {
  const planted = plant(sft, join(work, 'rank'), (name, tensor) =>
    layerOf(name) === 4 && name.endsWith('proj.weight')
      ? withLowRank(tensor(), { rank: 8, std: 1e-3, seed: 3, name })
      : undefined,
  );
  const { summary } = await study('rank', { in: sft, rl: planted }, { characterize: { models: ['in', 'rl'] } });
  const layers = summary.characterize!.cells.filter(({ kind }) => kind === 'layer');
  expect(layers.filter(({ steps }) => steps[0]!.frobeniusNorm > 0).map(({ layer }) => layer)).toEqual([4]);
  const [step] = layers[4]!.steps;
  expect(step!.rankAboveFloor).toBe(8); // mean over the seven matrices: every one has eight
  expect(step!.effectiveRankAboveFloor).toBeLessThanOrEqual(8);
  expect(step!.effectiveRankAboveFloor).toBeGreaterThan(6);
  expect(step!.effectiveRank).toBeGreaterThan(16); // what a script without a floor would report
}, 60_000);

test('an image that can be read only below layer 6 is read nowhere above', async () => {
  const blind = plant(rl, join(work, 'blind'), (name, tensor) =>
    (layerOf(name) ?? 0) >= 6 && name.endsWith('o_proj.weight') ? new Float32Array(tensor().values.length) : undefined,
  );
  const vision = { models: ['blind'], tasks: ['ocr', 'ground'], modes: ['suffix', 'single'], itemsPerTask: 30 };
  const { summary } = await study('blind', { blind }, { localize: { vision } }, { self: true, random: 1 });
  const { cells, readAt, controls } = summary.localizeVision!;
  for (const cell of cells.filter(({ layer }) => layer >= 6)) {
    expect([cell.change.successes, cell.kl.mean], `${cell.task} ${cell.mode} ${cell.layer}`).toEqual([0, 0]);
  }
  const read = readAt.find(({ task }) => task === 'ocr')!.layers;
  expect(read.length).toBeGreaterThan(0);
  expect(Math.max(...read)).toBeLessThan(6);
  expect(controls.filter(({ control }) => control === 'self').every(({ change }) => change.successes === 0)).toBe(true);
}, 120_000);

test('attention sharpened in layer 5 shifts in no layer before it, and in that one', async () => {
  const sharp = plant(rl, join(work, 'sharp'), (name, tensor) =>
    /^model\.layers\.5\.self_attn\.q_proj\.(weight|bias)$/.test(name)
      ? tensor().values.map((value) => 4 * value)
      : undefined,
  );
  const attend = { models: ['rl', 'sharp'], writer: 'rl', tasks: ['dsum'], itemsPerTask: 30 };
  const { summary } = await study('sharp', { rl, sharp }, { attend });
  const shifts = summary.attend!.shifts.filter(
    ({ mode, figure, query }) => mode === 'same' && figure === 'image' && query === 'think',
  );
  expect(shifts).toHaveLength(9);
  for (const { layer, difference, pHolm } of shifts.slice(0, 5)) {
    expect([layer, difference.mean, pHolm]).toEqual([layer, 0, 1]);
  }
  expect(shifts[5]!.significant).toBe(true);
}, 120_000);
