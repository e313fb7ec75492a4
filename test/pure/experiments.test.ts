/** The experiments on a made-up model whose truth is known: the analysis must find it, and nothing else. */
import { describe, expect, test } from 'vitest';
import { paperGrafts } from '../../lib/checkpoint/graft.js';
import type { QuestionItem, SwapPair } from '../../lib/data/items.js';
import { GalvaniError } from '../../lib/errors.js';
import { groupsOf } from '../../lib/experiments/answers.js';
import { planAttend, planAttendTexts } from '../../lib/experiments/attend.js';
import { analyzeAttend } from '../../lib/experiments/attend-analyze.js';
import type { PlanContext, PlanModel } from '../../lib/experiments/context.js';
import { analyzeFreeze, planFreeze } from '../../lib/experiments/freeze.js';
import { analyzeLocalizeReasoning, planLocalizeReasoning } from '../../lib/experiments/localize-reasoning.js';
import { flawsOf, planLocalizeVision } from '../../lib/experiments/localize-vision.js';
import { analyzeLocalizeVision } from '../../lib/experiments/localize-vision-analyze.js';
import { planTransfer, type TransferModel, transferModels } from '../../lib/experiments/transfer.js';
import { analyzeTransfer as analyze } from '../../lib/experiments/transfer-analyze.js';
import { trialKeys } from '../../lib/run/key.js';
import type { Observation } from '../../lib/run/rows.js';
import type { Trial, TrialResult } from '../../lib/types.js';
import { asked, asker, observe } from './fake-study.js';

const layers = 6;
const model = (name: string): PlanModel => ({ name, layers, heads: 2 });

const context: PlanContext = { prompter: asker, seed: 7 };

