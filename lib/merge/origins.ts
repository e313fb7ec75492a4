/** Which models, by which method, give each tensor of the output: modules, slices and rules of a recipe, resolved. */
import { regions } from '../checkpoint/graft.js';
import { GalvaniError } from '../errors.js';
import { atLayer, keyAtLayer, type Place, type TowerName, towers } from './layout.js';
import { type MergeMethod, mergeMethod } from './methods.js';
import type { OpenModel } from './models.js';
import {
  type ModelRef,
  type ModuleName,
  modelsOf,
  type Recipe,
  type Rule,
  refKey,
  type Slice,
  type Stack,
} from './recipe.js';
import type { Settings } from './settings.js';

/** Which module of a recipe a tower belongs to. */
const moduleOf: Readonly<Record<TowerName, ModuleName>> = {
  decoder: 'text_decoder',
  embed: 'text_decoder',
  norm: 'text_decoder',
  head: 'text_decoder',
  vision: 'vision_tower',
  projector: 'multi_modal_projector',
  other: 'default',
};
/** Weights after the layers follow the last slice, all others of no layer the first; as in mergekit. */
const isLast = (tower: TowerName): boolean => tower === 'norm' || tower === 'head';

export interface Origin {
  readonly method: MergeMethod;
  readonly slice: Slice;
  readonly scopes: readonly (Settings | undefined)[];
  readonly depth: number;
  /** Layer of each source; null for tensors of no layer. */
  readonly layers: readonly (number | null)[];
  readonly what: string;
}

/** A tensor of the output and where it comes from. */
export interface Assigned {
  readonly out: Place;
  readonly origin: Origin;
}

export class Origins {
  readonly #recipe: Recipe;
  readonly #where: string;
  readonly #models: ReadonlyMap<string, OpenModel>;
  readonly #host: OpenModel;
  readonly #note: (text: string) => void;
  /** Layers of the output, by tower. */
  readonly layers: Map<TowerName, number> = new Map();

  /** @throws SHAPE_MISMATCH, BAD_CONFIG for slices the models do not have */
  constructor(
    recipe: Recipe,
    where: string,
    models: ReadonlyMap<string, OpenModel>,
    host: OpenModel,
    note: (text: string) => void,
  ) {
    this.#recipe = recipe;
    this.#where = where;
    this.#models = models;
    this.#host = host;
    this.#note = note;
    // Rules with regions need the depth of the output, so layers are counted before anything is assigned.
    for (const tower of ['decoder', 'vision'] as const) {
      const spans = this.#stack(tower).slices.map((slice) => this.#span(slice, tower));
      this.layers.set(
        tower,
        spans.reduce((sum, span) => sum + span, 0),
      );
    }
  }

  *[Symbol.iterator](): Generator<Assigned> {
    for (const tower of towers) yield* this.#tower(tower);
  }

