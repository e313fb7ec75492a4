/** The checkpoints a recipe names: found, opened, and their tensors placed. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { type JsonObject, readJson } from '../checkpoint/json-file.js';
import { type Checkpoint, openCheckpoint } from '../checkpoint/safetensors.js';
import { GalvaniError } from '../errors.js';
import type { DType } from '../native.js';
import { type Adapter, openAdapter } from './adapter.js';
import { type Place, placeOf, type TowerName } from './layout.js';
import { type ModelRef, refKey } from './recipe.js';

export interface OpenModel {
  readonly key: string;
  readonly dir: string;
  readonly checkpoint: Checkpoint;
  readonly config: JsonObject;
  /** By layout key. */
  readonly places: ReadonlyMap<string, Place>;
  /** Layers per tower. */
  readonly layers: Readonly<Partial<Record<TowerName, number>>>;
  readonly adapter?: Adapter | undefined;
}

/** Snapshot of "owner/name" in the local cache of huggingface_hub, which `hf download` fills. */
function cached(id: string): string | undefined {
  if (!/^[\w.-]+\/[\w.-]+$/.test(id)) return undefined;
  const home = process.env.HF_HUB_CACHE ?? join(process.env.HF_HOME ?? join(homedir(), '.cache', 'huggingface'), 'hub');
  const repo = join(home, `models--${id.replace('/', '--')}`);
  try {
    return join(repo, 'snapshots', readFileSync(join(repo, 'refs', 'main'), 'utf8').trim());
  } catch {
    return undefined;
  }
}

/** Relative paths start at the recipe's folder, else at the working directory. @throws FILE_NOT_FOUND */
export function findFolder(path: string, recipeDir: string): string {
  const tried = isAbsolute(path) ? [path] : [resolve(recipeDir, path), resolve(path)];
  const found = [...tried, cached(path)].find((dir) => dir !== undefined && existsSync(dir));
  if (found === undefined) {
    const hub = /^[\w.-]+\/[\w.-]+$/.test(path)
      ? `; nothing is downloaded: fetch a Hub model with 'hf download ${path}'`
      : '';
    throw new GalvaniError(
      'FILE_NOT_FOUND',
      `${path}: no such folder (looked for ${[...new Set(tried)].join(', ')})${hub}`,
    );
  }
  if (!statSync(found).isDirectory())
    throw new GalvaniError('BAD_ARGUMENT', `${found}: expected a checkpoint folder, got a file`);
  return found;
}

function placesOf(checkpoint: Checkpoint): Map<string, Place> {
  const places = new Map<string, Place>();
  for (const name of checkpoint.names()) {
    const place = placeOf(name);
    const other = places.get(place.key);
    if (other) {
      throw new GalvaniError(
        'BAD_FILE',
        `${checkpoint.path}: tensors ${other.name} and ${name} are the same part of the model (${place.key})`,
      );
    }
    places.set(place.key, place);
  }
  return places;
}

function layerCounts(places: ReadonlyMap<string, Place>): OpenModel['layers'] {
  const layers: Partial<Record<TowerName, number>> = {};
  for (const { tower, layer } of places.values()) {
    if (layer !== null) layers[tower] = Math.max(layers[tower] ?? 0, layer + 1);
  }
  return layers;
}

/** @throws FILE_NOT_FOUND, BAD_FILE, BAD_CONFIG, and those of openAdapter */
export function openModel(ref: ModelRef, recipeDir: string): OpenModel {
  const dir = findFolder(ref.model, recipeDir);
  const checkpoint = openCheckpoint(dir);
  const places = placesOf(checkpoint);
  return {
    key: refKey(ref),
    dir,
    checkpoint,
    config: readJson(join(dir, 'config.json')),
    places,
    layers: layerCounts(places),
    adapter: ref.lora === undefined ? undefined : openAdapter(findFolder(ref.lora, recipeDir), places, ref.loraScale),
  };
}

/** Type that holds the values of both. */
const promotions: readonly (readonly [DType, readonly DType[]])[] = [
  ['F8_E4M3', ['F8_E4M3']],
  ['F8_E5M2', ['F8_E5M2']],
  ['F16', ['F16', 'F8_E4M3', 'F8_E5M2']],
  ['BF16', ['BF16', 'F8_E4M3', 'F8_E5M2']],
  ['F32', ['F32', 'BF16', 'F16', 'F8_E4M3', 'F8_E5M2']],
  ['F64', ['F64', 'F32', 'BF16', 'F16', 'F8_E4M3', 'F8_E5M2']],
];
export function promoted(dtypes: readonly DType[]): DType {
  return promotions.find(([, holds]) => dtypes.every((dtype) => holds.includes(dtype)))?.[0] ?? dtypes[0]!;
}

const dtypeNames: Readonly<Record<string, DType>> = {
  float64: 'F64',
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  float8_e4m3fn: 'F8_E4M3',
  float8_e5m2: 'F8_E5M2',
};
/** torch's name of a stored type. */
export const torchName = (dtype: DType): string | undefined =>
  Object.entries(dtypeNames).find(([, stored]) => stored === dtype)?.[0];

/** @throws BAD_CONFIG */
export function parseDtype(name: string, where: string): DType {
  const dtype = dtypeNames[name.replace(/^torch\./, '')] ?? Object.values(dtypeNames).find((stored) => stored === name);
  if (dtype) return dtype;
  throw new GalvaniError(
    'BAD_CONFIG',
    `${where}: dtype: expected ${Object.keys(dtypeNames).join(', ')}, got '${name}'`,
  );
}

export const isFloat = (dtype: DType): boolean => /^(F|BF)/.test(dtype);
export const elements = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
