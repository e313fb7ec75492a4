/** What regions contribute, on made-up models whose truth is known. */
import { describe, expect, test } from 'vitest';
import { nonLayerPolicies, paperGrafts } from '../../lib/checkpoint/graft.js';
import type { QuestionItem } from '../../lib/data/items.js';
import type { PlanContext } from '../../lib/experiments/context.js';
import { bothEffect, type Coalitions, playerEffects } from '../../lib/experiments/region-effects.js';
import { transferFindings, transferSection } from '../../lib/experiments/report-transfer.js';
import { planTransfer, transferModels } from '../../lib/experiments/transfer.js';
import { analyzeTransfer } from '../../lib/experiments/transfer-analyze.js';
import { namedRandom } from '../../lib/stats/random.js';
import type { Trial } from '../../lib/types.js';
import { asked, asker, observe } from './fake-study.js';

const three = ['early', 'mid', 'late'] as const;
/** All eight combinations; `right(mask, item)` says who is right. */
const coalitions = (n: number, right: (mask: number, item: number) => boolean | null, players = 3): Coalitions =>
  new Map(
    Array.from({ length: 2 ** players }, (_, mask) => [
      mask,
      Array.from({ length: n }, (_, item) => right(mask, item)),
    ]),
  );

describe('Shapley values over grafts', () => {
  test('a gain of one region is that region’s, whatever the others are', () => {
    const effects = playerEffects(
      three,
      coalitions(40, (mask, item) => item % 4 === 0 || (mask & 2) > 0),
      1,
    );
    expect(effects.map(({ shapley }) => shapley.mean)).toEqual([0, 0.75, 0]);
    expect(effects.map(({ share }) => share)).toEqual([0, 1, 0]);
    expect(effects[1]!.shapley).toMatchObject({ low: expect.any(Number), n: 40, missing: 0 });
    expect(effects[1]!.shapley.pHolm).toBeLessThan(0.001);
    expect([effects[0]!.shapley.pHolm, effects[0]!.shapley.low, effects[0]!.shapley.high]).toEqual([1, 0, 0]);
    expect(effects[1]!.added).toMatchObject({ gained: 30, lost: 0 });
    expect(effects[1]!.takenOut).toMatchObject({ gained: 30, lost: 0 });
  });

  test('a gain that needs two regions together is shared between them; alone each adds nothing', () => {
    const effects = playerEffects(
      three,
      coalitions(20, (mask) => (mask & 5) === 5),
      1,
    );
    expect(effects.map(({ shapley }) => shapley.mean)).toEqual([0.5, 0, 0.5]);
    expect(effects[0]!.added.difference).toBe(0);
    expect(effects[0]!.takenOut.difference).toBe(1);
  });

  test('the parts add up to RL − IN on every item, for random outcomes of three and of four parts', () => {
    for (const players of [three, [...three, 'rest'] as const]) {
      const random = namedRandom(5, 'outcomes', players.length);
      const table = coalitions(60, () => random.below(2) === 1, players.length);
      const all = 2 ** players.length - 1;
      const gain = table.get(all)!.reduce((sum, right, i) => sum + Number(right) - Number(table.get(0)![i]), 0) / 60;
      const sum = playerEffects(players, table, 1).reduce((total, { shapley }) => total + shapley.mean!, 0);
      expect(sum).toBeCloseTo(gain, 12);
    }
  });

  test('an item that one combination did not answer is missing, not zero; a gain of noise has no shares', () => {
    const effects = playerEffects(
      three,
      coalitions(10, (mask, item) => (mask === 5 && item < 3 ? null : mask === 7)),
      1,
    );
    expect(effects[0]!.shapley).toMatchObject({ n: 7, missing: 3 });
    const nothing = playerEffects(
      three,
      coalitions(10, (_, item) => item < 5),
      1,
    );
    expect(nothing.map(({ share, shapley }) => [share, shapley.mean])).toEqual(Array(3).fill([null, 0]));
    expect(bothEffect([false], [true], [null], [true], 1)).toMatchObject({ n: 0, mean: null, p: null });
  });
});

