/** Small checkpoints and recipes for the merge tests. Every file is made here. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { type MergePlan, planMerge } from '../../lib/merge/plan.js';
import { parseRecipe } from '../../lib/merge/recipe.js';
import { type MergeResult, type WriteOptions, writeMerge } from '../../lib/merge/write.js';
import type { DType, TensorBytes } from '../../lib/native.js';

export const f32 = (name: string, shape: readonly number[], values: ArrayLike<number>): TensorBytes => ({
  name,
  dtype: 'F32',
  shape,
  data: new Uint8Array(Float32Array.from(values).buffer),
});

/** A generator whose numbers are the same on every machine. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32 - 0.5;
  };
}

export interface ToyOptions {
  readonly layers?: number;
  readonly width?: number;
  readonly vocab?: readonly string[];
  readonly rows?: number;
  readonly seed: number;
  readonly config?: object;
  readonly extra?: readonly TensorBytes[];
  readonly leaveOut?: readonly string[];
  readonly tiedHead?: boolean;
}

/** A decoder of toy size in the layout of Qwen2. */
export function writeToy(dir: string, options: ToyOptions): void {
  const { layers = 3, width = 4, vocab = ['a', 'b', 'c', 'd', 'e', 'f'], seed, extra = [], leaveOut = [] } = options;
  const rows = options.rows ?? vocab.length;
  const next = random(seed);
  const make = (name: string, shape: number[]) =>
    f32(name, shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, next));
  const tensors = [make('model.embed_tokens.weight', [rows, width]), make('model.norm.weight', [width])];
  if (!options.tiedHead) tensors.push(make('lm_head.weight', [rows, width]));
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}.`;
    tensors.push(make(`${at}input_layernorm.weight`, [width]), make(`${at}self_attn.q_proj.weight`, [width, width]));
    tensors.push(make(`${at}self_attn.q_proj.bias`, [width]), make(`${at}mlp.down_proj.weight`, [width, 2 * width]));
  }
  mkdirSync(dir, { recursive: true });
  const kept = [...tensors, ...extra].filter(({ name }) => !leaveOut.includes(name));
  writeSafetensors(join(dir, 'model.safetensors'), kept, { format: 'pt' });
  const config = {
    model_type: 'qwen2',
    num_hidden_layers: layers,
    hidden_size: width,
    vocab_size: rows,
    tie_word_embeddings: options.tiedHead ?? false,
    torch_dtype: 'float32',
    ...options.config,
  };
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  const tokenizer = {
    model: { type: 'BPE', vocab: Object.fromEntries(vocab.map((token, id) => [token, id])), merges: [] },
    added_tokens: [],
  };
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer));
}

export const plan = (recipe: string | object, dir: string): MergePlan => {
  const text = typeof recipe === 'string' ? recipe : JSON.stringify(recipe);
  return planMerge(parseRecipe(text, 'recipe.yaml'), 'recipe.yaml', dir);
};

export async function merge(
  recipe: string | object,
  dir: string,
  out: string,
  options: Partial<WriteOptions> = {},
): Promise<MergeResult> {
  const text = typeof recipe === 'string' ? recipe : JSON.stringify(recipe);
  mkdirSync(dirname(out), { recursive: true });
  return writeMerge(plan(text, dir), { out, recipe: text, version: 'test', ...options });
}

export const values = (dir: string, name: string): number[] => [...openCheckpoint(dir).read(name).data];
export const dtypeOf = (dir: string, name: string): DType => openCheckpoint(dir).info(name).dtype;

/** bf16 bits as integers whose differences count representable values. */
export function bf16Ulps(a: Uint8Array, b: Uint8Array): number[] {
  const ordered = (bits: number) => (bits & 0x8000 ? 0x8000 - bits : bits);
  const read = (bytes: Uint8Array, i: number) => ordered(bytes[2 * i]! | (bytes[2 * i + 1]! << 8));
  return Array.from({ length: b.length / 2 }, (_, i) => Math.abs(read(a, i) - read(b, i)));
}
