/** Random Qwen2.5-VL folders of a realistic shape and prompts for them, written to a temporary folder at bench time. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeSafetensors } from '../dist/checkpoint/safetensors.js';

const vision = { depth: 4, width: 256, heads: 4, mlp: 688, patch: 14, window: 112, full: [1, 3] };

/** A third of the 3B model's width and depth: 202 M decoder parameters. */
export const engineShape = { layers: 12, width: 1024, heads: 8, kvHeads: 2, mlp: 2816, vocab: 32000, vision };
/** The 7B model's 28 layers, narrow enough for a CPU to run the published procedure. */
export const sweepShape = { layers: 28, width: 768, heads: 6, kvHeads: 2, mlp: 2048, vocab: 32000, vision };

/** Only to see that a bench runs. */
export const tinyShape = {
  ...{ layers: 3, width: 128, heads: 4, kvHeads: 2, mlp: 192, vocab: 640 },
  vision: { ...vision, depth: 2, width: 64, mlp: 96 },
};

/** Uniform 32-bit words: xorshift32. */
function randomWords(seed) {
  let state = (seed * 0x9e3779b9) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

const bf16 = new Uint16Array(new Float32Array(1).buffer);
const float = new Float32Array(bf16.buffer);

/** `count` bf16 values, uniform in centre ± scale at 65,536 levels. */
function randomWeights(next, count, scale, centre) {
  const level = new Uint16Array(65536);
  for (let i = 0; i < 65536; i++) {
    float[0] = centre + scale * ((i + 0.5) / 32768 - 1);
    level[i] = bf16[1];
  }
  const out = new Uint16Array(count);
  for (let i = 0; i < count; i += 2) {
    const word = next();
    out[i] = level[word & 0xffff];
    if (i + 1 < count) out[i + 1] = level[word >>> 16];
  }
  return new Uint8Array(out.buffer);
}

function tensorsOf({ layers, width, heads, kvHeads, mlp, vocab, vision }) {
  const next = randomWords(1);
  const tensors = [];
  const add = (name, shape, scale, centre = 0) => {
    const count = shape.reduce((a, b) => a * b, 1);
    tensors.push({ name, dtype: 'BF16', shape, data: randomWeights(next, count, scale, centre) });
  };
  const norm = (name, size) => add(name, [size], 0.2, 1);
  // √(3 / fan-in): a uniform draw of unit gain.
  const linear = (name, out, inner, bias, gain = 1.2) => {
    add(`${name}.weight`, [out, inner], gain * Math.sqrt(3 / inner));
    if (bias) add(`${name}.bias`, [out], 0.3);
  };
  const gated = (name, inner, outer, bias) => {
    linear(`${name}.gate_proj`, outer, inner, bias);
    linear(`${name}.up_proj`, outer, inner, bias);
    linear(`${name}.down_proj`, inner, outer, bias);
  };
  const head = width / heads;
  add('model.embed_tokens.weight', [vocab, width], 0.6);
  norm('model.norm.weight', width);
  linear('lm_head', vocab, width, false);
  for (let i = 0; i < layers; i++) {
    const layer = `model.layers.${i}`;
    norm(`${layer}.input_layernorm.weight`, width);
    norm(`${layer}.post_attention_layernorm.weight`, width);
    linear(`${layer}.self_attn.q_proj`, width, width, true, 1.6);
    linear(`${layer}.self_attn.k_proj`, kvHeads * head, width, true, 1.6);
    linear(`${layer}.self_attn.v_proj`, kvHeads * head, width, true);
    linear(`${layer}.self_attn.o_proj`, width, width, false);
    gated(`${layer}.mlp`, width, mlp, false);
  }
  add('visual.patch_embed.proj.weight', [vision.width, 3, 2, vision.patch, vision.patch], 0.05);
  for (let i = 0; i < vision.depth; i++) {
    const block = `visual.blocks.${i}`;
    norm(`${block}.norm1.weight`, vision.width);
    norm(`${block}.norm2.weight`, vision.width);
    linear(`${block}.attn.qkv`, 3 * vision.width, vision.width, true);
    linear(`${block}.attn.proj`, vision.width, vision.width, true);
    gated(`${block}.mlp`, vision.width, vision.mlp, true);
  }
  norm('visual.merger.ln_q.weight', vision.width);
  linear('visual.merger.mlp.0', 4 * vision.width, 4 * vision.width, true);
  linear('visual.merger.mlp.2', width, 4 * vision.width, true);
  return tensors;
}

const special = (vocab) => ({ image: vocab - 1, video: vocab - 2, start: vocab - 3, end: vocab - 4, stop: vocab - 5 });

function configOf({ layers, width, heads, kvHeads, mlp, vocab, vision }) {
  const ids = special(vocab);
  const half = width / heads / 2;
  // The released models' 16, 24, 24 of 64.
  const section = [half / 4, (3 * half) / 8, (3 * half) / 8];
  const rope = { rope_type: 'default', mrope_section: section };
  return {
    architectures: ['Qwen2_5_VLForConditionalGeneration'],
    model_type: 'qwen2_5_vl',
    image_token_id: ids.image,
    video_token_id: ids.video,
    vision_start_token_id: ids.start,
    vision_end_token_id: ids.end,
    tie_word_embeddings: false,
    dtype: 'bfloat16',
    text_config: {
      model_type: 'qwen2_5_vl_text',
      vocab_size: vocab,
      hidden_size: width,
      intermediate_size: mlp,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      hidden_act: 'silu',
      max_position_embeddings: 32768,
      max_window_layers: layers,
      rms_norm_eps: 1e-6,
      use_sliding_window: false,
      attention_dropout: 0,
      bos_token_id: ids.stop,
      eos_token_id: ids.stop,
      rope_parameters: { ...rope, rope_theta: 1e6 },
    },
    vision_config: {
      model_type: 'qwen2_5_vl_vision',
      depth: vision.depth,
      hidden_size: vision.width,
      num_heads: vision.heads,
      intermediate_size: vision.mlp,
      patch_size: vision.patch,
      window_size: vision.window,
      fullatt_block_indexes: vision.full,
      hidden_act: 'silu',
      out_hidden_size: width,
      spatial_merge_size: 2,
      temporal_patch_size: 2,
      in_channels: 3,
    },
  };
}

/** A vocabulary of words t0, t1, …: enough to print generated ids. */
function tokenizerOf({ vocab }) {
  const words = Object.fromEntries(Array.from({ length: vocab }, (_, i) => [`t${i}`, i]));
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'Whitespace' },
    post_processor: null,
    decoder: null,
    model: { type: 'WordLevel', vocab: words, unk_token: 't0' },
  };
}