describe('transfer with its factors', () => {
  const context: PlanContext = { prompter: asker, seed: 7 };
  const layers = 9;
  const models = transferModels({
    totalLayers: layers,
    cuts: [3, 6],
    policies: ['early', 'in', 'rl', 'ends'],
    parents: { in: 'sft', rl: 'grpo' },
    random: 2,
    seed: 3,
    also: ['base'],
  });
  const items = (task: string, n: number, extra: Partial<QuestionItem> = {}): QuestionItem[] =>
    Array.from({ length: n }, (_, i) => ({
      id: `${task} ${i}`,
      task,
      question: `${task} ${i}`,
      answer: `${i % 7}`,
      rule: { kind: 'number' },
      ...extra,
    }));
  const all = [...items('see', 40, { image: 'x.png' }), ...items('think', 40, { image: 'x.png', description: 'text' })];
  const groups = { vision: ['see'], visualReasoning: ['think'], textReasoning: [] };
  const graftOf = (opened: string) => models.find((model) => model.opened === opened)?.graft;
  /** Layers 3 to 5 carry reasoning, one item in twenty of it for each; the vision tower of RL sees worse; base guesses. */
  const answer = (trial: Trial): string => {
    const { question, sight } = asked(trial);
    const i = Number(question.split(' ')[1]);
    const right = `${i % 7}`;
    const graft = graftOf(trial.model);
    if (!graft) return namedRandom(11, trial.id, question, sight).below(2) ? right : '99';
    if (question.startsWith('see')) return sight === 'image' && (graft.vision === 'sft' || i % 2 === 0) ? right : '99';
    const carried = [3, 4, 5].filter((layer) => graft.layers[layer] === 'grpo').length;
    return i % 20 < 8 + 4 * carried ? right : '99';
  };
  const facts = {
    cuts: [3, 6] as const,
    models: models.map(({ meta, description }) => ({ ...meta, description })),
    seed: 1,
  };

  test('names are unique, policies share what is the same, random sets are as large as regions', () => {
    expect(new Set(models.map(({ opened }) => opened)).size).toBe(models.length);
    expect(models).toHaveLength(4 * 8 + 2 * 2 + 1);
    const random = models.filter(({ meta }) => meta.variant === 'random');
    for (const { meta, graft } of random) {
      const own = meta.layers as readonly number[];
      expect(own).toHaveLength(3);
      const donor = meta.direction === 'added' ? 'grpo' : 'sft';
      expect(graft!.layers.map((name, layer) => (name === donor ? layer : -1)).filter((layer) => layer >= 0)).toEqual(
        own,
      );
    }
    const find = (opened: string) => models.find((model) => model.opened === opened)!.graft!;
    for (const policy of nonLayerPolicies.filter((one) => one !== 'early')) {
      expect(find(`IN:RL:RL · ${policy}`).vision).toBe(policy === 'rl' ? 'grpo' : 'sft');
    }
    expect(find('RL:IN:IN').vision).toBe('grpo');
  });

  test('the carrying region is named under every policy, the tower’s loss is told apart from the early block’s', async () => {
    const plan = planTransfer(context, { models, items: all, groups });
    const { observed } = await observe(plan, { answer });
    const result = analyzeTransfer(observed, facts);
    expect(result.policies.map(({ policy }) => policy)).toEqual(['early', 'in', 'rl', 'ends']);
    for (const { regions } of result.policies) {
      const think = regions.filter(({ group }) => group === 'visualReasoning');
      expect(think.map(({ shapley }) => Number(shapley.mean!.toFixed(9)))).toEqual([0, 0.6, 0]);
      expect(think[1]!.share).toBeCloseTo(1, 9);
    }
    const seeing = (policy: string, player: string) =>
      result.policies
        .find((one) => one.policy === policy)!
        .regions.find((one) => one.group === 'vision' && one.player === player)!.shapley.mean;
    expect(seeing('early', 'early')).toBeCloseTo(-0.5, 9); // confounded: the tower comes with the early block
    expect(seeing('in', 'early')).toBe(0);
    const rest = result.fourParts.filter(({ group }) => group === 'vision');
    expect(rest.map(({ player, shapley }) => [player, shapley.mean])).toEqual([
      ['early', 0],
      ['mid', 0],
      ['late', 0],
      ['rest', -0.5],
    ]);
    // A random set carries as much as it holds of layers 3 to 5.
    for (const { group, layers: own, both } of result.policies[0]!.random) {
      if (group !== 'visualReasoning') continue;
      expect(both.mean).toBeCloseTo(0.2 * own.filter((layer) => layer >= 3 && layer < 6).length, 9);
    }
    const [finding] = transferFindings(result).filter(({ text }) => text.includes('carried by'));
    expect(finding!.text).toContain('RL’s gain is carried by mid (all eight grafts, policy `early`)');
    expect(finding!.text).toContain('random sets of as many layers');
    const ids = transferSection(result).blocks.map((block) => ('id' in block ? block.id : ''));
    for (const id of [
      'transfer-regions',
      'transfer-policies',
      'transfer-four-parts',
      'transfer-random',
      'plain-abilities',
    ]) {
      expect(ids).toContain(id);
    }
  });

  test('M_vis of a guesser is far from zero, corrected for chance it is not', async () => {
    const plan = planTransfer(context, { models, items: items('see', 400, { image: 'x.png' }), groups });
    const { observed } = await observe(plan, { answer });
    const { plain, policies } = analyzeTransfer(observed, facts);
    const raw = plain!.abilities.find(({ model, measure }) => model === 'base' && measure === 'M_vis')!;
    expect(raw.rate.rate).toBeGreaterThan(0.18); // ½·½
    const guesser = plain!.seeing.find(({ model }) => model === 'base')!;
    expect(Math.abs(guesser.seeing.difference!)).toBeLessThan(4 * Math.sqrt(0.5 / 400));
    expect(guesser.seeing.pHolm).toBeGreaterThan(0.05);
    const seer = policies[0]!.seeing.find(({ model }) => model === 'IN')!;
    expect(seer.seeing).toMatchObject({ difference: 1, gained: 400, lost: 0 });
    expect(guesser.test!.mean).toBeCloseTo(guesser.seeing.difference! - 1, 9);
  });

  test('the eight are all combinations of three blocks', () => {
    expect(Object.keys(paperGrafts)).toHaveLength(2 ** 3);
  });
});
