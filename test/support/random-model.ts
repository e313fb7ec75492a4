/** Small random checkpoints written on the spot, for tests that need a shape, not a fixture. */
import { copyFileSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import type { TensorBytes } from '../../lib/native.js';
import type { PixelPatches, Prompt } from '../../lib/types.js';
import { fixturePath } from './fixture.js';

export interface RandomModelOptions {
  readonly layers?: number;
  readonly seed?: number;
  /** The head is the embedding. */
  readonly tied?: boolean;
}

/** Deterministic numbers in (−1, 1): mulberry32. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) / 4294967296) * 2 - 1;
  };
}

const width = 32;
const heads = 4;
const kvHeads = 2;
const headDim = 8;
const mlp = 48;
const vocab = 64;
const visionWidth = 16;
const patchDim = 3 * 2 * 4 * 4;

/** Writes a Qwen2.5-VL folder (the tokenizer is a fixture's, of a larger vocabulary) and returns its path. */
export function writeRandomModel({ layers = 6, seed = 1, tied = false }: RandomModelOptions = {}): string {
  const dir = mkdtempSync(join(tmpdir(), 'galvani-model-'));
  const next = randomSource(seed);
  const tensors: TensorBytes[] = [];
  const add = (name: string, shape: readonly number[], scale: number, centre = 0): void => {
    const count = shape.reduce((a, b) => a * b, 1);
    const values = Float32Array.from({ length: count }, () => centre + next() * scale);
    tensors.push({ name, dtype: 'F32', shape, data: new Uint8Array(values.buffer) });
  };
  const linear = (name: string, out: number, inner: number, bias: boolean): void => {
    add(`${name}.weight`, [out, inner], 1.7 / Math.sqrt(inner));
    if (bias) add(`${name}.bias`, [out], 0.1);
  };
  add('model.embed_tokens.weight', [vocab, width], 1);
  add('model.norm.weight', [width], 0.1, 1);
  if (!tied) linear('lm_head', vocab, width, false);
  for (let i = 0; i < layers; i++) {
    const at = `model.layers.${i}`;
    add(`${at}.input_layernorm.weight`, [width], 0.1, 1);
    add(`${at}.post_attention_layernorm.weight`, [width], 0.1, 1);
    linear(`${at}.self_attn.q_proj`, heads * headDim, width, true);
    linear(`${at}.self_attn.k_proj`, kvHeads * headDim, width, true);
    linear(`${at}.self_attn.v_proj`, kvHeads * headDim, width, true);
    linear(`${at}.self_attn.o_proj`, width, heads * headDim, false);
    linear(`${at}.mlp.gate_proj`, mlp, width, false);
    linear(`${at}.mlp.up_proj`, mlp, width, false);
    linear(`${at}.mlp.down_proj`, width, mlp, false);
  }
  add('visual.patch_embed.proj.weight', [visionWidth, 3, 2, 4, 4], 0.2);
  for (let i = 0; i < 2; i++) {
    const at = `visual.blocks.${i}`;
    add(`${at}.norm1.weight`, [visionWidth], 0.1, 1);
    add(`${at}.norm2.weight`, [visionWidth], 0.1, 1);
    linear(`${at}.attn.qkv`, 3 * visionWidth, visionWidth, true);
    linear(`${at}.attn.proj`, visionWidth, visionWidth, true);
    linear(`${at}.mlp.gate_proj`, 24, visionWidth, true);
    linear(`${at}.mlp.up_proj`, 24, visionWidth, true);
    linear(`${at}.mlp.down_proj`, visionWidth, 24, true);
  }
  add('visual.merger.ln_q.weight', [visionWidth], 0.1, 1);
  linear('visual.merger.mlp.0', 4 * visionWidth, 4 * visionWidth, true);
  linear('visual.merger.mlp.2', width, 4 * visionWidth, true);
  writeSafetensors(join(dir, 'model.safetensors'), tensors);
  const config = {
    architectures: ['Qwen2_5_VLForConditionalGeneration'],
    model_type: 'qwen2_5_vl',
    hidden_size: width,
    intermediate_size: mlp,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    vocab_size: vocab,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    rope_scaling: { type: 'mrope', mrope_section: [2, 1, 1] },
    tie_word_embeddings: tied,
    image_token_id: 60,
    vision_start_token_id: 61,
    vision_end_token_id: 62,
    eos_token_id: 63,
    vision_config: {
      depth: 2,
      hidden_size: visionWidth,
      num_heads: 2,
      intermediate_size: 24,
      patch_size: 4,
      spatial_merge_size: 2,
      temporal_patch_size: 2,
      window_size: 16,
      fullatt_block_indexes: [1],
      out_hidden_size: width,
      in_chans: 3,
    },
  };
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  for (const file of ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja', 'preprocessor_config.json']) {
    copyFileSync(fixturePath(`models/tied-mha/${file}`), join(dir, file));
  }
  return dir;
}

/** Random patches of a grid for the models above. */
export function randomImage(seed: number, height = 4, wide = 6): PixelPatches {
  const next = randomSource(seed);
  const pixels = Float32Array.from({ length: height * wide * patchDim }, next);
  return { pixels, grid: [1, height, wide], hash: `random ${seed} ${height}x${wide}` };
}

/** before text rows, one image, after text rows; M-RoPE positions as Qwen2-VL numbers them. */
export function imagePrompt(image: PixelPatches, seed = 5, before = 3, after = 5): Prompt {
  const next = randomSource(seed);
  const [, h, w] = image.grid;
  const count = (h * w) / 4;
  const n = before + count + after;
  const ids = new Int32Array(n);
  const positions = new Int32Array(3 * n);
  const side = Math.max(h, w) / 2;
  for (let i = 0; i < n; i++) {
    const inside = i - before;
    const isImage = inside >= 0 && inside < count;
    ids[i] = isImage ? 60 : Math.floor((next() + 1) * 29.9);
    const text = i < before ? i : before + side + (inside - count);
    positions[i] = isImage ? before : text;
    positions[n + i] = isImage ? before + Math.floor(inside / (w / 2)) : text;
    positions[2 * n + i] = isImage ? before + (inside % (w / 2)) : text;
  }
  return {
    ids,
    positions,
    nextPosition: before + side + after,
    images: [{ image, start: before, count }],
    spans: {
      system: [[0, before]],
      image: [[before, before + count]],
      'image 0': [[before, before + count]],
      question: [[before + count, n]],
    },
    text: '',
  };
}
