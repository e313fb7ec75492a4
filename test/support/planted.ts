/** Checkpoints whose difference is known because it was put there: copies of a lab model with chosen tensors changed. */
import { copyFileSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { namedRandom } from '../../lib/stats/random.js';

export interface StoredTensor {
  readonly shape: readonly number[];
  /** Widened values, row-major. */
  readonly values: Float32Array;
}

/** What becomes of a tensor: undefined keeps its bytes; a folder takes them from there; values are stored in bf16. */
export type Edit = (name: string, tensor: () => StoredTensor) => undefined | { readonly from: string } | Float32Array;

/** Writes a copy of the checkpoint `source` under `target` with the edit applied to every tensor. */
export function plant(source: string, target: string, edit: Edit): string {
  mkdirSync(target, { recursive: true });
  for (const name of readdirSync(source)) {
    if (!name.endsWith('.safetensors')) copyFileSync(join(source, name), join(target, name));
  }
  const from = openCheckpoint(source);
  const others = new Map<string, ReturnType<typeof openCheckpoint>>();
  const tensors = from.names().map((name) => {
    const { dtype, shape } = from.info(name);
    const edited = edit(name, () => ({ shape, values: from.read(name).data }));
    if (edited === undefined) return { name, dtype, shape, data: from.raw(name) };
    if (edited instanceof Float32Array) return { name, dtype: 'BF16' as const, shape, data: toBf16(edited) };
    const other = others.get(edited.from) ?? openCheckpoint(edited.from);
    others.set(edited.from, other);
    return { name, dtype: other.info(name).dtype, shape, data: other.raw(name) };
  });
  writeSafetensors(join(target, 'model.safetensors'), tensors, { format: 'pt' });
  return target;
}

/** Decoder layer of a stored name of the lab's layout, or undefined. */
export function layerOf(name: string): number | undefined {
  const found = /^model\.layers\.(\d+)\./.exec(name);
  return found ? Number(found[1]) : undefined;
}

/** Round to nearest, ties to even: what a trainer's save does. */
export function toBf16(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  bits.forEach((word, i) => {
    out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  });
  return new Uint8Array(out.buffer);
}

/** values + U·V / √rank · std, with standard normal U (rows × rank) and V (rank × columns): exactly `rank` directions. */
export function withLowRank(
  { shape, values }: StoredTensor,
  {
    rank,
    std,
    seed,
    name,
  }: { readonly rank: number; readonly std: number; readonly seed: number; readonly name: string },
): Float32Array {
  const random = namedRandom(seed, name);
  const normal = (): number =>
    Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());
  const [rows, columns] = shape as [number, number];
  const left = Float64Array.from({ length: rows * rank }, normal);
  const right = Float64Array.from({ length: rank * columns }, normal);
  const out = Float32Array.from(values);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += left[i * rank + k]! * right[k * columns + j]!;
      out[i * columns + j]! += (std / Math.sqrt(rank)) * sum;
    }
  }
  return out;
}
