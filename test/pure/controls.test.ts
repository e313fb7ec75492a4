/** The controls on a made-up model: what must change nothing changes nothing, and random layers lose what a place has. */
import { expect, test } from 'vitest';
import type { QuestionItem, SwapPair } from '../../lib/data/items.js';
import { regionShares } from '../../lib/experiments/characterize-regions.js';
import type { PlanContext, PlanModel } from '../../lib/experiments/context.js';
import { analyzeLocalizeReasoning, planLocalizeReasoning } from '../../lib/experiments/localize-reasoning.js';
import { planLocalizeVision } from '../../lib/experiments/localize-vision.js';
import { analyzeLocalizeVision } from '../../lib/experiments/localize-vision-analyze.js';
import { controlFindings } from '../../lib/experiments/report-vision.js';
import type { Trial } from '../../lib/types.js';
import { asked, asker, observe } from './fake-study.js';

const layers = 6;
const model: PlanModel = { name: 'rl', layers, heads: 2 };
const context: PlanContext = { prompter: asker, seed: 7, controls: { self: true, random: 1 } };
const pairs = Array.from(
  { length: 60 },
  (_, i): SwapPair => ({
    id: `pair ${i}`,
    task: 'count',
    targetImage: `t${i}.png`,
    sourceImage: `s${i}.png`,
    question: `how many, ${i}`,
    targetAnswer: `${i % 5}`,
    sourceAnswer: `${5 + (i % 4)}`,
    rule: { kind: 'number' },
    placeholderRemoved: false,
  }),
);

/** Answers what it sees; layer 3 alone reads, so a swap there gives what the source run's image shows. */
function reader() {
  const known = new Map<string, Trial>();
  const imageOf = (trial: Trial): string => {
    const swap = trial.interventions?.find(({ site, layers: own }) => site === 'k' && own.includes(3));
    const source = swap && known.get((swap.value as { trial: string }).trial);
    return asked(source ?? trial).image!;
  };
  return {
    refuse: (trials: readonly Trial[]) => {
      for (const trial of trials) known.set(trial.id, trial);
      return undefined;
    },
    answer: (trial: Trial): string => {
      const pair = pairs.find(({ question }) => question === asked(trial).question)!;
      return imageOf(trial) === pair.targetImage ? pair.targetAnswer : pair.sourceAnswer;
    },
  };
}

test('swaps: patched with itself nothing changes; random layers change as many answers as they hit the reading layer', async () => {
  const plan = planLocalizeVision(context, {
    models: [model],
    pairs,
    modes: ['suffix', 'single'],
    width: 2,
    resize: 'refuse',
  });
  expect(plan.trials).toBe(pairs.length * (2 + 2 * 6 * 3));
  const { observed } = await observe(plan, reader());
  const result = analyzeLocalizeVision(observed, { seed: 1 });
  const at = (control: string, mode: string) =>
    result.controls.filter((cell) => cell.control === control && cell.mode === mode);
  for (const mode of ['suffix', 'single']) {
    expect(at('self', mode).map(({ change }) => [change.rate, change.n])).toEqual(Array(6).fill([0, 60]));
  }
  // A random set as large as the suffix of layer l hits layer 3 with probability (6 − l)/6; 60 pairs, four deviations.
  for (const { layer, change } of at('random', 'suffix')) {
    const expected = (6 - layer) / 6;
    expect(Math.abs(change.rate! - expected)).toBeLessThanOrEqual(4 * Math.sqrt((expected * (1 - expected)) / 60));
  }
  expect(at('random', 'suffix')[0]!.test).toMatchObject({ lost: 0, gained: 0 }); // all layers are all layers
  // At layer 3 alone the place matters: a random layer is wrong five times in six.
  const single = at('random', 'single');
  expect(single[3]!.test!.difference).toBeLessThan(-0.5);
  expect(single[3]!.test!.pHolm).toBeLessThan(1e-6);
  // The swaps themselves are untouched by the controls beside them.
  const curve = result.cells.filter(({ mode }) => mode === 'suffix').map(({ change }) => change.rate);
  expect(curve).toEqual([1, 1, 1, 1, 0, 0]);
  expect(controlFindings(result, null)[0]!.text).toContain('changed none of 720 answers');
});

