/**
 * What a training run has to hold fixed, as names of tensors in the checkpoint it starts from (METHODS §4). The plan is
 * a file: the engine reads it before training, `galvani freeze verify` after.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { readFolder } from '../checkpoint/folder.js';
import { type Cuts, defaultCuts, type RegionName, regionNames, regionOf, regions } from '../checkpoint/graft.js';
import { canonicalOf } from '../checkpoint/layout.js';
import { openCheckpoint } from '../checkpoint/safetensors.js';
import { GalvaniError } from '../errors.js';
import type { TensorDescription } from '../models/family.js';
import { familyByName } from '../models/registry.js';
import { folderFingerprint } from '../run/fingerprint.js';
import { verifyFrozen } from '../weights.js';

/** Parts of a checkpoint: the thirds of the decoder's layers, and what belongs to no layer. */
export type FreezePart = RegionName | 'vision' | 'projector' | 'embed' | 'norm' | 'head';
export const freezeParts: readonly FreezePart[] = [...regionNames, 'vision', 'projector', 'embed', 'norm', 'head'];

export interface FreezePlan {
  readonly format: 'galvani-freeze-plan-1';
  readonly checkpoint: {
    /** Absolute path at the time of planning; the fingerprint says whether another folder is the same checkpoint. */
    readonly dir: string;
    readonly fingerprint: string;
    /** Element type of most tensors, in PyTorch's spelling. */
    readonly dtype: string;
  };
  readonly family: string;
  /** Decoder layers. */
  readonly layers: number;
  readonly cuts: Cuts;
  readonly parts: readonly FreezePart[];
  /** Decoder layers held fixed. */
  readonly frozenLayers: readonly number[];
  /** Regular expression (Python's and JavaScript's) that finds exactly the frozen ones among the model's parameters. */
  readonly pattern: string;
  /** Stored names. */
  readonly frozen: readonly { readonly name: string; readonly shape: readonly number[] }[];
  /** Values held fixed and values in all. */
  readonly values: { readonly frozen: number; readonly all: number };
}

const planSchema: z.ZodType<FreezePlan> = z.strictObject({
  format: z.literal('galvani-freeze-plan-1'),
  checkpoint: z.strictObject({ dir: z.string(), fingerprint: z.string(), dtype: z.string() }),
  family: z.string(),
  layers: z.int().positive(),
  cuts: z.tuple([z.int(), z.int()]),
  parts: z.array(z.enum(freezeParts as [FreezePart, ...FreezePart[]])).min(1),
  frozenLayers: z.array(z.int().nonnegative()),
  pattern: z.string(),
  frozen: z.array(z.strictObject({ name: z.string(), shape: z.array(z.int()) })).min(1),
  values: z.strictObject({ frozen: z.int(), all: z.int() }),
});

/** @throws BAD_ARGUMENT when a part has no tensor or nothing would be left to train; what reading the folder throws */
export function planFreezing(dir: string, parts: readonly FreezePart[], cuts?: Cuts): FreezePlan {
  const { dir: folder, config } = readFolder(dir);
  const { layers } = config.decoder;
  const usedCuts = cuts ?? defaultCuts(layers);
  const all = regions(layers, usedCuts);
  const family = familyByName(config.family);
  const checkpoint = openCheckpoint(folder);
  const partOf = ({ tower, layer }: TensorDescription): FreezePart | undefined => {
    if (tower === 'decoder') return layer === null ? undefined : regionOf(layer, all);
    return (freezeParts as readonly string[]).includes(tower) ? (tower as FreezePart) : undefined;
  };
  const tensors = checkpoint.names().map((name) => {
    const { shape, dtype } = checkpoint.info(name);
    return { name, shape: [...shape], dtype, part: partOf(family.describeTensor(name)) };
  });
  for (const part of parts) {
    if (tensors.some((tensor) => tensor.part === part)) continue;
    const hint = part === 'head' ? '; it is tied to the embedding: freeze embed' : '';
    throw new GalvaniError('BAD_ARGUMENT', `freeze plan: ${folder} has no tensor in '${part}'${hint}`);
  }
  const frozen = tensors.filter(({ part }) => part !== undefined && parts.includes(part));
  if (frozen.length === tensors.length) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `freeze plan: ${parts.join(', ')} is all of ${folder}; nothing would be trained`,
    );
  }
  const valuesOf = (some: typeof tensors): number =>
    some.reduce((sum, { shape }) => sum + shape.reduce((size, length) => size * length, 1), 0);
  const frozenLayers = all
    .filter(({ name }) => parts.includes(name))
    .flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i));
  const pattern = parameterPattern(parts, frozenLayers);
  requireExact(pattern, tensors, frozen);
  return {
    format: 'galvani-freeze-plan-1',
    checkpoint: { dir: folder, fingerprint: folderFingerprint(folder), dtype: commonDtype(tensors) },
    family: config.family,
    layers,
    cuts: [...usedCuts],
    parts: [...parts],
    frozenLayers,
    pattern,
    frozen: frozen.map(({ name, shape }) => ({ name, shape })),
    values: { frozen: valuesOf(frozen), all: valuesOf(tensors) },
  };
}

