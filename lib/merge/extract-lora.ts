/**
 * A LoRA adapter that stands for the difference of two checkpoints: each changed matrix by its leading singular vectors,
 * with the energy every rank keeps. PEFT's layout. Matrices are done one by one, so an interrupted run continues.
 */
import { readFileSync } from 'node:fs';
import { writeAtomic } from '../checkpoint/files.js';
import { fileFingerprint } from '../checkpoint/fingerprint.js';
import { type Checkpoint, openCheckpoint } from '../checkpoint/safetensors.js';
import { GalvaniError } from '../errors.js';
import { closest } from '../models/names.js';
import type { DType, NativeCheckpoint, NativeMergeTensor } from '../native.js';
import { native, withSignal } from '../native.js';
import { type Place, placeOf } from './layout.js';
import { findFolder, isFloat, parseDtype } from './models.js';
import { contentHash, Staging } from './staging.js';

export interface ExtractOptions {
  readonly base: string;
  readonly tuned: string;
  readonly out: string;
  readonly version: string;
  /** Largest rank. Default 16. */
  readonly rank?: number;
  /** Stop at this share of ‖Δ‖² where a smaller rank reaches it. Default 1: never. */
  readonly energy?: number;
  /** Only modules whose name it matches. */
  readonly include?: RegExp;
  readonly exclude?: RegExp;
  /** Embedding and head too; they are left out otherwise, being large and changed little. */
  readonly embeddings?: boolean;
  /** Store what has no low-rank form (norms, biases, convolutions) whole, as PEFT's modules_to_save. */
  readonly saveRest?: boolean;
  /** Of the factors. Default float32. */
  readonly dtype?: string;
  readonly threads?: number;
  readonly overwrite?: boolean;
  readonly onProgress?: (done: number, total: number, resumed: number) => void;
  readonly signal?: AbortSignal;
}

export interface ExtractedModule {
  /** Stored name of the weight. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly rank: number;
  /** ‖Δ‖_F. */
  readonly norm: number;
  /** Share of ‖Δ‖² that the first r singular directions keep, r = 1 … rank. */
  readonly energy: readonly number[];
}

export interface ExtractResult {
  readonly dir: string;
  /** Share of Σ‖Δ‖² over all float tensors that the adapter carries; null when nothing changed. */
  readonly energyKept: number | null;
  readonly modules: readonly ExtractedModule[];
  /** Changed tensors stored whole. */
  readonly saved: readonly string[];
  /** Changed tensors the adapter does not carry, with their share of the energy. */
  readonly leftOut: readonly { readonly name: string; readonly share: number; readonly why: string }[];
  readonly resumed: number;
}

interface Pair {
  readonly before: Place;
  readonly after: Place;
}

function pairs(before: Checkpoint, after: Checkpoint): Pair[] {
  const of = (checkpoint: Checkpoint) => new Map(checkpoint.names().map((name) => [placeOf(name).key, placeOf(name)]));
  const [old, fresh] = [of(before), of(after)];
  const differences: string[] = [];
  const missing = (place: Place, from: Checkpoint, names: readonly string[]) =>
    differences.push(`${place.name}: not in ${from.path}; closest existing name: ${closest([place.name], names)}`);
  for (const [key, place] of old) if (!fresh.has(key)) missing(place, after, after.names());
  const out: Pair[] = [];
  for (const [key, place] of fresh) {
    const partner = old.get(key);
    if (!partner) {
      missing(place, before, before.names());
      continue;
    }
    const [a, b] = [before.info(partner.name), after.info(place.name)];
    if (a.shape.join() !== b.shape.join())
      differences.push(`${place.name}: [${a.shape}] in ${before.path}, [${b.shape}] in ${after.path}`);
    else if (isFloat(a.dtype) && isFloat(b.dtype)) out.push({ before: partner, after: place });
  }
  if (differences.length > 0) {
    throw new GalvaniError(
      'SHAPE_MISMATCH',
      `the checkpoints do not fit each other in ${differences.length} place(s):\n  ${differences.join('\n  ')}`,
      {
        details: { differences },
      },
    );
  }
  const order = new Intl.Collator('en', { numeric: true });
  return out.sort((x, y) => order.compare(x.after.name, y.after.name));
}

/** Why a tensor cannot be a low-rank product, or undefined. */
function unfit(place: Place, shape: readonly number[], options: ExtractOptions): string | undefined {
  if (!place.name.endsWith('.weight')) return 'not a weight';
  if (shape.length !== 2) return shape.length < 2 ? 'not a matrix' : 'a convolution';
  if ((place.tower === 'embed' || place.tower === 'head') && !options.embeddings) return 'embedding or head';
  if (options.include && !options.include.test(place.name)) return 'not included';
  return options.exclude?.test(place.name) ? 'excluded' : undefined;
}

const moduleOf = (name: string): string => name.replace(/\.[^.]+$/, '');
const factorNames = (place: Place): [string, string] => {
  const path = `base_model.model.${moduleOf(place.name)}`;
  return place.tower === 'embed'
    ? [`${path}.lora_embedding_A`, `${path}.lora_embedding_B`]
    : [`${path}.lora_A.weight`, `${path}.lora_B.weight`];
};

