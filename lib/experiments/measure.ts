/** From ledger rows to numbers that know their n, their gaps and their interval. */
import { extract } from '../grading/extract.js';
import { match } from '../grading/match.js';
import type { JsonObject, LedgerRow, TrialRow } from '../run/rows.js';
import { benjaminiHochberg, holm } from '../stats/corrections.js';
import { mcnemar, pairedBootstrap, pairedDifference, transitionTable } from '../stats/paired.js';
import { signFlip } from '../stats/permutation.js';
import { minimumDetectableDifference } from '../stats/power.js';
import { type Outcome, rate, rateOf } from '../stats/rates.js';
import type { MatchRule, Rate } from '../types.js';

/** Which rows are behind a number: those of plan.jsonl of this experiment whose meta contains these facts. */
export interface Select extends JsonObject {
  readonly experiment: string;
}

/** A rate as JSON: null instead of NaN when nothing could be counted. */
export interface RateRecord extends Omit<Rate, 'rate'> {
  readonly rate: number | null;
}

export interface MeanRecord {
  readonly mean: number | null;
  /** 95 % percentile bootstrap over items. */
  readonly low: number | null;
  readonly high: number | null;
  readonly n: number;
  /** Items without a value: failed, truncated or not defined for them. */
  readonly missing: number;
}

/** Two conditions on the same items, after − before. */
export interface TestRecord {
  readonly difference: number | null;
  /** Newcombe's 95 % interval for paired proportions. */
  readonly low: number;
  readonly high: number;
  /** The transition table: right both times, right → wrong, wrong → right, wrong twice. */
  readonly kept: number;
  readonly lost: number;
  readonly gained: number;
  readonly missed: number;
  /** Items graded under both conditions. */
  readonly n: number;
  readonly excluded: number;
  /** Exact McNemar, two-sided. */
  readonly p: number;
  /** Adjusted over the family the table names, family-wise (Holm) and for the false discovery rate; null until then. */
  readonly pHolm: number | null;
  readonly pBh: number | null;
  /** Smallest difference that n items with this discordance could have shown at 80 % power; null when none. */
  readonly detectable: number | null;
}

export interface Graded {
  readonly outcome: Outcome;
  /** What was read out of the text; null when nothing was, or the row is missing, failed or truncated. */
  readonly answer: string | null;
  readonly row: TrialRow | undefined;
}

/** A row that has not run counts as failed: it is a gap, not a wrong answer. */
export function gradeRow(row: LedgerRow | undefined, gold: string, rule: MatchRule): Graded {
  if (row?.kind !== 'trial') return { outcome: 'failed', answer: null, row: undefined };
  if (row.truncated) return { outcome: 'truncated', answer: null, row };
  const answer = extract(row.text, { rule })?.answer ?? null;
  if (row.judged !== undefined) return { outcome: row.judged, answer, row };
  const verdict = match(answer, gold, rule);
  return { outcome: verdict === 'undecided' ? 'failed' : verdict, answer, row };
}

/** true, false, or null where the outcome says nothing about the model's answer. */
export function correctness(outcome: Outcome): boolean | null {
  if (outcome === 'failed' || outcome === 'truncated') return null;
  return outcome === 'correct';
}

export function asRecord(value: Rate): RateRecord {
  return { ...value, rate: Number.isNaN(value.rate) ? null : value.rate };
}

export function accuracyOf(outcomes: Iterable<Outcome>): RateRecord {
  return asRecord(rateOf(outcomes));
}

/** A rate of yes among yes/no/null; `truncated` of the nulls were cut off, the rest failed. */
export function rateOfFlags(flags: readonly (boolean | null)[], truncated = 0): RateRecord {
  const successes = flags.filter((flag) => flag === true).length;
  const n = flags.filter((flag) => flag !== null).length;
  return asRecord(rate({ successes, n, failed: flags.length - n - truncated, truncated }));
}

export function pairedTest(before: readonly (boolean | null)[], after: readonly (boolean | null)[]): TestRecord {
  const table = transitionTable(before, after);
  const { difference, low, high } = pairedDifference(table);
  const discordance = table.n === 0 ? 0 : (table.lost + table.gained) / table.n;
  return {
    difference: Number.isNaN(difference) ? null : difference,
    low,
    high,
    kept: table.kept,
    lost: table.lost,
    gained: table.gained,
    missed: table.missed,
    n: table.n,
    excluded: table.excluded,
    p: mcnemar(table).p,
    pHolm: null,
    pBh: null,
    detectable: table.n === 0 ? null : minimumDetectableDifference({ n: table.n, discordance: discordance || 0.5 }),
  };
}

/** The same tests with p-values adjusted over those with items (Holm, and Benjamini–Hochberg); the others keep null. */
export function adjusted<T extends { readonly p: number | null; readonly n: number }>(
  tests: readonly (T | null)[],
): ((T & { readonly pHolm: number | null; readonly pBh: number | null }) | null)[] {
  const made = tests.map((test) => (test && test.n > 0 ? test.p : null));
  const [familyWise, discovery] = [holm(made), benjaminiHochberg(made)];
  return tests.map((test, i) => test && { ...test, pHolm: familyWise[i] ?? null, pBh: discovery[i] ?? null });
}

export function isSignificant(test: { readonly pHolm: number | null } | null, level = 0.05): boolean {
  return test?.pHolm != null && test.pHolm < level;
}

const resamples = 2000;

/** Mean of the values that exist, with a bootstrap interval over items. */
export function meanOf(values: readonly (number | null)[], seed: number): MeanRecord {
  const present = values.filter((value): value is number => value !== null);
  return meanDifference(
    present.map(() => 0),
    present,
    seed,
    values.length - present.length,
  );
}

/** Mean of after − before over items that have both. `level` of the interval, default 0.95. */
export function pairedMean(
  before: readonly (number | null)[],
  after: readonly (number | null)[],
  seed: number,
  level = 0.95,
): MeanRecord {
  const both = before.flatMap((value, i) => {
    const other = after[i];
    return value === null || other == null ? [] : [[value, other] as const];
  });
  const missing = before.length - both.length;
  return meanDifference(
    both.map(([a]) => a),
    both.map(([, b]) => b),
    seed,
    missing,
    level,
  );
}

function meanDifference(
  before: readonly number[],
  after: readonly number[],
  seed: number,
  missing: number,
  level = 0.95,
): MeanRecord {
  if (before.length === 0) return { mean: null, low: null, high: null, n: 0, missing };
  const { difference, low, high, n } = pairedBootstrap(before, after, { seed, resamples, level });
  return { mean: difference, low, high, n, missing };
}

/** A mean of paired differences with its test: for averages over several conditions, where McNemar does not apply. */
export interface MeanTestRecord extends MeanRecord {
  /** Two-sided sign-flip test; null without items. */
  readonly p: number | null;
  readonly pHolm: number | null;
  readonly pBh: number | null;
}

/** null: the item has no difference. The interval is a bootstrap over items. */
export function meanTest(differences: readonly (number | null)[], seed: number): MeanTestRecord {
  const present = differences.filter((value): value is number => value !== null);
  const p = present.length === 0 ? null : signFlip(present, seed).p;
  return { ...meanOf(differences, seed), p, pHolm: null, pBh: null };
}
