/** Questions from wherever they lie: files of ours, files of others with a declared mapping, known data sets, the Hub. */
import { createHash } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import { basename, extname, isAbsolute, join, resolve } from 'node:path';
import { z } from 'zod';
import { GalvaniError } from '../errors.js';
import { type HubOptions, hubFile } from './hub.js';
import { readImageFolder } from './image-folder.js';
import { itemsOf, type QuestionItem, type ReadOptions } from './items.js';
import { fileError, type JsonLine, readJsonl } from './jsonl.js';
import { type MapOptions, type Mapping, mappingSchema, mapRow, whereSchema } from './mapping.js';
import { readParquet } from './parquet.js';
import { type HubFile, type Preset, type PresetName, presetNames, presets } from './presets.js';

/** Exactly one of `preset`, `path`, `hub` says where; a preset with a path reads that file in the preset's way. */
export interface Dataset {
  readonly preset?: PresetName | undefined;
  /** JSONL or Parquet file, or a folder of images; relative to the study file. */
  readonly path?: string | undefined;
  readonly hub?: HubFile | undefined;
  /** What the fields mean. Default: the preset's, else our own fields (docs/study.md). */
  readonly map?: Mapping | undefined;
  /** Added to the mapping's own filter. */
  readonly where?: Mapping['where'];
}

/** A path stands for {path}. */
export type DatasetSpec = string | Dataset;

const datasetSchema = z
  .strictObject({
    preset: z.enum(presetNames as [PresetName, ...PresetName[]]).optional(),
    path: z.string().min(1).optional(),
    hub: z
      .strictObject({
        repo: z.string().regex(/^[\w.-]+\/[\w.-]+$/),
        file: z.string().min(1),
        revision: z.string().optional(),
      })
      .optional(),
    map: mappingSchema.optional(),
    where: whereSchema.optional(),
  })
  .refine(({ preset, path, hub }) => preset !== undefined || (path === undefined) !== (hub === undefined), {
    error: 'expected a preset, a path or a hub file',
  })
  .refine(({ path, hub }) => path === undefined || hub === undefined, {
    error: 'expected a path or a hub file, not both',
  });

/** One data set or several, as a study file writes them. */
export const datasetsSchema: z.ZodType<DatasetSpec | readonly DatasetSpec[]> = z.union([
  z.string().min(1),
  datasetSchema,
  z.array(z.union([z.string().min(1), datasetSchema])).min(1),
]);

/** The same with relative paths taken from `folder`. */
export function datasetsFrom(
  specs: DatasetSpec | readonly DatasetSpec[],
  folder: string,
): DatasetSpec | readonly DatasetSpec[] {
  const from = (path: string): string => (isAbsolute(path) ? path : join(folder, path));
  const one = (spec: DatasetSpec): DatasetSpec => {
    if (typeof spec === 'string') return from(spec);
    return spec.path === undefined ? spec : { ...spec, path: from(spec.path) };
  };
  return Array.isArray(specs) ? specs.map(one) : one(specs as DatasetSpec);
}

/** Where a data set came from, for the run's record. */
export interface DatasetSource {
  readonly name: string;
  /** File or folder read. */
  readonly path: string;
  /** Of the file's bytes; null for a folder. */
  readonly sha256: string | null;
  readonly hub: { readonly repo: string; readonly file: string; readonly commit: string } | null;
  /** Rows read, and rows that the filter left. */
  readonly rows: number;
  readonly kept: number;
}

export interface DatasetOptions extends ReadOptions, MapOptions {
  readonly hub?: HubOptions;
}

/** Reads data sets one after another. Ids are unique over all of them. */
export async function readDatasets(
  specs: DatasetSpec | readonly DatasetSpec[],
  options: DatasetOptions = {},
): Promise<{ readonly items: QuestionItem[]; readonly sources: DatasetSource[] }> {
  const items: QuestionItem[] = [];
  const sources: DatasetSource[] = [];
  const seen = new Map<string, JsonLine>();
  for (const spec of Array.isArray(specs) ? (specs as readonly DatasetSpec[]) : [specs as DatasetSpec]) {
    const dataset: Dataset = typeof spec === 'string' ? { path: spec } : spec;
    const preset: Preset | undefined = dataset.preset && presets[dataset.preset];
    const { path, commit } = await located(dataset, preset, options.hub);
    const from = commit === undefined ? null : { ...(dataset.hub ?? preset!.hub), commit };
    const name = dataset.preset ?? basename(path, extname(path));
    const map = dataset.map ?? preset?.map;
    const where = { ...map?.where, ...dataset.where };
    const counts = { rows: 0, kept: 0 };
    const rows = async function* (): AsyncGenerator<JsonLine, void, void> {
      for await (const row of rowsOf(path)) {
        counts.rows++;
        const ours = mapped(row, map, where, { ...options, task: name });
        if (ours === null) continue;
        counts.kept++;
        yield ours;
      }
    };
    items.push(...(await itemsOf(rows(), path, options, seen)));
    sources.push({ name, path, sha256: await fileHash(path), hub: from && plain(from), ...counts });
  }
  return { items, sources };
}

function plain({ repo, file, commit }: HubFile & { readonly commit: string }): DatasetSource['hub'] {
  return { repo, file, commit };
}

/** Without a mapping the rows are our own; a filter alone keeps their fields. */
function mapped(
  row: JsonLine,
  map: Mapping | undefined,
  where: Mapping['where'],
  options: MapOptions,
): JsonLine | null {
  if (map !== undefined) return mapRow(row, { ...map, where }, options);
  const filter: Mapping = { id: 'id', question: 'question', answer: 'answer', where };
  return Object.keys(where ?? {}).length === 0 || mapRow(row, filter, options) !== null ? row : null;
}

async function located(
  { path, hub }: Dataset,
  preset: Preset | undefined,
  options: HubOptions | undefined,
): Promise<{ readonly path: string; readonly commit?: string }> {
  if (path !== undefined) return { path: resolve(path) };
  const found = await hubFile(hub ?? preset!.hub, options);
  return { path: found.path, commit: found.commit };
}

/** Rows of a file by its ending, or of a folder: its eval.jsonl (ours), else its images. */
function rowsOf(path: string): AsyncGenerator<JsonLine, void, void> {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats?.isDirectory()) {
    const own = join(path, 'eval.jsonl');
    return statSync(own, { throwIfNoEntry: false }) ? readJsonl(own) : readImageFolder(path);
  }
  const ending = extname(path).toLowerCase();
  if (ending === '.parquet') return readParquet(path);
  if (ending === '.jsonl' || ending === '.ndjson' || stats === undefined) return readJsonl(path);
  throw new GalvaniError('BAD_ARGUMENT', `${path}: expected a .jsonl or .parquet file, or a folder of images`);
}

async function fileHash(path: string): Promise<string | null> {
  if (statSync(path).isDirectory()) return null;
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  } catch (cause) {
    throw fileError(path, cause);
  }
  return hash.digest('hex');
}