/** @throws SHAPE_MISMATCH listing every difference, BAD_ARGUMENT, IO, ABORTED (the same call continues) */
export async function extractLora(options: ExtractOptions): Promise<ExtractResult> {
  const { rank = 16, energy = 1 } = options;
  if (!Number.isInteger(rank) || rank < 1)
    throw new GalvaniError('BAD_ARGUMENT', `rank: expected a positive integer, got ${rank}`);
  if (!(energy > 0 && energy <= 1))
    throw new GalvaniError('BAD_ARGUMENT', `energy: expected a share in (0, 1], got ${energy}`);
  const dtype = parseDtype(options.dtype ?? 'float32', 'extract-lora');
  const dirs = [options.base, options.tuned].map((path) => findFolder(path, '.'));
  const [before, after] = dirs.map((dir) => openCheckpoint(dir)) as [Checkpoint, Checkpoint];
  const all = pairs(before, after);
  const key = contentHash({
    version: options.version,
    rank,
    energy,
    dtype,
    tensors: all.map(({ after: place }) => [
      place.name,
      unfit(place, after.info(place.name).shape, options) ?? 'factored',
    ]),
    inputs: [before, after].map((checkpoint) => checkpoint.files().map((path) => fileFingerprint(path))),
  });
  const staging = new Staging(options.out, key, options.overwrite ?? false);
  try {
    return await new Extraction(options, { rank, energy, dtype }, dirs[0]!, before, after, all, staging).run();
  } catch (cause) {
    if (cause instanceof GalvaniError && (cause.code === 'IO' || cause.code === 'ABORTED'))
      throw new GalvaniError(cause.code, `${cause.message}${staging.leftover()}`, { cause });
    staging.discard();
    throw cause;
  } finally {
    staging.close();
  }
}

class Extraction {
  readonly #options: ExtractOptions;
  readonly #limits: { readonly rank: number; readonly energy: number; readonly dtype: DType };
  readonly #baseDir: string;
  readonly #before: Checkpoint;
  readonly #after: Checkpoint;
  readonly #pairs: readonly Pair[];
  readonly #staging: Staging;
  readonly #modules: (ExtractedModule & { readonly place: Place; readonly part: string })[] = [];
  readonly #rest: { readonly place: Place; readonly why: string; readonly square: number }[] = [];
  #resumed = 0;

  constructor(
    options: ExtractOptions,
    limits: { rank: number; energy: number; dtype: DType },
    baseDir: string,
    before: Checkpoint,
    after: Checkpoint,
    all: readonly Pair[],
    staging: Staging,
  ) {
    this.#options = options;
    this.#limits = limits;
    this.#baseDir = baseDir;
    this.#before = before;
    this.#after = after;
    this.#pairs = all;
    this.#staging = staging;
  }

  async run(): Promise<ExtractResult> {
    const fits = this.#pairs.filter((pair) => !unfit(pair.after, this.#shape(pair), this.#options));
    await this.#measureRest();
    for (const [i, pair] of fits.entries()) {
      await this.#factor(pair, `part-${i}.safetensors`);
      this.#options.onProgress?.(i + 1, fits.length, this.#resumed);
    }
    return this.#finish();
  }

