/** What a checkpoint folder holds and what is wrong with it: files, types, parts, missing and unknown tensors, values. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fromNative, GalvaniError } from '../errors.js';
import { closest } from '../models/names.js';
import { familyByName } from '../models/registry.js';
import { type DType, native, withSignal } from '../native.js';
import { readFolder } from './folder.js';
import { type CheckpointLayout, readLayout } from './layout.js';
import { openCheckpoint } from './safetensors.js';

export interface Inspection {
  readonly dir: string;
  /** `model_type` of config.json; null without one. */
  readonly modelType: string | null;
  /** null: not a family that galvani runs. */
  readonly family: string | null;
  readonly layers: number;
  readonly tensors: number;
  readonly elements: number;
  /** Of tensor data. */
  readonly bytes: number;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly tensors: number }[];
  readonly dtypes: readonly Share[];
  /** By tower. */
  readonly parts: readonly Share[];
  /** Stored tensors, sorted by name. */
  readonly table: readonly InspectedTensor[];
  /** Whether the values were read. */
  readonly scanned: boolean;
  readonly damage: readonly Damage[];
  /** Not wrong, but worth knowing. */
  readonly notes: readonly string[];
}

export interface Share {
  readonly name: string;
  readonly tensors: number;
  readonly elements: number;
  readonly bytes: number;
}

export interface InspectedTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
  readonly file: string;
  /** "decoder 3 q". */
  readonly place: string;
}

export interface Damage {
  /** File or tensor. */
  readonly where: string;
  readonly what: string;
}

