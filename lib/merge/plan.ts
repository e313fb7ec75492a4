import type { JsonObject } from '../checkpoint/json-file.js';
import { GalvaniError } from '../errors.js';
import { closest } from '../models/names.js';
import type { DType, NativeCheckpoint, NativeMergeInput, NativeMergeTable, NativeMergeTensor } from '../native.js';
import { outputConfig } from './config.js';
import { atLayer, hasVocabulary, keyAtLayer, type Place, type TowerName } from './layout.js';
import { elements, isFloat, type OpenModel, openModel, parseDtype, promoted } from './models.js';
import { type Origin, Origins } from './origins.js';
import { type ModelRef, modelsOf, type Recipe, refKey } from './recipe.js';
import { type Position, resolveParameter } from './settings.js';
import { sameVocabulary, VocabularyPlan, withRows } from './vocabulary.js';

export interface PlannedTensor extends NativeMergeTensor {
  /** What it is read from, for people: model keys, the base first. */
  readonly from: readonly string[];
}

export interface MergePlan {
  /** In the order written. */
  readonly tensors: readonly PlannedTensor[];
  /** What NativeMergeTable.checkpoint counts. */
  readonly checkpoints: readonly NativeCheckpoint[];
  readonly models: readonly OpenModel[];
  /** Whose config, tokenizer and processor files the output takes. */
  readonly host: OpenModel;
  readonly tokenizerHost: OpenModel;
  readonly config: JsonObject;
  /** Files that differ from the hosts', by name. */
  readonly files: Readonly<Record<string, string>>;
  readonly coverage: MergeCoverage;
  /** Decisions a reader should know of. */
  readonly notes: readonly string[];
  readonly bytes: number;
  readonly seed: number;
}

export interface MergeCoverage {
  readonly tensors: number;
  readonly elements: number;
  /** Output tensors by method. */
  readonly methods: Readonly<Record<string, number>>;
  /** Input tensors no output reads, by model. */
  readonly unused: Readonly<Record<string, readonly string[]>>;
}

export class Planner {
  readonly #recipe: Recipe;
  readonly #where: string;
  readonly #models = new Map<string, OpenModel>();
  readonly #checkpoints: NativeCheckpoint[] = [];
  readonly #tensors: PlannedTensor[] = [];
  readonly #used = new Map<string, Set<string>>();
  readonly #differences: string[] = [];
  readonly #notes: string[];
  readonly #dtype: DType | undefined;
  readonly #host: OpenModel;
  readonly #vocabulary: VocabularyPlan | undefined;
  readonly #origins: Origins;
  readonly #mixesVocabularies = new Set<string>();
  readonly #outKeys = new Set<string>();
  /** model key, tower, its layer and the output's, of everything that was taken. */
  readonly #contributions = new Map<
    string,
    { model: OpenModel; tower: TowerName; from: number | null; to: number | null }
  >();

  /** `where` names the recipe in errors; `dir` is where its relative paths start. */
  constructor(recipe: Recipe, where: string, dir: string) {
    this.#recipe = recipe;
    this.#where = where;
    this.#notes = [...recipe.notes];
    this.#dtype = recipe.dtype === undefined ? undefined : parseDtype(recipe.dtype, where);
    for (const ref of modelsOf(recipe)) this.#models.set(refKey(ref), openModel(ref, dir));
    for (const key of this.#models.keys()) this.#used.set(key, new Set());
    this.#host = this.#models.values().next().value!;
    this.#origins = new Origins(recipe, where, this.#models, this.#host, (text) => this.#notes.push(text));
    if (recipe.tokenizer) this.#vocabulary = new VocabularyPlan(recipe.tokenizer, this.#host, this.#models);
  }

  #bad(what: string): never {
    throw new GalvaniError('BAD_CONFIG', `${this.#where}: ${what}`);
  }

