/** Rates of right answers with Wilson intervals; what could not be graded is counted apart. */

import { GalvaniError } from '../errors.js';
import type { Rate } from '../types.js';
import { normalQuantile } from './normal.js';

/** Both ends of an interval, in the unit of the estimate. */
export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** `n` counts graded items only: an item that failed or was cut off is in `failed` or `truncated`, not in `n`. */
export interface RateCounts {
  readonly successes: number;
  readonly n: number;
  /** Default 0. */
  readonly failed?: number;
  /** Default 0. */
  readonly truncated?: number;
}

/** What became of one item. 'unparsed': a finished answer in which none could be read; it counts in n, as wrong. */
export type Outcome = 'correct' | 'wrong' | 'unparsed' | 'failed' | 'truncated';

/**
 * Wilson score interval of a binomial proportion (Wilson, JASA 22, 1927):
 * (p̂ + z²/2n ± z·√(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n). n = 0 gives the whole of [0, 1].
 */
export function wilson(successes: number, n: number, level = 0.95): Interval {
  requireCount('wilson', 'n', n);
  requireCount('wilson', 'successes', successes);
  if (successes > n) {
    throw new GalvaniError('BAD_ARGUMENT', `wilson: successes must be at most n = ${n}, got ${successes}`);
  }
  const z = twoSidedZ('wilson', level);
  if (n === 0) return { low: 0, high: 1 };
  const p = successes / n;
  const scale = 1 + (z * z) / n;
  const centre = (p + (z * z) / (2 * n)) / scale;
  const half = (z / scale) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  // At the ends one limit is exactly 0 or 1; rounding must not say otherwise.
  return {
    low: successes === 0 ? 0 : Math.max(0, centre - half),
    high: successes === n ? 1 : Math.min(1, centre + half),
  };
}

/** The record that tables and charts show. With n = 0 the rate is NaN (a gap), its interval [0, 1]. */
export function rate(counts: RateCounts, level = 0.95): Rate {
  const { successes, n, failed = 0, truncated = 0 } = counts;
  requireCount('rate', 'failed', failed);
  requireCount('rate', 'truncated', truncated);
  const { low, high } = wilson(successes, n, level);
  return { rate: n === 0 ? Number.NaN : successes / n, low, high, successes, n, failed, truncated };
}

/** Counts outcomes into a rate of 'correct'. */
export function rateOf(outcomes: Iterable<Outcome>, level = 0.95): Rate {
  const counts = { correct: 0, wrong: 0, unparsed: 0, failed: 0, truncated: 0 };
  for (const outcome of outcomes) counts[outcome]++;
  const { correct, wrong, unparsed, failed, truncated } = counts;
  return rate({ successes: correct, n: correct + wrong + unparsed, failed, truncated }, level);
}

/** z with P(|Z| ≤ z) = level; 1.96 for 0.95. */
export function twoSidedZ(caller: string, level: number): number {
  if (!(level > 0 && level < 1)) {
    throw new GalvaniError('BAD_ARGUMENT', `${caller}: level must lie strictly between 0 and 1, got ${level}`);
  }
  return -normalQuantile((1 - level) / 2);
}

/** Throws unless `value` is a whole number ≥ 0. */
export function requireCount(caller: string, name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new GalvaniError('BAD_ARGUMENT', `${caller}: ${name} must be a whole number of at least 0, got ${value}`);
  }
}
