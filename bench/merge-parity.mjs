/**
 * Does galvani merge what mergekit merges? Four random checkpoints, every method both have, outputs in bf16 compared entry
 * by entry in bf16 ulps; the methods that draw at random by the distribution of what they keep.
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

/** What a random method did to the base: share of entries moved, mean and spread of the move, by tensor. */
export function moves(dir, baseDir) {
  const [out, base] = [dir, baseDir].map((path) => openCheckpoint(path));
  return out.names().map((name) => {
    const [x, w] = [out, base].map((checkpoint) => checkpoint.read(name).data);
    let moved = 0;
    let sum = 0;
    let square = 0;
    for (let i = 0; i < x.length; i++) {
      const d = x[i] - w[i];
      moved += d !== 0;
      sum += d;
      square += d * d;
    }
    return { name, n: x.length, moved: moved / x.length, mean: sum / x.length, rms: Math.sqrt(square / x.length) };
  });
}

export const readText = (path) => readFileSync(path, 'utf8');
