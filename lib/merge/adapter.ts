/** LoRA adapters in PEFT's layout: which weight each pair of factors changes, and by how much. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readJson } from '../checkpoint/json-file.js';
import { type Checkpoint, openCheckpoint } from '../checkpoint/safetensors.js';
import { GalvaniError } from '../errors.js';
import { closest } from '../models/names.js';
import { type Place, placeOf } from './layout.js';

export interface AdapterFactors {
  readonly a: string;
  readonly b: string;
  readonly scale: number;
  readonly transposed: boolean;
}

export interface Adapter {
  readonly dir: string;
  readonly checkpoint: Checkpoint;
  /** Stored name of a weight of the model → its factors. */
  readonly factors: ReadonlyMap<string, AdapterFactors>;
  /** Stored name of a tensor of the model → tensor of the adapter that takes its place. */
  readonly replaced: ReadonlyMap<string, string>;
}

const factorName = /^(.*)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?$/;

function patternValue(patterns: unknown, module: string): number | undefined {
  for (const [pattern, value] of Object.entries((patterns ?? {}) as Record<string, unknown>)) {
    if (typeof value !== 'number') continue;
    if (module === pattern || module.endsWith(`.${pattern}`)) return value;
    try {
      if (new RegExp(`^(?:.*\\.)?(?:${pattern})$`).test(module)) return value;
    } catch {
      // not a regular expression: only the plain comparison above
    }
  }
  return undefined;
}

/** @throws FILE_NOT_FOUND, BAD_CONFIG, UNSUPPORTED (DoRA, other kinds), TENSOR_MISSING naming the closest weight */
export function openAdapter(dir: string, places: ReadonlyMap<string, Place>, factor: number): Adapter {
  const configPath = join(dir, 'adapter_config.json');
  const config = readJson(configPath);
  if (config.peft_type !== undefined && config.peft_type !== 'LORA') {
    throw new GalvaniError('UNSUPPORTED', `${configPath}: peft_type ${String(config.peft_type)}; expected LORA`);
  }
  if (config.use_dora === true) throw new GalvaniError('UNSUPPORTED', `${configPath}: DoRA adapters are not applied`);
  const alphaAll = config.lora_alpha;
  if (typeof alphaAll !== 'number')
    throw new GalvaniError('BAD_CONFIG', `${configPath}: lora_alpha: expected a number`);
  const path = join(dir, 'adapter_model.safetensors');
  if (!existsSync(path))
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: no such file (only safetensors adapters are read)`);
  const checkpoint = openCheckpoint(path);
  const byName = new Map([...places.values()].map((place) => [place.name, place]));
  const weightOf = (module: string, part: string): string => {
    const name = `${module.replace(/\.base_layer$/, '')}.${part}`;
    const found = byName.get(name) ?? places.get(placeOf(name).key);
    if (found) return found.name;
    const near = closest([name], [...byName.keys()]);
    throw new GalvaniError(
      'TENSOR_MISSING',
      `${path}: no weight ${name} to apply it to; closest existing name: ${near}`,
    );
  };
  const factors = new Map<string, { a?: string; b?: string; scale: number; transposed: boolean }>();
  const replaced = new Map<string, string>();
  for (const name of checkpoint.names()) {
    const inner = name.replace(/^base_model\.model\./, '');
    if (/lora_magnitude_vector/.test(inner))
      throw new GalvaniError('UNSUPPORTED', `${path}: ${name}: DoRA is not applied`);
    const match = factorName.exec(inner);
    if (!match) {
      const plain = inner.replace('.modules_to_save.default', '').replace('.base_layer', '');
      const cut = plain.lastIndexOf('.');
      replaced.set(weightOf(plain.slice(0, cut), plain.slice(cut + 1)), name);
      continue;
    }
    const [, module, embedding, side] = match as unknown as [string, string, string | undefined, 'A' | 'B'];
    const weight = weightOf(module, 'weight');
    const entry = factors.get(weight) ?? {
      scale: 0,
      transposed: embedding !== undefined || config.fan_in_fan_out === true,
    };
    if (side === 'A') {
      const rank = checkpoint.info(name).shape[0] ?? 0;
      const alpha = patternValue(config.alpha_pattern, module) ?? alphaAll;
      entry.a = name;
      entry.scale = (factor * alpha) / (config.use_rslora === true ? Math.sqrt(rank) : rank);
    } else {
      entry.b = name;
    }
    factors.set(weight, entry);
  }
  for (const [weight, { a, b }] of factors) {
    if (a && b) continue;
    throw new GalvaniError('TENSOR_MISSING', `${path}: ${weight}: has ${a ?? b} but not its partner`);
  }
  return { dir, checkpoint, factors: factors as Map<string, AdapterFactors>, replaced };
}
