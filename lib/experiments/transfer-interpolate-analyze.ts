/** Answers along the paths from IN to RL → a rate and a paired difference per point, and the bend of every curve. */
import type { BlendComponent, BlendRegion } from '../checkpoint/blend.js';
import type { Observation } from '../run/rows.js';
import {
  type AbilityMeasure,
  AnswerTable,
  type Flags,
  measuredItems,
  measureFlags,
  type TaskGroup,
  taskGroups,
} from './answers.js';
import {
  adjusted,
  type MeanTestRecord,
  meanTest,
  pairedTest,
  type RateRecord,
  rateOfFlags,
  type Select,
  type TestRecord,
} from './measure.js';
import { transferExperiment, type Variant } from './transfer.js';
import type { CurveFacts, PointFacts } from './transfer-interpolate.js';

export type CurveMeasure = 'accuracy' | AbilityMeasure;

export interface CurvePoint {
  readonly alpha: number;
  readonly model: string;
  readonly rate: RateRecord;
  /** Against α = 0 on the same items; Holm over all α, regions and components of one group and measure. null at α = 0. */
  readonly test: TestRecord | null;
  readonly select: Select;
}

export interface Curve {
  readonly group: TaskGroup;
  readonly measure: CurveMeasure;
  readonly region: BlendRegion;
  readonly component: BlendComponent;
  readonly points: readonly CurvePoint[];
  /**
   * How far the path lies above the straight line between its ends: per item the mean over 0 < α < 1 of
   * y(α) − (1 − α)·y(0) − α·y(1). Above zero the change comes early on the way, below zero late; a straight path says
   * that every step is worth the same. Over the curves of one group and measure; null without an α between the ends.
   */
  readonly bend: MeanTestRecord | null;
}

export interface InterpolationResult {
  /** In words, by model. */
  readonly models: readonly { readonly name: string; readonly description: string }[];
  readonly curves: readonly Curve[];
}

/** M_rea is accuracy on text, so it is not listed twice. */
const measuresOf: Readonly<Record<TaskGroup, readonly CurveMeasure[]>> = {
  vision: ['accuracy', 'M_vis'],
  visualReasoning: ['accuracy', 'M_v2r'],
  textReasoning: ['accuracy'],
};

export function analyzeInterpolation(
  observed: readonly Observation[],
  facts: readonly CurveFacts[],
  seed: number,
): InterpolationResult {
  const points = facts.flatMap((curve) => curve.points);
  const isOf = (meta: Variant, point: PointFacts): boolean =>
    meta.model === point.model && meta.variant === point.variant && meta.policy === point.policy;
  // One name may stand for several models (IN under two policies): a table for each.
  const tables = new Map(
    [...new Map(points.map((point) => [idOf(point), point]))].map(([id, point]) => [
      id,
      new AnswerTable(observed.filter(({ meta }) => isOf(meta as Variant, point))),
    ]),
  );
  // The grafts may have answered more; a curve is over the items that all of its points were asked.
  const asked = new AnswerTable(observed.filter(({ meta }) => (meta as Variant).variant === 'blend'));
  const curves = taskGroups.flatMap((group) =>
    measuresOf[group].flatMap((measure) => {
      const items = measuredItems(asked, group, measure);
      if (items.length === 0) return [];
      const flags = (point: PointFacts): Flags => measureFlags(tables.get(idOf(point))!, point.model, items, measure);
      return family(facts, flags, { group, measure }, seed);
    }),
  );
  const described = new Map(points.map(({ model, description }) => [model, description]));
  return { models: [...described].map(([name, description]) => ({ name, description })), curves };
}

const idOf = ({ model, variant, policy }: PointFacts): string => `${variant}\n${policy}\n${model}`;

/** The curves of one group and measure, with their tests adjusted together. */
function family(
  facts: readonly CurveFacts[],
  flagsOf: (point: PointFacts) => Flags,
  { group, measure }: Pick<Curve, 'group' | 'measure'>,
  seed: number,
): Curve[] {
  const measured = facts.map((curve) => ({ curve, answers: curve.points.map(flagsOf) }));
  const raw = measured.map(({ curve, answers }) => {
    const start = answers[curve.points.findIndex(({ alpha }) => alpha === 0)]!;
    return curve.points.map(({ alpha }, i) => (alpha === 0 ? null : pairedTest(start.flags, answers[i]!.flags)));
  });
  const tests = adjusted(raw.flat());
  const bends = adjusted(measured.map(({ curve, answers }) => bendOf(curve.points, answers, seed)));
  let next = 0;
  return measured.map(({ curve, answers }, c) => ({
    group,
    measure,
    region: curve.region,
    component: curve.component,
    points: curve.points.map(({ alpha, model, variant, policy }, i) => ({
      alpha,
      model,
      rate: rateOfFlags(answers[i]!.flags, answers[i]!.truncated),
      test: tests[next++] ?? null,
      select: { experiment: transferExperiment, model, variant, policy, group },
    })),
    bend: bends[c] ?? null,
  }));
}

function bendOf(
  points: readonly Pick<PointFacts, 'alpha'>[],
  answers: readonly Flags[],
  seed: number,
): MeanTestRecord | null {
  const at = (wanted: number) => answers[points.findIndex(({ alpha }) => alpha === wanted)]!.flags;
  const between = points.flatMap(({ alpha }, i) =>
    alpha > 0 && alpha < 1 ? [{ alpha, flags: answers[i]!.flags }] : [],
  );
  if (between.length === 0) return null;
  const [start, end] = [at(0), at(1)];
  return meanTest(
    start.map((first, item) => {
      const last = end[item];
      if (first === null || last == null || between.some(({ flags }) => flags[item] == null)) return null;
      const above = between.map(
        ({ alpha, flags }) => Number(flags[item]) - (1 - alpha) * Number(first) - alpha * Number(last),
      );
      return above.reduce((sum, value) => sum + value, 0) / above.length;
    }),
    seed,
  );
}