/**
 * Holds for every layout of the names: transformers 5 says model.language_model.layers.6 where the file says
 * model.layers.6, and wrappers put more in front. The vision tower's blocks are never called "layers" without "visual".
 */
function parameterPattern(parts: readonly FreezePart[], frozenLayers: readonly number[]): string {
  const pieces: Partial<Record<FreezePart, string>> = {
    vision: String.raw`(?:^|\.)visual\.(?!merger\.)`,
    projector: String.raw`(?:^|\.)visual\.merger\.`,
    embed: String.raw`(?:^|\.)embed_tokens\.`,
    norm: String.raw`^(?!.*visual\.)(?:.*\.)?(?:model|language_model)\.norm\.`,
    head: String.raw`(?:^|\.)lm_head\.`,
  };
  const layers = String.raw`^(?!.*visual\.)(?:.*\.)?layers\.(?:${frozenLayers.join('|')})\.`;
  return [...(frozenLayers.length > 0 ? [layers] : []), ...parts.flatMap((part) => pieces[part] ?? [])].join('|');
}

/** The pattern must say the same as the names do, in the file's layout and in that of transformers 5. */
function requireExact(pattern: string, all: readonly { name: string }[], frozen: readonly { name: string }[]): void {
  const expression = new RegExp(pattern);
  const wanted = new Set(frozen.map(({ name }) => name));
  const newer = (name: string): string =>
    name.replace(/^model\.(?=layers|embed_tokens|norm)/, 'model.language_model.').replace(/^visual\./, 'model.visual.');
  const wrong = all.find(({ name }) =>
    [name, newer(name)].some((spelling) => expression.test(spelling) !== wanted.has(name)),
  );
  if (wrong) throw new GalvaniError('INTERNAL', `freeze plan: the pattern ${pattern} is wrong about ${wrong.name}`);
}

const torchDtypes: Readonly<Record<string, string>> = {
  BF16: 'bfloat16',
  F16: 'float16',
  F32: 'float32',
  F64: 'float64',
};

function commonDtype(tensors: readonly { readonly dtype: string }[]): string {
  const counts = new Map<string, number>();
  for (const { dtype } of tensors) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
  const [[dtype]] = [...counts].sort(([, a], [, b]) => b - a) as [[string, number]];
  const name = torchDtypes[dtype];
  if (name === undefined)
    throw new GalvaniError('UNSUPPORTED', `freeze plan: weights stored as ${dtype} cannot be trained`);
  return name;
}

/** @throws FILE_NOT_FOUND, BAD_CONFIG */
export function readFreezePlan(path: string): FreezePlan {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: no such freeze plan`, { cause });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new GalvaniError('BAD_CONFIG', `${path}: not JSON`, { cause });
  }
  const parsed = planSchema.safeParse(value);
  if (!parsed.success)
    throw new GalvaniError('BAD_CONFIG', `${path}: not a freeze plan\n${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

export interface FreezeVerdict {
  readonly frozen: readonly string[];
  /** Of the frozen, those with a changed bit. Empty: the freeze held. */
  readonly frozenChanged: readonly string[];
  /** Of the others, those without one: nothing trained them either. */
  readonly othersUnchanged: readonly string[];
  /** All tensors outside the plan. */
  readonly others: number;
}

/**
 * Compares every tensor bit for bit: Δ must be zero on the plan's names, and the rest should have moved.
 * @throws BAD_ARGUMENT when `before` is another checkpoint than the plan's
 */
export async function verifyPlan(before: string, after: string, plan: FreezePlan): Promise<FreezeVerdict> {
  const folder = readFolder(before);
  const fingerprint = folderFingerprint(folder.dir);
  if (fingerprint !== plan.checkpoint.fingerprint) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `freeze verify: ${folder.dir} is not the checkpoint of the plan: its content is ${fingerprint}, the plan was made for ${plan.checkpoint.fingerprint} (${plan.checkpoint.dir})`,
    );
  }
  const family = familyByName(folder.config.family);
  const frozen = plan.frozen.map(({ name }) => name);
  // Engines store with the names of their version of transformers.
  const canonicalName = (name: string): string => canonicalOf(family, name);
  const result = await verifyFrozen(folder.dir, after, frozen, { canonicalName });
  return { ...result, frozen, others: openCheckpoint(folder.dir).names().length - frozen.length };
}
