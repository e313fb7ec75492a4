/** config.json of a merged model: the host's, with what the merge changed. */
import type { JsonObject } from '../checkpoint/json-file.js';
import type { DType } from '../native.js';
import { type OpenModel, torchName } from './models.js';

export interface OutputFacts {
  readonly decoderLayers: number;
  readonly visionLayers: number;
  /** Of each output decoder layer, the layer of its first source. */
  readonly sourceLayers: readonly number[];
  /** Rows of embedding and head, where a tokenizer policy sets them. */
  readonly vocabulary: number | undefined;
  readonly dtype: DType | undefined;
  readonly note: (text: string) => void;
}

const headName = /(^|\.)lm_head\.weight$/;

export function outputConfig(
  host: OpenModel,
  tensors: readonly { readonly name: string }[],
  facts: OutputFacts,
): JsonObject {
  const config = structuredClone(host.config) as Record<string, unknown>;
  const text = (config.text_config ?? config) as Record<string, unknown>;
  const places = [...new Set([config, text])];
  const set = (key: string, value: unknown): void => {
    for (const place of places) if (place[key] !== undefined) place[key] = value;
  };
  const { decoderLayers, visionLayers } = facts;
  if (decoderLayers !== (host.layers.decoder ?? 0)) {
    set('num_hidden_layers', decoderLayers);
    if (Array.isArray(text.layer_types)) {
      const types = text.layer_types as unknown[];
      text.layer_types = facts.sourceLayers.map((layer) => types[layer] ?? types[0]);
    }
    facts.note(`decoder layers: ${host.layers.decoder} in ${host.key}, ${decoderLayers} in the output`);
  }
  const vision = config.vision_config as Record<string, unknown> | undefined;
  if (vision && visionLayers > 0 && visionLayers !== host.layers.vision) {
    for (const key of ['depth', 'num_hidden_layers']) if (vision[key] !== undefined) vision[key] = visionLayers;
  }
  if (facts.vocabulary !== undefined) set('vocab_size', facts.vocabulary);
  const isTied = places.some((place) => place.tie_word_embeddings === true);
  if (isTied && tensors.some(({ name }) => headName.test(name)) && !host.places.has('head.weight')) {
    set('tie_word_embeddings', false);
    config.tie_word_embeddings = false;
    facts.note('the head is tied to the embedding in some models only; the output has a head of its own');
  }
  const dtype = facts.dtype && torchName(facts.dtype);
  if (dtype) for (const key of ['torch_dtype', 'dtype']) set(key, dtype);
  return config;
}