  #bad(what: string): never {
    throw new GalvaniError('BAD_CONFIG', `${this.#where}: ${what}`);
  }

  #model(ref: ModelRef): OpenModel {
    return this.#models.get(refKey(ref))!;
  }

  /** What the recipe says of a tower; what it does not name is copied from the host, and that is noted. */
  #stack(tower: TowerName): Stack & { readonly isCopied?: boolean } {
    const { modules } = this.#recipe;
    const given = modules[moduleOf[tower]] ?? modules.default;
    if (given) return given;
    const holds = [...this.#models.values()].some(({ places }) => [...places.values()].some((p) => p.tower === tower));
    if (holds) this.#note(`${tower}: not named by the recipe, copied from ${this.#host.key}`);
    const [model] = modelsOf(this.#recipe);
    return { slices: [{ sources: [{ model: model! }] }], isCopied: true };
  }

  /** Layers a slice gives. */
  #span(slice: Slice, tower: TowerName): number {
    const counts = slice.sources.map(({ model, layers }) =>
      layers ? layers[1] - layers[0] : (this.#model(model).layers[tower] ?? 0),
    );
    const different = slice.sources.find((_, i) => counts[i] !== counts[0]);
    if (different) {
      const list = slice.sources.map(({ model }, i) => `${refKey(model)} ${counts[i]}`).join(', ');
      throw new GalvaniError(
        'SHAPE_MISMATCH',
        `${this.#where}: ${tower}: the models have different numbers of layers: ${list}`,
      );
    }
    for (const { model, layers } of slice.sources) {
      const has = this.#model(model).layers[tower] ?? 0;
      if (layers && layers[1] > has) this.#bad(`${refKey(model)}: layers [${layers}): it has ${has} ${tower} layers`);
    }
    return counts[0] ?? 0;
  }

  *#tower(tower: TowerName): Generator<Assigned> {
    const stack = this.#stack(tower);
    const copied = stack.isCopied === true;
    const scopes = (slice: Slice) => (copied ? [] : [slice.parameters, stack.parameters, this.#recipe.parameters]);
    const method = mergeMethod(copied ? 'passthrough' : this.#recipe.method, this.#where);
    let layer = 0;
    for (const [s, slice] of stack.slices.entries()) {
      const last = s === stack.slices.length - 1;
      const base = slice.base ?? (copied ? undefined : this.#recipe.base);
      const full = this.#withBase({ ...slice, ...(base ? { base } : {}) }, method);
      const make = (depth: number, layers: readonly (number | null)[]): Origin => ({
        method,
        slice: full,
        scopes: scopes(slice),
        depth,
        layers,
        what: `slice ${s}`,
      });
      if (isLast(tower) ? last : s === 0) {
        // mergekit plans a projector as layers whose names do not differ; the last one's value is what it writes.
        const depth = tower === 'projector' ? 1 : 0;
        const none = full.sources.map(() => null);
        yield* this.#layer(tower, null, make(depth, none));
      }
      if (tower !== 'decoder' && tower !== 'vision') continue;
      const span = this.#span(full, tower);
      for (let i = 0; i < span; i += 1, layer += 1) {
        const layers = full.sources.map((source) => (source.layers?.[0] ?? 0) + i);
        yield* this.#layer(tower, layer, make(span > 1 ? i / (span - 1) : 1, layers));
      }
    }
  }

  /** The base is an input too, where the method has a base. */
  #withBase(slice: Slice, method: MergeMethod): Slice {
    if (method.base === 'none' || !slice.base) return slice;
    const key = refKey(slice.base);
    if (slice.sources.some(({ model }) => refKey(model) === key)) return slice;
    const layers = slice.sources[0]?.layers;
    return { ...slice, sources: [...slice.sources, { model: slice.base, ...(layers ? { layers } : {}) }] };
  }

  /** The tensors of one layer, or of none: whatever any of its sources has. */
  *#layer(tower: TowerName, layer: number | null, origin: Origin): Generator<Assigned> {
    const inner = (place: Place): string => (place.layer === null ? place.key : keyAtLayer(place, 0));
    const keys = new Map<string, Place>();
    for (const [i, { model }] of origin.slice.sources.entries()) {
      for (const place of this.#model(model).places.values()) {
        if (place.tower !== tower || place.layer !== origin.layers[i]) continue;
        if (!keys.has(inner(place))) keys.set(inner(place), place);
      }
    }
    for (const place of keys.values()) {
      const out: Place =
        layer === null ? place : { ...place, layer, name: atLayer(place.name, layer), key: keyAtLayer(place, layer) };
      const rule = this.#recipe.rules.find((one) => this.#matches(one, out));
      yield { out, origin: rule ? this.#ruled(rule, out) : origin };
    }
  }

  #matches({ where }: Rule, place: Place): boolean {
    if (where.tower && where.tower !== place.tower) return false;
    if (where.component && (where.component !== place.component || place.layer === null)) return false;
    if (where.name && !place.name.includes(where.name)) return false;
    const range = this.#ruleLayers(where);
    if (!range) return true;
    // layers and regions are the decoder's unless a tower is named
    return (
      place.tower === (where.tower ?? 'decoder') &&
      place.layer !== null &&
      place.layer >= range[0] &&
      place.layer < range[1]
    );
  }

  #ruleLayers(where: Rule['where']): readonly [number, number] | undefined {
    if (where.layers) return where.layers;
    if (!where.region) return undefined;
    const total = this.layers.get('decoder') ?? 0;
    const region = regions(total, this.#recipe.cuts ?? undefined).find(({ name }) => name === where.region)!;
    return [region.start, region.end];
  }

  #ruled(rule: Rule, place: Place): Origin {
    const method = mergeMethod(rule.method, this.#where);
    const slice = this.#withBase(rule.slice, method);
    const [start, end] = this.#ruleLayers(rule.where) ?? [0, this.layers.get(place.tower) ?? 1];
    const depth = place.layer === null ? 0 : end - start > 1 ? (place.layer - start) / (end - start - 1) : 1;
    return {
      method,
      slice,
      scopes: [slice.parameters, this.#recipe.parameters],
      depth,
      layers: slice.sources.map(() => place.layer),
      what: `rule ${JSON.stringify(rule.where)}`,
    };
  }

  /** Index of the base among the sources, −1 for none. @throws BAD_CONFIG when the method cannot take these models */
  baseOf({ method, slice, what }: Origin): number {
    const keys = slice.sources.map(({ model }) => refKey(model));
    const twice = keys.find((key, i) => keys.indexOf(key) !== i);
    if (twice !== undefined) this.#bad(`${what}: ${twice} is given twice`);
    const base = method.base === 'none' || !slice.base ? -1 : keys.indexOf(refKey(slice.base));
    if (method.base === 'required' && base < 0) this.#bad(`${method.name} needs a base_model`);
    const others = keys.length - (base < 0 ? 0 : 1);
    const [least, most] = method.others;
    if (others < least || others > most) {
      const expected =
        least === most ? `${least}` : most === Number.POSITIVE_INFINITY ? `at least ${least}` : `${least} to ${most}`;
      this.#bad(
        `${what}: ${method.name} takes ${expected} model(s)${base < 0 ? '' : ' beside the base'}, got ${others}`,
      );
    }
    return base;
  }

  /** Of each output decoder layer, the layer of the first source. */
  sourceLayers(): number[] {
    return this.#stack('decoder').slices.flatMap((slice) =>
      Array.from({ length: this.#span(slice, 'decoder') }, (_, i) => (slice.sources[0]!.layers?.[0] ?? 0) + i),
    );
  }
}
