/** Answers of the grafts → ability measures, and what every region contributes. */
import { type Cuts, type NonLayerPolicy, paperGrafts } from '../checkpoint/graft.js';
import type { JsonObject, Observation } from '../run/rows.js';
import {
  type AbilityCell,
  type AccuracyCell,
  AnswerTable,
  abilities,
  accuracies,
  type ConditionCell,
  conditions,
  type SeeingCell,
  seeing,
  type TaskGroup,
  taskGroups,
} from './answers.js';
import { adjusted, correctness, type MeanTestRecord, pairedTest, type Select, type TestRecord } from './measure.js';
import { bothEffect, type Coalitions, type Player, type PlayerEffect, playerEffects } from './region-effects.js';
import { blockRegions, type RandomVariant, transferExperiment, transferReference, type Variant } from './transfer.js';
import type { CurveFacts } from './transfer-interpolate.js';
import { analyzeInterpolation, type InterpolationResult } from './transfer-interpolate-analyze.js';

/** Effects of the parts on plain accuracy of a group. */
export interface RegionEffect extends PlayerEffect {
  readonly group: TaskGroup;
  readonly select: Select;
}

/** A random set of as many layers as a region, by the same two comparisons. */
export interface RandomSetEffect {
  readonly group: TaskGroup;
  readonly layers: readonly number[];
  readonly added: TestRecord;
  readonly takenOut: TestRecord;
  readonly both: MeanTestRecord;
  readonly select: Select;
}

export interface TransferModelFacts {
  readonly name: string;
  readonly description: string;
}

/** The eight models under one policy. */
export interface PolicyResult {
  readonly policy: NonLayerPolicy;
  readonly models: readonly TransferModelFacts[];
  readonly abilities: readonly AbilityCell[];
  readonly seeing: readonly SeeingCell[];
  readonly accuracy: readonly AccuracyCell[];
  /** With the image, a black one, a description: what the ability measures are made of. */
  readonly conditions: readonly ConditionCell[];
  readonly regions: readonly RegionEffect[];
  /** Control, under the first policy only. */
  readonly random: readonly RandomSetEffect[];
}

/** The same measures for models that are no grafts, against IN. */
export interface PlainResult {
  readonly models: readonly string[];
  readonly abilities: readonly AbilityCell[];
  readonly seeing: readonly SeeingCell[];
  readonly accuracy: readonly AccuracyCell[];
  readonly conditions: readonly ConditionCell[];
}

export interface TransferResult {
  readonly cuts: Cuts;
  readonly policies: readonly PolicyResult[];
  /** Early, mid, late and the weights outside the layers as four parts; needs the policies in and rl. */
  readonly fourParts: readonly RegionEffect[];
  /** From IN to RL step by step; null when it was not asked for. */
  readonly interpolation: InterpolationResult | null;
  readonly plain: PlainResult | null;
}

export interface TransferFacts {
  readonly cuts: Cuts;
  readonly models: readonly (Variant & { readonly description: string })[];
  /** Absent: no interpolation. */
  readonly curves?: readonly CurveFacts[];
}

export function analyzeTransfer(
  observed: readonly Observation[],
  { cuts, models, curves, seed }: TransferFacts & { readonly seed: number },
): TransferResult {
  const of = (wanted: (variant: Variant) => boolean): AnswerTable =>
    new AnswerTable(observed.filter(({ meta }) => wanted(meta as Variant)));
  const policies = [
    ...new Set(models.flatMap(({ policy, variant }) => (variant === 'block' && policy ? [policy] : []))),
  ];
  const tables = new Map(
    policies.map((policy) => [policy, of((one) => one.variant === 'block' && one.policy === policy)] as const),
  );
  const random = models.filter(({ variant }) => variant === 'random') as unknown as RandomVariant[];
  const results = policies.map((policy, index): PolicyResult => {
    const table = tables.get(policy)!;
    const select = { policy, variant: 'block' };
    const control = index === 0 ? random : [];
    const withControl = of((one) => one.policy === policy && one.variant !== 'blend');
    return {
      policy,
      models: models.flatMap((one) =>
        one.variant === 'block' && one.policy === policy ? [{ name: one.model, description: one.description }] : [],
      ),
      ...measures(table, seed, select),
      regions: groupsIn(table).flatMap((group) => regionEffects(table, group, select, seed)),
      random: groupsIn(table).flatMap((group) => randomEffects(withControl, group, control, { policy }, seed)),
    };
  });
  const [first] = policies;
  const plain = models.flatMap(({ model, variant }) => (variant === 'plain' ? [model] : []));
  const others = of(
    (one) =>
      one.variant === 'plain' || (one.policy === first && one.model === transferReference && one.variant === 'block'),
  );
  return {
    cuts,
    policies: results,
    fourParts: fourParts(tables, seed),
    interpolation: curves ? analyzeInterpolation(observed, curves, seed) : null,
    plain: plain.length > 0 ? { models: plain, ...measures(others, seed, {}) } : null,
  };
}

