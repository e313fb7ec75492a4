/** The plain measurement under transfer and freeze: every model answers every item under some conditions of sight. */
import type { QuestionItem } from '../data/items.js';
import { type Bundle, bundleOrFailure, type Plan, type PlannedTrial } from '../run/plan.js';
import type { JsonObject, Observation } from '../run/rows.js';
import type { Outcome } from '../stats/rates.js';
import { type GoldMeta, goldMeta, type PlanContext, ruleOf } from './context.js';
import {
  accuracyOf,
  adjusted,
  correctness,
  type Graded,
  gradeRow,
  type MeanTestRecord,
  meanTest,
  pairedTest,
  type RateRecord,
  rateOfFlags,
  type Select,
  type TestRecord,
} from './measure.js';
import { type Sight, sights } from './prompter.js';

/** Which tasks ask for seeing, for reasoning over what is seen, and for reasoning over text. */
export interface TaskGroups {
  readonly vision: readonly string[];
  readonly visualReasoning: readonly string[];
  readonly textReasoning: readonly string[];
}
export type TaskGroup = keyof TaskGroups;
export const taskGroups: readonly TaskGroup[] = ['vision', 'visualReasoning', 'textReasoning'];

/** Items with an image and a description ask for visual reasoning, with an image alone for vision, without for text. */
export function groupsOf(items: readonly QuestionItem[]): TaskGroups {
  const tasks = [...new Set(items.map(({ task }) => task))];
  const group = (task: string): TaskGroup => {
    const own = items.filter((item) => item.task === task);
    if (own.every(({ image }) => image === undefined)) return 'textReasoning';
    return own.every(({ description }) => description !== undefined) ? 'visualReasoning' : 'vision';
  };
  const of = (wanted: TaskGroup): string[] => tasks.filter((task) => group(task) === wanted);
  return { vision: of('vision'), visualReasoning: of('visualReasoning'), textReasoning: of('textReasoning') };
}

/** undefined: the item's task is in no group and is left out. */
export function groupOf(item: { readonly task: string }, groups: TaskGroups): TaskGroup | undefined {
  return taskGroups.find((group) => groups[group].includes(item.task));
}

/** An opened model or graft, and what its rows say of it: its name in tables, and further facts. */
export interface Answering {
  readonly opened: string;
  readonly meta: JsonObject & { readonly model: string };
}

export interface AnswersOptions {
  readonly experiment: string;
  readonly models: readonly Answering[];
  readonly items: readonly QuestionItem[];
  readonly groups: TaskGroups;
  /** Conditions beside the plain one, by group. */
  readonly also: Readonly<Partial<Record<TaskGroup, readonly Sight[]>>>;
}

interface AnswerMeta extends GoldMeta {
  readonly group: TaskGroup;
  readonly sight: Sight;
}

/** What an item is asked with when nothing is hidden. */
function plainSight(item: QuestionItem): Sight {
  return item.image === undefined ? 'none' : 'image';
}

function sightsOf(item: QuestionItem, group: TaskGroup, also: AnswersOptions['also']): Sight[] {
  const plain = plainSight(item);
  const possible = (also[group] ?? []).filter((sight) =>
    sight === 'description' ? item.description !== undefined : sight === 'none' || item.image !== undefined,
  );
  return [plain, ...possible.filter((sight) => sight !== plain)];
}

export function planAnswers(context: PlanContext, options: AnswersOptions): Plan {
  const { models, items, groups, also, experiment } = options;
  const asked = items.flatMap((item) => {
    const group = groupOf(item, groups);
    return group === undefined ? [] : [{ item, group, sights: sightsOf(item, group, also) }];
  });
  return {
    experiment,
    trials: asked.reduce((sum, { sights }) => sum + sights.length * models.length, 0),
    bundles: async function* () {
      for (const one of asked) yield await answerBundle(context, options, one);
    },
  };
}

function answerBundle(
  { prompter }: PlanContext,
  { experiment, models }: AnswersOptions,
  {
    item,
    group,
    sights,
  }: { readonly item: QuestionItem; readonly group: TaskGroup; readonly sights: readonly Sight[] },
): Promise<Bundle> {
  const facts = ({ opened, meta }: Answering, sight: Sight): { label: string; meta: AnswerMeta } => ({
    label: `${experiment} ${opened} ${item.id} ${sight}`,
    meta: { ...goldMeta(meta.model, item), group, sight, ...meta },
  });
  return bundleOrFailure(
    item.id,
    () => sights.flatMap((sight) => models.map((model) => facts(model, sight))),
    async () => {
      const trials: PlannedTrial[] = [];
      for (const sight of sights) {
        const prompt = await prompter.ask(item, { sight });
        const generate = { maxTokens: prompter.protocol.maxTokens };
        for (const model of models) {
          const { opened } = model;
          trials.push({ trial: { id: `${opened} ${sight}`, prompt, model: opened, generate }, ...facts(model, sight) });
        }
      }
      return trials;
    },
  );
}

