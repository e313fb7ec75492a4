/** Writes a planned merge: shards one after the other, then index, config, tokenizer and manifest; resumes and verifies. */
import { copyFileSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { writeAtomic } from '../checkpoint/files.js';
import { fileFingerprint, fileSha256 } from '../checkpoint/fingerprint.js';
import { openCheckpoint } from '../checkpoint/safetensors.js';
import { GalvaniError } from '../errors.js';
import { native, withSignal } from '../native.js';
import { elements } from './models.js';
import type { MergePlan, PlannedTensor } from './plan.js';
import { contentHash, Staging } from './staging.js';

export interface WriteOptions {
  readonly out: string;
  /** Text of the recipe, kept in the output. */
  readonly recipe: string;
  readonly version: string;
  /** Largest shard in bytes; a larger tensor gets a shard of its own. Default 5e9. */
  readonly shardBytes?: number;
  readonly threads?: number;
  readonly overwrite?: boolean;
  /** SHA-256 of every input and output file in the manifest; reads them once more. */
  readonly hash?: boolean;
  /** Output bytes done, of all; `resumed` of them were there from an earlier run. */
  readonly onProgress?: (done: number, total: number, resumed: number) => void;
  readonly signal?: AbortSignal;
}

export interface WrittenFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256?: string;
}
export interface MergeResult {
  readonly dir: string;
  readonly files: readonly WrittenFile[];
  /** Bytes of shards that an earlier run had finished. */
  readonly resumedBytes: number;
}

export const manifestName = 'galvani-merge.json';

interface Shard {
  readonly name: string;
  readonly tensors: readonly PlannedTensor[];
  readonly bytes: number;
}

const dtypeBytes: Readonly<Record<string, number>> = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
};
export const tensorBytes = ({ dtype, shape }: Pick<PlannedTensor, 'dtype' | 'shape'>): number =>
  elements(shape) * (dtypeBytes[dtype] ?? 1);

/** In the plan's order, each as full as the limit allows. */
export function shardsOf(tensors: readonly PlannedTensor[], limit: number): Shard[] {
  const groups: PlannedTensor[][] = [];
  let size = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor);
    if (groups.length === 0 || (size > 0 && size + bytes > limit)) {
      groups.push([]);
      size = 0;
    }
    groups.at(-1)!.push(tensor);
    size += bytes;
  }
  const digits = (n: number) => String(n).padStart(5, '0');
  return groups.map((group, i) => ({
    name: groups.length === 1 ? 'model.safetensors' : `model-${digits(i + 1)}-of-${digits(groups.length)}.safetensors`,
    tensors: group,
    bytes: group.reduce((sum, tensor) => sum + tensorBytes(tensor), 0),
  }));
}

/** Files of a checkpoint folder that go with the weights. */
const companions =
  /^(generation_config\.json|tokenizer.*|vocab\.(json|txt)|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template.*|.*processor_config\.json|.*\.(model|tiktoken|py)|LICENSE.*)$/;
/** Also chat templates. */
export const isTokenizerFile = (name: string): boolean =>
  /^(tokenizer|vocab|merges|special_tokens|added_tokens|chat_template)|\.(model|tiktoken)$/.test(name);

/** Name → the file it is copied from: all but config.json, weights, index and manifest. */
export function companionFiles(plan: MergePlan): Map<string, string> {
  const files = new Map<string, string>();
  for (const [dir, wanted] of [
    [plan.host.dir, (name: string) => !isTokenizerFile(name)],
    [plan.tokenizerHost.dir, isTokenizerFile],
  ] as const) {
    for (const name of readdirSync(dir)) if (companions.test(name) && wanted(name)) files.set(name, join(dir, name));
  }
  return files;
}

interface InputFile {
  readonly name: string;
  readonly bytes: number;
  readonly fingerprint: string;
  sha256?: string;
}
interface InputRecord {
  readonly model: string;
  readonly dir: string;
  readonly files: readonly InputFile[];
}

async function inputRecords(plan: MergePlan, hash: boolean): Promise<InputRecord[]> {
  const folders = new Map<string, { dir: string; files: readonly string[] }>();
  for (const { key, dir, checkpoint, adapter } of plan.models) {
    folders.set(key, { dir, files: [...checkpoint.files(), ...(adapter?.checkpoint.files() ?? [])] });
  }
  const records: InputRecord[] = [];
  for (const [model, { dir, files }] of folders) {
    const list: InputFile[] = [];
    for (const path of files) {
      const file: InputFile = { name: basename(path), bytes: statSync(path).size, fingerprint: fileFingerprint(path) };
      list.push(hash ? { ...file, sha256: await fileSha256(path) } : file);
    }
    records.push({ model, dir, files: list });
  }
  return records;
}

/** What decides every byte of the output. */
function workKey(
  plan: MergePlan,
  inputs: readonly InputRecord[],
  options: WriteOptions,
  shards: readonly Shard[],
): string {
  const rows = (tensor: PlannedTensor) =>
    tensor.inputs.map((input) => ({
      ...input,
      rows: input.rows ? [...input.rows] : undefined,
      blends: input.blends?.map((blend) => [...blend]),
    }));
  const tensors = plan.tensors.map((tensor) => ({ ...tensor, inputs: contentHash(rows(tensor)) }));
  return contentHash({
    version: options.version,
    recipe: options.recipe,
    seed: plan.seed,
    inputs: inputs.map(({ files }) => files.map(({ name, bytes, fingerprint }) => [name, bytes, fingerprint])),
    tensors,
    shards: shards.map(({ name, bytes }) => [name, bytes]),
    config: plan.config,
    files: plan.files,
  });
}

