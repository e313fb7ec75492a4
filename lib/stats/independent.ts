/** Two conditions on different items: the difference of two independent proportions. */
import type { Difference } from './paired.js';
import { wilson } from './rates.js';

/** Right answers among the items counted. */
export interface Proportion {
  readonly successes: number;
  readonly n: number;
}

/**
 * after − before with Newcombe's hybrid score interval (Statist. Med. 17, 1998, 873–890, method 10 there): the Wilson
 * limits of both proportions joined by square-and-add. `n` is the number of items of both sides together; a side
 * without items gives a gap with the interval [−1, 1].
 */
export function independentDifference(before: Proportion, after: Proportion, level = 0.95): Difference {
  const a = wilson(after.successes, after.n, level);
  const b = wilson(before.successes, before.n, level);
  const n = before.n + after.n;
  if (before.n === 0 || after.n === 0) return { difference: Number.NaN, low: -1, high: 1, n };
  const [p, q] = [after.successes / after.n, before.successes / before.n];
  return {
    difference: p - q,
    low: Math.max(-1, p - q - Math.hypot(p - a.low, b.high - q)),
    high: Math.min(1, p - q + Math.hypot(a.high - p, q - b.low)),
    n,
  };
}
