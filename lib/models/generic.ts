/** Where a tensor sits, read from its name alone: for comparing checkpoints of families galvani does not run. */
import type { TensorDescription, TensorModule } from './family.js';

const vision = /(^|\.)(visual|vision_tower|vision_model|vision_encoder|image_encoder|vit)\./;
const projector =
  /(^|\.)(multi_modal_projector|mm_projector|vision_projector|projector|connector|aligner|merger|mlp1)\./;
const numbered = /(?:^|\.)(?:layers|layer|blocks|block|h|resblocks)\.(\d+)\.(.+)$/;

/** Last named part before ".weight" → module, under the names that most families use. */
const modules: Readonly<Record<string, TensorModule>> = {
  q_proj: 'q',
  k_proj: 'k',
  v_proj: 'v',
  o_proj: 'o',
  out_proj: 'o',
  gate_proj: 'gate',
  up_proj: 'up',
  down_proj: 'down',
  qkv: 'qkv',
  qkv_proj: 'qkv',
  proj: 'proj',
  fc1: 'fc1',
  fc2: 'fc2',
  linear_fc1: 'fc1',
  linear_fc2: 'fc2',
  input_layernorm: 'norm1',
  layer_norm1: 'norm1',
  norm1: 'norm1',
  post_attention_layernorm: 'norm2',
  layer_norm2: 'norm2',
  norm2: 'norm2',
};

export function describeByName(path: string): TensorDescription {
  const part = path.endsWith('.weight') ? 'weight' : path.endsWith('.bias') ? 'bias' : 'other';
  const last = path
    .replace(/\.(weight|bias)$/, '')
    .split('.')
    .at(-1)!;
  const layer = numbered.exec(path);
  const module = modules[last] ?? 'other';
  if (projector.test(path)) return { tower: 'projector', layer: null, module, part };
  if (vision.test(path)) {
    const own = last === 'patch_embed' || last === 'patch_embedding' || /patch_embed\./.test(path);
    return { tower: 'vision', layer: layer ? Number(layer[1]) : null, module: own ? 'patch_embed' : module, part };
  }
  if (layer) return { tower: 'decoder', layer: Number(layer[1]), module, part };
  if (/^(embed_tokens|wte|word_embeddings|tok_embeddings)$/.test(last))
    return { tower: 'embed', layer: null, module: 'embed', part };
  if (last === 'lm_head' || last === 'output') return { tower: 'head', layer: null, module: 'head', part };
  if (/^(norm|ln_f|final_layernorm|final_layer_norm)$/.test(last))
    return { tower: 'norm', layer: null, module: 'norm', part };
  return { tower: 'other', layer: null, module: 'other', part };
}