/** Patches of a 16 × 20 token image: 320 image tokens. */
const grid = [1, 32, 40];
const imageTokens = (grid[1] * grid[2]) / 4;

/**
 * Prompts of one shape: `text` rows of text, or 14 rows of text, <start>, 320 image rows, <end>, 14 rows of text.
 * @typedef {{ ids: number[], image?: string, start?: number, count?: number, grid?: number[] }} BenchPrompt
 */
function promptOf(next, vocab, spec) {
  const ids = special(vocab);
  const text = (count) => Array.from({ length: count }, () => next() % (vocab - 100));
  if (!spec.image) return { ids: text(spec.text) };
  // Prompts of one pair share the text, so its generator starts from the pair's name.
  const [before, after] = [text(14), text(14)];
  const image = Array.from({ length: imageTokens }, () => ids.image);
  return {
    ids: [...before, ids.start, ...image, ids.end, ...after],
    image: spec.image,
    start: before.length + 1,
    count: imageTokens,
    grid,
  };
}

/**
 * Writes model, tokenizer, inputs.json (prompts by name) and inputs.safetensors (pixels by image name); returns the
 * folder. `prompts`: name → { text: rows } or { image: name, seed }; equal seeds share their text.
 */
export function writeBenchModel(shape, prompts) {
  const dir = mkdtempSync(join(tmpdir(), 'galvani-bench-'));
  const json = (file, value) => writeFileSync(join(dir, file), JSON.stringify(value));
  writeSafetensors(join(dir, 'model.safetensors'), tensorsOf(shape));
  json('config.json', configOf(shape));
  json('generation_config.json', { eos_token_id: special(shape.vocab).stop });
  json('tokenizer.json', tokenizerOf(shape));
  json('tokenizer_config.json', {});
  writeFileSync(join(dir, 'chat_template.jinja'), '{{ messages }}');
  const records = Object.fromEntries(
    Object.entries(prompts).map(([name, spec], i) => [
      name,
      promptOf(randomWords(spec.seed ?? i + 7), shape.vocab, spec),
    ]),
  );
  json('inputs.json', records);
  const images = [...new Set(Object.values(prompts).flatMap(({ image }) => (image ? [image] : [])))];
  const patchValues = 3 * 2 * shape.vision.patch ** 2;
  writeSafetensors(
    join(dir, 'inputs.safetensors'),
    images.map((name, i) => {
      const next = randomWords(i + 101);
      const pixels = Float32Array.from({ length: grid[1] * grid[2] * patchValues }, () => next() / 2 ** 31 - 1);
      return { name, dtype: 'F32', shape: [grid[1] * grid[2], patchValues], data: new Uint8Array(pixels.buffer) };
    }),
  );
  return dir;
}
