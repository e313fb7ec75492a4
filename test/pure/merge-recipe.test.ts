/** Recipes: mergekit's YAML as its documents write it, our additions, and every mistake named. */
import { describe, expect, it } from 'vitest';
import type { GalvaniError } from '../../lib/errors.js';
import { placeOf } from '../../lib/merge/layout.js';
import { modelsOf, parseRecipe, refKey } from '../../lib/merge/recipe.js';
import { resolveParameter, type Setting } from '../../lib/merge/settings.js';

const parse = (text: string) => parseRecipe(text, 'recipe.yaml');
const failure = (text: string): GalvaniError => {
  try {
    parse(text);
  } catch (error) {
    return error as GalvaniError;
  }
  throw new Error('expected an error, got none');
};

describe('mergekit’s YAML', () => {
  it('models with gradients, filters and a base', () => {
    const recipe = parse(`
models:
  - model: org/base
  - model: org/instruct
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: org/math
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
`);
    expect(modelsOf(recipe).map(refKey)).toEqual(['org/base', 'org/instruct', 'org/math']);
    expect(recipe.dtype).toBe('float16');
    expect(recipe.modules.default!.slices[0]!.sources[1]!.parameters!.density).toEqual([1, 0.7, 0.1]);
  });
  it('slices, modules, out_dtype, tokenizer, adapters, scientific notation as YAML 1.1 reads it', () => {
    const stacked = parse(`
slices:
  - sources: [{model: a, layer_range: [0, 24]}]
  - sources:
      - model: b+lora
        layer_range: [8, 32]
        parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}
merge_method: passthrough
dtype: float32
out_dtype: bfloat16
tokenizer_source: union
`);
    expect(stacked.modules.text_decoder!.slices).toHaveLength(2);
    expect(refKey(modelsOf(stacked)[1]!)).toBe('b+lora');
    expect(stacked.dtype).toBe('bfloat16');
    expect(stacked.tokenizer).toMatchObject({ source: 'union' });
    const modular = parse(`
merge_method: slerp
base_model: a
modules:
  text_decoder: {slices: [{sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]}], parameters: {t: 0.5}}
  vision_tower: {models: [{model: b}]}
  multi_modal_projector: {models: [{model: b}]}
tokenizer:
  source: base
  tokens:
    <|im_start|>: {source: b, force: true}
    <x>: {source: {kind: model_token, model: a, token_id: 5}}
  pad_to_multiple_of: 64
`);
    expect(Object.keys(modular.modules)).toEqual(['text_decoder', 'vision_tower', 'multi_modal_projector']);
    expect(modular.tokenizer!.tokens['<x>']).toMatchObject({ kind: 'token', tokenId: 5, force: false });
    const nearswap = parse('{merge_method: nearswap, base_model: a, models: [{model: b}], parameters: {t: "1e-4"}}');
    const t = { name: 't', scope: 'shared', type: 'number' } as const;
    expect(resolveParameter(t, [nearswap.parameters!], { name: 'x', depth: 0 }, '')).toBe(1e-4);
  });
});

describe('mistakes', () => {
  it.each([
    ['merge_method: linear\nmodels: []\n', /models/],
    ['merge_method: linear\nmodels: [{model: a, weight: 1}]\n', /Unrecognized key: "weight"/],
    ['models: [{model: a}]\n', /no merge_method/],
    [
      'merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [4, 4]}]}]\n',
      /the end must lie after the start/,
    ],
    [
      'merge_method: slerp\nbase_model: a\nslices: [{sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 5]}]}]\n',
      /take 4 and 5 layers; expected one number/,
    ],
    ['merge_method: linear\nmodels: [{model: a+b+c}]\n', /expected MODEL or MODEL\+ADAPTER/],
    [
      'merge_method: linear\nmodels: [{model: a}]\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n',
      /exactly one of/,
    ],
    ['merge_method: linear\nmodels: [{model: a}]\nrules: [{where: {region: middle}, model: a}]\n', /region/],
    ['merge_method: linear\nmodels: [{model: a}]\nrules: [{where: {}}]\n', /expected either model or models/],
    ['graft: {blocks: IN:XX, in: a, rl: b, policy: early}\n', /blocks: expected one of IN, RL, IN:RL:RL/],
    [
      'merge_method: linear\nmodels: [{model: a}]\ntokenizer_source: base\ntokenizer: {source: base}\n',
      /both tokenizer and tokenizer_source/,
    ],
    ['just text', /recipe\.yaml/],
    ['a: &x [*x]\n', /recipe\.yaml/],
  ])('%j', (text, message) => {
    const error = failure(text);
    expect(error.code).toBe('BAD_CONFIG');
    expect(error.message).toMatch(message);
  });
  it('an alias bomb is refused', () => {
    const lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]'];
    for (let i = 1; i < 12; i++)
      lines.push(
        `a${i}: &a${i} [${Array(9)
          .fill(`*a${i - 1}`)
          .join(', ')}]`,
      );
    expect(() => parse(lines.join('\n'))).toThrow();
  });
});