function measures(table: AnswerTable, seed: number, facts: JsonObject) {
  const marked = <T extends { readonly select: Select }>(cells: readonly T[]): T[] =>
    cells.map((cell) => ({ ...cell, select: { ...cell.select, ...facts } }));
  return {
    abilities: marked(abilities(table, transferExperiment, transferReference)),
    seeing: marked(seeing(table, transferExperiment, transferReference, seed)),
    accuracy: marked(accuracies(table, transferExperiment, transferReference)),
    conditions: marked(conditions(table, transferExperiment)),
  };
}

function groupsIn(table: AnswerTable): TaskGroup[] {
  return taskGroups.filter((group) => table.items.some((item) => item.group === group));
}

/** Right or wrong on the items of a group, in one order for all models. */
function outcomesOf(table: AnswerTable, group: TaskGroup, model: string): (boolean | null)[] {
  return table.items.flatMap((item) => (item.group === group ? [correctness(table.plain(model, item.item))] : []));
}

/** Bit i of a graft's combination: block i comes from RL. */
function maskOf(name: string): number {
  return paperGrafts[name]!.reduce((mask, donor, block) => mask | (donor === 'rl' ? 1 << block : 0), 0);
}

function regionEffects(table: AnswerTable, group: TaskGroup, facts: JsonObject, seed: number): RegionEffect[] {
  const outcomes: Coalitions = new Map(
    Object.keys(paperGrafts).map((name) => [maskOf(name), outcomesOf(table, group, name)]),
  );
  const select = { experiment: transferExperiment, ...facts, group };
  return playerEffects(blockRegions, outcomes, seed).map((effect) => ({ ...effect, group, select }));
}

function fourParts(tables: ReadonlyMap<NonLayerPolicy, AnswerTable>, seed: number): RegionEffect[] {
  const [sft, rl] = [tables.get('in'), tables.get('rl')];
  if (!sft || !rl) return [];
  const players: readonly Player[] = [...blockRegions, 'rest'];
  return groupsIn(sft).flatMap((group) => {
    const outcomes: Coalitions = new Map(
      Object.keys(paperGrafts).flatMap((name) => [
        [maskOf(name), outcomesOf(sft, group, name)] as const,
        [maskOf(name) | 8, outcomesOf(rl, group, name)] as const,
      ]),
    );
    const select = { experiment: transferExperiment, variant: 'block', group };
    return playerEffects(players, outcomes, seed).map((effect) => ({ ...effect, group, select }));
  });
}

function randomEffects(
  table: AnswerTable,
  group: TaskGroup,
  variants: readonly RandomVariant[],
  facts: JsonObject,
  seed: number,
): RandomSetEffect[] {
  const [start, end] = [transferReference, 'RL'].map((model) => outcomesOf(table, group, model)) as [
    (boolean | null)[],
    (boolean | null)[],
  ];
  const sets = variants.filter(({ direction }) => direction === 'added');
  const cells = sets.flatMap((added) => {
    const out = variants.find(
      ({ direction, layers }) => direction === 'takenOut' && String(layers) === String(added.layers),
    );
    if (!out) return [];
    const [withIt, without] = [outcomesOf(table, group, added.model), outcomesOf(table, group, out.model)];
    const select = { experiment: transferExperiment, ...facts, variant: 'random', layers: added.layers, group };
    return [
      {
        group,
        layers: added.layers,
        added: pairedTest(start, withIt),
        takenOut: pairedTest(without, end),
        both: bothEffect(start, withIt, without, end, seed),
        select,
      },
    ];
  });
  const [one, two, three] = [
    adjusted(cells.map(({ added }) => added)),
    adjusted(cells.map(({ takenOut }) => takenOut)),
    adjusted(cells.map(({ both }) => both)),
  ];
  return cells.map((cell, i) => ({ ...cell, added: one[i]!, takenOut: two[i]!, both: three[i]! }));
}
