/** Two conditions on the same items: transition table, exact McNemar, intervals of the difference. */

import { GalvaniError } from '../errors.js';
import { quantile } from './order.js';
import { seededRandom } from './random.js';
import { type Interval, requireCount, wilson } from './rates.js';

/** Right/wrong before → after. kept: right both times; lost: right → wrong; gained: wrong → right; missed: wrong twice. */
export interface Transitions {
  readonly kept: number;
  readonly lost: number;
  readonly gained: number;
  readonly missed: number;
}

/** `excluded`: pairs in which a side is missing (failed or truncated); they are in no cell. */
export interface TransitionTable extends Transitions {
  readonly n: number;
  readonly excluded: number;
}

/** An estimate after − before with its interval. */
export interface Difference extends Interval {
  readonly difference: number;
  readonly n: number;
}

/** Counts pairs; `before[i]` and `after[i]` are the same item. null: not graded. */
export function transitionTable(
  before: readonly (boolean | null)[],
  after: readonly (boolean | null)[],
): TransitionTable {
  requireSameLength('transitionTable', before, after);
  let [kept, lost, gained, missed, excluded] = [0, 0, 0, 0, 0];
  for (let i = 0; i < before.length; i++) {
    const [was, is] = [before[i]!, after[i]!];
    if (was === null || is === null) excluded++;
    else if (was) is ? kept++ : lost++;
    else is ? gained++ : missed++;
  }
  return { kept, lost, gained, missed, n: kept + lost + gained + missed, excluded };
}

/**
 * Exact two-sided McNemar test (McNemar, Psychometrika 12, 1947): under the null the smaller of `lost` and `gained`
 * is a Binomial(lost + gained, ½) tail, p = min(1, 2·P(X ≤ min)). Computed as a log, so that p below 1e-308 keeps
 * `logP` (natural log). No discordant pairs: p = 1.
 */
export function mcnemar(counts: { readonly lost: number; readonly gained: number }): { p: number; logP: number } {
  const { lost, gained } = counts;
  requireCount('mcnemar', 'lost', lost);
  requireCount('mcnemar', 'gained', gained);
  const n = lost + gained;
  const smaller = Math.min(lost, gained);
  if (lost === gained) return { p: 1, logP: 0 };
  // P(X ≤ m) = C(n,m)/2ⁿ · (1 + m/(n−m+1) + m(m−1)/((n−m+1)(n−m+2)) + …): the largest term and shrinking ratios.
  let ratio = 1;
  let sum = 1;
  for (let k = smaller; k > 0 && ratio > 1e-18 * sum; k--) {
    ratio *= k / (n - k + 1);
    sum += ratio;
  }
  const logP = Math.min(0, Math.LN2 * (1 - n) + logChoose(n, smaller) + Math.log(sum));
  return { p: Math.exp(logP), logP };
}

/** ln C(n, k). */
function logChoose(n: number, k: number): number {
  return logFactorial(n) - logFactorial(k) - logFactorial(n - k);
}

const smallLogFactorials: readonly number[] = (() => {
  const table = [0];
  for (let k = 1; k < 256; k++) table.push(table[k - 1]! + Math.log(k));
  return table;
})();

/** ln n!: a table below 256, Stirling's series above (error below 1/(1260·n⁵), under one ulp there). */
function logFactorial(n: number): number {
  const small = smallLogFactorials[n];
  if (small !== undefined) return small;
  const series = 1 / (12 * n) - 1 / (360 * n ** 3);
  return n * Math.log(n) - n + 0.5 * Math.log(2 * Math.PI * n) + series;
}

/**
 * Difference of two paired proportions (right after − right before) with Newcombe's interval (Statist. Med. 17, 1998,
 * method 10): the Wilson limits of both proportions joined by square-and-add, less the part that their correlation φ
 * explains. φ is continuity-corrected: ad − bc shrinks by n/2 towards, not past, zero when it is positive.
 */