describe('settings', () => {
  const number = { name: 'weight', scope: 'other', type: 'number' } as const;
  const value = (setting: Setting, name: string, depth: number) =>
    resolveParameter(number, [{ weight: setting }], { name, depth }, 'here');
  it('interpolates gradients, takes the first filter that holds, falls through to the next scope', () => {
    expect(value([0, 1], 'x', 0.25)).toBe(0.25);
    expect(value([0, 0.5, 1, 0], 'x', 0.5)).toBeCloseTo(0.75, 12);
    expect(value([2], 'x', 0.7)).toBe(2);
    const filtered = [
      { filter: 'attn', value: [0, 1] },
      { filter: '*', value: 0.3 },
    ];
    expect(value(filtered, 'layers.1.self_attn.q', 1)).toBe(1);
    expect(value(filtered, 'layers.1.mlp.up', 1)).toBe(0.3);
    const scopes = [{ weight: { filter: 'mlp', value: 5 } }, undefined, { weight: 7 }];
    expect(resolveParameter(number, scopes, { name: 'attn', depth: 0 }, '')).toBe(7);
    expect(resolveParameter({ ...number, default: 3 }, [{}], { name: 'attn', depth: 0 }, '')).toBe(3);
  });
  it('names what is missing or not a number', () => {
    expect(() => resolveParameter(number, [], { name: 'w', depth: 0 }, 'here')).toThrow(
      /here: parameter weight is not given for tensor w/,
    );
    expect(() => value('much', 'w', 0)).toThrow(/weight: expected a number, got "much"/);
    expect(() => value([1, { value: 2 }] as unknown as Setting, 'w', 0)).toThrow(/mixes values and/);
  });
});

describe('places', () => {
  it.each([
    ['model.layers.3.self_attn.q_proj.weight', 'decoder', 3, 'attn'],
    ['model.language_model.layers.3.mlp.up_proj.weight', 'decoder', 3, 'mlp'],
    ['model.visual.blocks.7.attn.qkv.bias', 'vision', 7, 'attn'],
    ['visual.merger.mlp.0.weight', 'projector', null, 'other'],
    ['vision_tower.vision_model.encoder.layers.5.layer_norm1.weight', 'vision', 5, 'norm'],
    ['multi_modal_projector.linear_1.weight', 'projector', null, 'other'],
    ['transformer.h.2.attn.c_attn.weight', 'decoder', 2, 'attn'],
    ['transformer.wte.weight', 'embed', null, 'other'],
    ['lm_head.weight', 'head', null, 'other'],
    ['model.norm.weight', 'norm', null, 'other'],
    ['model.layers.3.input_layernorm.weight', 'decoder', 3, 'norm'],
    ['something.else', 'other', null, 'other'],
  ])('%s', (name, tower, layer, component) => {
    expect(placeOf(name)).toMatchObject({ tower, layer, component });
  });
  it('layouts of one model agree', () => {
    for (const [a, b] of [
      ['model.layers.3.mlp.up_proj.weight', 'model.language_model.layers.3.mlp.up_proj.weight'],
      ['visual.blocks.0.norm1.weight', 'model.visual.blocks.0.norm1.weight'],
      ['visual.patch_embed.proj.weight', 'model.visual.patch_embed.proj.weight'],
      ['model.embed_tokens.weight', 'model.language_model.embed_tokens.weight'],
    ] as const)
      expect(placeOf(a).key).toBe(placeOf(b).key);
  });
});
