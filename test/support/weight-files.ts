/** Small checkpoints written on the spot, with random numbers that are the same everywhere. */
import { join } from 'node:path';
import { writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import type { DType } from '../../lib/native.js';

export interface Stored {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export function writeTensors(folder: string, name: string, tensors: Readonly<Record<string, Stored>>): string {
  const path = join(folder, name);
  writeSafetensors(
    path,
    Object.entries(tensors).map(([tensor, stored]) => ({ name: tensor, ...stored })),
  );
  return path;
}

export function float32(shape: readonly number[], values: Float32Array): Stored {
  return { dtype: 'F32', shape, data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

/** Rounded to nearest, ties to even. */
export function bfloat16(shape: readonly number[], values: Float32Array): Stored {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16);
  return { dtype: 'BF16', shape, data: new Uint8Array(halves.buffer) };
}

/** About normal: the sum of four uniform numbers. */
export function normals(count: number, seed: number, std = 1): Float32Array {
  let state = seed >>> 0;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  return Float32Array.from({ length: count }, () => (next() + next() + next() + next()) * std * Math.sqrt(3));
}

/** rows × columns of the given rank, entries of standard deviation `std`. */
export function lowRank(rows: number, columns: number, rank: number, seed: number, std: number): Float32Array {
  const left = normals(rows * rank, seed);
  const right = normals(rank * columns, seed + 1);
  const out = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let r = 0; r < rank; r++) {
      const factor = (left[i * rank + r]! * std) / Math.sqrt(rank);
      for (let j = 0; j < columns; j++) out[i * columns + j]! += factor * right[r * columns + j]!;
    }
  return out;
}

export function sum(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((value, i) => value + b[i]!);
}
