/** What a run writes down. A ledger row is a result; a plan row says what that result means in which experiment. */
import type { ErrorCode } from '../errors.js';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };

/** A finished trial: everything analysis may ask, and no tensor. */
export interface TrialRow {
  readonly kind: 'trial';
  /** Content hash of the trial; see key.ts. */
  readonly key: string;
  /** For people who read the file: "localize rl counting_000003 suffix 4". */
  readonly label: string;
  readonly text: string;
  /** Generated tokens. */
  readonly tokens: number;
  readonly truncated: boolean;
  /** Natural-log probabilities of the tokens asked for, in their order; KL in nats. */
  readonly score?: { readonly logprobs: readonly number[]; readonly kl?: number };
  /** Captures, reduced to small numbers by the plan's reducer. */
  readonly reduced?: Json;
  /** A judge's verdict, laid over the row when a run is read (grading.json says so); never in the ledger. */
  readonly judged?: 'correct' | 'wrong' | 'failed';
}

/** A measurement that needs no run of a model, such as one tensor's delta. */
export interface MeasureRow {
  readonly kind: 'measure';
  readonly key: string;
  readonly label: string;
  readonly value: Json;
}

/** A trial or measurement that failed. A later row with the same key replaces it. */
export interface FailedRow {
  readonly kind: 'failed';
  readonly key: string;
  readonly label: string;
  readonly error: { readonly code: ErrorCode; readonly message: string };
}

export type LedgerRow = TrialRow | MeasureRow | FailedRow;

/** What a key means: which experiment asked for it, and the facts its analysis needs. */
export interface PlanRow {
  readonly experiment: string;
  readonly key: string;
  readonly meta: JsonObject;
}

/** A plan row joined with its result; `row` is undefined when the trial has not run yet. */
export interface Observation<M = JsonObject> {
  readonly key: string;
  readonly meta: M;
  readonly row: LedgerRow | undefined;
}
