/**
 * The engine: opened models, grafts and blends of them, and run(trials). One request runs at a time; others wait in
 * line.
 * All work a request's trials have in common is done once (native/model/plan.h).
 */
import { resolve } from 'node:path';
import { type Blend, checkBlend, graftOfBlend } from './checkpoint/blend.js';
import { BlendMemory, blendTable, defaultBlendBytes, type TensorPlaces } from './checkpoint/blends.js';
import { readFolder } from './checkpoint/folder.js';
import type { Graft } from './checkpoint/graft.js';
import { type Checkpoint, openCheckpoint } from './checkpoint/safetensors.js';
import { GalvaniError } from './errors.js';
import { resolveIntervention } from './hooks/resolve.js';
import { checkTrial, sourcesOf } from './hooks/trials.js';
import type { ModelConfig, TensorNames } from './models/family.js';
import { familyByName } from './models/registry.js';
import { requireSameShape } from './models/same-shape.js';
import {
  type NativeEdit,
  type NativeEngine,
  type NativeRequest,
  type NativeTrial,
  type NativeTrialResult,
  native,
  withSignal,
} from './native.js';
import { loadProcessor, type Processor } from './processor/processor.js';
import type { Capture, Prompt, RunStats, Trial, TrialResult } from './types.js';

export interface EngineOptions {
  /** Threads that compute. Default: as many as this process may use. */
  readonly threads?: number;
  /** Memory for the weights of blends (addBlend), bytes. Default: half of what this process may use. */
  readonly blendBytes?: number;
}

/** The engine's part of other options; an option that is undefined is one that is not given. */
export function engineOptions(options: {
  readonly threads?: number | undefined;
  readonly blendBytes?: number | undefined;
}): EngineOptions {
  const { threads, blendBytes } = options;
  return { ...(threads === undefined ? {} : { threads }), ...(blendBytes === undefined ? {} : { blendBytes }) };
}

export interface ModelInfo {
  readonly name: string;
  /** Folder of the checkpoint; a graft has the folder whose processor it uses (its embedding's donor). */
  readonly dir: string;
  readonly config: ModelConfig;
  /** Decoder layers. */
  readonly layers: number;
  readonly parameters: number;
  readonly graft?: Graft;
  readonly blend?: Blend;
  /** A blend's own weights, bytes at most while it is in use. */
  readonly blendBytes?: number;
}

export type TrialOutcome =
  | { readonly ok: true; readonly id: string; readonly result: TrialResult }
  | { readonly ok: false; readonly id: string; readonly error: GalvaniError };

/** blend: weights of blends are made. */
export type RunStage = 'blend' | 'vision' | 'prefill' | 'decode';
const stages: readonly RunStage[] = ['vision', 'prefill', 'decode'];

export interface RunOptions {
  readonly signal?: AbortSignal;
  /** `done` of `total` within the stage. */
  readonly onProgress?: (progress: { stage: RunStage; done: number; total: number }) => void;
}

export interface RunResult {
  /** In the order of the trials. */
  readonly outcomes: readonly TrialOutcome[];
  readonly stats: RunStats;
}

/** What experiments need of an engine. */
export interface TrialRunner {
  run(trials: readonly Trial[], options?: RunOptions): Promise<RunResult>;
}

interface OpenModel {
  readonly info: ModelInfo;
  readonly tensors: TensorPlaces;
}

/** One part of a graft: which canonical names, from which donor. */
function donorOf(canonical: string, graft: Graft): string {
  const layer = /^layers\.(\d+)\./.exec(canonical);
  if (layer) return graft.layers[Number(layer[1])]!;
  if (canonical === 'embed') return graft.embed;
  if (canonical === 'norm') return graft.norm;
  if (canonical === 'head') return graft.head;
  return canonical.startsWith('vision.merger.') ? graft.projector : graft.vision;
}