/** Graded answers, looked up by model, item and sight. */
export class AnswerTable {
  readonly models: readonly string[];
  /** Items in plan order. */
  readonly items: readonly { readonly item: string; readonly task: string; readonly group: TaskGroup }[];
  readonly #graded = new Map<string, Graded>();

  constructor(observed: readonly Observation[]) {
    const models = new Set<string>();
    const items = new Map<string, { item: string; task: string; group: TaskGroup }>();
    for (const { meta, row } of observed) {
      const facts = meta as AnswerMeta;
      models.add(facts.model);
      items.set(facts.item, { item: facts.item, task: facts.task, group: facts.group });
      this.#graded.set(cell(facts.model, facts.item, facts.sight), gradeRow(row, facts.gold, ruleOf(facts)));
    }
    this.models = [...models];
    this.items = [...items.values()];
  }

  /** undefined: this was never planned. */
  outcome(model: string, item: string, sight: Sight): Outcome | undefined {
    return this.#graded.get(cell(model, item, sight))?.outcome;
  }

  /** Under the item's plain condition. */
  plain(model: string, item: string): Outcome {
    return this.outcome(model, item, 'image') ?? this.outcome(model, item, 'none') ?? 'failed';
  }
}

const cell = (model: string, item: string, sight: Sight): string => `${model}\n${item}\n${sight}`;

/** Accuracy of one model on one task or group, against a reference model on the same items. */
export interface AccuracyCell {
  readonly model: string;
  readonly group: TaskGroup;
  /** null: the whole group. */
  readonly task: string | null;
  readonly accuracy: RateRecord;
  /** Against the reference; Holm over the models of this task. null for the reference itself. */
  readonly test: TestRecord | null;
  readonly select: Select;
}

export function accuracies(table: AnswerTable, experiment: string, reference: string): AccuracyCell[] {
  const cells: AccuracyCell[] = [];
  for (const group of taskGroups) {
    const inGroup = table.items.filter((item) => item.group === group);
    const tasks = [...new Set(inGroup.map(({ task }) => task))];
    for (const task of tasks.length > 1 ? [null, ...tasks] : tasks) {
      const items = inGroup.filter((item) => task === null || item.task === task);
      const outcomes = (model: string) => items.map(({ item }) => table.plain(model, item));
      const before = outcomes(reference).map(correctness);
      const tests = adjusted(
        table.models.map((model) =>
          model === reference ? null : pairedTest(before, outcomes(model).map(correctness)),
        ),
      );
      table.models.forEach((model, i) => {
        const select = { experiment, model, group, ...(task === null ? {} : { task }) };
        cells.push({ model, group, task, accuracy: accuracyOf(outcomes(model)), test: tests[i] ?? null, select });
      });
    }
  }
  return cells;
}

/** Accuracy of one model on one group under one condition of sight. */
export interface ConditionCell {
  readonly model: string;
  readonly group: TaskGroup;
  readonly sight: Sight;
  readonly accuracy: RateRecord;
  readonly select: Select;
}

export function conditions(table: AnswerTable, experiment: string): ConditionCell[] {
  return taskGroups.flatMap((group) => {
    const items = table.items.filter((item) => item.group === group);
    return sights.flatMap((sight) =>
      table.models.flatMap((model): ConditionCell[] => {
        const outcomes = items.flatMap(({ item }) => table.outcome(model, item, sight) ?? []);
        if (outcomes.length === 0) return [];
        return [{ model, group, sight, accuracy: accuracyOf(outcomes), select: { experiment, model, group, sight } }];
      }),
    );
  });
}

/** The paper's ability measures (METHODS §3). */
export type AbilityMeasure = 'M_vis' | 'M_v2r' | 'M_rea';

export interface AbilityCell {
  readonly measure: AbilityMeasure;
  readonly model: string;
  /** Items right in the measure's sense; 'failed' and 'truncated' where one of the two runs was. */
  readonly rate: RateRecord;
  /** Against the reference model; Holm over the models. */
  readonly test: TestRecord | null;
  readonly select: Select;
}

/**
 * What seeing adds, corrected for chance. M_vis counts items that are right with the image and wrong without, and a
 * model that only guesses scores there too. Guessing is as often right without and wrong with it, so the difference of
 * the two is zero for a guesser: the paired difference of accuracy, image − black.
 */