  #shape(pair: Pair): readonly number[] {
    return this.#after.info(pair.after.name).shape;
  }

  /** ‖Δ‖² of everything that gets no factors: the energy an adapter cannot carry. */
  async #measureRest(): Promise<void> {
    const keys = this.#pairs.flatMap((pair) => {
      const why = unfit(pair.after, this.#shape(pair), this.#options);
      return why ? [{ pair, why }] : [];
    });
    const names = keys.map(({ pair }) => ({ name: pair.after.name, names: [pair.before.name, pair.after.name] }));
    const deltas = await withSignal(this.#options.signal, (task) =>
      native().compareWeights([this.#before, this.#after], names, this.#threads(), task),
    );
    const squares = new Map(deltas.map(({ name, steps }) => [name, steps[0]!.square]));
    for (const { pair, why } of keys) {
      const square = squares.get(pair.after.name) ?? 0;
      if (square > 0) this.#rest.push({ place: pair.after, why, square });
    }
  }

  #threads(): { threads?: number } {
    return this.#options.threads === undefined ? {} : { threads: this.#options.threads };
  }

  async #factor(pair: Pair, part: string): Promise<void> {
    const path = this.#staging.path(part);
    const [nameA, nameB] = factorNames(pair.after);
    const record = `${part}.json`;
    if (this.#staging.finished.has(part) && this.#staging.finished.has(record)) {
      this.#resumed += 1;
      this.#keep(pair, part, JSON.parse(readFileSync(this.#staging.path(record), 'utf8')) as Factors);
      return;
    }
    const found = await withSignal(this.#options.signal, (task) =>
      native().writeLowRank(
        {
          path,
          metadata: {},
          nameA,
          nameB,
          before: this.#before,
          beforeName: pair.before.name,
          after: this.#after,
          afterName: pair.after.name,
          transposed: pair.after.tower === 'embed',
          ...this.#limits,
          ...this.#threads(),
        },
        task,
      ),
    );
    writeAtomic(this.#staging.path(record), JSON.stringify(found));
    this.#keep(pair, part, found);
  }

  #keep(pair: Pair, part: string, { rank, singularValues, square }: Factors): void {
    let kept = 0;
    const energy = singularValues.map((value) => {
      kept += value * value;
      return Math.min(1, kept / square);
    });
    this.#modules.push({
      name: pair.after.name,
      shape: this.#shape(pair),
      rank,
      norm: Math.sqrt(square),
      energy,
      place: pair.after,
      part,
    });
  }

  async #finish(): Promise<ExtractResult> {
    const changed = this.#modules.filter(({ rank }) => rank > 0);
    const saves = this.#options.saveRest === true ? this.#rest.filter(({ why }) => /^not a|convolution/.test(why)) : [];
    if (changed.length === 0 && saves.length === 0) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `${this.#after.path}: no matrix that may carry an adapter differs from ${this.#before.path}`,
      );
    }
    const checkpoints: NativeCheckpoint[] = [];
    const tensors: NativeMergeTensor[] = [];
    const copy = (checkpoint: NativeCheckpoint, from: string, name: string) => {
      const { dtype, shape } = checkpoint.info(from);
      const index = checkpoints.includes(checkpoint)
        ? checkpoints.indexOf(checkpoint)
        : checkpoints.push(checkpoint) - 1;
      const inputs = [{ tables: [{ checkpoint: index, name: from }] }];
      tensors.push({ name, dtype, shape, method: 'copy', inputs, base: -1, shared: {}, each: {} });
    };
    for (const { part, place } of changed) {
      const opened = openCheckpoint(this.#staging.path(part));
      for (const name of factorNames(place)) copy(opened, name, name);
    }
    // PEFT saves whole modules: a changed bias brings its weight along.
    const modules = [...new Set(saves.map(({ place }) => moduleOf(place.name)))];
    const carried = new Set(changed.map(({ place }) => moduleOf(place.name)));
    const whole = modules.filter((module) => !carried.has(module));
    const saved = this.#after.names().filter((name) => whole.includes(moduleOf(name)));
    for (const name of saved) copy(this.#after, name, `base_model.model.${name}`);
    const staging = this.#staging;
    await withSignal(this.#options.signal, (task) =>
      native().writeMerged(
        staging.path('adapter_model.safetensors'),
        { format: 'pt' },
        checkpoints,
        tensors,
        this.#threads(),
        task,
      ),
    );
    const ranks = changed.map(({ rank }) => rank);
    const top = Math.max(1, ...ranks);
    const pattern = Object.fromEntries(
      changed.filter(({ rank }) => rank !== top).map(({ place, rank }) => [moduleOf(place.name), rank]),
    );
    const config = {
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: this.#baseDir,
      r: top,
      lora_alpha: top,
      target_modules: changed.map(({ place }) => moduleOf(place.name)),
      modules_to_save: whole.length > 0 ? whole : null,
      rank_pattern: pattern,
      alpha_pattern: pattern,
      lora_dropout: 0,
      bias: 'none',
      fan_in_fan_out: false,
      use_rslora: false,
      inference_mode: true,
    };
    writeAtomic(staging.path('adapter_config.json'), `${JSON.stringify(config, null, 2)}\n`);
    const result = this.#result(changed, saved);
    writeAtomic(
      staging.path('galvani-lora.json'),
      `${JSON.stringify({ format: 1, galvani: this.#options.version, base: this.#baseDir, tuned: this.#after.path, ...result }, null, 1)}\n`,
    );
    staging.finish(['adapter_model.safetensors', 'adapter_config.json', 'galvani-lora.json']);
    return { dir: staging.target, ...result, resumed: this.#resumed };
  }

  #result(changed: readonly ExtractedModule[], saved: readonly string[]): Omit<ExtractResult, 'dir' | 'resumed'> {
    const total = [...this.#modules.map(({ norm }) => norm ** 2), ...this.#rest.map(({ square }) => square)].reduce(
      (a, b) => a + b,
      0,
    );
    const inFactors = changed.reduce((sum, { norm, energy }) => sum + norm ** 2 * (energy.at(-1) ?? 0), 0);
    const isSaved = new Set(saved);
    const whole = this.#rest
      .filter(({ place }) => isSaved.has(place.name))
      .reduce((sum, { square }) => sum + square, 0);
    return {
      energyKept: total > 0 ? (inFactors + whole) / total : null,
      modules: changed.map(({ name, shape, rank, norm, energy }) => ({ name, shape, rank, norm, energy })),
      saved,
      leftOut: this.#rest
        .filter(({ place }) => !isSaved.has(place.name))
        .map(({ place, why, square }) => ({ name: place.name, share: square / total, why })),
    };
  }
}

interface Factors {
  readonly rank: number;
  readonly singularValues: readonly number[];
  readonly square: number;
}