export function pairedDifference(table: Transitions, level = 0.95): Difference {
  const { kept, lost, gained, missed } = table;
  for (const [name, value] of Object.entries({ kept, lost, gained, missed })) {
    requireCount('pairedDifference', name, value);
  }
  const n = kept + lost + gained + missed;
  if (n === 0) return { difference: Number.NaN, low: -1, high: 1, n };
  const after = (kept + gained) / n;
  const before = (kept + lost) / n;
  const a = wilson(kept + gained, n, level);
  const b = wilson(kept + lost, n, level);
  const margins = (kept + gained) * (lost + missed) * ((kept + lost) * (gained + missed));
  const cross = kept * missed - gained * lost;
  const corrected = cross > 0 ? Math.max(0, cross - n / 2) : cross;
  const phi = margins === 0 ? 0 : corrected / Math.sqrt(margins);
  const join = (x: number, y: number): number => Math.sqrt(Math.max(0, x * x - 2 * phi * x * y + y * y));
  const difference = (gained - lost) / n;
  return {
    difference,
    low: Math.max(-1, difference - join(after - a.low, b.high - before)),
    high: Math.min(1, difference + join(a.high - after, before - b.low)),
    n,
  };
}

export interface BootstrapOptions {
  /** Required: the same seed gives the same interval. Whole number in [0, 2^32). */
  readonly seed: number;
  /** Default 10,000. */
  readonly resamples?: number;
  /** Default 0.95. */
  readonly level?: number;
}

/**
 * Mean of after − before over items with a percentile bootstrap interval (Efron & Tibshirani 1993, §13.3): items are
 * drawn with replacement as pairs, quantiles by linear interpolation (type 7). n = 0 gives NaN throughout.
 */
export function pairedBootstrap(
  before: readonly number[],
  after: readonly number[],
  options: BootstrapOptions,
): Difference {
  requireSameLength('pairedBootstrap', before, after);
  const { seed, resamples = 10_000, level = 0.95 } = options;
  if (!Number.isInteger(resamples) || resamples < 1) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `pairedBootstrap: resamples must be a whole number of at least 1, got ${resamples}`,
    );
  }
  if (!(level > 0 && level < 1)) {
    throw new GalvaniError('BAD_ARGUMENT', `pairedBootstrap: level must lie strictly between 0 and 1, got ${level}`);
  }
  const n = before.length;
  const differences = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const value = after[i]! - before[i]!;
    if (!Number.isFinite(value)) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `pairedBootstrap: item ${i} is not finite (before ${before[i]}, after ${after[i]}); leave missing items out`,
      );
    }
    differences[i] = value;
  }
  if (n === 0) return { difference: Number.NaN, low: Number.NaN, high: Number.NaN, n };
  const counts = drawCounts(n, resamples, seed);
  const means = new Float64Array(resamples);
  // Item by item, since most differences of right and wrong are zero and need no pass.
  for (let i = 0, at = 0; i < n; i++, at += resamples) {
    const share = differences[i]! / n;
    if (share !== 0) for (let r = 0; r < resamples; r++) means[r]! += share * counts[at + r]!;
  }
  means.sort();
  const tail = (1 - level) / 2;
  return { difference: mean(differences), low: quantile(means, tail), high: quantile(means, 1 - tail), n };
}

const keptCounts = new Map<string, Uint16Array>();
const mostKept = 2 ** 25;

/** How often item i is in resample r, [n, resamples]. Kept: a report asks for the same few hundreds of times. */
function drawCounts(n: number, resamples: number, seed: number): Uint16Array {
  const key = `${n} ${resamples} ${seed}`;
  const kept = keptCounts.get(key);
  if (kept) return kept;
  const random = seededRandom(seed);
  const counts = new Uint16Array(n * resamples);
  for (let r = 0; r < resamples; r++) for (let i = 0; i < n; i++) counts[random.below(n) * resamples + r]!++;
  let size = counts.length;
  for (const one of keptCounts.values()) size += one.length;
  if (size > mostKept) keptCounts.clear();
  if (counts.length <= mostKept) keptCounts.set(key, counts);
  return counts;
}

function mean(values: Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

function requireSameLength(caller: string, before: readonly unknown[], after: readonly unknown[]): void {
  if (before.length !== after.length) {
    throw new GalvaniError(
      'SHAPE_MISMATCH',
      `${caller}: before and after must list the same items, got ${before.length} and ${after.length}`,
    );
  }
}
