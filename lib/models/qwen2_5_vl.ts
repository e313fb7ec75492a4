/**
 * Qwen2.5-VL (Bai et al., arXiv 2502.13923): config.json in both layouts, tensor names in both layouts.
 * Defaults are those of transformers 5 (configuration_qwen2_5_vl).
 */
import { z } from 'zod';
import type { JsonObject } from '../checkpoint/json-file.js';
import { GalvaniError } from '../errors.js';
import type {
  DecoderConfig,
  ModelConfig,
  ModelFamily,
  TensorDescription,
  TensorModule,
  TensorNames,
  VisionConfig,
} from './family.js';
import { closest } from './names.js';

const count = z.int().positive();
const tokenId = z.int().nonnegative();
const eosIds = z.union([tokenId, z.array(tokenId)]).nullish();

const ropeSchema = z.looseObject({
  rope_theta: z.number().positive().optional(),
  rope_type: z.string().optional(),
  type: z.string().optional(),
  mrope_section: z.tuple([z.int().nonnegative(), z.int().nonnegative(), z.int().nonnegative()]).optional(),
});

const textSchema = z.looseObject({
  vocab_size: count.default(152064),
  hidden_size: count.default(8192),
  intermediate_size: count.default(29568),
  num_hidden_layers: count.default(80),
  num_attention_heads: count.default(64),
  num_key_value_heads: count.nullable().default(8), // null: as many as query heads
  hidden_act: z.string().default('silu'),
  rms_norm_eps: z.number().positive().default(1e-5),
  use_sliding_window: z.boolean().nullish(),
  sliding_window: z.int().nullish(),
  max_window_layers: z.int().nullish(),
  layer_types: z.array(z.string()).nullish(),
  rope_theta: z.number().positive().optional(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  tie_word_embeddings: z.boolean().optional(),
  eos_token_id: eosIds,
});

const visionSchema = z.looseObject({
  depth: count.default(32),
  hidden_size: count.default(3584),
  hidden_act: z.string().default('silu'),
  intermediate_size: count.default(3420),
  num_heads: count.default(16),
  in_channels: count.optional(),
  in_chans: count.optional(),
  patch_size: count.default(14),
  spatial_merge_size: count.default(2),
  temporal_patch_size: count.default(2),
  window_size: count.default(112),
  out_hidden_size: count.default(3584),
  fullatt_block_indexes: z.array(z.int().nonnegative()).default([7, 15, 23, 31]),
});

const topSchema = z.looseObject({
  image_token_id: tokenId.default(151655),
  vision_start_token_id: tokenId.default(151652),
  vision_end_token_id: tokenId.default(151653),
  tie_word_embeddings: z.boolean().default(false),
  eos_token_id: eosIds,
});

type TextJson = z.infer<typeof textSchema>;

/** Default split of 64 frequencies in transformers. */
const defaultMropeSection = [16, 24, 24] as const;

function parse<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new GalvaniError('BAD_CONFIG', `${where}: ${z.prettifyError(result.error).replaceAll('\n', ' ')}`);
}

function unsupported(where: string, what: string): never {
  throw new GalvaniError('UNSUPPORTED', `${where}: ${what}`);
}

