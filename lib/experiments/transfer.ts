/**
 * Does a part of RL carry its gains? Layer blocks of `in` and `rl` are combined by views into the paper's eight models
 * (METHODS §3), and all of them answer the same questions.
 */
import {
  blockGraft,
  type Cuts,
  type Donor,
  describeGraft,
  type Graft,
  type NonLayerPolicy,
  paperGrafts,
} from '../checkpoint/graft.js';
import type { QuestionItem } from '../data/items.js';
import type { Plan } from '../run/plan.js';
import type { Observation } from '../run/rows.js';
import {
  type AbilityCell,
  type AccuracyCell,
  AnswerTable,
  abilities,
  accuracies,
  type ConditionCell,
  conditions,
  planAnswers,
  type TaskGroups,
} from './answers.js';
import type { PlanContext } from './context.js';

export const transferExperiment = 'transfer';

/** The model every other is compared with. */
export const transferReference = 'IN';

export interface NamedGraft {
  /** One of the paper's eight names. */
  readonly name: string;
  readonly graft: Graft;
  /** Which donor every part comes from, in words. */
  readonly description: string;
}

/** The eight grafts of two opened parents. */
export function transferGrafts(options: {
  readonly totalLayers: number;
  readonly policy: NonLayerPolicy;
  readonly cuts?: Cuts;
  /** Names under which the parents are opened. */
  readonly parents: Readonly<Record<Donor, string>>;
}): NamedGraft[] {
  const { totalLayers, policy, cuts, parents } = options;
  return Object.keys(paperGrafts).map((name) => {
    const graft = blockGraft({ blocks: name, totalLayers, policy, names: parents, ...(cuts ? { cuts } : {}) });
    return { name, graft, description: describeGraft(graft) };
  });
}

export interface TransferOptions {
  readonly grafts: readonly NamedGraft[];
  readonly items: readonly QuestionItem[];
  readonly groups: TaskGroups;
}

export function planTransfer(context: PlanContext, { grafts, items, groups }: TransferOptions): Plan {
  return planAnswers(context, {
    experiment: transferExperiment,
    models: grafts.map(({ name }) => name),
    items,
    groups,
    also: { vision: 'black', visualReasoning: 'description' },
  });
}

export interface TransferResult {
  readonly policy: NonLayerPolicy;
  readonly cuts: Cuts;
  readonly models: readonly { readonly name: string; readonly description: string }[];
  readonly abilities: readonly AbilityCell[];
  readonly accuracy: readonly AccuracyCell[];
  /** With the image, a black one, a description: what the ability measures are made of. */
  readonly conditions: readonly ConditionCell[];
}

export function analyzeTransfer(
  observed: readonly Observation[],
  facts: Pick<TransferResult, 'policy' | 'cuts' | 'models'>,
): TransferResult {
  const table = new AnswerTable(observed);
  return {
    ...facts,
    abilities: abilities(table, transferExperiment, transferReference),
    accuracy: accuracies(table, transferExperiment, transferReference),
    conditions: conditions(table, transferExperiment),
  };
}