  #model(ref: ModelRef): OpenModel {
    return this.#models.get(refKey(ref))!;
  }

  plan(): MergePlan {
    for (const { out, origin } of this.#origins) this.#planTensor(out, origin);
    this.#checkLeftOut();
    this.#checkDifferences();
    this.#checkVocabularies();
    const order = new Intl.Collator('en', { numeric: true });
    const tensors = this.#tensors.sort((a, b) => order.compare(a.name, b.name));
    const host = this.#host;
    const tokenizerHost = this.#vocabulary?.vocabulary.host ?? host;
    return {
      tensors,
      checkpoints: this.#checkpoints,
      models: [...this.#models.values()],
      host,
      tokenizerHost,
      config: outputConfig(host, tensors, {
        decoderLayers: this.#origins.layers.get('decoder') ?? 0,
        visionLayers: this.#origins.layers.get('vision') ?? 0,
        sourceLayers: this.#origins.sourceLayers(),
        vocabulary: this.#vocabulary?.size,
        dtype: this.#dtype,
        note: (text) => this.#notes.push(text),
      }),
      files: { ...this.#vocabulary?.files(), ...this.#chatTemplate() },
      coverage: this.#coverage(tensors),
      notes: [...new Set(this.#notes)],
      bytes: tensors.reduce((sum, { dtype, shape }) => sum + elements(shape) * bytesOf(dtype), 0),
      seed: this.#recipe.seed,
    };
  }

  #planTensor(out: Place, origin: Origin): void {
    this.#outKeys.add(out.key);
    const base = this.#origins.baseOf(origin);
    const models = origin.slice.sources.map(({ model }) => this.#model(model));
    const places = models.map((model, i) => this.#find(model, out, origin.layers[i]!));
    if (places.some((place) => place === undefined)) return;
    const found = places as Place[];
    const infos = found.map((place, i) => this.#info(models[i]!, place));
    for (const [i, place] of found.entries()) {
      const model = models[i]!;
      this.#used.get(model.key)!.add(place.name);
      const [from, to, tower] = [origin.layers[i]!, out.layer, out.tower];
      this.#contributions.set(`${model.key} ${tower} ${from} ${to}`, { model, tower, from, to });
    }
    const dtype = isFloat(infos[0]!.dtype)
      ? (this.#dtype ?? promoted(infos.map((info) => info.dtype)))
      : infos[0]!.dtype;
    const host = base >= 0 ? base : 0;
    // A tied head is found as its embedding; the output's name is then another model's.
    const named = [found[host]!, ...found].find(({ tower }) => tower === out.tower) ?? out;
    const name = out.layer === null ? named.name : atLayer(named.name, out.layer);
    const remapped = this.#vocabulary !== undefined && hasVocabulary(out);
    const shape = remapped ? withRows(infos[host]!.shape, this.#vocabulary!.size) : [...infos[host]!.shape];
    const fits = (other: readonly number[]): boolean =>
      remapped ? other.slice(1).join() === shape.slice(1).join() : other.join() === shape.join();
    const wrong = infos.findIndex((info) => !fits(info.shape));
    if (wrong >= 0) {
      const hint = hasVocabulary(out)
        ? '; a tokenizer policy (tokenizer: {source: base} or union) reconciles vocabularies'
        : '';
      this.#differences.push(
        `${name}: [${shape}] in ${models[host]!.key}, [${infos[wrong]!.shape}] in ${models[wrong]!.key}${hint}`,
      );
      return;
    }
    if (hasVocabulary(out) && !remapped && models.length > 1)
      for (const { key } of models) this.#mixesVocabularies.add(key);
    const tables = found.map((place, i) => this.#table(models[i]!, place));
    const inputs: NativeMergeInput[] = remapped
      ? this.#vocabulary!.inputs(models, base < 0 ? undefined : models[base], (model) =>
          this.#table(model, this.#vocabularyPlace(model, out)),
        )
      : tables.map((table) => ({ tables: [table] }));
    const { shared, each } = this.#parameters(origin, base, name, found);
    const isCopy =
      inputs.length === 1 &&
      origin.method.name === 'passthrough' &&
      each.scale === undefined &&
      !remapped &&
      tables[0]!.adapter === undefined &&
      infos[0]!.dtype === dtype;
    if (!isFloat(dtype) && !isCopy) {
      this.#planInteger(name, shape, models, found, tables);
      return;
    }
    this.#tensors.push({
      name,
      dtype,
      shape,
      inputs,
      base,
      shared,
      each,
      method: isCopy ? 'copy' : origin.method.name,
      from: models.map(({ key }) => key),
    });
  }

  /** Buffers of integers are not merged: equal ones are kept, others are a difference. */
  #planInteger(
    name: string,
    shape: readonly number[],
    models: readonly OpenModel[],
    places: readonly Place[],
    tables: readonly NativeMergeTable[],
  ): void {
    const first = models[0]!.checkpoint;
    const bytes = first.raw(places[0]!.name);
    const other = models.findIndex((model, i) => Buffer.compare(bytes, model.checkpoint.raw(places[i]!.name)) !== 0);
    const { dtype } = first.info(places[0]!.name);
    if (other > 0) {
      this.#differences.push(
        `${name}: ${dtype} values differ between ${models[0]!.key} and ${models[other]!.key}; integers are not merged`,
      );
      return;
    }
    this.#tensors.push({
      name,
      dtype,
      shape: [...shape],
      method: 'copy',
      base: -1,
      shared: {},
      each: {},
      inputs: [{ tables: [tables[0]!] }],
      from: models.map(({ key }) => key),
    });
  }

  /** The tensor of a model that plays the part; a tied head is its embedding. */
  #find(model: OpenModel, out: Place, layer: number | null): Place | undefined {
    const key = layer === null ? out.key : keyAtLayer(out, layer);
    const place = model.places.get(key) ?? (key === 'head.weight' ? model.places.get('embed.weight') : undefined);
    if (place) return place;
    // A name that the other models have too is not a misspelling of this one.
    const others = [...this.#models.values()].filter((other) => other !== model);
    const free = [...model.places.values()].filter((one) => !others.some(({ places }) => places.has(one.key)));
    const near = closest(
      [atLayer(out.name, layer ?? 0)],
      (free.length > 0 ? free : [...model.places.values()]).map(({ name }) => name),
    );
    this.#differences.push(
      `${atLayer(out.name, layer ?? 0)}: not in ${model.key}${near ? `; closest existing name: ${near}` : ''}`,
    );
    return undefined;
  }

  #vocabularyPlace(model: OpenModel, out: Place): Place {
    const place = model.places.get(out.key) ?? model.places.get('embed.weight');
    if (!place) this.#bad(`${model.key} has no ${out.name}`);
    return place;
  }

  #info(model: OpenModel, place: Place): { readonly dtype: DType; readonly shape: readonly number[] } {
    const replaced = model.adapter?.replaced.get(place.name);
    return replaced === undefined ? model.checkpoint.info(place.name) : model.adapter!.checkpoint.info(replaced);
  }

  #index(checkpoint: NativeCheckpoint): number {
    const at = this.#checkpoints.indexOf(checkpoint);
    return at >= 0 ? at : this.#checkpoints.push(checkpoint) - 1;
  }

  #table(model: OpenModel, place: Place): NativeMergeTable {
    const { adapter } = model;
    const replaced = adapter?.replaced.get(place.name);
    if (replaced !== undefined) return { checkpoint: this.#index(adapter!.checkpoint), name: replaced };
    const checkpoint = this.#index(model.checkpoint);
    const factors = adapter?.factors.get(place.name);
    if (!factors) return { checkpoint, name: place.name };
    return { checkpoint, name: place.name, adapter: { checkpoint: this.#index(adapter!.checkpoint), ...factors } };
  }

  #parameters(
    origin: Origin,
    base: number,
    outName: string,
    places: readonly Place[],
  ): Pick<NativeMergeTensor, 'shared' | 'each'> {
    const shared: Record<string, number> = {};
    const each: Record<string, number[]> = {};
    const at = (name: string): Position => ({ name, depth: origin.depth });
    for (const parameter of origin.method.parameters) {
      const where = `${this.#where}: ${origin.what}: ${origin.method.name}`;
      if (parameter.scope === 'shared') {
        const value = resolveParameter(parameter, origin.scopes, at(outName), where);
        if (value !== null) shared[parameter.name] = value;
        continue;
      }
      const values = origin.slice.sources.map(({ model, parameters }, i) => {
        if (parameter.scope === 'other' && i === base) return 0;
        return resolveParameter(
          parameter,
          [parameters, ...origin.scopes],
          at(places[i]!.name),
          `${where}: ${refKey(model)}`,
        );
      });
      if (values.every((value) => value !== null)) each[parameter.name] = values;
    }
    return { shared, each };
  }

  /** A layer a model gives must not lose a tensor that no other model of the output has. */
  #checkLeftOut(): void {
    for (const { model, tower, from, to } of this.#contributions.values()) {
      for (const place of model.places.values()) {
        if (place.tower !== tower || place.layer !== from) continue;
        const key = to === null ? place.key : keyAtLayer(place, to);
        if (!this.#outKeys.has(key))
          this.#differences.push(`${place.name}: in ${model.key}, with no place in the output`);
      }
    }
  }

  #checkDifferences(): void {
    const all = [...new Set(this.#differences)];
    if (all.length === 0) return;
    const shown = all.slice(0, 60);
    const rest = all.length > shown.length ? `\n  and ${all.length - shown.length} more` : '';
    throw new GalvaniError(
      'SHAPE_MISMATCH',
      `${this.#where}: the checkpoints do not fit each other in ${all.length} place(s):\n  ${shown.join('\n  ')}${rest}`,
      { details: { differences: all } },
    );
  }

  /** Rows of one id must mean one token in every model that is mixed. */
  #checkVocabularies(): void {
    const models = [...this.#mixesVocabularies].map((key) => this.#models.get(key)!);
    for (const model of models.slice(1)) {
      if (model.dir === models[0]!.dir || sameVocabulary(models[0]!.dir, model.dir) !== false) continue;
      this.#bad(
        `${models[0]!.key} and ${model.key} give ids to different tokens, and their embeddings would be mixed row by row; ` +
          'add tokenizer: {source: base} or {source: union}',
      );
    }
  }

  #coverage(tensors: readonly PlannedTensor[]): MergeCoverage {
    const methods: Record<string, number> = {};
    for (const { method } of tensors) methods[method] = (methods[method] ?? 0) + 1;
    const unused = [...this.#models.values()].map(({ key, checkpoint }): [string, string[]] => [
      key,
      checkpoint.names().filter((name) => !this.#used.get(key)!.has(name)),
    ]);
    return {
      tensors: tensors.length,
      elements: tensors.reduce((sum, { shape }) => sum + elements(shape), 0),
      methods,
      unused: Object.fromEntries(unused.filter(([, names]) => names.length > 0)),
    };
  }

  #chatTemplate(): Record<string, string> {
    const template = this.#recipe.chatTemplate;
    if (template === undefined) return {};
    if (template === 'auto') {
      this.#notes.push('chat_template auto: the tokenizer model’s own is kept');
      return {};
    }
    if (!template.includes('{')) {
      throw new GalvaniError(
        'UNSUPPORTED',
        `${this.#where}: chat_template '${template}': expected a Jinja template or 'auto'`,
      );
    }
    return { 'chat_template.jinja': template };
  }
}

const bytesOf = (dtype: DType): number =>
  dtype.startsWith('F8') || dtype === 'BOOL' || /8$/.test(dtype) ? 1 : Number(/\d+$/.exec(dtype)![0]) / 8;

/** Reads nothing but headers and tokenizers. @throws SHAPE_MISMATCH listing every difference, BAD_CONFIG, UNSUPPORTED, … */
export function planMerge(recipe: Recipe, where: string, dir: string): MergePlan {
  return new Planner(recipe, where, dir).plan();
}
