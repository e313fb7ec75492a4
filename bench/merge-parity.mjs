/**
 * Does galvani merge what mergekit merges? Four random checkpoints, every method both have, outputs in bf16 compared entry
 * by entry in bf16 ulps; the methods that draw at random, written in float32, by the distribution of what they keep.
 */
import { readFileSync } from 'node:fs';
import { openCheckpoint } from '../dist/checkpoint/safetensors.js';
import { planMerge } from '../dist/merge/plan.js';
import { parseRecipe } from '../dist/merge/recipe.js';
import { writeMerge } from '../dist/merge/write.js';

export async function mergeOurs(recipe, out, options = {}) {
  const plan = planMerge(parseRecipe(recipe, 'recipe'), 'recipe', '/');
  return writeMerge(plan, { out, recipe, version: '0', overwrite: true, ...options });
}

/** bf16 bits as integers whose differences count representable values. */
function ordered(bits) {
  return bits & 0x8000 ? 0x8000 - bits : bits;
}

/** How far two folders are apart: entries, equal ones, the share beyond one ulp, the largest distance. */
export function compareBf16(ours, theirs) {
  const [a, b] = [ours, theirs].map((dir) => openCheckpoint(dir));
  const names = b.names();
  if (a.names().join() !== names.join()) throw new Error(`other tensors: ${a.names()} and ${names}`);
  const found = { tensors: names.length, entries: 0, equal: 0, beyondOneUlp: 0, largestUlps: 0 };
  for (const name of names) {
    const [x, y] = [a, b].map((checkpoint) => {
      const bytes = checkpoint.raw(name);
      return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    });
    for (let i = 0; i < y.length; i++) {
      const distance = Math.abs(ordered(x[i]) - ordered(y[i]));
      found.entries++;
      if (distance === 0) found.equal++;
      if (distance > 1) found.beyondOneUlp++;
      found.largestUlps = Math.max(found.largestUlps, distance);
    }
  }
  return found;
}

/**
 * What a random method did to the base, by tensor: of n entries those it moved, and of their moves d the sums of d² and d⁴.
 * Outputs must be float32 like the base: an entry left out then equals the base's, bit for bit.
 */
function moves(dir, baseDir) {
  const [out, base] = [dir, baseDir].map((path) => openCheckpoint(path));
  return out.names().map((name) => {
    const [x, w] = [out, base].map((checkpoint) => checkpoint.read(name).data);
    const found = { n: x.length, moved: 0, square: 0, fourth: 0 };
    for (let i = 0; i < x.length; i++) {
      const square = (x[i] - w[i]) ** 2;
      found.moved += square > 0;
      found.square += square;
      found.fourth += square ** 2;
    }
    return found;
  });
}

/** Two random merges beside each other: shares moved and RMS of the moves, each difference in standard errors. */
export function compareRandom(ours, theirs, base) {
  const [a, b] = [ours, theirs].map((dir) => moves(dir, base));
  const whole = (list) =>
    list.reduce((x, y) => ({
      n: x.n + y.n,
      moved: x.moved + y.moved,
      square: x.square + y.square,
      fourth: x.fourth + y.fourth,
    }));
  const beside = (x, y) => {
    const share = (x.moved + y.moved) / (x.n + y.n);
    const ms = (one) => one.square / one.moved;
    // relative variance of a mean of k squares: (⟨d⁴⟩ / ⟨d²⟩² − 1) / k; half of it, in standard errors, for its root
    const relative = (one) => (one.fourth / one.moved / ms(one) ** 2 - 1) / one.moved;
    return {
      shares: [x.moved / x.n, y.moved / y.n],
      shareErrors: Math.abs(x.moved / x.n - y.moved / y.n) / Math.sqrt(2 * share * (1 - share) * (1 / x.n)),
      rmsRatio: Math.sqrt(ms(x) / ms(y)),
      rmsErrors: Math.abs(Math.log(ms(x) / ms(y))) / Math.sqrt(relative(x) + relative(y)),
    };
  };
  const single = a.map((one, i) => beside(one, b[i])).filter((_, i) => a[i].n >= 65_536);
  const together = beside(whole(a), whole(b));
  const all = [...single, together];
  return {
    tensors: single.length,
    ...together,
    shareErrors: Math.max(...all.map((one) => one.shareErrors)),
    rmsErrors: Math.max(...all.map((one) => one.rmsErrors)),
  };
}

export const readText = (path) => readFileSync(path, 'utf8');