describe('localize vision', () => {
  const pairs = Array.from(
    { length: 16 },
    (_, i): SwapPair => ({
      id: `pair ${i}`,
      task: 'count',
      targetImage: `t${i % 5}.png`,
      sourceImage: `s${3 + (i % 4)}.png`,
      question: `how many, ${i}`,
      targetAnswer: `${i % 5}`,
      sourceAnswer: `${5 + (i % 4)}`,
      rule: { kind: 'number' },
      placeholderRemoved: false,
    }),
  );
  const gold = (trial: Trial): string => {
    const pair = pairs.find(({ question }) => question === asked(trial).question)!;
    return asked(trial).image === pair.targetImage ? pair.targetAnswer : pair.sourceAnswer;
  };
  /** Reads the image in layer 3 alone: swapped there it gives the source's answer. */
  const answer = (trial: Trial): string => {
    const pair = pairs.find(({ question }) => question === asked(trial).question)!;
    const swapped = trial.interventions?.some(({ layers: own }) => own.includes(3));
    return swapped ? pair.sourceAnswer : gold(trial);
  };
  const options = {
    models: [model('rl')],
    pairs,
    modes: ['suffix', 'single', 'prefix', 'window'] as const,
    width: 2,
    resize: 'refuse' as const,
  };

  test('finds the layer where the image is read, in every mode', async () => {
    const { observed } = await observe(planLocalizeVision(context, options), { answer });
    const result = analyzeLocalizeVision(observed, { seed: 1 });
    const curve = (mode: string) => result.cells.filter((cell) => cell.mode === mode).map(({ change }) => change.rate);
    expect(curve('suffix')).toEqual([1, 1, 1, 1, 0, 0]);
    expect(curve('single')).toEqual([0, 0, 0, 1, 0, 0]);
    expect(curve('prefix')).toEqual([0, 0, 0, 1, 1, 1]);
    expect(curve('window')).toEqual([0, 0, 1, 1, 0]);
    expect(result.readAt).toEqual([{ model: 'rl', task: 'count', layers: [3] }]);
    expect(result.unpatched[0]).toMatchObject({ readablePairs: 16, target: { rate: 1 }, source: { rate: 1 } });
    const at3 = result.cells.find(({ mode, layer }) => mode === 'single' && layer === 3)!;
    expect(at3).toMatchObject({
      toSource: { rate: 1 },
      correct: { rate: 0 },
      readableChange: { rate: 1, n: 16 },
      referenceChange: { rate: 1 },
    });
    expect(at3.logProbDifference).toMatchObject({ mean: 1, n: 16 }); // the fake scores −1 and −2
    expect(at3.kl).toMatchObject({ mean: 0.25, n: 16, missing: 0 });
    const step = result.cells.find(({ mode, layer }) => mode === 'suffix' && layer === 3)!.step!;
    expect(step).toMatchObject({ difference: -1, lost: 16, gained: 0 });
    expect(step.p).toBeCloseTo(2 * 0.5 ** 16, 12);
    expect(step.pHolm).toBeCloseTo(5 * 2 * 0.5 ** 16, 12);
  });

  test('swaps that cover the same layers are one computation', async () => {
    const plan = planLocalizeVision(context, options);
    for await (const bundle of plan.bundles()) {
      const keys = trialKeys(bundle.trials, (name) => name);
      // suffix 5 and single 5, and prefix 0 and single 0, are one computation each
      expect(keys.get('rl suffix 5')).toBe(keys.get('rl single 5'));
      expect(keys.get('rl prefix 0')).toBe(keys.get('rl single 0'));
    }
  });

  test('an item that cannot be prepared, a failure and a cut-off are gaps with a count, never rates', async () => {
    const flawed = [...pairs.slice(0, 15), { ...pairs[15]!, targetImage: 'broken.png' }];
    const fail = (trial: Trial) =>
      trial.interventions && asked(trial).question.endsWith(' 3')
        ? new GalvaniError('SHAPE_MISMATCH', 'unequal spans')
        : undefined;
    const plan = planLocalizeVision(context, { ...options, pairs: flawed, modes: ['single'] });
    const cutOff = (trial: Trial) => trial.interventions !== undefined && asked(trial).question.endsWith(' 4');
    const { observed } = await observe(plan, { answer, fail }, cutOff, 8);
    const { cells } = analyzeLocalizeVision(observed, { seed: 1 });
    expect(cells.find(({ layer }) => layer === 3)!.change).toMatchObject({ rate: 1, n: 13, failed: 2, truncated: 1 });
    expect(cells.find(({ layer }) => layer === 0)!.change).toMatchObject({ rate: 0, n: 13, failed: 2, truncated: 1 });
  });

  test('flaws of a set are found', () => {
    const same = { ...pairs[0]!, sourceAnswer: pairs[0]!.targetAnswer };
    expect(flawsOf([same, pairs[1]!]).map(({ kind }) => kind)).toEqual(['same-answer']);
  });
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
const right = (trial: Trial): string => `${Number(asked(trial).question.split(' ')[1]) % 7}`;

describe('localize reasoning', () => {
  test('finds the needed layer, and says what it could have missed', async () => {
    const answer = (trial: Trial): string =>
      trial.interventions?.some(({ layers: own }) => own.includes(2)) ? 'no idea' : right(trial);
    const plan = planLocalizeReasoning(context, {
      models: [model('rl')],
      items: [...items('a', 10), ...items('b', 10)],
      parts: ['layer', 'attn'],
      width: 1,
    });
    const { observed } = await observe(plan, { answer });
    const { cells } = analyzeLocalizeReasoning(observed);
    const pooled = cells.filter(({ task, part }) => task === 'all tasks' && part === 'layer');
    expect(pooled.map(({ accuracy }) => accuracy.rate)).toEqual([1, 1, 0, 1, 1, 1]);
    expect(pooled[2]!.test).toMatchObject({ difference: -1, lost: 20, n: 20 });
    expect(pooled[2]!.test!.pHolm).toBeCloseTo(6 * 2 * 0.5 ** 20, 15);
    expect(pooled[0]!.test).toMatchObject({ difference: 0, p: 1, pHolm: 1 });
    expect(pooled[0]!.test!.detectable).toBeGreaterThan(0.2);
    expect(cells.filter(({ task }) => task === 'a')).toHaveLength(13);
    expect(cells[0]).toMatchObject({ task: 'a', part: 'none', layer: null, accuracy: { rate: 1, n: 10 } });
  });
});

describe('transfer', () => {
  const models = transferModels({
    totalLayers: layers,
    cuts: [2, 4],
    policies: ['early'],
    parents: { in: 'sft', rl: 'grpo' },
    random: 0,
    seed: 1,
    also: [],
  });
  const factsOf = (all: readonly TransferModel[]) => all.map(({ meta, description }) => ({ ...meta, description }));
  const analyzeTransfer = (observed: readonly Observation[]) =>
    analyze(observed, { cuts: [2, 4], models: factsOf(models), seed: 1 }).policies[0]!;
  const all = [
    ...items('see', 12, { image: 'x.png' }),
    ...items('think', 12, { image: 'x.png', description: 'a text' }),
    ...items('text', 12),
  ];
  /** The gain sits in the middle block: models whose middle comes from RL reason; seeing needs the image. */
  const answer = (trial: Trial): string => {
    const { question, sight } = asked(trial);
    const reasons = paperGrafts[trial.model]![1] === 'rl';
    if (question.startsWith('see')) return sight === 'image' ? right(trial) : 'dark';
    return reasons ? right(trial) : 'no idea';
  };

  test('the eight grafts are measured under the conditions of each measure', async () => {
    const groups = groupsOf(all);
    expect(groups).toEqual({ vision: ['see'], visualReasoning: ['think'], textReasoning: ['text'] });
    const plan = planTransfer(context, { models, items: all, groups });
    expect(plan.trials).toBe(8 * (12 * 2 + 12 * 2 + 12));
    const { observed } = await observe(plan, { answer });
    const result = analyzeTransfer(observed);
    const of = (measure: string) =>
      Object.fromEntries(
        result.abilities.filter((cell) => cell.measure === measure).map((cell) => [cell.model, cell.rate.rate]),
      );
    const middle = {
      IN: 0,
      RL: 1,
      'IN:RL:RL': 1,
      'RL:IN:IN': 0,
      'IN:IN:RL': 0,
      'RL:RL:IN': 1,
      'IN:RL:IN': 1,
      'RL:IN:RL': 0,
    };
    expect(of('M_v2r')).toEqual(middle);
    expect(of('M_rea')).toEqual(middle);
    expect(Object.values(of('M_vis'))).toEqual(Array(8).fill(1));
    const test_ = result.abilities.find(({ measure, model: name }) => measure === 'M_rea' && name === 'IN:RL:IN')!
      .test!;
    expect(test_).toMatchObject({ difference: 1, gained: 12, lost: 0 });
    expect(test_.pHolm).toBeCloseTo(7 * 2 * 0.5 ** 12, 10);
    const dark = result.conditions.find(({ group, sight }) => group === 'vision' && sight === 'black')!;
    expect(dark.accuracy).toMatchObject({ rate: 0, n: 12 });
  });

  test('items without a description are not in M_v2r', async () => {
    const groups = { vision: [], visualReasoning: ['think'], textReasoning: [] };
    const few = all.map((item, i) => (i % 2 ? item : { ...item, description: undefined })) as QuestionItem[];
    const { observed } = await observe(planTransfer(context, { models, items: few, groups }), { answer });
    const result = analyzeTransfer(observed);
    expect(result.abilities.find(({ model: name }) => name === 'RL')!.rate).toMatchObject({ rate: 1, n: 6, failed: 0 });
    expect(result.accuracy.find(({ model: name }) => name === 'RL')!.accuracy.n).toBe(12);
  });
});

describe('freeze', () => {
  test('every checkpoint is compared with the start and with the full run', async () => {
    const answer = (trial: Trial): string =>
      trial.model === 'in'
        ? 'no'
        : trial.model === 'frozen' && asked(trial).question.endsWith('1')
          ? 'no'
          : right(trial);
    const plan = planFreeze(context, {
      models: ['in', 'rl', 'frozen'],
      items: items('text', 20),
      groups: groupsOf(items('text', 20)),
    });
    const { observed } = await observe(plan, { answer });
    const check = {
      model: 'frozen',
      before: 'in',
      region: 'late',
      frozen: 4,
      changedInside: [],
      free: 9,
      unchangedOutside: [],
    };
    const checks: Observation[] = [
      { key: 'c', meta: { model: 'frozen' }, row: { kind: 'measure', key: 'c', label: 'c', value: check } },
      { key: 'd', meta: { model: 'lost' }, row: undefined },
    ];
    const result = analyzeFreeze(observed, checks, {
      before: 'in',
      full: 'rl',
      controls: [],
      frozen: [{ model: 'frozen', region: 'late' }],
    });
    const cell = (cells: typeof result.againstFull, name: string) => cells.find((one) => one.model === name)!;
    expect(cell(result.againstBefore, 'rl').test).toMatchObject({ difference: 1, gained: 20 });
    expect(cell(result.againstFull, 'frozen').test).toMatchObject({ lost: 2, gained: 0, n: 20 });
    expect(cell(result.againstFull, 'rl').test).toBeNull();
    expect(result.checks).toEqual([check]);
    expect(result.failedChecks).toEqual([{ model: 'lost', error: 'not run' }]);
  });
});

describe('attend', () => {
  const options = {
    models: [model('base'), model('in'), model('rl')],
    items: items('think', 12, { image: 'x.png' }),
    writer: 'rl',
  };
  /** rl looks at the image twice as much as the others, in layer 4 only. */
  const captures = (trial: Trial): TrialResult['captures'] =>
    Object.fromEntries(
      (trial.interventions ?? []).map((record) => {
        const spans = trial.prompt.spans[record.rows as string]!;
        const rows = spans.reduce((sum, [start, end]) => sum + end - start, 0);
        const n = trial.prompt.ids.length;
        const jitter = (n % 5) / 1000;
        const mass = (layer: number) => (trial.model === 'rl' && layer === 4 ? 0.4 : 0.2) + jitter;
        const perLayer = (layer: number): number[] =>
          record.measure === 'keyMass'
            ? Array.from({ length: 2 * n }, (_, i) => (i % n === 0 ? 0.1 : i % n < 5 ? mass(layer) / 4 : 0.01))
            : Array.from({ length: rows * 2 }, () => [0.1, mass(layer), 0.3, 0.15, 0.05]).flat();
        const data = Float32Array.from(record.layers.flatMap(perLayer));
        const shape = record.measure === 'keyMass' ? [layers, 2, n] : [layers, rows, 2, 5];
        return [record.name!, { data, shape }];
      }),
    );

  test('generates texts, reads them back, and finds the layer that moved', async () => {
    const texts = await observe(planAttendTexts(context, options), {
      answer: (trial) => (asked(trial).question === 'think 3' && trial.model === 'base' ? '' : `${right(trial)} it is`),
    });
    const plan = planAttend(context, options, texts.observed);
    expect(plan.trials).toBe(12 * 3 * 2 - 1); // base wrote nothing for one item
    const read = await observe(plan, { captures });
    // rl reading its own text and rl reading rl's text are one computation
    expect(read.engine.trialsRun).toBeLessThan(plan.trials);
    const result = analyzeAttend(read.observed, texts.observed, {
      models: ['base', 'in', 'rl'],
      writer: 'rl',
      seed: 1,
    });
    const found = result.shifts.filter(
      ({ significant, figure, mode }) => significant && figure === 'image' && mode === 'same',
    );
    expect(new Set(found.map(({ from, to, layer }) => `${from} ${to} ${layer}`))).toEqual(
      new Set(['in rl 4', 'base rl 4']),
    );
    const [shift] = found;
    expect(shift!.difference.mean).toBeCloseTo(0.2, 5);
    const cell = result.cells.find(
      ({ mode, query, model: name, layer }) => mode === 'own' && query === 'think' && name === 'base' && layer === 0,
    )!;
    expect(cell.image).toMatchObject({ n: 11, missing: 1 });
    expect(result.unusable).toContainEqual({ model: 'base', failed: 1, truncated: 0 });
    const rl = result.heads.find(({ model: name }) => name === 'rl')!;
    expect(rl.mass.image).toHaveLength(layers);
    expect(rl.mass.image[4]![1]! - rl.mass.image[3]![1]!).toBeCloseTo(0.2, 3);
    const byHead = result.headShifts.find(
      ({ from, to, mode, query, figure }) =>
        from === 'in' && to === 'rl' && mode === 'same' && query === 'think' && figure === 'imageSinkFree',
    )!;
    expect(byHead.n).toBe(12);
    const moved = byHead.pBh!.flatMap((row, layer) => row.flatMap((p, head) => (p < 0.05 ? [`${layer} ${head}`] : [])));
    expect(moved).toEqual(['4 0', '4 1']);
  });
});
