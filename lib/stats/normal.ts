/** The standard normal distribution, from its series and continued fraction; no fitted constants. */

import { GalvaniError } from '../errors.js';

/** Density exp(−x²/2)/√(2π). */
export function normalDensity(x: number): number {
  return Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);
}

/**
 * Φ(x) = P(Z ≤ x). Near zero the series ½ + φ(x)·(x + x³/3 + x⁵/15 + …) (Marsaglia, J. Stat. Softw. 11(4), 2004),
 * in the tails Laplace's continued fraction of Mills' ratio, so that small tails keep their relative precision.
 */
export function normalCdf(x: number): number {
  if (Number.isNaN(x)) return Number.NaN;
  if (Math.abs(x) > 4) {
    const tail = upperTail(Math.abs(x));
    return x < 0 ? tail : 1 - tail;
  }
  let term = x;
  let sum = x;
  for (let k = 3; Math.abs(term) > 1e-18 * Math.abs(sum); k += 2) {
    term *= (x * x) / k;
    sum += term;
  }
  return 0.5 + normalDensity(x) * sum;
}

/** P(Z > x) for x > 4: φ(x) / (x + 1/(x + 2/(x + 3/(x + …)))). */
function upperTail(x: number): number {
  if (x === Number.POSITIVE_INFINITY) return 0;
  let fraction = x;
  for (let k = 60; k >= 1; k--) fraction = x + k / fraction;
  return normalDensity(x) / fraction;
}

/** The x with Φ(x) = p, for 0 < p < 1: bisection to a bracket, then Newton steps on Φ. */
export function normalQuantile(p: number): number {
  if (!(p > 0 && p < 1)) {
    throw new GalvaniError('BAD_ARGUMENT', `normalQuantile: p must lie strictly between 0 and 1, got ${p}`);
  }
  // The lower tail keeps relative precision; the upper one is its mirror.
  if (p > 0.5) return -normalQuantile(1 - p);
  if (p === 0.5) return 0;
  let low = -40;
  let high = 0;
  while (high - low > 1e-3) {
    const middle = (low + high) / 2;
    if (normalCdf(middle) < p) low = middle;
    else high = middle;
  }
  let x = (low + high) / 2;
  for (let step = 0; step < 6; step++) {
    const density = normalDensity(x);
    if (density === 0) break;
    x -= (normalCdf(x) - p) / density;
  }
  return x;
}
