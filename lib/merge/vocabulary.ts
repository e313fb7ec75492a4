/**
 * Embeddings of models whose tokenizers differ: the output's vocabulary, and for each model the row of every token. Where
 * a model lacks a token it takes the base's row, or the only model's that has one, or the mean of those that do.
 */
import { join } from 'node:path';
import { type JsonObject, readJson, readOptionalJson } from '../checkpoint/json-file.js';
import { GalvaniError } from '../errors.js';
import type { NativeMergeInput, NativeMergeTable } from '../native.js';
import { elements, type OpenModel } from './models.js';
import { refKey, type TokenizerPolicy, type TokenSource } from './recipe.js';

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly [field: string]: unknown;
}

/** Token → id of a folder's tokenizer.json. @throws FILE_NOT_FOUND, BAD_CONFIG */
export function readVocabulary(dir: string): ReadonlyMap<string, number> {
  const path = join(dir, 'tokenizer.json');
  const json = readJson(path);
  const model = json.model as JsonObject | undefined;
  const vocab = model?.vocab;
  const ids = new Map<string, number>();
  if (Array.isArray(vocab)) for (const [id, [token]] of (vocab as [string, number][]).entries()) ids.set(token, id);
  else if (typeof vocab === 'object' && vocab !== null)
    for (const [token, id] of Object.entries(vocab)) ids.set(token, id as number);
  else throw new GalvaniError('BAD_CONFIG', `${path}: expected a vocabulary in model.vocab`);
  for (const { content, id } of (json.added_tokens ?? []) as AddedToken[]) ids.set(content, id);
  return ids;
}

/** Do two tokenizers give every id they share the same token? null when either has no tokenizer.json. */
export function sameVocabulary(a: string, b: string): boolean | null {
  if (!readOptionalJson(join(a, 'tokenizer.json')) || !readOptionalJson(join(b, 'tokenizer.json'))) return null;
  const first = readVocabulary(a);
  const second = readVocabulary(b);
  return [...first].every(([token, id]) => second.get(token) === id) && first.size === second.size;
}

export interface Vocabulary {
  /** Model whose tokenizer files the output takes. */
  readonly host: OpenModel;
  /** Token → id of the output. */
  readonly ids: ReadonlyMap<string, number>;
  /** Tokens the host's tokenizer gets, in order of id. */
  readonly added: readonly { readonly token: string; readonly id: number; readonly fields: JsonObject }[];
  /** Rows of embedding and head that come from a row of some model. */
  readonly rows: number;
  /** Rows after those, each their mean. */
  readonly padding: number;
}

const embedRows = (model: OpenModel): number => {
  const place = model.places.get('embed.weight') ?? model.places.get('head.weight');
  return place ? (model.checkpoint.info(place.name).shape[0] ?? 0) : 0;
};

export class VocabularyPlan {
  readonly vocabulary: Vocabulary;
  readonly #policy: TokenizerPolicy;
  readonly #models: ReadonlyMap<string, OpenModel>;
  readonly #ids = new Map<string, ReadonlyMap<string, number>>();

  /** `base`: of the recipe, else its first model. @throws FILE_NOT_FOUND, BAD_CONFIG */
  constructor(policy: TokenizerPolicy, base: OpenModel, models: ReadonlyMap<string, OpenModel>) {
    this.#policy = policy;
    this.#models = models;
    for (const model of models.values()) {
      // A model without a tokenizer is taken to use the base's, as mergekit does.
      const own = readOptionalJson(join(model.dir, 'tokenizer.json')) ? model.dir : base.dir;
      const rows = embedRows(model);
      this.#ids.set(model.key, new Map([...readVocabulary(own)].filter(([, id]) => id < rows)));
    }
    const host = typeof policy.source === 'object' ? models.get(refKey(policy.source))! : base;
    this.vocabulary = this.#build(host);
  }

