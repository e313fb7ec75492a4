/**
 * Checkpoints with the tensors of Qwen2.5-VL (3B by default, fewer layers), bf16, sharded: random weights; the same after
 * an update that moves one entry in ten by one to three bf16 steps, as a short RL run does; and with every entry moved so.
 *
 *   node bench/weights_set.mjs DIR [decoder layers]        writes DIR/before, DIR/after and DIR/all
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { writeSafetensors } from '../dist/checkpoint/safetensors.js';

export const width3b = { width: 2048, mlp: 11008, heads: 16, kvHeads: 2, vocab: 151936, vision: 1280, visionMlp: 3420 };
export const widthTiny = { width: 64, mlp: 96, heads: 4, kvHeads: 2, vocab: 512, vision: 32, visionMlp: 48 };

/** @returns {[name: string, shape: number[]][]} in the order of the published checkpoints */
export function tensorsOf(size, layers, blocks) {
  const { width, mlp, heads, kvHeads, vocab, vision, visionMlp } = size;
  const kv = (width / heads) * kvHeads;
  const list = [['model.embed_tokens.weight', [vocab, width]]];
  for (let i = 0; i < layers; i++) {
    const layer = [
      ['input_layernorm.weight', [width]],
      ['mlp.down_proj.weight', [width, mlp]],
      ['mlp.gate_proj.weight', [mlp, width]],
      ['mlp.up_proj.weight', [mlp, width]],
      ['post_attention_layernorm.weight', [width]],
      ['self_attn.k_proj.bias', [kv]],
      ['self_attn.k_proj.weight', [kv, width]],
      ['self_attn.o_proj.weight', [width, width]],
      ['self_attn.q_proj.bias', [width]],
      ['self_attn.q_proj.weight', [width, width]],
      ['self_attn.v_proj.bias', [kv]],
      ['self_attn.v_proj.weight', [kv, width]],
    ];
    list.push(...layer.map(([name, shape]) => [`model.layers.${i}.${name}`, shape]));
  }
  list.push(['model.norm.weight', [width]], ['visual.patch_embed.proj.weight', [vision, 3, 2, 14, 14]]);
  for (let i = 0; i < blocks; i++) {
    const block = [
      ['attn.proj.bias', [vision]],
      ['attn.proj.weight', [vision, vision]],
      ['attn.qkv.bias', [3 * vision]],
      ['attn.qkv.weight', [3 * vision, vision]],
      ['mlp.down_proj.bias', [vision]],
      ['mlp.down_proj.weight', [vision, visionMlp]],
      ['mlp.gate_proj.bias', [visionMlp]],
      ['mlp.gate_proj.weight', [visionMlp, vision]],
      ['mlp.up_proj.bias', [visionMlp]],
      ['mlp.up_proj.weight', [visionMlp, vision]],
      ['norm1.weight', [vision]],
      ['norm2.weight', [vision]],
    ];
    list.push(...block.map(([name, shape]) => [`visual.blocks.${i}.${name}`, shape]));
  }
  list.push(['visual.merger.ln_q.weight', [vision]]);
  list.push(['visual.merger.mlp.0.bias', [4 * vision]], ['visual.merger.mlp.0.weight', [4 * vision, 4 * vision]]);
  list.push(['visual.merger.mlp.2.bias', [width]], ['visual.merger.mlp.2.weight', [width, 4 * vision]]);
  return list;
}

function configOf(size, layers, blocks) {
  const half = size.width / size.heads / 2;
  const sections = [half - 2 * Math.floor((3 * half) / 8), Math.floor((3 * half) / 8), Math.floor((3 * half) / 8)];
  return {
    model_type: 'qwen2_5_vl',
    vocab_size: size.vocab,
    hidden_size: size.width,
    intermediate_size: size.mlp,
    num_hidden_layers: layers,
    num_attention_heads: size.heads,
    num_key_value_heads: size.kvHeads,
    tie_word_embeddings: true,
    rope_scaling: { type: 'mrope', mrope_section: sections },
    vision_config: {
      depth: blocks,
      hidden_size: size.vision,
      intermediate_size: size.visionMlp,
      num_heads: size.vision >= 1280 ? 16 : 4,
      out_hidden_size: size.width,
    },
  };
}

/** @returns {{ before: string, after: string, all: string, bytes: number }} folders; bytes: of one pair */
export function writeSet(dir, size = width3b, layers = 8, blocks = 8, shardBytes = 1e9) {
  const list = tensorsOf(size, layers, blocks);
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state;
  };
  // One pool of normal bf16 numbers, read from a random place for every tensor: writing billions takes long enough.
  const pool = new Uint16Array(1 << 22);
  const float = new Float32Array(1);
  const view = new Uint32Array(float.buffer);
  for (let i = 0; i < pool.length; i++) {
    float[0] = 0.02 * Math.sqrt(3) * ((random() + random() + random() + random()) / 2 ** 32 - 2);
    pool[i] = (view[0] + 0x8000) >>> 16;
  }
  const shards = [[]];
  let filled = 0;
  for (const [name, shape] of list) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1);
    if (filled > 0 && filled + bytes > shardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1).push([name, shape]);
    filled += bytes;
  }
  const total = list.reduce((sum, [, shape]) => sum + 2 * shape.reduce((a, b) => a * b, 1), 0);
  const file = (i) =>
    `model-${String(i + 1).padStart(5, '0')}-of-${String(shards.length).padStart(5, '0')}.safetensors`;
  const paths = Object.fromEntries(['before', 'after', 'all'].map((name) => [name, join(dir, name)]));
  for (const path of Object.values(paths)) {
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, 'config.json'), JSON.stringify(configOf(size, layers, blocks)));
    const map = Object.fromEntries(shards.flatMap((shard, i) => shard.map(([name]) => [name, file(i)])));
    const index = { metadata: { total_size: total }, weight_map: map };
    writeFileSync(join(path, 'model.safetensors.index.json'), JSON.stringify(index));
  }
  shards.forEach((shard, i) => {
    const tensors = shard.map(([name, shape]) => {
      const count = shape.reduce((a, b) => a * b, 1);
      const data = new Uint16Array(count);
      for (let at = 0; at < count; ) {
        const from = random() % (pool.length / 2);
        const run = Math.min(pool.length / 2, count - at);
        data.set(pool.subarray(from, from + run), at);
        at += run;
      }
      return { name, dtype: 'BF16', shape, data: new Uint8Array(data.buffer) };
    });
    writeSafetensors(join(paths.before, file(i)), tensors);
    const move = (isWanted) => {
      for (const { data } of tensors) {
        const values = new Uint16Array(data.buffer);
        for (let at = 0; at < values.length; at++)
          if (isWanted(at)) values[at] += 1 + ((Math.imul(at, 0x9e3779b1) >>> 16) % 3); // away from 0
      }
    };
    move((at) => at % 10 === 0);
    writeSafetensors(join(paths.after, file(i)), tensors);
    move((at) => at % 10 !== 0);
    writeSafetensors(join(paths.all, file(i)), tensors);
  });
  return { ...paths, bytes: 2 * total };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [dir, layers] = process.argv.slice(2);
  console.log(writeSet(dir, width3b, Number(layers ?? 8)));
}
