/**
 * A merge recipe: one YAML document in mergekit's format (models, slices or modules; parameters with gradients and
 * filters; dtype; tokenizer), read as it is, with additions of ours: `names`, `rules`, `graft`, `cuts`, `seed`. See docs/merge.md.
 */
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { paperGrafts, type RegionName, regionNames } from '../checkpoint/graft.js';
import { GalvaniError } from '../errors.js';
import { type ComponentName, components, type TowerName, towers } from './layout.js';
import { mergeMethod } from './methods.js';
import type { Setting, Settings } from './settings.js';

/** A checkpoint, perhaps with an adapter to apply: "DIR" or "DIR+ADAPTER". */
export interface ModelRef {
  readonly model: string;
  readonly lora?: string | undefined;
  /** Factor on the adapter's own scale. */
  readonly loraScale: number;
}
export const refKey = ({ model, lora, loraScale }: ModelRef): string =>
  lora === undefined ? model : `${model}+${lora}${loraScale === 1 ? '' : `*${loraScale}`}`;

export interface Source {
  readonly model: ModelRef;
  /** [start, end) of the model's own layers; absent: all. */
  readonly layers?: readonly [number, number] | undefined;
  readonly parameters?: Settings | undefined;
}
export interface Slice {
  readonly sources: readonly Source[];
  readonly base?: ModelRef | undefined;
  readonly parameters?: Settings | undefined;
}
/** Output layers, one slice after the other. */
export interface Stack {
  readonly slices: readonly Slice[];
  readonly parameters?: Settings | undefined;
}
export const moduleNames = ['text_decoder', 'vision_tower', 'multi_modal_projector', 'default'] as const;
export type ModuleName = (typeof moduleNames)[number];

export interface Where {
  readonly tower?: TowerName | undefined;
  readonly layers?: readonly [number, number] | undefined;
  readonly region?: RegionName | undefined;
  readonly component?: ComponentName | undefined;
  /** Occurs in the stored name. */
  readonly name?: string | undefined;
}
export interface Rule {
  readonly where: Where;
  readonly method: string;
  readonly slice: Slice;
}

export interface TokenSource {
  readonly kind: 'model' | 'token' | 'zero';
  readonly model?: ModelRef | undefined;
  readonly token?: string | undefined;
  readonly tokenId?: number | undefined;
  readonly force: boolean;
}
export interface TokenizerPolicy {
  readonly source: 'union' | 'base' | ModelRef;
  readonly tokens: Readonly<Record<string, TokenSource>>;
  readonly padToMultipleOf?: number | undefined;
}

export interface Recipe {
  readonly method: string;
  readonly base?: ModelRef | undefined;
  readonly parameters?: Settings | undefined;
  /** By module; 'default': every module that is not named. */
  readonly modules: Readonly<Partial<Record<ModuleName, Stack>>>;
  readonly rules: readonly Rule[];
  readonly cuts?: readonly [number, number] | undefined;
  /** Stored type of the output; absent: that of the inputs. */
  readonly dtype?: string | undefined;
  readonly tokenizer?: TokenizerPolicy | undefined;
  readonly chatTemplate?: string | undefined;
  readonly seed: number;
  /** Additions to a recipe that are accepted and mean nothing here. */
  readonly notes: readonly string[];
}

const scalar = z.union([z.number(), z.boolean(), z.string()]);
const valueOrGradient = z.union([scalar, z.array(scalar)]);
const condition = z.strictObject({ filter: z.string().nullish(), value: valueOrGradient });
const setting = z.union([valueOrGradient, condition, z.array(condition)]) as z.ZodType<Setting>;
const settings = z.record(z.string(), setting).nullish();

