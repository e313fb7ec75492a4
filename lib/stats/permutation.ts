/** Is a mean of paired differences other than zero? A randomisation test: no shape of the differences is assumed. */
import { GalvaniError } from '../errors.js';
import { seededRandom } from './random.js';

/** Up to this many nonzero differences all 2ᵏ sign patterns are counted; beyond it they are drawn. */
const exactLimit = 12;
const draws = 20_000;

/**
 * Two-sided sign-flip test of mean(differences) = 0 (Fisher 1935; Edgington & Onghena, Randomization Tests, 2007): when
 * the two conditions are exchangeable within an item, each difference is as likely with the other sign. Exact for few
 * nonzero differences; else 20,000 seeded draws with the observed pattern counted among them, so that p is never zero
 * and never too small (Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010). For differences of −1, 0 and 1 this is
 * McNemar's test; it also takes averages over several conditions.
 */
export function signFlip(differences: readonly number[], seed: number): { readonly p: number } {
  const bad = differences.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new GalvaniError('BAD_ARGUMENT', `signFlip: item ${bad} is not finite (${differences[bad]}); leave it out`);
  }
  const nonzero = Float64Array.from(differences.filter((value) => value !== 0));
  const observed = Math.abs(nonzero.reduce((sum, value) => sum + value, 0));
  // Sums of the same magnitudes in another order differ by rounding; that must not decide a tie.
  const atLeast = observed - 1e-9 * nonzero.reduce((sum, value) => sum + Math.abs(value), 0);
  if (nonzero.length <= exactLimit) {
    let extreme = 0;
    const patterns = 2 ** nonzero.length;
    for (let pattern = 0; pattern < patterns; pattern++) {
      let sum = 0;
      for (let i = 0; i < nonzero.length; i++) sum += pattern & (1 << i) ? -nonzero[i]! : nonzero[i]!;
      if (Math.abs(sum) >= atLeast) extreme++;
    }
    return { p: extreme / patterns };
  }
  const sums = byteSums(nonzero);
  const random = seededRandom(seed);
  let extreme = 1;
  for (let draw = 0; draw < draws; draw++) {
    let sum = 0;
    for (let at = 0, bits = 0; at < sums.length; at += 256, bits >>>= 8) {
      if (at % 1024 === 0) bits = random.next();
      sum += sums[at + (bits & 255)]!;
    }
    if (Math.abs(sum) >= atLeast) extreme++;
  }
  return { p: extreme / (draws + 1) };
}

/** Sums of eight values at a time under each of 256 sign patterns: a draw then adds an eighth as many numbers. */
function byteSums(values: Float64Array): Float64Array {
  const sums = new Float64Array(256 * Math.ceil(values.length / 8));
  values.forEach((value, i) => {
    const [start, bit] = [256 * (i >> 3), i & 7];
    for (let pattern = 0; pattern < 256; pattern++) sums[start + pattern]! += (pattern >> bit) & 1 ? -value : value;
  });
  return sums;
}