export interface SeeingCell {
  readonly model: string;
  /** black → image, on the same items. */
  readonly seeing: TestRecord;
  /** Per item (image − black) of this model minus that of the reference; over the models. null for the reference. */
  readonly test: MeanTestRecord | null;
  readonly select: Select;
}

export function seeing(table: AnswerTable, experiment: string, reference: string, seed: number): SeeingCell[] {
  const items = table.items.filter(
    ({ item, group }) =>
      group === 'vision' && table.models.some((model) => table.outcome(model, item, 'black') !== undefined),
  );
  if (items.length === 0) return [];
  const under = (model: string, sight: Sight) =>
    items.map(({ item }) => correctness(table.outcome(model, item, sight) ?? 'failed'));
  const gain = (model: string): (number | null)[] => {
    const [image, black] = [under(model, 'image'), under(model, 'black')];
    return image.map((right, i) => (right === null || black[i] == null ? null : Number(right) - Number(black[i])));
  };
  const start = gain(reference);
  const tests = adjusted(
    table.models.map((model) => {
      if (model === reference) return null;
      return meanTest(
        gain(model).map((value, i) => (value === null || start[i] == null ? null : value - start[i])),
        seed,
      );
    }),
  );
  const own = adjusted(table.models.map((model) => pairedTest(under(model, 'black'), under(model, 'image'))));
  return table.models.map((model, i) => ({
    model,
    seeing: own[i]!,
    test: tests[i] ?? null,
    select: { experiment, model, group: 'vision' },
  }));
}

interface AbilityRule {
  readonly measure: AbilityMeasure;
  readonly group: TaskGroup;
  readonly second: Sight | null;
  readonly holds: (plain: boolean, second: boolean) => boolean;
}

const abilityRules: readonly AbilityRule[] = [
  { measure: 'M_vis', group: 'vision', second: 'black', holds: (seen, black) => seen && !black },
  { measure: 'M_v2r', group: 'visualReasoning', second: 'description', holds: (seen, told) => seen && told },
  { measure: 'M_rea', group: 'textReasoning', second: null, holds: (right) => right },
];

/** Right in a measure's sense, by item; null where it could not be judged, `truncated` of them for being cut off. */
export interface Flags {
  readonly flags: readonly (boolean | null)[];
  readonly truncated: number;
}

type Judging = Pick<AbilityRule, 'second' | 'holds'>;
const plainJudging: Judging = { second: null, holds: (right) => right };
function judgingOf(measure: 'accuracy' | AbilityMeasure): Judging {
  return abilityRules.find((rule) => rule.measure === measure) ?? plainJudging;
}

/** A group's items that a measure is over: one without the second condition (no description) is not wrong in it. */
export function measuredItems(table: AnswerTable, group: TaskGroup, measure: 'accuracy' | AbilityMeasure): string[] {
  const { second } = judgingOf(measure);
  return table.items.flatMap(({ item, group: own }) => {
    const isAsked = second === null || table.models.some((model) => table.outcome(model, item, second) !== undefined);
    return own === group && isAsked ? [item] : [];
  });
}

export function measureFlags(
  table: AnswerTable,
  model: string,
  items: readonly string[],
  measure: 'accuracy' | AbilityMeasure,
): Flags {
  const { second, holds } = judgingOf(measure);
  const judged = items.map((item) => {
    const outcomes = [table.plain(model, item), ...(second ? [table.outcome(model, item, second) ?? 'failed'] : [])];
    const [plain, other] = outcomes.map((outcome) => correctness(outcome));
    if (plain == null || (second !== null && other == null)) {
      return { flag: null, truncated: !outcomes.includes('failed') };
    }
    return { flag: holds(plain, other ?? false), truncated: false };
  });
  return { flags: judged.map(({ flag }) => flag), truncated: judged.filter(({ truncated }) => truncated).length };
}

export function abilities(table: AnswerTable, experiment: string, reference: string): AbilityCell[] {
  return abilityRules.flatMap(({ measure, group }) => {
    const items = measuredItems(table, group, measure);
    if (items.length === 0) return [];
    const of = (model: string): Flags => measureFlags(table, model, items, measure);
    const before = of(reference).flags;
    const tests = adjusted(
      table.models.map((model) => (model === reference ? null : pairedTest(before, of(model).flags))),
    );
    return table.models.map((model, i): AbilityCell => {
      const { flags, truncated } = of(model);
      return {
        measure,
        model,
        rate: rateOfFlags(flags, truncated),
        test: tests[i] ?? null,
        select: { experiment, model, group },
      };
    });
  });
}