function readDecoder(text: TextJson, tiedHead: boolean, where: string): DecoderConfig {
  const heads = text.num_attention_heads;
  const kvHeads = text.num_key_value_heads ?? heads;
  const rope = { ...text.rope_parameters, ...text.rope_scaling };
  const ropeType = rope.rope_type ?? rope.type ?? 'default';
  const headDim = text.hidden_size / heads;
  const mropeSection = rope.mrope_section ?? defaultMropeSection;
  const bad = (what: string): never => {
    throw new GalvaniError('BAD_CONFIG', `${where}: ${what}`);
  };
  if (text.hidden_act !== 'silu') unsupported(where, `hidden_act "${text.hidden_act}"; expected "silu"`);
  if (ropeType !== 'default' && ropeType !== 'mrope') {
    unsupported(where, `rope type "${ropeType}"; expected "default" or "mrope"`);
  }
  const windowed =
    text.layer_types?.some((type) => type !== 'full_attention') ??
    (text.use_sliding_window === true &&
      text.sliding_window !== null &&
      (text.max_window_layers ?? 80) < text.num_hidden_layers);
  if (windowed) unsupported(where, 'sliding-window decoder layers; expected full attention in every layer');
  if (!Number.isInteger(headDim)) bad(`hidden_size ${text.hidden_size} is not a multiple of ${heads} heads`);
  if (heads % kvHeads !== 0) bad(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`);
  const sum = mropeSection.reduce((a, b) => a + b, 0);
  if (sum * 2 !== headDim) {
    bad(`mrope_section [${mropeSection.join(', ')}]: expected a sum of head dim / 2 = ${headDim / 2}, got ${sum}`);
  }
  return {
    layers: text.num_hidden_layers,
    width: text.hidden_size,
    heads,
    kvHeads,
    headDim,
    mlpWidth: text.intermediate_size,
    vocab: text.vocab_size,
    rmsEps: text.rms_norm_eps,
    ropeTheta: rope.rope_theta ?? text.rope_theta ?? 1e6,
    mropeSection,
    tiedHead,
  };
}

function readVision(value: unknown, decoderWidth: number, where: string): VisionConfig | null {
  if (value === undefined || value === null) return null;
  const vision = parse(visionSchema, value, `${where}: vision_config`);
  const bad = (what: string): never => {
    throw new GalvaniError('BAD_CONFIG', `${where}: vision_config: ${what}`);
  };
  if (vision.hidden_act !== 'silu') unsupported(where, `vision hidden_act "${vision.hidden_act}"; expected "silu"`);
  if (vision.hidden_size % vision.num_heads !== 0 || (vision.hidden_size / vision.num_heads) % 4 !== 0) {
    bad(`hidden_size ${vision.hidden_size} over ${vision.num_heads} heads: the head dim must be a multiple of 4`);
  }
  if (vision.out_hidden_size !== decoderWidth) {
    bad(`out_hidden_size: expected the decoder's hidden_size ${decoderWidth}, got ${vision.out_hidden_size}`);
  }
  const windowUnit = vision.patch_size * vision.spatial_merge_size;
  if (vision.window_size < windowUnit) {
    bad(`window_size: expected at least patch_size · spatial_merge_size = ${windowUnit}, got ${vision.window_size}`);
  }
  // transformers reads in_channels only; the published configs spell it in_chans, with the default's value 3
  const channels = vision.in_channels ?? vision.in_chans ?? 3;
  return {
    layers: vision.depth,
    width: vision.hidden_size,
    heads: vision.num_heads,
    mlpWidth: vision.intermediate_size,
    patchDim: channels * vision.temporal_patch_size * vision.patch_size ** 2,
    mergeSize: vision.spatial_merge_size,
    windowSize: vision.window_size,
    patchSize: vision.patch_size,
    fullAttentionLayers: vision.fullatt_block_indexes.filter((index) => index < vision.depth),
    outWidth: vision.out_hidden_size,
    rmsEps: 1e-6, // fixed in transformers' modelling code, not configurable
  };
}

function readConfig(config: JsonObject, generation: JsonObject | undefined, where: string): ModelConfig {
  const top = parse(topSchema, config, where);
  const nested = config.text_config;
  // flat: the text keys stand at the top level, as on the Hub
  const text = parse(textSchema, nested ?? config, nested ? `${where}: text_config` : where);
  // saves of transformers before 5 keep the tie in text_config only
  const tiedHead = top.tie_word_embeddings || (nested !== undefined && text.tie_word_embeddings === true);
  const decoder = readDecoder(text, tiedHead, where);
  const generationEos = parse(eosIds, generation?.eos_token_id, `${where}: generation_config eos_token_id`);
  const stops = [top.eos_token_id, text.eos_token_id, generationEos].flat().filter((id) => typeof id === 'number');
  return {
    family: 'qwen2_5_vl',
    decoder,
    vision: readVision(config.vision_config, decoder.width, where),
    imageTokenId: top.image_token_id,
    visionStartTokenId: top.vision_start_token_id,
    visionEndTokenId: top.vision_end_token_id,
    stopTokens: [...new Set(stops)],
  };
}

