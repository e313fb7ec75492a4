/** What n pairs could have shown. */

import { GalvaniError } from '../errors.js';
import { normalQuantile } from './normal.js';
import { requireCount } from './rates.js';

export interface PowerOptions {
  /** Number of pairs. */
  readonly n: number;
  /**
   * Share ψ of pairs whose two outcomes differ: the observed (lost + gained)/n when there is one. Default 0.5, the most
   * that two unrelated or positively related conditions of equal accuracy can have.
   */
  readonly discordance?: number;
  /** Two-sided. Default 0.05; divide it by the number of tests for a Bonferroni–Holm family. */
  readonly alpha?: number;
  /** Default 0.8. */
  readonly power?: number;
}

/**
 * Smallest true difference of two paired proportions that McNemar's test finds with the given power: the d that solves
 * n·d² = (z_{1−α/2}·√ψ + z_power·√(ψ − d²))² (Connett, Smith & McHugh, Statist. Med. 6, 1987). A difference needs at
 * least as many discordant pairs, so where the solution exceeds ψ it is taken at ψ = d instead. null: not even a
 * change of every pair could be found with this n. An approximation: the exact test needs a little more.
 */
export function minimumDetectableDifference(options: PowerOptions): number | null {
  const { n, discordance = 0.5, alpha = 0.05, power = 0.8 } = options;
  requireCount('minimumDetectableDifference', 'n', n);
  for (const [name, value, low] of [
    ['discordance', discordance, -1],
    ['alpha', alpha, 0],
    ['power', power, 0.5],
  ] as const) {
    if (!(value > low && value >= 0 && (name === 'discordance' ? value <= 1 : value < 1))) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `minimumDetectableDifference: ${name} must lie in ${name === 'discordance' ? '[0, 1]' : `(${low}, 1)`}, got ${value}`,
      );
    }
  }
  const zAlpha = -normalQuantile(alpha / 2);
  const zPower = -normalQuantile(1 - power);
  // Two-sided McNemar cannot reach alpha with fewer pairs than this, were all of them discordant one way: 2·2⁻ⁿ ≤ α.
  if (2 * 0.5 ** n > alpha) return null;
  // The equation is a quadratic in d; the larger root is the one with n·d² ≥ z²·ψ.
  const scale = n + zPower * zPower;
  const d =
    Math.sqrt(discordance) *
    ((Math.sqrt(n) * zAlpha + zPower * Math.sqrt(Math.max(0, scale - zAlpha * zAlpha))) / scale);
  if (d <= discordance) return d;
  // ψ = d: √(n·d) = z_{1−α/2} + z_power·√(1 − d), its left side rising and its right side falling in d.
  const excess = (x: number): number => Math.sqrt(n * x) - zAlpha - zPower * Math.sqrt(1 - x);
  if (excess(1) < 0) return null;
  let low = 0;
  let high = 1;
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (excess(middle) < 0) low = middle;
    else high = middle;
  }
  return high;
}

/**
 * Pairs needed to find a true difference `effect` with the given power (the same formula solved for n, and enough pairs
 * for the test to reach `alpha` at all). `discordance` must be at least `effect`; default: the larger of 0.5 and it.
 */
export function pairsNeeded(options: Omit<PowerOptions, 'n'> & { readonly effect: number }): number {
  const { effect, alpha = 0.05, power = 0.8 } = options;
  const discordance = options.discordance ?? Math.max(0.5, effect);
  if (!(effect > 0 && effect <= discordance && discordance <= 1)) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `pairsNeeded: expected 0 < effect ≤ discordance ≤ 1, got effect ${effect}, discordance ${discordance}`,
    );
  }
  const zAlpha = -normalQuantile(alpha / 2);
  const zPower = -normalQuantile(1 - power);
  const root = zAlpha * Math.sqrt(discordance) + zPower * Math.sqrt(Math.max(0, discordance - effect * effect));
  const least = Math.ceil(1 + Math.log2(1 / alpha));
  return Math.max(least, Math.ceil((root / effect) ** 2 - 1e-9));
}
