/** What an experiment hands to the runner. */
import { fromNative, type GalvaniError } from '../errors.js';
import type { Prompt, Trial, TrialResult } from '../types.js';
import type { NamedReducer } from './key.js';
import type { Json, JsonObject } from './rows.js';

export interface Reducer extends NamedReducer {
  /** Small numbers kept in the ledger in place of the captures. Runs right after the trial, in this process. */
  readonly apply: (result: TrialResult, prompt: Prompt) => Json;
}

export interface PlannedTrial {
  readonly trial: Trial;
  readonly label: string;
  /** Facts the analysis needs: item, task, condition, layer, gold … Not part of the key. */
  readonly meta: JsonObject;
  readonly reduce?: Reducer;
}

/** Trials that refer to each other; never split over two requests. */
export interface Bundle {
  /** Bundles of one group go to the same shard: later stages of an experiment may depend on earlier ones of the group. */
  readonly group: string;
  readonly trials: readonly PlannedTrial[];
  /** What could not be planned, such as an item whose image does not decode: kept as failed rows. */
  readonly failures?: readonly PlanFailure[];
}

export interface PlanFailure {
  readonly label: string;
  readonly meta: JsonObject;
  readonly error: GalvaniError;
}

/** Builds a bundle; when that throws, the bundle holds one failure for each of `metas` instead. */
export async function bundleOrFailure(
  group: string,
  metas: () => readonly { readonly label: string; readonly meta: JsonObject }[],
  build: () => Promise<readonly PlannedTrial[]>,
): Promise<Bundle> {
  try {
    return { group, trials: await build() };
  } catch (cause) {
    const error = fromNative(cause);
    if (error.code === 'INTERNAL') throw cause;
    return { group, trials: [], failures: metas().map((fact) => ({ ...fact, error })) };
  }
}

export interface Plan {
  readonly experiment: string;
  /** Trials in all bundles, for the progress display. */
  readonly trials: number;
  /** Planned from what an earlier plan of the same step observed: of a sample of it there are fewer. */
  readonly isFollowUp?: boolean;
  /** Built one at a time: prompts hold decoded images. May be walked more than once. */
  readonly bundles: () => Iterable<Bundle> | AsyncIterable<Bundle>;
}
