/** Adjusted p-values for a family of tests. null is a test that was not made: it stays null and is not counted. */

import { GalvaniError } from '../errors.js';

/**
 * Holm's step-down adjustment (Scand. J. Statist. 6, 1979), family-wise error:
 * p̃(i) = max over j ≤ i of min(1, (m − j + 1)·p(j)), p ascending.
 */
export function holm(p: readonly (number | null)[]): (number | null)[] {
  const order = ascending('holm', p);
  const adjusted: (number | null)[] = p.map(() => null);
  let running = 0;
  order.forEach((index, rank) => {
    running = Math.max(running, Math.min(1, (order.length - rank) * p[index]!));
    adjusted[index] = running;
  });
  return adjusted;
}

/**
 * Benjamini–Hochberg adjustment (J. R. Statist. Soc. B 57, 1995), false discovery rate:
 * p̃(i) = min over j ≥ i of min(1, m·p(j)/j), p ascending.
 */
export function benjaminiHochberg(p: readonly (number | null)[]): (number | null)[] {
  const order = ascending('benjaminiHochberg', p);
  const adjusted: (number | null)[] = p.map(() => null);
  let running = 1;
  for (let rank = order.length; rank >= 1; rank--) {
    const index = order[rank - 1]!;
    running = Math.min(running, (order.length * p[index]!) / rank);
    adjusted[index] = running;
  }
  return adjusted;
}

/** Positions of the p-values that exist, smallest first; ties keep their order. */
function ascending(caller: string, p: readonly (number | null)[]): number[] {
  const order: number[] = [];
  p.forEach((value, index) => {
    if (value === null) return;
    if (!(value >= 0 && value <= 1)) {
      throw new GalvaniError('BAD_ARGUMENT', `${caller}: p[${index}] must lie in [0, 1] or be null, got ${value}`);
    }
    order.push(index);
  });
  return order.sort((a, b) => p[a]! - p[b]! || a - b);
}
