/**
 * Was a region necessary? RL runs that held a region fixed are checked (their change is exactly zero there and only
 * there, METHODS §4) and measured like every other checkpoint, on the same items.
 */
import { readFolder } from '../checkpoint/folder.js';
import { type Cuts, type RegionName, regionOf, regions } from '../checkpoint/graft.js';
import { openCheckpoint } from '../checkpoint/safetensors.js';
import type { QuestionItem } from '../data/items.js';
import { familyByName } from '../models/registry.js';
import type { Measurement } from '../run/measurements.js';
import type { Plan } from '../run/plan.js';
import type { Json, Observation } from '../run/rows.js';
import { verifyFrozen } from '../weights.js';
import { type AccuracyCell, AnswerTable, accuracies, planAnswers, type TaskGroups } from './answers.js';
import type { PlanContext } from './context.js';
import type { FreezeStudy } from './study-file.js';

export const freezeExperiment = 'freeze';
export const freezeCheckExperiment = 'freeze-check';

export interface FreezeOptions {
  /** Names of the opened checkpoints: before, controls, the full run, the frozen runs. */
  readonly models: readonly string[];
  readonly items: readonly QuestionItem[];
  readonly groups: TaskGroups;
}

export function planFreeze(context: PlanContext, { models, items, groups }: FreezeOptions): Plan {
  const answering = models.map((model) => ({ opened: model, meta: { model } }));
  return planAnswers(context, { experiment: freezeExperiment, models: answering, items, groups, also: {} });
}

/** What the parameter comparison found for one frozen run; a measure row of the ledger. */
export interface FreezeCheck {
  readonly model: string;
  readonly before: string;
  readonly region: RegionName;
  /** Tensors of the region, which had to stay as they were. */
  readonly frozen: number;
  /** Of those, tensors with a changed bit, by name. Empty: the freeze held. */
  readonly changedInside: readonly string[];
  /** Tensors outside the region. */
  readonly free: number;
  /** Of those, tensors without any changed bit, by name: nothing trained them either. */
  readonly unchangedOutside: readonly string[];
}

/** Stored names of the decoder layers' tensors in a region. @throws what reading the folder throws */
export function regionTensors(dir: string, region: RegionName, cuts: Cuts): { inside: string[]; outside: string[] } {
  const { config } = readFolder(dir);
  const family = familyByName(config.family);
  const all = regions(config.decoder.layers, cuts);
  const names = openCheckpoint(dir).names();
  const isInside = (name: string): boolean => {
    const { tower, layer } = family.describeTensor(name);
    return tower === 'decoder' && layer !== null && regionOf(layer, all) === region;
  };
  return { inside: names.filter(isInside), outside: names.filter((name) => !isInside(name)) };
}

/** One check per frozen run. */
export async function freezeMeasurements(
  dirs: Readonly<Record<string, string>>,
  { before, frozen }: Pick<FreezeStudy, 'before' | 'frozen'>,
  options: { readonly fingerprint: (model: string) => string; readonly cuts: Cuts },
): Promise<Measurement[]> {
  return Object.entries(frozen).map(([model, region]) => ({
    experiment: freezeCheckExperiment,
    label: `freeze check ${model} ${region}`,
    meta: { model, before, region },
    identity: { before: options.fingerprint(before), after: options.fingerprint(model), region, cuts: options.cuts },
    measure: async () => {
      const { inside, outside } = regionTensors(dirs[before]!, region, options.cuts);
      const { frozenChanged, othersUnchanged } = await verifyFrozen(dirs[before]!, dirs[model]!, inside);
      const check: FreezeCheck = {
        model,
        before,
        region,
        frozen: inside.length,
        changedInside: frozenChanged,
        free: outside.length,
        unchangedOutside: othersUnchanged,
      };
      return check as unknown as Json;
    },
  }));
}

export interface FreezeResult {
  readonly before: string;
  /** The run that trained everything. */
  readonly full: string;
  readonly controls: readonly string[];
  readonly frozen: readonly { readonly model: string; readonly region: RegionName }[];
  readonly checks: readonly FreezeCheck[];
  /** Checks that could not be made. */
  readonly failedChecks: readonly { readonly model: string; readonly error: string }[];
  /** Every checkpoint against `before`. */
  readonly againstBefore: readonly AccuracyCell[];
  /** Every checkpoint against the full run. */
  readonly againstFull: readonly AccuracyCell[];
}

export function analyzeFreeze(
  observed: readonly Observation[],
  checks: readonly Observation[],
  facts: Pick<FreezeResult, 'before' | 'full' | 'controls' | 'frozen'>,
): FreezeResult {
  const table = new AnswerTable(observed);
  return {
    ...facts,
    checks: checks.flatMap(({ row }) => (row?.kind === 'measure' ? [row.value as unknown as FreezeCheck] : [])),
    failedChecks: checks.flatMap(({ meta, row }) =>
      row?.kind === 'measure'
        ? []
        : [{ model: String(meta.model), error: row?.kind === 'failed' ? row.error.message : 'not run' }],
    ),
    againstBefore: accuracies(table, freezeExperiment, facts.before),
    againstFull: accuracies(table, freezeExperiment, facts.full),
  };
}
