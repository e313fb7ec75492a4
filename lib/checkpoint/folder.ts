/** A checkpoint folder without its tensors: what it is, which weight files it has. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { GalvaniError } from '../errors.js';
import type { ModelConfig } from '../models/family.js';
import { familyOfConfig } from '../models/registry.js';
import { type JsonObject, readJson, readOptionalJson } from './json-file.js';

export interface CheckpointFolder {
  /** Absolute path. */
  readonly dir: string;
  /** Last part of the path, for tables. */
  readonly name: string;
  readonly config: ModelConfig;
  readonly configJson: JsonObject;
  readonly generationConfig: JsonObject | undefined;
  /** Absolute paths of the safetensors files, sorted; all exist. */
  readonly weightFiles: readonly string[];
}

const INDEX = 'model.safetensors.index.json';
const SINGLE = 'model.safetensors';

function requireFolder(dir: string): void {
  const stats = statSync(dir, { throwIfNoEntry: false });
  if (!stats) throw new GalvaniError('FILE_NOT_FOUND', `${dir}: no such checkpoint folder`, { details: { path: dir } });
  if (!stats.isDirectory()) {
    throw new GalvaniError('BAD_ARGUMENT', `${dir}: expected a checkpoint folder, got a file`);
  }
}

function shardsOf(index: JsonObject, path: string): string[] {
  const map = index.weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new GalvaniError('BAD_CONFIG', `${path}: expected an object "weight_map"`);
  }
  const files = new Set<string>();
  for (const [tensor, file] of Object.entries(map)) {
    // a shard is a file of this folder: nothing may lead out of it
    if (typeof file !== 'string' || file === '' || basename(file) !== file) {
      throw new GalvaniError(
        'BAD_CONFIG',
        `${path}: ${tensor}: expected a file name without a path, got ${JSON.stringify(file)}`,
      );
    }
    files.add(file);
  }
  return [...files].sort();
}

function findWeights(dir: string): string[] {
  const indexPath = join(dir, INDEX);
  const index = readOptionalJson(indexPath);
  if (!index) {
    const path = join(dir, SINGLE);
    if (existsSync(path)) return [path];
    const others = readdirSync(dir).filter((file) => /\.(safetensors|bin|pt|pth|gguf)$/.test(file));
    const hint = others.length > 0 ? `; the folder holds ${others.join(', ')}` : '';
    throw new GalvaniError('FILE_NOT_FOUND', `${dir}: expected ${SINGLE} or ${INDEX}${hint}`, {
      details: { path },
    });
  }
  return shardsOf(index, indexPath).map((file) => {
    const path = join(dir, file);
    if (existsSync(path)) return path;
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: a shard that ${INDEX} names does not exist`, {
      details: { path },
    });
  });
}

/**
 * Reads config.json and generation_config.json of a Hugging Face folder and finds its weight files.
 * @throws FILE_NOT_FOUND (folder, config.json, weights or a shard, by name), BAD_CONFIG, UNSUPPORTED (model family)
 */
export function readFolder(dir: string): CheckpointFolder {
  const root = resolve(dir);
  requireFolder(root);
  const configPath = join(root, 'config.json');
  const configJson = readJson(configPath);
  const generationConfig = readOptionalJson(join(root, 'generation_config.json'));
  const config = familyOfConfig(configJson, configPath).readConfig(configJson, generationConfig, configPath);
  return { dir: root, name: basename(root), config, configJson, generationConfig, weightFiles: findWeights(root) };
}