  #build(host: OpenModel): Vocabulary {
    const ids = new Map(this.#ids.get(host.key)!);
    let next = Math.max(-1, ...ids.values()) + 1;
    const added: { token: string; id: number; fields: JsonObject }[] = [];
    const add = (token: string, fields: JsonObject): void => {
      if (ids.has(token)) return;
      ids.set(token, next);
      added.push({ token, id: next, fields });
      next += 1;
    };
    if (this.#policy.source === 'union') {
      for (const model of this.#models.values()) {
        if (model === host) continue;
        const json = readOptionalJson(join(model.dir, 'tokenizer.json')) ?? {};
        const settings = new Map(((json.added_tokens ?? []) as AddedToken[]).map((token) => [token.content, token]));
        const own = [...this.#ids.get(model.key)!].sort((a, b) => a[1] - b[1]);
        for (const [token] of own) add(token, settings.get(token) ?? {});
      }
    }
    for (const token of Object.keys(this.#policy.tokens)) add(token, {});
    // Rows of the host beyond its tokens (padding of its own) stay: nothing is cut off.
    const rows = Math.max(embedRows(host), next);
    const unit = this.#policy.padToMultipleOf ?? 1;
    return { host, ids, added, rows, padding: Math.ceil(rows / unit) * unit - rows };
  }

  /** Rows a model's tensor of this key has. */
  get size(): number {
    return this.vocabulary.rows + this.vocabulary.padding;
  }

  /**
   * The inputs of one vocabulary tensor. `tables`: the tensor of each contributing model, in order; `extra`: of any other model a
   * token's source names.
   * @throws BAD_CONFIG for a token source that does not exist
   */
  inputs(
    models: readonly OpenModel[],
    base: OpenModel | undefined,
    tableOf: (model: OpenModel) => NativeMergeTable,
  ): NativeMergeInput[] {
    const named = Object.values(this.#policy.tokens).flatMap(({ model }) =>
      model ? [this.#models.get(refKey(model))!] : [],
    );
    const { host, ids, rows, padding } = this.vocabulary;
    const donors = [...new Set([...models, ...named, host])];
    const tables = donors.map(tableOf);
    const first = new Map<string, number>();
    let at = 0;
    for (const model of donors) {
      first.set(model.key, at);
      at += this.#rowsOf(model, tableOf(model));
    }
    const rowOf = (model: OpenModel, id: number): number => first.get(model.key)! + id;
    const has = (model: OpenModel, token: string): number | undefined => this.#ids.get(model.key)!.get(token);
    const tokenOf = new Map([...ids].map(([token, id]) => [id, token]));
    const blends: Int32Array[] = [];

    const fallback = (token: string): number => {
      const given = this.#policy.tokens[token];
      if (given) return this.#given(token, given, rowOf);
      const holders = models.filter((model) => has(model, token) !== undefined);
      if (holders.length === 0) return -1;
      if (holders.length === 1) return rowOf(holders[0]!, has(holders[0]!, token)!);
      if (base && holders.includes(base)) return rowOf(base, has(base, token)!);
      blends.push(Int32Array.from(holders, (model) => rowOf(model, has(model, token)!)));
      return -1 - blends.length;
    };
    const maps = models.map(() => new Int32Array(rows).fill(-1));
    for (let id = 0; id < rows; id += 1) {
      const token = tokenOf.get(id);
      if (token === undefined) {
        // A row no token has: the host's own, where its table reaches so far.
        if (id < this.#rowsOf(host, tableOf(host))) for (const map of maps) map[id] = rowOf(host, id);
        continue;
      }
      const force = this.#policy.tokens[token]?.force ?? false;
      const own = models.map((model) => (force ? undefined : has(model, token)));
      const missing = own.some((row) => row === undefined) ? fallback(token) : -1;
      for (const [m, row] of own.entries()) maps[m]![id] = row === undefined ? missing : rowOf(models[m]!, row);
    }
    return maps.map((map) => ({ tables, rows: map, blends, padding }));
  }

  #rowsOf(model: OpenModel, table: NativeMergeTable): number {
    return model.checkpoint.info(table.name).shape[0] ?? 0;
  }

  #given(token: string, source: TokenSource, rowOf: (model: OpenModel, id: number) => number): number {
    if (source.kind === 'zero') return -1;
    const model = this.#models.get(refKey(source.model!))!;
    const id = source.tokenId ?? this.#ids.get(model.key)!.get(source.token ?? token);
    if (id === undefined || id >= embedRows(model)) {
      throw new GalvaniError(
        'BAD_CONFIG',
        `tokenizer: token ${token}: ${model.dir} has no ${source.token ?? `row ${id}`}`,
      );
    }
    return rowOf(model, id);
  }

  /** Files of the output's tokenizer that differ from the host's. */
  files(): Record<string, string> {
    const { host, added } = this.vocabulary;
    if (added.length === 0) return {};
    const json = readJson(join(host.dir, 'tokenizer.json'));
    const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
    const tokens = added.map(({ token, id, fields }) => ({ ...plain, ...fields, id, content: token }));
    const out: Record<string, string> = {
      'tokenizer.json': `${JSON.stringify({ ...json, added_tokens: [...((json.added_tokens ?? []) as object[]), ...tokens] }, null, 2)}\n`,
    };
    const config = readOptionalJson(join(host.dir, 'tokenizer_config.json'));
    if (config?.added_tokens_decoder) {
      const decoder = Object.fromEntries(tokens.map(({ id, ...fields }) => [String(id), fields]));
      const merged = { ...config, added_tokens_decoder: { ...(config.added_tokens_decoder as object), ...decoder } };
      out['tokenizer_config.json'] = `${JSON.stringify(merged, null, 2)}\n`;
    }
    return out;
  }
}

/** Shape of a vocabulary tensor of `rows` rows. */
export function withRows(shape: readonly number[], rows: number): number[] {
  return shape.length === 0 ? [elements(shape)] : [rows, ...shape.slice(1)];
}