export interface InspectOptions {
  /** Read every value, for NaN, infinities and tensors that are all zero. Default true. */
  readonly values?: boolean;
  readonly threads?: number;
  /** Elements read, of all. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * A folder or one .safetensors file. Damage is part of the answer, not an error; a folder without any weights is.
 * @throws FILE_NOT_FOUND, ABORTED, IO
 */
export async function inspectCheckpoint(dir: string, options: InspectOptions = {}): Promise<Inspection> {
  const stats = statSync(dir, { throwIfNoEntry: false });
  if (!stats) throw new GalvaniError('FILE_NOT_FOUND', `${dir}: no such folder or file`);
  const broken = brokenFiles(dir, stats.isDirectory());
  let layout: CheckpointLayout;
  try {
    layout = readLayout(dir);
  } catch (cause) {
    const { code, message } = fromNative(cause);
    if (code === 'IO' || (code === 'FILE_NOT_FOUND' && broken.length === 0)) throw cause;
    const whole = broken.some(({ what }) => message.includes(what)) ? [] : [{ where: dir, what: message }];
    return { ...nothing, dir: resolve(dir), damage: [...broken, ...whole] };
  }
  const { checkpoint, describe } = layout;
  const table = checkpoint.names().map((name): InspectedTensor => {
    const { dtype, shape, bytes, file } = checkpoint.info(name);
    const { tower, layer, module } = describe(name);
    const place = [tower, layer, module === tower ? null : module].filter((piece) => piece !== null).join(' ');
    return { name, dtype, shape, bytes, file: basename(file), place };
  });
  const damage: Damage[] = [...broken];
  const notes: string[] = [];
  if (stats.isDirectory()) fitToConfig(layout, table, damage, notes);
  const values = options.values ?? true;
  if (values) await scan(layout, table, damage, options);
  return {
    dir: resolve(dir),
    modelType: layout.modelType,
    family: layout.family,
    layers: layout.layers,
    tensors: table.length,
    elements: table.reduce((sum, tensor) => sum + elementsOf(tensor), 0),
    bytes: checkpoint.bytes,
    files: checkpoint.files().map((path) => ({
      name: basename(path),
      bytes: statSync(path).size,
      tensors: table.filter(({ file }) => file === basename(path)).length,
    })),
    dtypes: sharesOf(table, ({ dtype }) => dtype),
    parts: sharesOf(table, ({ name }) => describe(name).tower),
    table,
    scanned: values,
    damage,
    notes,
  };
}

const nothing = {
  modelType: null,
  family: null,
  layers: 0,
  tensors: 0,
  elements: 0,
  bytes: 0,
  files: [],
  dtypes: [],
  parts: [],
  table: [],
  scanned: false,
  notes: [],
};

const elementsOf = ({ shape }: InspectedTensor): number => shape.reduce((a, b) => a * b, 1);

/** Every weight file that does not open on its own: the checkpoint as a whole would name the first only. */
function brokenFiles(dir: string, isFolder: boolean): Damage[] {
  const files = isFolder
    ? readdirSync(dir)
        .filter((name) => name.endsWith('.safetensors'))
        .sort()
    : [];
  return files.flatMap((name) => {
    try {
      openCheckpoint(join(dir, name));
      return [];
    } catch (cause) {
      const { message } = fromNative(cause);
      return [{ where: name, what: message.replace(`${join(dir, name)}: `, '') }];
    }
  });
}

/** The tensors beside what config.json promises, and the files beside the index. */
function fitToConfig(
  layout: CheckpointLayout,
  table: readonly InspectedTensor[],
  damage: Damage[],
  notes: string[],
): void {
  const { dir, checkpoint } = layout;
  const used = new Set(checkpoint.files().map((path) => basename(path)));
  const unused = readdirSync(dir).filter((name) => name.endsWith('.safetensors') && !used.has(name));
  if (unused.length > 0) notes.push(`weight files that belong to no part of the checkpoint: ${unused.join(', ')}`);
  if (!existsSync(join(dir, 'config.json'))) notes.push('no config.json: places of tensors are read from their names');
  else if (layout.family === null)
    notes.push(`${layout.modelType ?? 'no model_type'}: not a family galvani runs; places are read from the names`);
  if (layout.family === null) return;
  const family = familyByName(layout.family);
  const names = table.map(({ name }) => name);
  try {
    family.tensorNames(names, readFolder(dir).config, dir);
  } catch (cause) {
    const { message } = fromNative(cause);
    damage.push({ where: 'tensors', what: message.replace(`${dir}: `, '') });
  }
  const unknown = names.filter((name) => family.describeTensor(name).module === 'other');
  const known = names.filter((name) => family.describeTensor(name).module !== 'other');
  for (const name of unknown.slice(0, 20)) {
    const near = closest([name], known);
    notes.push(`${name}: not a tensor of ${layout.family}${near === undefined ? '' : `; closest known: ${near}`}`);
  }
  if (unknown.length > 20) notes.push(`and ${unknown.length - 20} more tensors that are not of ${layout.family}`);
  const embed = table.find(({ place }) => place === 'embed');
  if (embed && layout.decoder && embed.shape[0] !== layout.decoder.vocab)
    damage.push({
      where: embed.name,
      what: `${embed.shape[0]} rows, config.json says vocab_size ${layout.decoder.vocab}`,
    });
}

/** Reads every float tensor once: comparing a checkpoint with itself counts what is not finite and sums the squares. */
async function scan(
  { checkpoint }: CheckpointLayout,
  table: readonly InspectedTensor[],
  damage: Damage[],
  { threads, onProgress, signal }: InspectOptions,
): Promise<void> {
  const floats = table.filter(({ dtype }) => dtype.startsWith('F') || dtype === 'BF16');
  const keys = floats.map(({ name }) => ({ name, names: [name, name] }));
  const settings = threads === undefined ? {} : { threads };
  const deltas = await withSignal(signal, (task) =>
    native().compareWeights([checkpoint, checkpoint], keys, settings, {
      ...task,
      ...(onProgress ? { onProgress } : {}),
    }),
  );
  for (const { name, elements, nonFinite, weightSquares, shape } of deltas) {
    if (nonFinite > 0)
      damage.push({ where: name, what: `${nonFinite} of ${elements + nonFinite} values are NaN or infinite` });
    else if (elements > 1 && weightSquares[0] === 0 && shape.length > 1)
      damage.push({ where: name, what: `all ${elements} values are zero` });
  }
}

function sharesOf(table: readonly InspectedTensor[], key: (tensor: InspectedTensor) => string): Share[] {
  const groups = new Map<string, Share>();
  for (const tensor of table) {
    const name = key(tensor);
    const { tensors, elements, bytes } = groups.get(name) ?? { tensors: 0, elements: 0, bytes: 0 };
    groups.set(name, {
      name,
      tensors: tensors + 1,
      elements: elements + elementsOf(tensor),
      bytes: bytes + tensor.bytes,
    });
  }
  return [...groups.values()].sort((a, b) => b.bytes - a.bytes);
}