/**
 * @throws BAD_ARGUMENT (the folder exists), IO (disk full: what is finished is kept for a rerun), BAD_FILE (an input that
 * changed meanwhile), ABORTED
 */
export async function writeMerge(plan: MergePlan, options: WriteOptions): Promise<MergeResult> {
  const out = resolve(options.out);
  const inside = plan.models.find(({ dir, adapter }) => [dir, adapter?.dir].some((one) => one && resolve(one) === out));
  if (inside) throw new GalvaniError('BAD_ARGUMENT', `${out}: is an input of this merge`);
  const shards = shardsOf(plan.tensors, options.shardBytes ?? 5e9);
  const inputs = await inputRecords(plan, options.hash ?? false);
  const staging = new Staging(out, workKey(plan, inputs, options, shards), options.overwrite ?? false);
  try {
    return await writeInto(staging, plan, shards, inputs, options);
  } catch (cause) {
    if (cause instanceof GalvaniError && (cause.code === 'IO' || cause.code === 'ABORTED')) {
      throw new GalvaniError(cause.code, `${cause.message}${staging.leftover()}`, { cause });
    }
    staging.discard();
    throw cause;
  } finally {
    staging.close();
  }
}

async function writeInto(
  staging: Staging,
  plan: MergePlan,
  shards: readonly Shard[],
  inputs: readonly InputRecord[],
  options: WriteOptions,
): Promise<MergeResult> {
  const total = plan.bytes;
  const isFinished = ({ name }: Shard) => staging.finished.has(name);
  const resumedBytes = shards.filter(isFinished).reduce((sum, { bytes }) => sum + bytes, 0);
  staging.needSpace(total - resumedBytes);
  let done = 0;
  const report = (bytes: number) => options.onProgress?.(bytes, total, resumedBytes);
  const { threads } = options;
  for (const shard of shards) {
    if (!isFinished(shard)) {
      const settings = { seed: plan.seed, ...(threads === undefined ? {} : { threads }) };
      await withSignal(options.signal, (task) =>
        native().writeMerged(staging.path(shard.name), { format: 'pt' }, plan.checkpoints, shard.tensors, settings, {
          ...task,
          onProgress: (bytes) => report(done + bytes),
        }),
      );
    }
    done += shard.bytes;
    report(done);
  }
  const names = shards.map(({ name }) => name);
  const write = (name: string, content: string): void => {
    writeAtomic(staging.path(name), content);
    names.push(name);
  };
  if (shards.length > 1) write('model.safetensors.index.json', indexOf(plan, shards));
  verify(staging.dir, plan);
  for (const [name, from] of companionFiles(plan)) {
    if (plan.files[name] !== undefined) continue;
    copyFileSync(from, staging.path(name));
    names.push(name);
  }
  for (const [name, content] of Object.entries(plan.files)) write(name, content);
  write('config.json', `${JSON.stringify(plan.config, null, 2)}\n`);
  write('galvani-recipe.yaml', options.recipe);
  const files: WrittenFile[] = [];
  for (const name of names.sort()) {
    const path = staging.path(name);
    const file = { name, bytes: statSync(path).size };
    files.push(options.hash ? { ...file, sha256: await fileSha256(path) } : file);
  }
  const manifest = {
    format: 1,
    galvani: options.version,
    seed: plan.seed,
    recipe: options.recipe,
    inputs,
    host: plan.host.key,
    tokenizer: plan.tokenizerHost.key,
    coverage: plan.coverage,
    notes: plan.notes,
    tensors: plan.tensors.map(({ name, dtype, shape, method, from, shared, each }) => ({
      name,
      dtype,
      shape,
      method,
      from,
      ...(Object.keys(shared).length > 0 ? { shared } : {}),
      ...(Object.keys(each).length > 0 ? { each } : {}),
    })),
    files,
  };
  write(manifestName, `${JSON.stringify(manifest, null, 1)}\n`);
  staging.finish(names);
  return {
    dir: staging.target,
    files: [...files, { name: manifestName, bytes: statSync(join(staging.target, manifestName)).size }],
    resumedBytes,
  };
}

function indexOf(plan: MergePlan, shards: readonly Shard[]): string {
  const map = shards.flatMap(({ name, tensors }) => tensors.map((tensor) => [tensor.name, name] as const));
  const weightMap = Object.fromEntries(map.sort(([a], [b]) => (a < b ? -1 : 1)));
  return `${JSON.stringify({ metadata: { total_size: plan.bytes }, weight_map: weightMap }, null, 2)}\n`;
}

/** Reads the headers back: exactly the planned tensors, with their types and shapes. */
function verify(dir: string, plan: MergePlan): void {
  const written = openCheckpoint(dir);
  const names = new Set(written.names());
  for (const { name, dtype, shape } of plan.tensors) {
    const info = names.delete(name) ? written.info(name) : undefined;
    if (info?.dtype !== dtype || info.shape.join() !== shape.join()) {
      throw new GalvaniError('INTERNAL', `${dir}: tensor ${name} was not written as planned (${dtype} [${shape}])`);
    }
  }
  if (names.size > 0)
    throw new GalvaniError('INTERNAL', `${dir}: tensors that were not planned: ${[...names].join(', ')}`);
}

/** The manifest of a merged folder; undefined for others. */
export function readManifest(dir: string): Readonly<Record<string, unknown>> | undefined {
  const path = join(dir, manifestName);
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>) : undefined;
}