/** Canonical name of a decoder layer's tensor → its path below the layer. */
const decoderTensors: readonly (readonly [canonical: string, path: string, module: TensorModule])[] = [
  ['norm1', 'input_layernorm.weight', 'norm1'],
  ['q.weight', 'self_attn.q_proj.weight', 'q'],
  ['q.bias', 'self_attn.q_proj.bias', 'q'],
  ['k.weight', 'self_attn.k_proj.weight', 'k'],
  ['k.bias', 'self_attn.k_proj.bias', 'k'],
  ['v.weight', 'self_attn.v_proj.weight', 'v'],
  ['v.bias', 'self_attn.v_proj.bias', 'v'],
  ['o.weight', 'self_attn.o_proj.weight', 'o'],
  ['norm2', 'post_attention_layernorm.weight', 'norm2'],
  ['gate', 'mlp.gate_proj.weight', 'gate'],
  ['up', 'mlp.up_proj.weight', 'up'],
  ['down', 'mlp.down_proj.weight', 'down'],
];

const visionTensors: readonly (readonly [canonical: string, path: string, module: TensorModule])[] = [
  ['norm1', 'norm1.weight', 'norm1'],
  ['norm2', 'norm2.weight', 'norm2'],
  ['qkv.weight', 'attn.qkv.weight', 'qkv'],
  ['qkv.bias', 'attn.qkv.bias', 'qkv'],
  ['proj.weight', 'attn.proj.weight', 'proj'],
  ['proj.bias', 'attn.proj.bias', 'proj'],
  ['gate.weight', 'mlp.gate_proj.weight', 'gate'],
  ['gate.bias', 'mlp.gate_proj.bias', 'gate'],
  ['up.weight', 'mlp.up_proj.weight', 'up'],
  ['up.bias', 'mlp.up_proj.bias', 'up'],
  ['down.weight', 'mlp.down_proj.weight', 'down'],
  ['down.bias', 'mlp.down_proj.bias', 'down'],
];

/** Canonical name → path below the vision tower, and its place. */
const visionSingles: readonly (readonly [string, string, TensorDescription['tower'], TensorModule])[] = [
  ['vision.patch_embed', 'patch_embed.proj.weight', 'vision', 'patch_embed'],
  ['vision.merger.norm', 'merger.ln_q.weight', 'projector', 'norm'],
  ['vision.merger.fc1.weight', 'merger.mlp.0.weight', 'projector', 'fc1'],
  ['vision.merger.fc1.bias', 'merger.mlp.0.bias', 'projector', 'fc1'],
  ['vision.merger.fc2.weight', 'merger.mlp.2.weight', 'projector', 'fc2'],
  ['vision.merger.fc2.bias', 'merger.mlp.2.bias', 'projector', 'fc2'],
];

// Longest first: 'model.' is also a prefix of the others. Hub layout: visual.*, model.*; since 4.52: model.visual.*,
// model.language_model.*; text-only saves of a VLM's decoder: language_model.model.*.
const decoderPrefixes = ['model.language_model.', 'language_model.model.', 'model.'] as const;
const visionPrefixes = ['model.visual.', 'visual.'] as const;
const headPaths = ['lm_head.weight', 'language_model.lm_head.weight', 'model.lm_head.weight'] as const;

/** Canonical names of a model of this shape, each with the paths it may have on disk. */
function expectedTensors(config: ModelConfig): Map<string, readonly string[]> {
  const expected = new Map<string, readonly string[]>();
  const decoder = (canonical: string, path: string) =>
    expected.set(
      canonical,
      decoderPrefixes.map((prefix) => prefix + path),
    );
  decoder('embed', 'embed_tokens.weight');
  decoder('norm', 'norm.weight');
  if (!config.decoder.tiedHead) expected.set('head', headPaths);
  for (let layer = 0; layer < config.decoder.layers; layer++) {
    for (const [name, path] of decoderTensors) decoder(`layers.${layer}.${name}`, `layers.${layer}.${path}`);
  }
  if (config.vision) {
    const vision = (canonical: string, path: string) =>
      expected.set(
        canonical,
        visionPrefixes.map((prefix) => prefix + path),
      );
    for (const [name, path] of visionSingles) vision(name, path);
    for (let block = 0; block < config.vision.layers; block++) {
      for (const [name, path] of visionTensors) vision(`vision.blocks.${block}.${name}`, `blocks.${block}.${path}`);
    }
  }
  return expected;
}