const path = z.strictObject({ path: z.string(), revision: z.string().nullish() });
const modelRef = z.union([
  z.string().min(1),
  z.strictObject({
    model: z.union([z.string().min(1), path]),
    lora: z.union([z.string().min(1), path]).nullish(),
    lora_scale: z.number().optional(),
    override_architecture: z.string().nullish(),
  }),
]);
const layerRange = z.tuple([z.int().nonnegative(), z.int().nonnegative()]);
const source = z.strictObject({ model: modelRef, layer_range: layerRange, parameters: settings });
const input = z.strictObject({ model: modelRef, parameters: settings });
const slice = z.strictObject({
  sources: z.array(source).min(1),
  base_model: modelRef.nullish(),
  residual_weight: z.number().nullish(),
  parameters: settings,
});
const stack = z.strictObject({
  slices: z.array(slice).min(1).nullish(),
  models: z.array(input).min(1).nullish(),
  parameters: settings,
});
const rule = z.strictObject({
  where: z.strictObject({
    tower: z.enum(towers).optional(),
    layers: layerRange.optional(),
    region: z.enum(regionNames as [RegionName, ...RegionName[]]).optional(),
    component: z.enum(components).optional(),
    name: z.string().min(1).optional(),
  }),
  model: modelRef.optional(),
  merge_method: z.string().optional(),
  base_model: modelRef.nullish(),
  models: z.array(input).min(1).optional(),
  parameters: settings,
});
const tokenConfig = z.strictObject({
  source: z
    .union([
      z.strictObject({
        kind: z.literal('model_token'),
        model: modelRef,
        token: z.string().nullish(),
        token_id: z.int().nullish(),
      }),
      z.strictObject({ kind: z.literal('zero') }),
      modelRef,
    ])
    .nullish(),
  force: z.boolean().default(false),
});
const schema = z.strictObject({
  names: z.record(z.string(), z.string()).optional(),
  merge_method: z.string().optional(),
  base_model: modelRef.nullish(),
  models: z.array(input).min(1).nullish(),
  slices: z.array(slice).min(1).nullish(),
  modules: z.partialRecord(z.enum(moduleNames), stack).nullish(),
  rules: z.array(rule).default([]),
  graft: z
    .strictObject({
      blocks: z.string(),
      in: modelRef,
      rl: modelRef,
      policy: z.enum(['early', 'in', 'rl', 'ends']),
    })
    .optional(),
  cuts: layerRange.optional(),
  parameters: settings,
  dtype: z.string().nullish(),
  out_dtype: z.string().nullish(),
  tokenizer_source: modelRef.nullish(),
  tokenizer: z
    .strictObject({
      source: modelRef.default('union'),
      tokens: z.record(z.string(), tokenConfig).nullish(),
      pad_to_multiple_of: z.int().positive().nullish(),
    })
    .nullish(),
  chat_template: z.string().nullish(),
  seed: z.int().nonnegative().default(0),
});
type Parsed = z.infer<typeof schema>;

/** Reads recipe text; `where` names it in errors. @throws BAD_CONFIG */
export function parseRecipe(text: string, where: string): Recipe {
  const document = parseDocument(text);
  const fault = document.errors[0];
  if (fault) throw new GalvaniError('BAD_CONFIG', `${where}: ${fault.message}`, { cause: fault });
  const value: unknown = document.toJS({ maxAliasCount: 100 });
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    throw new GalvaniError('BAD_CONFIG', `${where}: ${z.prettifyError(parsed.error).replaceAll('\n', ' ')}`);
  }
  return new Reader(parsed.data, where).recipe();
}

class Reader {
  readonly #in: Parsed;
  readonly #where: string;
  readonly #notes: string[] = [];

  constructor(parsed: Parsed, where: string) {
    this.#in = parsed;
    this.#where = where;
  }

