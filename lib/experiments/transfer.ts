/**
 * Does a part of RL carry its gains? Layer blocks of `in` and `rl` are combined by views into the paper's eight models
 * (METHODS §3), and all of them answer the same questions. Beside them, as asked for: other donors for the weights
 * outside the layers, random sets of layers, mixtures of the parents, and further models.
 */
import {
  blockGraft,
  type Cuts,
  type Donor,
  describeGraft,
  type Graft,
  layerGraft,
  type NonLayerPolicy,
  paperGrafts,
  type RegionName,
  regions,
} from '../checkpoint/graft.js';
import type { QuestionItem } from '../data/items.js';
import { layerRange } from '../hooks/interventions.js';
import type { Plan } from '../run/plan.js';
import type { JsonObject } from '../run/rows.js';
import { namedRandom, sample } from '../stats/random.js';
import { planAnswers, type TaskGroups } from './answers.js';
import type { PlanContext } from './context.js';
import type { Sight } from './prompter.js';

export const transferExperiment = 'transfer';

/** The model every other is compared with. */
export const transferReference = 'IN';

/**
 * block: one of the eight; random: a random set of layers in place of a region; plain: a model as it is; blend: between
 * IN and RL (transfer-interpolate.ts).
 */
export type VariantKind = 'block' | 'random' | 'plain' | 'blend';

/** What a row says of its model beside its name. */
export interface Variant extends JsonObject {
  readonly model: string;
  readonly variant: VariantKind;
  /** Donor of the weights outside the layers; null for a model as it is. */
  readonly policy: NonLayerPolicy | null;
}

/** The layers of a random set, put into IN (`added`) or taken out of RL (`takenOut`). */
export interface RandomVariant extends Variant {
  readonly variant: 'random';
  readonly layers: readonly number[];
  readonly direction: 'added' | 'takenOut';
  readonly set: number;
}

export interface TransferModel {
  /** Name under which it is opened in the engine; unique. */
  readonly opened: string;
  readonly meta: Variant;
  /** Absent: an opened checkpoint. */
  readonly graft?: Graft;
  /** Which donor every part comes from, in words. */
  readonly description: string;
}

export interface VariantOptions {
  readonly totalLayers: number;
  readonly cuts: Cuts;
  /** The first is the one that random sets and findings use. */
  readonly policies: readonly NonLayerPolicy[];
  /** Names under which the parents are opened. */
  readonly parents: Readonly<Record<Donor, string>>;
  /** Random sets of layers per size of a region. */
  readonly random: number;
  readonly seed: number;
  /** Further opened models. */
  readonly also: readonly string[];
}

/** Every model of a transfer experiment: the eight of each policy, then controls, then further models. */
export function transferModels(options: VariantOptions): TransferModel[] {
  const { totalLayers, policies, cuts, parents, also } = options;
  const eight = policies.flatMap((policy) =>
    Object.keys(paperGrafts).map((name): TransferModel => {
      const graft = blockGraft({ blocks: name, totalLayers, policy, names: parents, cuts });
      return {
        opened: policy === policies[0] ? name : `${name} · ${policy}`,
        meta: { model: name, variant: 'block', policy },
        graft,
        description: describeGraft(graft),
      };
    }),
  );
  const plain = also.map(
    (model): TransferModel => ({
      opened: model,
      meta: { model, variant: 'plain', policy: null },
      description: 'as it is',
    }),
  );
  return [...eight, ...randomGrafts(options), ...plain];
}

function randomGrafts({ totalLayers, cuts, policies, parents, random, seed }: VariantOptions): TransferModel[] {
  const sizes = [...new Set(regions(totalLayers, cuts).map(({ start, end }) => end - start))];
  const [policy] = policies;
  return sizes.flatMap((size) =>
    layerRange(0, random).flatMap((set) => {
      const chosen = sample(namedRandom(seed, 'random block', size, set), totalLayers, size);
      return (['added', 'takenOut'] as const).map((direction): TransferModel => {
        const [inside, outside]: [Donor, Donor] = direction === 'added' ? ['rl', 'in'] : ['in', 'rl'];
        const donors = layerRange(0, totalLayers).map((layer) => (chosen.includes(layer) ? inside : outside));
        const graft = layerGraft({ donors, policy: policy!, names: parents });
        const model = `${direction === 'added' ? 'IN + RL' : 'RL + IN'} in layers ${chosen.join(', ')}`;
        const meta: RandomVariant = { model, variant: 'random', policy: policy!, layers: chosen, direction, set };
        return { opened: model, meta, graft, description: describeGraft(graft) };
      });
    }),
  );
}

export interface TransferOptions {
  readonly models: readonly Pick<TransferModel, 'opened' | 'meta'>[];
  readonly items: readonly QuestionItem[];
  readonly groups: TaskGroups;
  /** Conditions of sight beside those the ability measures need. */
  readonly conditions?: readonly Sight[];
}

export function planTransfer(
  context: PlanContext,
  { models, items, groups, conditions: more = [] }: TransferOptions,
): Plan {
  return planAnswers(context, {
    experiment: transferExperiment,
    models,
    items,
    groups,
    also: {
      vision: [...new Set<Sight>(['black', ...more])],
      visualReasoning: [...new Set<Sight>(['description', ...more])],
    },
  });
}

/** Region names in the order of the blocks of a graft's name. */
export const blockRegions: readonly RegionName[] = ['early', 'mid', 'late'];
