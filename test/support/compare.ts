/** Distances between arrays, for tolerances that follow from dtype and reduction length. */
import { expect } from 'vitest';

/** ‖a − b‖ / ‖b‖ and the largest difference over the largest value, whichever is worse. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let diff = 0;
  let norm = 0;
  let worst = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const d = actual[i]! - expected[i]!;
    diff += d * d;
    norm += expected[i]! ** 2;
    worst = Math.max(worst, Math.abs(d));
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return Math.max(Math.sqrt(diff / norm), worst / largest);
}