test('an instrument that is not neutral is reported as such', async () => {
  const honest = reader();
  const leaky = {
    ...honest,
    answer: (trial: Trial) => {
      const [edit] = trial.interventions ?? [];
      const isSelf = edit?.layers.length === 1 && edit.layers[0] === 5;
      return isSelf ? 'spoilt' : honest.answer(trial);
    },
  };
  const options = { models: [model], pairs, modes: ['single'] as const, width: 1, resize: 'refuse' as const };
  const { observed } = await observe(planLocalizeVision(context, options), leaky);
  expect(controlFindings(analyzeLocalizeVision(observed, { seed: 1 }), null)[0]!.text).toContain('not neutral');
});

test('ablation: own outputs cost nothing, a random layer costs its share', async () => {
  const items = Array.from(
    { length: 90 },
    (_, i): QuestionItem => ({
      id: `q${i}`,
      task: 'a',
      question: `a ${i}`,
      answer: `${i % 7}`,
      rule: { kind: 'number' },
    }),
  );
  const answer = (trial: Trial): string => {
    const hurt = trial.interventions?.some(({ op, layers: own }) => op === 'zero' && own.includes(2));
    return hurt ? 'no idea' : `${Number(asked(trial).question.split(' ')[1]) % 7}`;
  };
  const plan = planLocalizeReasoning(context, { models: [model], items, parts: ['layer', 'mlp'], width: 1 });
  expect(plan.trials).toBe(90 * (1 + 2 * (6 + 2)));
  const { observed } = await observe(plan, { answer });
  const { controls, cells } = analyzeLocalizeReasoning(observed);
  expect(cells.filter(({ part }) => part === 'layer')).toHaveLength(6);
  expect(controls.map(({ part, control }) => `${part} ${control}`)).toEqual([
    'layer self',
    'layer random',
    'mlp self',
    'mlp random',
  ]);
  for (const { control, accuracy, test: paired } of controls) {
    if (control === 'self') expect(paired).toMatchObject({ lost: 0, gained: 0, n: 90 });
    // one layer in six is the needed one
    else expect(Math.abs(accuracy.rate! - 5 / 6)).toBeLessThanOrEqual(4 * Math.sqrt(5 / 36 / 90));
  }
});

test('without controls nothing is added to a plan', () => {
  const plain = { prompter: asker, seed: 7 };
  const options = { models: [model], pairs, modes: ['single'] as const, width: 1, resize: 'refuse' as const };
  expect(planLocalizeVision(plain, options).trials).toBe(60 * 8);
});

test('a concentrated update stands out of random sets of layers, an even one does not', () => {
  const regions = [
    { name: 'early', start: 0, end: 4 },
    { name: 'mid', start: 4, end: 8 },
    { name: 'late', start: 8, end: 12 },
  ] as const;
  const shares = (energies: readonly number[]) => regionShares('c', [{ name: 's', energies }], regions, 1);
  const planted = shares(Array.from({ length: 12 }, (_, i) => (i >= 4 && i < 8 ? 9 : 1)));
  expect(planted.map(({ share }) => share)).toEqual([4 / 44, 36 / 44, 4 / 44]);
  // One of 495 sets of four is the planted one; the set farthest from even on the other side is nearer to it.
  expect(planted[1]!.p).toBeGreaterThan(1 / 495 / 2);
  expect(planted[1]!.p).toBeLessThan(2 / 495);
  expect(planted[1]!.pHolm).toBeLessThan(0.05);
  expect(planted[1]!.share).toBeGreaterThan(planted[1]!.randomHigh - 1e-12);
  expect(shares(Array(12).fill(2)).every(({ p, share }) => p === 1 && Math.abs(share - 1 / 3) < 1e-12)).toBe(true);
  expect(shares(Array(12).fill(0))).toEqual([]); // no update, no share
});
