/**
 * Runs a plan against an engine: skips what the ledger has, sends the rest in requests that share work, and writes one
 * row per trial before it counts. A trial that failed in an earlier run is tried again, once per run.
 */

import type { RunStage, TrialOutcome, TrialRunner } from '../engine.js';
import { fromNative, GalvaniError } from '../errors.js';
import type { RunStats, Trial, TrialResult } from '../types.js';
import { contentKey, references, trialKeys } from './key.js';
import type { Ledger } from './ledger.js';
import type { Bundle, Plan, PlannedTrial } from './plan.js';
import type { Json, LedgerRow, PlanRow, TrialRow } from './rows.js';
import { ownsGroup, type Shard, wholeRun } from './shards.js';

export interface RequestLimits {
  /** Default 512. */
  readonly trials: number;
  /** Bound on Σ prompt rows of a request's trials, as if nothing were shared. */
  readonly promptRows: number;
}

export const defaultLimits: RequestLimits = { trials: 512, promptRows: 1 << 18 };

/**
 * Limits that keep the keys and values of a request within `bytes`, were nothing shared.
 * A row of a decoder keeps layers × 2 × KV heads × head size float32 numbers.
 */
export function limitsFor(
  decoder: { layers: number; kvHeads: number; headDim: number },
  bytes: number = 2 ** 31,
): RequestLimits {
  const rowBytes = decoder.layers * 2 * decoder.kvHeads * decoder.headDim * 4;
  return { trials: defaultLimits.trials, promptRows: Math.max(1, Math.floor(bytes / rowBytes)) };
}

/** Where plan rows go; a JsonLines<PlanRow> in real runs. */
export interface PlanLog {
  append(rows: readonly PlanRow[]): void;
}

export interface ProgressSink {
  /** `done` counts trials of this shard that need no more work. */
  update(state: { done: number; failed: number; skipped: number }): void;
  /** Where the request under way is; a request of a large model takes minutes. */
  within?(stage: RunStage, share: number): void;
}

export interface ExecuteOptions {
  readonly engine: TrialRunner;
  readonly ledger: Ledger;
  readonly plan: Plan;
  readonly planLog?: PlanLog;
  /** Content identity of an opened model or graft. */
  readonly fingerprint: (model: string) => string;
  readonly limits?: RequestLimits;
  readonly shard?: Shard;
  /** Stops at once; the request under way is lost and will be computed again. */
  readonly signal?: AbortSignal;
  /** Asked between requests: true ends the run after the rows so far are on disk. */
  readonly stopping?: () => boolean;
  readonly progress?: ProgressSink;
}

export interface ExecuteSummary {
  readonly planned: number;
  /** Already in the ledger. */
  readonly skipped: number;
  readonly computed: number;
  readonly failed: number;
  /** Failed in an earlier run and tried again. */
  readonly retried: number;
  /** False when stopped before the end of the plan. */
  readonly finished: boolean;
  readonly stats: RunStats;
}

interface Pending {
  readonly bundle: Bundle;
  readonly keys: ReadonlyMap<string, string>;
  /** Trials to send: unsettled ones and those they refer to. */
  readonly send: readonly PlannedTrial[];
}

/** @throws ABORTED when the signal fires, LEDGER or IO when rows cannot be kept; trial failures are rows, not throws. */
export async function execute(options: ExecuteOptions): Promise<ExecuteSummary> {
  const run = new Execution(options);
  for await (const bundle of options.plan.bundles()) {
    if (!ownsGroup(options.shard ?? wholeRun, bundle.group)) continue;
    if (!(await run.add(bundle))) break;
  }
  await run.flush();
  return run.summary();
}

class Execution {
  readonly #options: ExecuteOptions;
  readonly #limits: RequestLimits;
  #pending: Pending[] = [];
  #pendingKeys = new Set<string>();
  #pendingRows = 0;
  #planRows: PlanRow[] = [];
  #failures = new Map<string, LedgerRow>();
  #counts = { planned: 0, skipped: 0, computed: 0, failed: 0, retried: 0 };
  #stopped = false;
  #stats: RunStats = emptyStats;

  constructor(options: ExecuteOptions) {
    this.#options = options;
    this.#limits = options.limits ?? defaultLimits;
  }