  #bad(what: string): never {
    throw new GalvaniError('BAD_CONFIG', `${this.#where}: ${what}`);
  }

  #path(value: string | { path: string; revision?: string | null | undefined }): string {
    const text = typeof value === 'string' ? value : value.path;
    if (typeof value !== 'string' && value.revision) this.#notes.push(`${text}: revision ${value.revision} is ignored`);
    return this.#in.names?.[text] ?? text;
  }

  #ref(value: z.infer<typeof modelRef>): ModelRef {
    if (typeof value !== 'string') {
      const lora = value.lora == null ? undefined : this.#path(value.lora);
      return { model: this.#path(value.model), lora, loraScale: value.lora_scale ?? 1 };
    }
    const alias = this.#in.names?.[value];
    if (alias !== undefined) return this.#split(alias);
    return this.#split(value);
  }

  #split(text: string): ModelRef {
    const parts = text.split('+');
    if (parts.length > 2) this.#bad(`${text}: expected MODEL or MODEL+ADAPTER`);
    return {
      model: this.#path(parts[0]!),
      lora: parts[1] === undefined ? undefined : this.#path(parts[1]),
      loraScale: 1,
    };
  }

  #sources(models: readonly z.infer<typeof input>[]): Source[] {
    return models.map(({ model, parameters }) => ({ model: this.#ref(model), parameters: parameters ?? undefined }));
  }

  #slice(given: z.infer<typeof slice>): Slice {
    if (given.residual_weight != null) this.#notes.push('residual_weight has no effect, here as in mergekit');
    const sources = given.sources.map(({ model, layer_range, parameters }) => {
      if (layer_range[1] <= layer_range[0]) this.#bad(`layer_range [${layer_range}]: the end must lie after the start`);
      return { model: this.#ref(model), layers: layer_range, parameters: parameters ?? undefined };
    });
    const lengths = new Set(sources.map(({ layers }) => layers[1] - layers[0]));
    if (lengths.size > 1)
      this.#bad(`the sources of a slice take ${[...lengths].join(' and ')} layers; expected one number`);
    return {
      sources,
      base: given.base_model == null ? undefined : this.#ref(given.base_model),
      parameters: given.parameters ?? undefined,
    };
  }

  #stack(given: z.infer<typeof stack>, what: string): Stack {
    const { models, slices, parameters } = given;
    if ((models == null) === (slices == null)) this.#bad(`${what}: expected either models or slices`);
    return {
      slices: slices ? slices.map((one) => this.#slice(one)) : [{ sources: this.#sources(models!) }],
      parameters: parameters ?? undefined,
    };
  }

  #modules(): Recipe['modules'] {
    const { models, slices, modules, graft } = this.#in;
    const given = [models, slices, modules, graft].filter((one) => one != null).length;
    if (given !== 1) this.#bad("expected exactly one of 'models', 'slices', 'modules' and 'graft'");
    if (graft) return { default: { slices: [{ sources: [{ model: this.#ref(graft.in) }] }] } };
    if (!modules) {
      const whole = this.#stack({ models, slices }, 'recipe');
      return slices ? { text_decoder: whole } : { default: whole };
    }
    return Object.fromEntries(
      Object.entries(modules).map(([name, one]) => [name, this.#stack(one!, `modules.${name}`)]),
    ) as Recipe['modules'];
  }

  #rule(given: z.infer<typeof rule>, index: number): Rule {
    const what = `rules[${index}]`;
    if ((given.model === undefined) === (given.models === undefined))
      this.#bad(`${what}: expected either model or models`);
    if (given.where.layers && given.where.region) this.#bad(`${what}: where: layers and region exclude each other`);
    const method = given.merge_method ?? (given.model === undefined ? this.#in.merge_method : 'passthrough');
    if (method === undefined) this.#bad(`${what}: no merge_method`);
    mergeMethod(method, `${this.#where}: ${what}`);
    const base = given.base_model ?? (given.model === undefined ? this.#in.base_model : undefined);
    return {
      where: given.where,
      method,
      slice: {
        sources: given.models ? this.#sources(given.models) : [{ model: this.#ref(given.model!) }],
        base: base == null ? undefined : this.#ref(base),
        parameters: given.parameters ?? undefined,
      },
    };
  }

  /** The paper's block grafts as rules. */
  #graftRules(): Rule[] {
    const { graft } = this.#in;
    if (!graft) return [];
    const blocks = paperGrafts[graft.blocks];
    if (!blocks)
      this.#bad(`graft: blocks: expected one of ${Object.keys(paperGrafts).join(', ')}, got '${graft.blocks}'`);
    const from = (donor: 'in' | 'rl', where: Where): Rule => ({
      where,
      method: 'passthrough',
      slice: { sources: [{ model: this.#ref(graft[donor]) }] },
    });
    const end = (which: 'first' | 'last') =>
      graft.policy === 'in' || graft.policy === 'rl'
        ? graft.policy
        : blocks[graft.policy === 'ends' && which === 'last' ? 2 : 0];
    return [
      ...regionNames.map((region, block) => from(blocks[block]!, { region })),
      ...(['vision', 'projector', 'embed', 'other'] as const).map((tower) => from(end('first'), { tower })),
      ...(['norm', 'head'] as const).map((tower) => from(end('last'), { tower })),
    ];
  }

  #tokenizer(): TokenizerPolicy | undefined {
    const { tokenizer, tokenizer_source } = this.#in;
    if (tokenizer != null && tokenizer_source != null) this.#bad('both tokenizer and tokenizer_source are given');
    const from = tokenizer?.source ?? tokenizer_source;
    if (from == null) return undefined;
    const tokens = Object.entries(tokenizer?.tokens ?? {}).map(([token, { source: given, force }]) => {
      if (given == null) return [token, { kind: 'zero', force } as TokenSource];
      if (typeof given === 'object' && 'kind' in given) {
        if (given.kind === 'zero') return [token, { kind: 'zero', force } as TokenSource];
        if ((given.token == null) === (given.token_id == null)) this.#bad(`token ${token}: expected token or token_id`);
        return [
          token,
          {
            kind: 'token',
            model: this.#ref(given.model),
            token: given.token ?? undefined,
            tokenId: given.token_id ?? undefined,
            force,
          } as TokenSource,
        ];
      }
      return [token, { kind: 'model', model: this.#ref(given), force } as TokenSource];
    });
    return {
      source: from === 'union' || from === 'base' ? from : this.#ref(from),
      tokens: Object.fromEntries(tokens) as Record<string, TokenSource>,
      padToMultipleOf: tokenizer?.pad_to_multiple_of ?? undefined,
    };
  }

  recipe(): Recipe {
    const given = this.#in;
    const method = given.merge_method ?? (given.graft ? 'passthrough' : undefined);
    if (method === undefined) this.#bad('no merge_method');
    mergeMethod(method, this.#where);
    const modules = this.#modules();
    return {
      method,
      base: given.base_model == null ? undefined : this.#ref(given.base_model),
      parameters: given.parameters ?? undefined,
      modules,
      rules: [...given.rules.map((one, i) => this.#rule(one, i)), ...this.#graftRules()],
      cuts: given.cuts,
      dtype: given.out_dtype ?? given.dtype ?? undefined,
      tokenizer: this.#tokenizer(),
      chatTemplate: given.chat_template ?? undefined,
      seed: given.seed,
      notes: this.#notes,
    };
  }
}

/** Every model a recipe reads, in order of mention, the base first. */
export function modelsOf(recipe: Recipe): ModelRef[] {
  const slices = [
    ...Object.values(recipe.modules).flatMap(({ slices }) => slices),
    ...recipe.rules.map((r) => r.slice),
  ];
  const tokens = Object.values(recipe.tokenizer?.tokens ?? {}).flatMap(({ model }) => model ?? []);
  const source = recipe.tokenizer?.source;
  const all = [
    ...(recipe.base ? [recipe.base] : []),
    ...slices.flatMap(({ sources, base }) => [...(base ? [base] : []), ...sources.map(({ model }) => model)]),
    ...tokens,
    ...(typeof source === 'object' ? [source] : []),
  ];
  return [...new Map(all.map((ref) => [refKey(ref), ref])).values()];
}
