/** What the rest of the house knows about a model family: numbers for the engine, names of its tensors. */
import type { JsonObject } from '../checkpoint/json-file.js';
import type { Tower } from '../types.js';

export interface DecoderConfig {
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly mlpWidth: number;
  /** Rows of the embedding; may exceed the tokenizer's vocabulary. */
  readonly vocab: number;
  readonly rmsEps: number;
  readonly ropeTheta: number;
  /** Rotary frequencies turned by the (time, height, width) position; sums to headDim / 2. */
  readonly mropeSection: readonly [time: number, height: number, width: number];
  /** The head shares the embedding's weights. */
  readonly tiedHead: boolean;
}

export interface VisionConfig {
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly mlpWidth: number;
  /** channels · temporal patch · patch² */
  readonly patchDim: number;
  /** Patches per side of one image token. */
  readonly mergeSize: number;
  /** Side of an attention window in pixels. */
  readonly windowSize: number;
  /** Side of a patch in pixels. */
  readonly patchSize: number;
  /** Blocks that attend over the whole image; the others within windows. */
  readonly fullAttentionLayers: readonly number[];
  /** Width of the merger's output = decoder width. */
  readonly outWidth: number;
  readonly rmsEps: number;
}

/** Plain numbers handed to the native engine. */
export interface ModelConfig {
  readonly family: 'qwen2_5_vl';
  readonly decoder: DecoderConfig;
  /** null: a text-only checkpoint. */
  readonly vision: VisionConfig | null;
  readonly imageTokenId: number;
  readonly visionStartTokenId: number;
  readonly visionEndTokenId: number;
  /** Ids that end a generation: eos of config.json and generation_config.json. */
  readonly stopTokens: readonly number[];
}

/** Canonical name → tensor path in one checkpoint. */
export type TensorNames = Readonly<Record<string, string>>;

export type TensorModule =
  | 'embed'
  | 'head'
  | 'norm' // final norm, or the merger's
  | 'norm1' // before attention
  | 'norm2' // before the MLP
  | 'q'
  | 'k'
  | 'v'
  | 'o'
  | 'gate'
  | 'up'
  | 'down'
  | 'patch_embed'
  | 'qkv'
  | 'proj'
  | 'fc1'
  | 'fc2'
  | 'other';

/** Where a tensor sits. Every path has one; what the family does not name has module 'other'. */
export interface TensorDescription {
  readonly tower: Tower | 'embed' | 'norm' | 'head' | 'other';
  readonly layer: number | null;
  readonly module: TensorModule;
  readonly part: 'weight' | 'bias' | 'other';
}

export interface ModelFamily {
  readonly name: ModelConfig['family'];
  /** `model_type` values of config.json that this family reads. */
  readonly modelTypes: readonly string[];
  /** `where` names the file in errors. @throws BAD_CONFIG, UNSUPPORTED */
  readonly readConfig: (config: JsonObject, generation: JsonObject | undefined, where: string) => ModelConfig;
  /** `where` names the folder in errors. @throws TENSOR_MISSING */
  readonly tensorNames: (paths: readonly string[], config: ModelConfig, where?: string) => TensorNames;
  readonly describeTensor: (path: string) => TensorDescription;
}