export class Engine implements TrialRunner, AsyncDisposable {
  readonly #native: NativeEngine;
  readonly #blends: BlendMemory;
  readonly #models = new Map<string, OpenModel>();
  readonly #processors = new Map<string, Processor>();
  #queue: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(engine: NativeEngine, blendBytes: number) {
    this.#native = engine;
    this.#blends = new BlendMemory({
      budget: blendBytes,
      threads: engine.threads,
      open: (name, tensors) => void this.#build(name, this.model(name).config, tensors),
      close: (name) => void engine.removeModel(name),
    });
  }

  /** @throws NATIVE_MISSING, BAD_ARGUMENT */
  static async open(options: EngineOptions = {}): Promise<Engine> {
    return new Engine(new (native().NativeEngine)(options.threads), options.blendBytes ?? defaultBlendBytes());
  }

  /** Threads that compute. */
  get threads(): number {
    return this.#native.threads;
  }

  /** Memory for the weights of blends: what may be taken, and what is. */
  get blendBytes(): { readonly budget: number; readonly used: number } {
    const { budget, used } = this.#blends;
    return { budget, used };
  }

  /** Code path of the kernels: "avx512", "avx2", "portable". */
  get isa(): string {
    return native().cpuInfo().isa;
  }

  /**
   * Opens a Hugging Face folder under a name. Weights are mapped, not read.
   * @throws FILE_NOT_FOUND, BAD_CONFIG, BAD_FILE, TENSOR_MISSING, SHAPE_MISMATCH, UNSUPPORTED
   */
  async addModel(name: string, dir: string): Promise<ModelInfo> {
    this.#assertOpen();
    this.#assertFree(name);
    const folder = readFolder(resolve(dir));
    const checkpoint = openCheckpoint(folder.dir);
    const names: TensorNames = familyByName(folder.config.family).tensorNames(
      checkpoint.names(),
      folder.config,
      folder.dir,
    );
    const tensors = new Map(Object.entries(names).map(([canonical, path]) => [canonical, { checkpoint, name: path }]));
    return this.#register(name, folder.dir, folder.config, tensors);
  }

  /**
   * Opens a graft over opened models: a table of views, no bytes are read or written.
   * @throws BAD_ARGUMENT (unknown donor, wrong number of layers), SHAPE_MISMATCH (donors of different architecture)
   */
  addGraft(name: string, graft: Graft): ModelInfo {
    this.#assertOpen();
    this.#assertFree(name);
    const embedDonor = this.#open(graft.embed);
    const { config } = embedDonor.info;
    const donors = new Set([...graft.layers, graft.embed, graft.vision, graft.projector, graft.norm, graft.head]);
    for (const donor of donors) requireSameShape(embedDonor.info, this.#views(donor).info);
    if (graft.layers.length !== config.decoder.layers) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `graft '${name}': expected a donor for each of ${config.decoder.layers} layers, got ${graft.layers.length}`,
      );
    }
    const tensors = new Map<string, { checkpoint: Checkpoint; name: string }>();
    for (const canonical of embedDonor.tensors.keys()) {
      if (canonical === 'head') continue;
      tensors.set(canonical, this.#open(donorOf(canonical, graft)).tensors.get(canonical)!);
    }
    // A tied head is its donor's embedding, which need not be the graft's own.
    const headDonor = this.#open(graft.head);
    tensors.set('head', headDonor.tensors.get('head') ?? headDonor.tensors.get('embed')!);
    return this.#register(name, embedDonor.info.dir, config, tensors, { graft });
  }

  /**
   * Opens a blend of two opened models. Nothing is read: its weights are made when a request first uses it and dropped
   * when others need the room (EngineOptions.blendBytes). α = 0 and 1 are views, which take no memory.
   * @throws BAD_ARGUMENT, SHAPE_MISMATCH (parents of different architecture), UNSUPPORTED (elements of another type)
   */
  addBlend(name: string, blend: Blend): ModelInfo {
    this.#assertOpen();
    this.#assertFree(name);
    const [from, to] = [this.#views(blend.from), this.#views(blend.to)];
    const { config, layers, dir } = from.info;
    checkBlend(name, blend, layers);
    requireSameShape(from.info, to.info);
    const graft = graftOfBlend(blend, layers);
    if (graft) return this.addGraft(name, graft);
    const table = blendTable(blend, from.tensors, to.tensors);
    const info = this.#register(name, dir, config, table.views, { blend, blendBytes: table.bytes });
    if (table.moving.size === 0) return info;
    // Known and checked; under this name nothing runs until its weights are made.
    this.#native.removeModel(name);
    this.#blends.add(name, table);
    return info;
  }

  removeModel(name: string): void {
    this.#open(name);
    this.#models.delete(name);
    this.#blends.remove(name);
    this.#native.removeModel(name);
  }

  /** @throws BAD_ARGUMENT naming the models that are open */
  model(name: string): ModelInfo {
    return this.#open(name).info;
  }

  /** Tokenizer, chat template and image settings of a model's folder; loaded on first use. */
  processor(name: string): Processor {
    const { dir } = this.model(name);
    let processor = this.#processors.get(dir);
    if (!processor) {
      processor = loadProcessor(dir);
      this.#processors.set(dir, processor);
    }
    return processor;
  }

  /**
   * Runs the trials of one request. A trial that cannot run (unknown span, spans of unequal length, …) is an outcome
   * with its error, as is every trial that reads from it; the others run.
   * @throws ABORTED, CLOSED, OUT_OF_MEMORY (also when its blends exceed their budget); BAD_ARGUMENT for duplicate ids
   */
  run(trials: readonly Trial[], options: RunOptions = {}): Promise<RunResult> {
    const turn = this.#queue.then(() => this.#run(trials, options));
    this.#queue = turn.catch(() => undefined);
    return turn;
  }

  /** Waits for what runs; requests after this fail with CLOSED. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#queue;
    for (const name of [...this.#models.keys()]) this.removeModel(name);
    this.#processors.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #run(trials: readonly Trial[], options: RunOptions): Promise<RunResult> {
    this.#assertOpen();
    const plan = this.#plan(trials);
    const { signal, onProgress } = options;
    await this.#blends.fill(new Set(plan.request.trials.map(({ model }) => model)), {
      signal,
      onProgress: onProgress && ((done, total) => onProgress({ stage: 'blend', done, total })),
    });
    const progress = onProgress && {
      onProgress: (done: number) =>
        onProgress({ stage: stages[Math.min(2, Math.floor(done / 1000))]!, done: done % 1000, total: 999 }),
    };
    const response = await withSignal(signal, (cancel) =>
      this.#native.run(plan.request, { ...cancel, ...(progress || {}) }),
    );
    const outcomes = trials.map((trial): TrialOutcome => {
      const error = plan.errors.get(trial.id);
      if (error) return { ok: false, id: trial.id, error };
      return { ok: true, id: trial.id, result: this.#result(trial, response.trials[plan.index.get(trial.id)!]!) };
    });
    return { outcomes, stats: response.stats };
  }

  #result(trial: Trial, raw: NativeTrialResult): TrialResult {
    const captures: Record<string, Capture> = {};
    let slot = 0;
    (trial.interventions ?? []).forEach((intervention, i) => {
      if (intervention.op === 'capture') captures[intervention.name ?? `capture ${i}`] = raw.captures[slot++]!;
    });
    const score = trial.score && {
      score: { logprobs: raw.scoreLogprobs, ...(trial.score.klTo === undefined ? {} : { kl: raw.kl }) },
    };
    return {
      id: trial.id,
      tokens: raw.tokens,
      logprobs: raw.logprobs,
      text: raw.tokens.length ? this.processor(trial.model).tokenizer.decode(raw.tokens, { skipSpecial: true }) : '',
      truncated: raw.truncated,
      captures,
      ...score,
    };
  }

  /** The request in numbers, without the trials that cannot run. */
  #plan(trials: readonly Trial[]): {
    request: NativeRequest;
    index: Map<string, number>;
    errors: Map<string, GalvaniError>;
  } {
    const byId = new Map<string, Trial>();
    for (const trial of trials) {
      if (byId.has(trial.id)) throw new GalvaniError('BAD_ARGUMENT', `trials: two have the id '${trial.id}'`);
      byId.set(trial.id, trial);
    }
    const errors = this.#findErrors(trials, byId);
    const runnable = trials.filter(({ id }) => !errors.has(id));
    const index = new Map(runnable.map(({ id }, i) => [id, i]));
    const located = new Map(runnable.map((trial, i) => [trial.id, { index: i, trial }]));

    const images = new Map<string, number>();
    const prompts = new Map<Prompt, number>();
    const request = { images: [], prompts: [], trials: [] } as {
      images: NativeRequest['images'][number][];
      prompts: NativeRequest['prompts'][number][];
      trials: NativeTrial[];
    };
    for (const trial of runnable) {
      const { prompt } = trial;
      let promptIndex = prompts.get(prompt);
      if (promptIndex === undefined) {
        promptIndex = request.prompts.length;
        prompts.set(prompt, promptIndex);
        const places = prompt.images.map(({ image, start, count }) => {
          let imageIndex = images.get(image.hash);
          if (imageIndex === undefined) {
            imageIndex = request.images.length;
            images.set(image.hash, imageIndex);
            request.images.push({ pixels: image.pixels, grid: image.grid });
          }
          return { image: imageIndex, start, count };
        });
        const { ids, positions, nextPosition } = prompt;
        request.prompts.push({ ids, positions, nextPosition, images: places });
      }
      request.trials.push(this.#nativeTrial(trial, promptIndex, located));
    }
    return { request, index, errors };
  }

  #nativeTrial(
    trial: Trial,
    prompt: number,
    trials: ReadonlyMap<string, { readonly index: number; readonly trial: Trial }>,
  ): NativeTrial {
    const { config } = this.model(trial.model);
    const { generate = {}, score } = trial;
    let captures = 0;
    const edits: NativeEdit[] = (trial.interventions ?? []).map((intervention, i) =>
      resolveIntervention(intervention, i, intervention.op === 'capture' ? captures++ : -1, { trial, config, trials }),
    );
    return {
      prompt,
      model: trial.model,
      edits,
      captures,
      maxTokens: generate.maxTokens ?? 0,
      temperature: generate.temperature ?? 0,
      topK: generate.topK ?? 0,
      topP: generate.topP ?? 1,
      seed: generate.seed ?? 0,
      stopTokens: generate.stopTokens ?? config.stopTokens,
      ...(score?.tokens && { scoreTokens: score.tokens }),
      ...(score?.klTo !== undefined && { klTo: trials.get(score.klTo)!.index }),
    };
  }

  /** Why each trial that cannot run cannot: its own fault, or a trial it reads from. */
  #findErrors(trials: readonly Trial[], byId: ReadonlyMap<string, Trial>): Map<string, GalvaniError> {
    const errors = new Map<string, GalvaniError>();
    const all = new Map(trials.map((trial, index) => [trial.id, { index, trial }]));
    for (const trial of trials) {
      try {
        checkTrial(trial, this.model(trial.model).config);
        if (trial.score?.klTo !== undefined && !byId.has(trial.score.klTo)) {
          throw new GalvaniError('BAD_ARGUMENT', `trial '${trial.id}', score.klTo: no trial '${trial.score.klTo}'`);
        }
        this.#nativeTrial(trial, 0, all);
      } catch (error) {
        if (!(error instanceof GalvaniError)) throw error;
        errors.set(trial.id, error);
      }
    }
    for (let changed = errors.size > 0; changed; ) {
      changed = false;
      for (const trial of trials) {
        const failed = errors.has(trial.id) ? undefined : sourcesOf(trial).find((id) => errors.has(id));
        if (failed === undefined) continue;
        const cause = errors.get(failed)!;
        errors.set(
          trial.id,
          new GalvaniError(cause.code, `trial '${trial.id}' reads from '${failed}': ${cause.message}`, { cause }),
        );
        changed = true;
      }
    }
    return errors;
  }

  #register(
    name: string,
    dir: string,
    config: ModelConfig,
    tensors: TensorPlaces,
    kind: Pick<ModelInfo, 'graft' | 'blend' | 'blendBytes'> = {},
  ): ModelInfo {
    const parameters = this.#build(name, config, tensors);
    const info: ModelInfo = { name, dir, config, layers: config.decoder.layers, parameters, ...kind };
    this.#models.set(name, { info, tensors });
    return info;
  }

  /** Gives the native engine a table of views; the number of parameters. */
  #build(name: string, config: ModelConfig, tensors: TensorPlaces): number {
    const checkpoints = [...new Set([...tensors.values()].map(({ checkpoint }) => checkpoint))];
    const table = Object.fromEntries(
      [...tensors].map(([canonical, at]) => [canonical, [checkpoints.indexOf(at.checkpoint), at.name] as const]),
    );
    return this.#native.addModel(name, { config, checkpoints, tensors: table }).parameters;
  }

  #open(name: string): OpenModel {
    const model = this.#models.get(name);
    if (model) return model;
    const known = [...this.#models.keys()].join(', ') || 'none';
    throw new GalvaniError('BAD_ARGUMENT', `no model '${name}' is open; open models: ${known}`);
  }

  /** A model that others can be made of. */
  #views(name: string): OpenModel {
    const model = this.#open(name);
    if (model.info.blend)
      throw new GalvaniError('BAD_ARGUMENT', `'${name}' is a blend; grafts and blends are of others`);
    return model;
  }

  #assertFree(name: string): void {
    if (this.#models.has(name)) throw new GalvaniError('BAD_ARGUMENT', `a model named '${name}' is already open`);
  }

  #assertOpen(): void {
    if (this.#closed) throw new GalvaniError('CLOSED', 'the engine is closed');
  }
}
