/** What an experiment needs of an engine; lib/engine.ts implements it, tests use a fake. */
import type { GalvaniError } from '../errors.js';
import type { RunStats, Trial, TrialResult } from '../types.js';

export type TrialOutcome =
  | { readonly ok: true; readonly id: string; readonly result: TrialResult }
  | { readonly ok: false; readonly id: string; readonly error: GalvaniError };

export interface RunOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { stage: 'vision' | 'prefill' | 'decode'; done: number; total: number }) => void;
}

export interface TrialRunner {
  run(trials: readonly Trial[], options?: RunOptions): Promise<{ outcomes: TrialOutcome[]; stats: RunStats }>;
}
