/** What the tensors of a checkpoint are, without a model that runs: from its family, or from the names alone. */
import { join, resolve } from 'node:path';
import type { DecoderConfig, ModelFamily, TensorDescription } from '../models/family.js';
import { describeByName } from '../models/generic.js';
import { families } from '../models/registry.js';
import { readFolder } from './folder.js';
import { type JsonObject, readOptionalJson } from './json-file.js';
import { type Checkpoint, openCheckpoint } from './safetensors.js';

export interface CheckpointLayout {
  readonly dir: string;
  readonly checkpoint: Checkpoint;
  /** `model_type` of config.json; null without one. */
  readonly modelType: string | null;
  /** null: a family galvani does not run; places are read from the names. */
  readonly family: ModelFamily['name'] | null;
  /** null where the family is unknown. */
  readonly decoder: DecoderConfig | null;
  /** Decoder layers. */
  readonly layers: number;
  readonly describe: (stored: string) => TensorDescription;
  /**
   * The name under which checkpoints of one family agree, whichever version of transformers wrote them:
   * "decoder.3.q.weight"; the stored name where the family knows no better.
   */
  readonly canonical: (stored: string) => string;
}

/** Opens a folder or one .safetensors file. @throws what openCheckpoint and reading config.json throw */
export function readLayout(dir: string): CheckpointLayout {
  const checkpoint = openCheckpoint(dir);
  const config: JsonObject = readOptionalJson(join(dir, 'config.json')) ?? {};
  const modelType = typeof config.model_type === 'string' ? config.model_type : null;
  const family = families.find(({ modelTypes }) => modelType !== null && modelTypes.includes(modelType));
  const base = { dir: resolve(dir), checkpoint, modelType };
  if (family) {
    const { decoder } = readFolder(dir).config;
    const describe = family.describeTensor;
    const canonical = (stored: string): string => canonicalOf(family, stored);
    return { ...base, family: family.name, decoder, layers: decoder.layers, describe, canonical };
  }
  const layers = checkpoint.names().reduce((most, name) => {
    const { tower, layer } = describeByName(name);
    return tower === 'decoder' && layer !== null ? Math.max(most, layer + 1) : most;
  }, 0);
  return { ...base, family: null, decoder: null, layers, describe: describeByName, canonical: (stored) => stored };
}

/** "decoder.3.q.weight"; the stored name where the family knows no better. */
export function canonicalOf(family: Pick<ModelFamily, 'describeTensor'>, stored: string): string {
  const { tower, layer, module, part } = family.describeTensor(stored);
  if (tower === 'other' || module === 'other' || part === 'other') return stored;
  return [tower, layer, module, part].filter((piece) => piece !== null).join('.');
}