  /** False when the run should end here. */
  async add(bundle: Bundle): Promise<boolean> {
    const { ledger, plan, fingerprint } = this.#options;
    const keys = trialKeys(bundle.trials, fingerprint);
    const send = unsettledWithReferences(bundle, keys, ledger);
    const rows = send.reduce((sum, { trial }) => sum + trial.prompt.ids.length, 0);
    const full =
      this.#pendingKeys.size + send.length > this.#limits.trials || this.#pendingRows + rows > this.#limits.promptRows;
    if (full && this.#pending.length > 0) {
      await this.flush();
      if (this.#stopped) return false;
    }
    for (const { trial, meta } of bundle.trials) {
      this.#planRows.push({ experiment: plan.experiment, key: keys.get(trial.id)!, meta });
    }
    for (const { label, meta, error } of bundle.failures ?? []) {
      const key = contentKey({ experiment: plan.experiment, meta });
      this.#planRows.push({ experiment: plan.experiment, key, meta });
      if (!ledger.settled(key)) this.#failures.set(key, failedRow(key, label, error));
    }
    this.#counts.planned += bundle.trials.length;
    this.#counts.skipped += bundle.trials.filter(({ trial }) => ledger.settled(keys.get(trial.id)!)).length;
    if (send.length === 0) return true;
    this.#pending.push({ bundle, keys, send });
    for (const { trial } of send) this.#pendingKeys.add(keys.get(trial.id)!);
    this.#pendingRows += rows;
    return true;
  }

  async flush(): Promise<void> {
    const { ledger, planLog, progress, signal } = this.#options;
    signal?.throwIfAborted();
    planLog?.append(this.#planRows);
    this.#planRows = [];
    const batch = this.#pending;
    this.#pending = [];
    this.#pendingKeys = new Set();
    this.#pendingRows = 0;
    const failures = [...this.#failures.values()];
    this.#failures = new Map();
    if (batch.length + failures.length > 0 && !this.#stopped) {
      const rows = [...failures, ...(batch.length > 0 ? await this.#run(batch) : [])];
      for (const row of rows) {
        if (ledger.rows.get(row.key)?.kind === 'failed') this.#counts.retried += 1;
        if (row.kind === 'failed') this.#counts.failed += 1;
      }
      this.#counts.computed += rows.length;
      ledger.append(rows);
    }
    const { planned, failed, skipped } = this.#counts;
    progress?.update({ done: planned, failed, skipped });
    if (this.#options.stopping?.()) this.#stopped = true;
  }

  /** New ledger rows of the bundles; a request that is refused as a whole is split until the culprit stands alone. */
  async #run(batch: readonly Pending[]): Promise<LedgerRow[]> {
    const { engine, signal, ledger, progress } = this.#options;
    const request = new Map<string, PlannedTrial>(); // one entry per key: equal trials are one computation
    for (const { send, keys } of batch) {
      for (const planned of send) {
        const key = keys.get(planned.trial.id)!;
        if (!request.has(key)) request.set(key, { ...planned, trial: renamed(planned.trial, keys) });
      }
    }
    const wanted = [...request].filter(([key]) => !ledger.settled(key));
    let outcomes: readonly TrialOutcome[];
    try {
      const trials = [...request.values()].map(({ trial }) => trial);
      const response = await engine.run(trials, {
        ...(signal ? { signal } : {}),
        ...(progress?.within
          ? { onProgress: ({ stage, done, total }) => progress.within?.(stage, total > 0 ? done / total : 1) }
          : {}),
      });
      outcomes = response.outcomes;
      this.#stats = addStats(this.#stats, response.stats);
    } catch (cause) {
      const error = signal?.aborted ? new GalvaniError('ABORTED', 'the run was aborted', { cause }) : fromNative(cause);
      if (error.code === 'ABORTED' || error.code === 'CLOSED' || error.code === 'NATIVE_MISSING') throw error;
      if (batch.length > 1) {
        const half = batch.length >> 1;
        const first = await this.#run(batch.slice(0, half));
        const have = new Set(first.map(({ key }) => key));
        const second = await this.#run(batch.slice(half));
        return [...first, ...second.filter(({ key }) => !have.has(key))];
      }
      return wanted.map(([key, { label }]) => failedRow(key, label, error));
    }
    const byId = new Map(outcomes.map((outcome) => [outcome.id, outcome]));
    return wanted.map(([key, planned]) => rowOf(key, planned, byId.get(key)));
  }

  summary(): ExecuteSummary {
    return { ...this.#counts, finished: !this.#stopped, stats: this.#stats };
  }
}

function unsettledWithReferences(bundle: Bundle, keys: ReadonlyMap<string, string>, ledger: Ledger): PlannedTrial[] {
  const byId = new Map(bundle.trials.map((planned) => [planned.trial.id, planned]));
  const needed = new Set<string>();
  const need = (id: string): void => {
    if (needed.has(id)) return;
    needed.add(id);
    for (const reference of references(byId.get(id)!.trial)) need(reference);
  };
  for (const { trial } of bundle.trials) if (!ledger.settled(keys.get(trial.id)!)) need(trial.id);
  return bundle.trials.filter(({ trial }) => needed.has(trial.id));
}

/** The same trial under its content key, so that equal trials of different bundles fall together. */
function renamed(trial: Trial, keys: ReadonlyMap<string, string>): Trial {
  const interventions = trial.interventions?.map((record) => {
    const { value } = record;
    if (typeof value !== 'object' || !('trial' in value)) return record;
    return { ...record, value: { ...value, trial: keys.get(value.trial)! } };
  });
  const klTo = trial.score?.klTo;
  return {
    ...trial,
    id: keys.get(trial.id)!,
    ...(interventions ? { interventions } : {}),
    ...(klTo === undefined ? {} : { score: { ...trial.score, klTo: keys.get(klTo)! } }),
  };
}

function rowOf(key: string, planned: PlannedTrial, outcome: TrialOutcome | undefined): LedgerRow {
  if (!outcome) return failedRow(key, planned.label, new GalvaniError('INTERNAL', 'the engine returned no outcome'));
  if (!outcome.ok) return failedRow(key, planned.label, outcome.error);
  try {
    return trialRow(key, planned, outcome.result);
  } catch (cause) {
    return failedRow(key, planned.label, fromNative(cause));
  }
}

function trialRow(key: string, { label, reduce, trial }: PlannedTrial, result: TrialResult): TrialRow {
  const { score } = result;
  const row: TrialRow = {
    kind: 'trial',
    key,
    label,
    text: result.text,
    tokens: result.tokens.length,
    truncated: result.truncated,
    ...(score
      ? {
          score: {
            logprobs: [...score.logprobs].map(short),
            ...(score.kl === undefined ? {} : { kl: short(score.kl) }),
          },
        }
      : {}),
    ...(reduce ? { reduced: reduce.apply(result, trial.prompt) } : {}),
  };
  requireFinite(row as unknown as Json, label);
  return row;
}

function failedRow(key: string, label: string, { code, message }: GalvaniError): LedgerRow {
  return { kind: 'failed', key, label, error: { code, message } };
}

/** Float32 holds seven digits; more would only be noise in the file. */
export function short(x: number): number {
  return Number.isFinite(x) ? Number(x.toPrecision(7)) : x;
}

// JSON writes NaN and Infinity as null: a gap that looks like data. They become a failed row instead.
function requireFinite(value: Json, where: string): void {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    throw new GalvaniError('INTERNAL', `${where}: the result holds ${value}, which is not a finite number`);
  }
  if (typeof value !== 'object' || value === null) return;
  for (const [name, inner] of Object.entries(value)) requireFinite(inner as Json, `${where}.${name}`);
}

export const emptyStats: RunStats = {
  prefillLayerRows: 0,
  naiveLayerRows: 0,
  visionLayerRows: 0,
  naiveVisionLayerRows: 0,
  decodeLayerRows: 0,
  prefillMs: 0,
  visionMs: 0,
  decodeMs: 0,
  kvBytes: 0,
};

/** Sums of work and time; the larger of the two arenas. */
export function addStats(a: RunStats, b: RunStats): RunStats {
  return {
    prefillLayerRows: a.prefillLayerRows + b.prefillLayerRows,
    naiveLayerRows: a.naiveLayerRows + b.naiveLayerRows,
    visionLayerRows: a.visionLayerRows + b.visionLayerRows,
    naiveVisionLayerRows: a.naiveVisionLayerRows + b.naiveVisionLayerRows,
    decodeLayerRows: a.decodeLayerRows + b.decodeLayerRows,
    prefillMs: a.prefillMs + b.prefillMs,
    visionMs: a.visionMs + b.visionMs,
    decodeMs: a.decodeMs + b.decodeMs,
    kvBytes: Math.max(a.kvBytes, b.kvBytes),
  };
}