function tensorNames(paths: readonly string[], config: ModelConfig, where = 'checkpoint'): TensorNames {
  const present = new Set(paths);
  const names: Record<string, string> = {};
  const missing: { canonical: string; candidates: readonly string[] }[] = [];
  for (const [canonical, candidates] of expectedTensors(config)) {
    const path = candidates.find((candidate) => present.has(candidate));
    if (path === undefined) missing.push({ canonical, candidates });
    else names[canonical] = path;
  }
  const first = missing[0];
  if (!first) return names;
  // a name that another tensor already answers to is not a misspelling of this one
  const claimed = new Set(Object.values(names));
  const free = paths.filter((path) => !claimed.has(path));
  const near = closest(first.candidates, free.length > 0 ? free : paths);
  const others = missing.length > 1 ? ` (and ${missing.length - 1} more)` : '';
  throw new GalvaniError(
    'TENSOR_MISSING',
    `${where}: tensor ${first.canonical}${others} is missing: expected ${first.candidates.join(' or ')}; ` +
      (near === undefined ? 'the checkpoint holds no tensors' : `closest existing name: ${near}`),
    { details: { missing: missing.map(({ canonical }) => canonical), closest: near } },
  );
}

const decoderModules = new Map(decoderTensors.map(([, path, module]) => [path, module]));
const visionModules = new Map(visionTensors.map(([, path, module]) => [path, module]));
const visionPlaces = new Map(visionSingles.map(([, path, tower, module]) => [path, { tower, module }]));

function partOf(path: string): TensorDescription['part'] {
  if (path.endsWith('.weight')) return 'weight';
  return path.endsWith('.bias') ? 'bias' : 'other';
}

function describeVision(rest: string, part: TensorDescription['part']): TensorDescription {
  const place = visionPlaces.get(rest);
  if (place) return { ...place, layer: null, part };
  const block = /^blocks\.(\d+)\.(.+)$/.exec(rest);
  if (block) {
    return { tower: 'vision', layer: Number(block[1]), module: visionModules.get(block[2]!) ?? 'other', part };
  }
  return { tower: rest.startsWith('merger.') ? 'projector' : 'vision', layer: null, module: 'other', part };
}

function describeTensor(path: string): TensorDescription {
  const part = partOf(path);
  if ((headPaths as readonly string[]).includes(path)) return { tower: 'head', layer: null, module: 'head', part };
  const visionPrefix = visionPrefixes.find((prefix) => path.startsWith(prefix));
  if (visionPrefix) return describeVision(path.slice(visionPrefix.length), part);
  const decoderPrefix = decoderPrefixes.find((prefix) => path.startsWith(prefix));
  if (!decoderPrefix) return { tower: 'other', layer: null, module: 'other', part };
  const rest = path.slice(decoderPrefix.length);
  if (rest === 'embed_tokens.weight') return { tower: 'embed', layer: null, module: 'embed', part };
  if (rest === 'norm.weight') return { tower: 'norm', layer: null, module: 'norm', part };
  const layer = /^layers\.(\d+)\.(.+)$/.exec(rest);
  if (!layer) return { tower: 'other', layer: null, module: 'other', part };
  return { tower: 'decoder', layer: Number(layer[1]), module: decoderModules.get(layer[2]!) ?? 'other', part };
}

export const qwen25Vl: ModelFamily = {
  name: 'qwen2_5_vl',
  modelTypes: ['qwen2_5_vl', 'qwen2_5_vl_text'],
  readConfig,
  tensorNames,
  describeTensor,
};
