/**
 * Where a tensor of any checkpoint sits, read from its name: tower, layer, component, and a key under which checkpoints
 * of different layouts (model.visual.… and visual.…) agree.
 */
import { qwen25Vl } from '../models/qwen2_5_vl.js';

export const towers = ['decoder', 'vision', 'projector', 'embed', 'norm', 'head', 'other'] as const;
export type TowerName = (typeof towers)[number];
export const components = ['attn', 'mlp', 'norm', 'other'] as const;
export type ComponentName = (typeof components)[number];

export interface Place {
  readonly name: string;
  readonly key: string;
  readonly tower: TowerName;
  readonly layer: number | null;
  readonly component: ComponentName;
}

const layerPattern = /(^|\.)(layers|blocks|layer|h)\.(\d+)\./;
const visionPattern = /(^|\.)(vision|visual|vision_tower|vision_model|vit|image_encoder)\./;
const projectorPattern = /(^|\.)(merger|multi_modal_projector|mm_projector|connector|aligner)\./;
const embedNames = /(^|\.)(embed_tokens|wte|embed_in|tok_embeddings|word_embeddings)\.weight$/;
const headNames = /(^|\.)(lm_head|embed_out|output)\.(weight|bias)$/;
const normNames = /^(?:.*\.)?(norm|ln_f|final_layer_norm|final_layernorm)\.(weight|bias)$/;

function componentOf(rest: string): ComponentName {
  if (/norm|(^|\.)ln_/.test(rest)) return 'norm';
  if (/attn|attention|(^|\.)(q|k|v|o|qkv)_?(proj)?\./.test(rest)) return 'attn';
  return /mlp|ffn|feed_forward|experts|(^|\.)(fc1|fc2|gate_proj|up_proj|down_proj)\./.test(rest) ? 'mlp' : 'other';
}

/** For names the families do not describe. */
function guess(name: string): { tower: TowerName; layer: number | null } {
  const layer = layerPattern.exec(name);
  const number = layer ? Number(layer[3]) : null;
  if (projectorPattern.test(name)) return { tower: 'projector', layer: null };
  if (visionPattern.test(name)) return { tower: 'vision', layer: number };
  if (number !== null) return { tower: 'decoder', layer: number };
  if (embedNames.test(name)) return { tower: 'embed', layer: null };
  if (headNames.test(name)) return { tower: 'head', layer: null };
  return { tower: normNames.test(name) ? 'norm' : 'other', layer: null };
}

export function placeOf(name: string): Place {
  const described = qwen25Vl.describeTensor(name);
  const { tower, layer } = described.tower === 'other' ? guess(name) : described;
  const match = layer === null ? null : layerPattern.exec(name);
  const rest = match ? name.slice(match.index + match[0].length) : name;
  const component = match ? componentOf(rest) : 'other';
  const part = /[^.]+$/.exec(name)?.[0] ?? name;
  let key: string;
  if (layer !== null) key = `${tower}.${layer}.${rest}`;
  else if (tower === 'embed' || tower === 'norm' || tower === 'head') key = `${tower}.${part}`;
  else if (tower === 'vision' || tower === 'projector') key = `${tower}.${name.replace(/^(model\.)?(visual\.)?/, '')}`;
  else key = name;
  return { name, key, tower, layer, component };
}

/** The same tensor of another layer. */
export function atLayer(name: string, layer: number): string {
  return name.replace(layerPattern, (_, before: string, word: string) => `${before}${word}.${layer}.`);
}
export function keyAtLayer(place: Place, layer: number): string {
  return place.layer === null ? place.key : `${place.tower}.${layer}.${place.key.split('.').slice(2).join('.')}`;
}

/** Tensors of a vocabulary's rows. */
export const hasVocabulary = (place: Place): boolean => place.tower === 'embed' || place.tower === 'head';
