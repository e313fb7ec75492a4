import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readFolder } from '../../lib/checkpoint/folder.js';
import { GalvaniError } from '../../lib/errors.js';
import { familyByName, familyOfConfig } from '../../lib/models/registry.js';
import { fixtureModels, fixturePath } from '../support/fixture.js';

/** Tensor names of a safetensors file, read by hand. */
function headerNames(file: string): string[] {
  const bytes = readFileSync(file);
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE(0)))) as object;
  return Object.keys(header).filter((name) => name !== '__metadata__');
}

function thrown(run: () => unknown): GalvaniError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(GalvaniError);
    return error as GalvaniError;
  }
  throw new Error('expected a GalvaniError');
}

const folders = Object.fromEntries(fixtureModels.map((name) => [name, fixturePath(`models/${name}`)]));
const configOf = (name: string) => JSON.parse(readFileSync(join(folders[name]!, 'config.json'), 'utf8'));

describe('config of a folder', () => {
  it('reads the flat layout of the Hub', () => {
    const { config, name, weightFiles } = readFolder(folders['untied-gqa-sharded-bf16']!);
    expect(name).toBe('untied-gqa-sharded-bf16');
    expect(weightFiles.map((file) => file.slice(-31))).toEqual(
      [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`.slice(-31)),
    );
    expect(config).toEqual({
      family: 'qwen2_5_vl',
      decoder: {
        layers: 3,
        width: 72,
        heads: 6,
        kvHeads: 2,
        headDim: 12,
        mlpWidth: 96,
        vocab: 640,
        rmsEps: 1e-6,
        ropeTheta: 10000,
        mropeSection: [2, 2, 2],
        tiedHead: false,
      },
      vision: {
        layers: 4,
        width: 48,
        heads: 3,
        mlpWidth: 56,
        patchDim: 3 * 2 * 14 * 14,
        mergeSize: 2,
        windowSize: 56,
        patchSize: 14,
        fullAttentionLayers: [0, 3],
        outWidth: 72,
        rmsEps: 1e-6,
      },
      imageTokenId: 612,
      visionStartTokenId: 609,
      visionEndTokenId: 610,
      stopTokens: [602, 600],
    });
  });

  it('reads the nested layout of transformers 5 to the same numbers', () => {
    const flat = configOf('tied-mha');
    const { rope_scaling, rope_theta, vision_config, tie_word_embeddings, ...text } = flat;
    const nested = {
      model_type: 'qwen2_5_vl',
      image_token_id: flat.image_token_id,
      vision_start_token_id: flat.vision_start_token_id,
      vision_end_token_id: flat.vision_end_token_id,
      vision_config,
      text_config: {
        ...text,
        tie_word_embeddings,
        rope_parameters: { rope_type: 'default', rope_theta, mrope_section: rope_scaling.mrope_section },
      },
    };
    const read = (json: Record<string, unknown>) => familyOfConfig(json, 'x').readConfig(json, undefined, 'x');
    expect(read(nested)).toEqual(read(flat));
    expect(read(flat).decoder.tiedHead).toBe(true);
  });

  it('takes the defaults of transformers', () => {
    const json = { model_type: 'qwen2_5_vl', vision_config: { out_hidden_size: 8192 } };
    const { decoder, vision, stopTokens } = familyOfConfig(json, 'x').readConfig(json, undefined, 'x');
    expect(decoder).toMatchObject({ layers: 80, width: 8192, heads: 64, kvHeads: 8, headDim: 128, rmsEps: 1e-5 });
    expect(decoder).toMatchObject({ ropeTheta: 1e6, mropeSection: [16, 24, 24], tiedHead: false });
    expect(vision).toMatchObject({ layers: 32, windowSize: 112, fullAttentionLayers: [7, 15, 23, 31] });
    expect(stopTokens).toEqual([]);
  });

  it('allows a text-only checkpoint', () => {
    const { vision_config: _, ...text } = configOf('tied-mha');
    expect(familyOfConfig(text, 'x').readConfig(text, undefined, 'x').vision).toBeNull();
  });

  it.each([
    [{ model_type: 'llama' }, 'UNSUPPORTED', /model_type "llama".*qwen2_5_vl/],
    [{ hidden_act: 'gelu' }, 'UNSUPPORTED', /hidden_act "gelu"/],
    [{ rope_scaling: { type: 'yarn', mrope_section: [2, 2, 2] } }, 'UNSUPPORTED', /rope type "yarn"/],
    [{ use_sliding_window: true, max_window_layers: 1 }, 'UNSUPPORTED', /sliding-window/],
    [{ rope_scaling: { type: 'mrope', mrope_section: [9, 9, 9] } }, 'BAD_CONFIG', /expected a sum.*= 6, got 27/],
    [{ num_hidden_layers: -3 }, 'BAD_CONFIG', /num_hidden_layers/],
    [{ hidden_size: '48' }, 'BAD_CONFIG', /hidden_size/],
    [{ num_attention_heads: 5 }, 'BAD_CONFIG', /not a multiple of 5 heads/],
    [{ num_key_value_heads: 3 }, 'BAD_CONFIG', /num_key_value_heads 3/],
    [{ vision_config: { out_hidden_size: 10 } }, 'BAD_CONFIG', /head dim|out_hidden_size/],
  ])('refuses %j', (change, code, message) => {
    const json = { ...configOf('tied-mha'), ...change };
    const error = thrown(() => familyOfConfig(json, '/m/config.json').readConfig(json, undefined, '/m/config.json'));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.message).toContain('/m/config.json');
  });
});

describe('files of a folder', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'galvani-folder-'));
  const make = (name: string, files: Record<string, string>) => {
    const dir = join(scratch, name);
    mkdirSync(dir);
    for (const [file, text] of Object.entries(files)) writeFileSync(join(dir, file), text);
    return dir;
  };
  const config = readFileSync(join(folders['tied-mha']!, 'config.json'), 'utf8');

  it.each([
    ['no-folder', undefined, 'FILE_NOT_FOUND', 'no-folder'],
    ['empty', {}, 'FILE_NOT_FOUND', 'config.json'],
    ['not-json', { 'config.json': '{"a": ' }, 'BAD_CONFIG', 'config.json'],
    ['array', { 'config.json': '[]' }, 'BAD_CONFIG', 'got an array'],
    ['no-weights', { 'config.json': config, 'pytorch_model.bin': '' }, 'FILE_NOT_FOUND', 'pytorch_model.bin'],
    [
      'no-shard',
      {
        'config.json': config,
        'model.safetensors.index.json': '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
      },
      'FILE_NOT_FOUND',
      'model-00001-of-00002.safetensors',
    ],
    [
      'escaping-shard',
      { 'config.json': config, 'model.safetensors.index.json': '{"weight_map": {"a": "../../secret"}}' },
      'BAD_CONFIG',
      '../../secret',
    ],
    ['bad-index', { 'config.json': config, 'model.safetensors.index.json': '{}' }, 'BAD_CONFIG', 'weight_map'],
  ])('%s', (name, files, code, mention) => {
    const dir = files ? make(name, files) : join(scratch, name);
    const error = thrown(() => readFolder(dir));
    expect(error.code).toBe(code);
    expect(error.message).toContain(mention);
    expect(error.message).toContain(dir);
  });
});

describe.each(fixtureModels)('tensors of %s', (name) => {
  const folder = readFolder(folders[name]!);
  const family = familyByName(folder.config.family);
  const paths = folder.weightFiles.flatMap(headerNames);
  const names = family.tensorNames(paths, folder.config, folder.dir);

  it('names every tensor of the checkpoint exactly once', () => {
    expect([...Object.values(names)].sort()).toEqual([...paths].sort());
    expect('head' in names).toBe(!folder.config.decoder.tiedHead);
  });

  it('classifies every path as the canonical name says', () => {
    for (const [canonical, path] of Object.entries(names)) {
      const place = family.describeTensor(path);
      expect(place.module, path).not.toBe('other');
      const [tower, layer] = canonical.startsWith('vision.merger')
        ? ['projector', null]
        : canonical.startsWith('vision.blocks.')
          ? ['vision', Number(canonical.split('.')[2])]
          : canonical.startsWith('vision.')
            ? ['vision', null]
            : canonical.startsWith('layers.')
              ? ['decoder', Number(canonical.split('.')[1])]
              : [canonical, null];
      expect(place, path).toMatchObject({ tower, layer, part: path.endsWith('.bias') ? 'bias' : 'weight' });
      const module = canonical.replace(/^(layers\.\d+|vision\.blocks\.\d+|vision\.merger|vision)\./, '').split('.')[0];
      expect(place.module, path).toBe(module);
    }
  });

  it('says which tensor is missing and what is near', () => {
    const gone = names['layers.1.q.weight']!;
    const others = paths.filter((path) => path !== gone);
    const error = thrown(() => family.tensorNames([...others, `${gone}s`], folder.config, folder.dir));
    expect(error.code).toBe('TENSOR_MISSING');
    expect(error.message).toContain(folder.dir);
    expect(error.message).toContain('layers.1.q.weight');
    expect(error.message).toContain(gone);
    expect(error.message).toContain(`closest existing name: ${gone}s`);
  });
});

describe('tensor descriptions', () => {
  const { describeTensor } = familyByName('qwen2_5_vl');
  it.each([
    ['model.layers.3.self_attn.rotary_emb.inv_freq', { tower: 'decoder', layer: 3, module: 'other', part: 'other' }],
    ['visual.blocks.7.attn.k_norm.weight', { tower: 'vision', layer: 7, module: 'other', part: 'weight' }],
    ['visual.merger.extra.bias', { tower: 'projector', layer: null, module: 'other', part: 'bias' }],
    ['something.else', { tower: 'other', layer: null, module: 'other', part: 'other' }],
    ['lm_head.weight', { tower: 'head', layer: null, module: 'head', part: 'weight' }],
    ['model.language_model.norm.weight', { tower: 'norm', layer: null, module: 'norm', part: 'weight' }],
    ['model.visual.merger.ln_q.weight', { tower: 'projector', layer: null, module: 'norm', part: 'weight' }],
  ])('%s', (path, expected) => {
    expect(describeTensor(path)).toEqual(expected);
  });
});
