/**
 * Seeded random numbers: xoshiro128** (Blackman & Vigna, ACM TOMS 47(4), 2021; period 2^128 − 1), its state filled
 * from the seed by splitmix32 (golden-ratio increments through the murmur3 finaliser). Same seed, same numbers, on
 * every machine; only 32-bit integer operations are used.
 */

import { GalvaniError } from '../errors.js';

/** A stream of numbers; every call advances it. */
export interface Random {
  /** Uniform 32-bit unsigned integer. */
  next(): number;
  /** Uniform integer in [0, bound), without modulo bias. */
  below(bound: number): number;
  /** Uniform float in [0, 1), 32 random bits. */
  uniform(): number;
}

/** Opens a stream. `seed`: a whole number in [0, 2^32). */
export function seededRandom(seed: number): Random {
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
    throw new GalvaniError('BAD_ARGUMENT', `seededRandom: seed must be a whole number in [0, 2^32), got ${seed}`);
  }
  let counter = seed >>> 0;
  const fill = (): number => {
    counter = (counter + 0x9e3779b9) >>> 0;
    let z = counter;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  };
  let [a, b, c, d] = [fill(), fill(), fill(), fill()];
  const rotate = (x: number, bits: number): number => (x << bits) | (x >>> (32 - bits));
  const next = (): number => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotate(d, 11);
    return result;
  };
  const below = (bound: number): number => {
    // Draws at or above the largest multiple of bound are thrown away: every residue is then equally likely.
    const limit = 2 ** 32 - (2 ** 32 % bound);
    let draw = next();
    while (draw >= limit) draw = next();
    return draw % bound;
  };
  return { next, below, uniform: () => next() / 2 ** 32 };
}

/**
 * A stream of its own for every named thing of a study (a pair, a layer), whatever else is drawn: the names are hashed
 * into the seed (FNV-1a, 32 bits).
 */
export function namedRandom(seed: number, ...names: readonly (string | number)[]): Random {
  let hash = (0x811c9dc5 ^ seed) >>> 0;
  for (const letter of names.join('\n')) hash = Math.imul(hash ^ letter.codePointAt(0)!, 0x01000193) >>> 0;
  return seededRandom(hash);
}

/** `count` different whole numbers of [0, bound), ascending; every set is equally likely (Floyd's algorithm). */
export function sample(random: Random, bound: number, count: number): number[] {
  if (!Number.isInteger(count) || count < 0 || count > bound) {
    throw new GalvaniError('BAD_ARGUMENT', `sample: expected 0 … ${bound} numbers, got ${count}`);
  }
  const chosen = new Set<number>();
  for (let top = bound - count; top < bound; top++) {
    const drawn = random.below(top + 1);
    chosen.add(chosen.has(drawn) ? top : drawn);
  }
  return [...chosen].sort((a, b) => a - b);
}
