// The merge writer: recipes of every shape, what goes where, and what is refused. Files are made here.
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import type { GalvaniError } from '../../lib/errors.js';
import { manifestName } from '../../lib/merge/write.js';
import { dtypeOf, f32, merge, plan, values, writeToy } from '../support/merge.js';

let root = '';
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'galvani-merge-'));
  writeToy(join(root, 'a'), { seed: 1 });
  writeToy(join(root, 'b'), { seed: 2 });
  writeToy(join(root, 'c'), { seed: 3 });
});
afterAll(() => rmSync(root, { recursive: true, force: true }));
let serial = 0;
const fresh = () => join(root, `out${serial++}`);
const q = (layer: number) => `model.layers.${layer}.self_attn.q_proj.weight`;
const down = (layer: number) => `model.layers.${layer}.mlp.down_proj.weight`;
const at = (name: string) => join(root, name);
/** −0 as 0. */
const plain = (x: number) => x + 0;
const failure = async (work: () => unknown): Promise<GalvaniError> => {
  try {
    await work();
  } catch (error) {
    return error as GalvaniError;
  }
  throw new Error('expected an error, got none');
};

describe('grafts', () => {
  it('a rule takes a component, a range or a region from another model, bytes unchanged', async () => {
    const out = fresh();
    const rules = [
      { where: { component: 'attn', layers: [0, 2] }, model: 'b' },
      { where: { region: 'late' }, model: 'c' },
      { where: { tower: 'head' }, model: 'b' },
    ];
    await merge({ merge_method: 'passthrough', models: [{ model: 'a' }], rules }, root, out);
    for (const [name, from] of [
      [q(0), 'b'],
      [q(1), 'b'],
      [q(2), 'c'],
      [down(0), 'a'],
      [down(2), 'c'],
      ['lm_head.weight', 'b'],
      ['model.norm.weight', 'a'],
    ] as const)
      expect(values(out, name), name).toEqual(values(at(from), name));
    const manifest = JSON.parse(readFileSync(join(out, manifestName), 'utf8'));
    expect(manifest.coverage.methods).toEqual({ copy: 15 });
    expect(manifest.inputs.map((one: { model: string }) => one.model)).toEqual(['a', 'b', 'c']);
    expect(manifest.coverage.unused.a).toEqual(expect.arrayContaining([q(0), q(1), 'lm_head.weight']));
  });

  it('the paper’s blocks with each policy for the weights of no layer', async () => {
    for (const [policy, embed, head] of [
      ['early', 'a', 'a'],
      ['rl', 'b', 'b'],
      ['ends', 'a', 'b'],
    ] as const) {
      const out = fresh();
      await merge({ graft: { blocks: 'IN:RL:RL', in: 'a', rl: 'b', policy } }, root, out);
      expect(values(out, q(0))).toEqual(values(at('a'), q(0)));
      expect(values(out, q(1))).toEqual(values(at('b'), q(1)));
      expect(values(out, 'model.embed_tokens.weight')).toEqual(values(at(embed), 'model.embed_tokens.weight'));
      expect(values(out, 'lm_head.weight')).toEqual(values(at(head), 'lm_head.weight'));
    }
  });

  it('slices stack layers of several models; embeddings follow the first, norm and head the last; config follows', async () => {
    const out = fresh();
    const slices = [
      { sources: [{ model: 'a', layer_range: [0, 2] }] },
      { sources: [{ model: 'b', layer_range: [1, 3] }] },
      { sources: [{ model: 'a', layer_range: [2, 3] }] },
    ];
    await merge({ merge_method: 'passthrough', slices }, root, out);
    expect(values(out, q(3))).toEqual(values(at('b'), q(2)));
    expect(values(out, q(4))).toEqual(values(at('a'), q(2)));
    expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')).num_hidden_layers).toBe(5);
    expect(openCheckpoint(out).names()).toHaveLength(3 + 5 * 4);
  });

  it('gradients run over the layers, filters look into names, a slice’s own parameters come first', async () => {
    const out = fresh();
    const parameters = { weight: [{ filter: 'self_attn', value: [0, 1] }, { value: 0.5 }] };
    const models = [
      { model: 'a', parameters: { weight: 0 } },
      { model: 'b', parameters },
    ];
    await merge({ merge_method: 'linear', models, parameters: { normalize: false } }, root, out);
    for (const [layer, share] of [
      [0, 0],
      [1, 0.5],
      [2, 1],
    ] as const) {
      expect(values(out, q(layer)).map(plain)).toEqual(
        values(at('b'), q(layer)).map((x) => plain(Math.fround(share * x))),
      );
      expect(values(out, down(layer))).toEqual(values(at('b'), down(layer)).map((x) => Math.fround(0.5 * x)));
    }
  });

  it('tensor names of another layout meet', async () => {
    const renamed = at('renamed');
    writeToy(renamed, { seed: 4 });
    const checkpoint = openCheckpoint(renamed);
    const tensors = checkpoint.names().map((name) => ({
      ...checkpoint.info(name),
      data: checkpoint.raw(name),
      name: name.replace(/^model\./, 'model.language_model.'),
    }));
    writeSafetensors(join(renamed, 'model.safetensors'), tensors);
    const out = fresh();
    await merge(
      { merge_method: 'slerp', base_model: 'a', models: [{ model: 'renamed' }], parameters: { t: 1 } },
      root,
      out,
    );
    expect(values(out, q(1)).map((x) => x.toFixed(5))).toEqual(
      values(renamed, q(1).replace('model.', 'model.language_model.')).map((x) => x.toFixed(5)),
    );
  });
});

describe('types and shapes', () => {
  it('stores the type asked for and says so in config.json', async () => {
    const out = fresh();
    await merge({ merge_method: 'passthrough', models: [{ model: 'a' }], dtype: 'bfloat16' }, root, out);
    expect(dtypeOf(out, q(0))).toBe('BF16');
    expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')).torch_dtype).toBe('bfloat16');
  });

  it('scalars, empty tensors, five dimensions, integers', async () => {
    const extra = [
      f32('extra.scalar', [], [3]),
      f32('extra.empty', [0, 4], []),
      f32('extra.conv', [2, 1, 2, 3, 3], Array(36).fill(0.5)),
      { name: 'extra.ids', dtype: 'I64' as const, shape: [2], data: new Uint8Array(16).fill(7) },
    ];
    for (const name of ['x', 'y']) writeToy(at(name), { seed: 5, extra });
    for (const method of [
      'linear',
      'slerp',
      'ties',
      'della',
      'arcee_fusion',
      'model_stock',
      'sce',
      'dare_ties',
      'nuslerp',
      'karcher',
    ]) {
      const out = fresh();
      writeToy(at('z'), { seed: 6, extra });
      const pair = ['slerp', 'arcee_fusion'].includes(method);
      const parameters = { weight: 0.5, density: 0.5, t: 0.5, epsilon: 0.1 };
      const models = [{ model: 'y', parameters }, ...(pair ? [] : [{ model: 'z', parameters }])];
      await merge({ merge_method: method, base_model: 'x', models, parameters: { t: 0.5 } }, root, out);
      expect(values(out, 'extra.conv')).toHaveLength(36);
      expect(values(out, 'extra.empty')).toEqual([]);
      expect(Number.isFinite(values(out, 'extra.scalar')[0])).toBe(true);
      expect([...openCheckpoint(out).raw('extra.ids')]).toEqual(Array(16).fill(7));
    }
  });

  it('shards as full as the limit allows, with an index, and reads back', async () => {
    const out = fresh();
    await merge({ merge_method: 'passthrough', models: [{ model: 'a' }] }, root, out, { shardBytes: 300 });
    const index = JSON.parse(readFileSync(join(out, 'model.safetensors.index.json'), 'utf8'));
    const files = new Set(Object.values(index.weight_map));
    expect(files.size).toBeGreaterThan(3);
    expect([...files].sort()[0]).toMatch(/^model-00001-of-0000\d\.safetensors$/);
    const checkpoint = openCheckpoint(out);
    expect(index.metadata.total_size).toBe(checkpoint.bytes);
    for (const name of openCheckpoint(at('a')).names()) expect(values(out, name)).toEqual(values(at('a'), name));
  });
});

describe('vocabularies', () => {
  const embed = 'model.embed_tokens.weight';
  const rows = (dir: string) => {
    const flat = values(dir, embed);
    return Array.from({ length: flat.length / 4 }, (_, row) => flat.slice(4 * row, 4 * row + 4));
  };
  beforeAll(() => {
    writeToy(at('v1'), { seed: 7, vocab: ['a', 'b', 'c', 'd'] });
    writeToy(at('v2'), { seed: 8, vocab: ['d', 'c', 'x', 'a', 'y'] });
  });
  const recipe = (tokenizer: object) => ({
    merge_method: 'linear',
    base_model: 'v1',
    models: [
      { model: 'v1', parameters: { weight: 0.5 } },
      { model: 'v2', parameters: { weight: 0.5 } },
    ],
    tokenizer,
  });
  const mean = (a: number[], b: number[]) => a.map((x, i) => Math.fround(0.5 * x + 0.5 * b[i]!));

  it('without a policy, one error names the tensors and the way out', async () => {
    const { tokenizer: _, ...plain } = recipe({});
    const error = await failure(() => plan(plain, root));
    expect(error.code).toBe('SHAPE_MISMATCH');
    expect(error.message).toMatch(/model\.embed_tokens\.weight: \[4,4\] in v1, \[5,4\] in v2; a tokenizer policy/);
    writeToy(at('v3'), { seed: 9, vocab: ['b', 'a', 'c', 'd'] });
    const swapped = {
      ...plain,
      models: [
        { model: 'v1', parameters: { weight: 1 } },
        { model: 'v3', parameters: { weight: 1 } },
      ],
    };
    expect((await failure(() => plan(swapped, root))).message).toMatch(/v1 and v3 give ids to different tokens/);
  });

  it('base: rows follow the tokens; what a model lacks is the base’s', async () => {
    const out = fresh();
    await merge(recipe({ source: 'base' }), root, out);
    const [one, two, got] = [rows(at('v1')), rows(at('v2')), rows(out)];
    expect(got).toEqual([mean(one[0]!, two[3]!), one[1]!, mean(one[2]!, two[1]!), mean(one[3]!, two[0]!)]);
    expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')).vocab_size).toBe(4);
  });

  it('union: new tokens come after, with the row of whoever has them; the tokenizer learns them', async () => {
    const out = fresh();
    await merge(recipe({ source: 'union', pad_to_multiple_of: 8 }), root, out);
    const [one, two, got] = [rows(at('v1')), rows(at('v2')), rows(out)];
    expect(got.slice(0, 6)).toEqual([
      mean(one[0]!, two[3]!),
      one[1]!,
      mean(one[2]!, two[1]!),
      mean(one[3]!, two[0]!),
      two[2]!,
      two[4]!,
    ]);
    expect(got).toHaveLength(8);
    for (let i = 0; i < 4; i++) {
      // padding: the mean of the six rows, of each model before merging
      const average = got.slice(0, 6).reduce((sum, row) => sum + row[i]!, 0) / 6;
      expect(got[7]![i]).toBeCloseTo(average, 5);
    }
    const tokenizer = JSON.parse(readFileSync(join(out, 'tokenizer.json'), 'utf8'));
    expect(tokenizer.added_tokens.map((token: { id: number; content: string }) => [token.id, token.content])).toEqual([
      [4, 'x'],
      [5, 'y'],
    ]);
    expect(openCheckpoint(out).info('lm_head.weight').shape).toEqual([8, 4]);
  });

  it('a token may be told its row', async () => {
    const out = fresh();
    const tokens = {
      b: { source: { kind: 'model_token', model: 'v2', token: 'y' }, force: true },
      '<new>': { source: { kind: 'zero' } },
    };
    await merge(recipe({ source: 'base', tokens }), root, out);
    const got = rows(out);
    expect(got[1]).toEqual(rows(at('v2'))[4]);
    expect(got[4]).toEqual([0, 0, 0, 0]);
  });

  it('a tied head is its embedding when another model has its own', async () => {
    writeToy(at('tied'), { seed: 10, tiedHead: true });
    const out = fresh();
    const models = ['tied', 'a'].map((model) => ({ model, parameters: { weight: 1 } }));
    await merge({ merge_method: 'linear', models }, root, out);
    const head = values(at('a'), 'lm_head.weight');
    expect(values(out, 'lm_head.weight')).toEqual(
      values(at('tied'), embed).map((x, i) => Math.fround((x + head[i]!) / 2)),
    );
    expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')).tie_word_embeddings).toBe(false);
  });
});

describe('adapters', () => {
  const writeAdapter = (dir: string, tensors: ReturnType<typeof f32>[], config: object) => {
    writeToy(dir, { seed: 1 });
    rmSync(join(dir, 'model.safetensors'));
    writeSafetensors(join(dir, 'adapter_model.safetensors'), tensors);
    writeFileSync(
      join(dir, 'adapter_config.json'),
      JSON.stringify({ peft_type: 'LORA', r: 2, lora_alpha: 4, ...config }),
    );
  };
  const path = 'base_model.model.model.layers.1.self_attn.q_proj';
  const [a, b] = [
    [1, 2, 3, 4, 5, 6, 7, 8],
    [1, 0, 0, 1, 0.5, 0, 0, 0],
  ];
  const delta = (scale: number) =>
    Array.from({ length: 16 }, (_, i) => {
      const [row, column] = [i >> 2, i & 3];
      return scale * (b[2 * row]! * a[column]! + b[2 * row + 1]! * a[4 + column]!);
    });

  it('adds scale · B A, alpha over rank, also by pattern and at a fraction', async () => {
    writeAdapter(at('lora'), [f32(`${path}.lora_A.weight`, [2, 4], a), f32(`${path}.lora_B.weight`, [4, 2], b)], {});
    for (const [model, scale] of [
      ['a+lora', 2],
      [{ model: 'a', lora: 'lora', lora_scale: 0.25 }, 0.5],
    ] as const) {
      const out = fresh();
      await merge({ merge_method: 'passthrough', models: [{ model }] }, root, out);
      const before = values(at('a'), q(1));
      expect(values(out, q(1))).toEqual(delta(scale).map((d, i) => Math.fround(before[i]! + d)));
      expect(values(out, q(0))).toEqual(values(at('a'), q(0)));
    }
    writeAdapter(at('rs'), [f32(`${path}.lora_A.weight`, [2, 4], a), f32(`${path}.lora_B.weight`, [4, 2], b)], {
      use_rslora: true,
      alpha_pattern: { q_proj: 1 },
    });
    const out = fresh();
    await merge({ merge_method: 'passthrough', models: [{ model: 'a+rs' }] }, root, out);
    const scale = 1 / Math.sqrt(2);
    for (const [i, d] of delta(scale).entries())
      expect(values(out, q(1))[i]).toBeCloseTo(values(at('a'), q(1))[i]! + d, 5);
  });

  it('takes over whole modules, embeddings as the transpose', async () => {
    const norm = 'base_model.model.model.norm.weight';
    const embedding = 'base_model.model.model.embed_tokens';
    const tensors = [
      f32(norm, [4], [9, 8, 7, 6]),
      f32(`${embedding}.lora_embedding_A`, [1, 6], [1, 2, 3, 4, 5, 6]),
      f32(`${embedding}.lora_embedding_B`, [4, 1], [1, 10, 100, 1000]),
    ];
    writeAdapter(at('whole'), tensors, { lora_alpha: 1 });
    const out = fresh();
    await merge({ merge_method: 'passthrough', models: [{ model: 'a+whole' }] }, root, out);
    expect(values(out, 'model.norm.weight')).toEqual([9, 8, 7, 6]);
    const before = values(at('a'), 'model.embed_tokens.weight');
    expect(values(out, 'model.embed_tokens.weight')[4 * 2 + 1]).toBe(Math.fround(before[9]! + 30));
  });

  it('refuses what does not fit', async () => {
    const cases: [string, ReturnType<typeof f32>[], object, string, RegExp][] = [
      [
        'wide',
        [f32(`${path}.lora_A.weight`, [2, 5], Array(10).fill(1)), f32(`${path}.lora_B.weight`, [4, 2], b)],
        {},
        'SHAPE_MISMATCH',
        /does not fit a weight of \[4, 4\]/,
      ],
      ['half', [f32(`${path}.lora_A.weight`, [2, 4], a)], {}, 'TENSOR_MISSING', /not its partner/],
      [
        'lost',
        [f32('base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight', [2, 4], a)],
        {},
        'TENSOR_MISSING',
        /closest existing name/,
      ],
      ['dora', [], { use_dora: true }, 'UNSUPPORTED', /DoRA/],
    ];
    for (const [name, tensors, config, code, message] of cases) {
      writeAdapter(at(name), tensors, config);
      const error = await failure(() =>
        merge({ merge_method: 'passthrough', models: [{ model: `a+${name}` }] }, root, fresh()),
      );
      expect(error.code, name).toBe(code);
      expect(error.message).toMatch(message);
    }
  });
});

describe('coverage', () => {
  it('lists every difference of the checkpoints in one error, with the closest names', async () => {
    writeToy(at('odd'), {
      seed: 1,
      width: 4,
      leaveOut: [q(1), 'model.norm.weight', down(2)],
      extra: [
        f32('model.layers.1.self_attn.qproj.weight', [4, 4], Array(16).fill(1)),
        f32(down(2), [4, 9], Array(36).fill(1)),
      ].slice(0, 1),
    });
    const error = await failure(() =>
      plan({ merge_method: 'slerp', base_model: 'a', models: [{ model: 'odd' }], parameters: { t: 0.5 } }, root),
    );
    expect(error.code).toBe('SHAPE_MISMATCH');
    expect(error.details.differences).toHaveLength(4);
    expect(error.message).toContain(
      `${q(1)}: not in odd; closest existing name: model.layers.1.self_attn.qproj.weight`,
    );
    expect(error.message).toContain('model.layers.1.self_attn.qproj.weight: not in a; closest existing name');
  });

  it('a donor’s layer does not lose what the others do not have', async () => {
    writeToy(at('more'), { seed: 1, extra: [f32('model.layers.2.self_attn.q_norm.weight', [4], [1, 1, 1, 1])] });
    const error = await failure(() =>
      plan(
        {
          merge_method: 'passthrough',
          models: [{ model: 'a' }],
          rules: [{ where: { region: 'late' }, model: 'more' }],
        },
        root,
      ),
    );
    expect(error.message).toContain('model.layers.2.self_attn.q_norm.weight: in more, with no place in the output');
  });

  it('modules a recipe does not name are copied and said so', () => {
    const made = plan(
      { merge_method: 'passthrough', modules: { vision_tower: { models: [{ model: 'b' }] } }, base_model: 'a' },
      root,
    );
    expect(made.notes.join()).toMatch(/decoder: not named by the recipe, copied from a/);
    expect(made.tensors).toHaveLength(15);
  });

  it('integers that differ are a difference', async () => {
    const ids = (byte: number) => ({
      name: 'model.layers.0.ids',
      dtype: 'I32' as const,
      shape: [1],
      data: new Uint8Array(4).fill(byte),
    });
    writeToy(at('i1'), { seed: 1, extra: [ids(1)] });
    writeToy(at('i2'), { seed: 1, extra: [ids(2)] });
    const error = await failure(() =>
      plan(
        { merge_method: 'linear', models: ['i1', 'i2'].map((model) => ({ model, parameters: { weight: 1 } })) },
        root,
      ),
    );
    expect(error.message).toMatch(/I32 values differ between i1 and i2/);
  });
});

describe('interruptions', () => {
  const recipe = { merge_method: 'linear', models: ['a', 'b'].map((model) => ({ model, parameters: { weight: 1 } })) };
  const contents = (dir: string) =>
    Object.fromEntries(
      readdirSync(dir)
        .sort()
        .map((name) => [name, readFileSync(join(dir, name), 'base64')]),
    );

  it('finished shards of the same work are kept, of other work not; the result is the same', async () => {
    const [whole, out] = [fresh(), fresh()];
    await merge(recipe, root, whole, { shardBytes: 300 });
    const controller = new AbortController();
    const stopped = await failure(() =>
      merge(recipe, root, out, {
        shardBytes: 300,
        signal: controller.signal,
        onProgress: (done) => done > 400 && controller.abort(),
      }),
    );
    expect(stopped.code).toBe('ABORTED');
    expect(stopped.message).toMatch(/finished file\(s\) wait in .*\.partial/);
    expect(existsSync(out)).toBe(false);
    const { resumedBytes } = await merge(recipe, root, out, { shardBytes: 300 });
    expect(resumedBytes).toBeGreaterThan(0);
    expect(contents(out)).toEqual(contents(whole));
    expect(existsSync(`${out}.partial`)).toBe(false);

    const other = fresh();
    const again = new AbortController();
    await failure(() =>
      merge(recipe, root, other, {
        shardBytes: 300,
        signal: again.signal,
        onProgress: (done) => done > 400 && again.abort(),
      }),
    );
    const changed = { ...recipe, parameters: { normalize: false } };
    expect((await merge(changed, root, other, { shardBytes: 300 })).resumedBytes).toBe(0);
  });

  it('an existing folder is not touched, or replaced when complete', async () => {
    const out = fresh();
    await merge(recipe, root, out);
    const before = contents(out);
    expect((await failure(() => merge(recipe, root, out))).message).toMatch(/exists and is not empty; --overwrite/);
    expect(contents(out)).toEqual(before);
    await merge({ merge_method: 'passthrough', models: [{ model: 'b' }] }, root, out, { overwrite: true });
    expect(values(out, q(0))).toEqual(values(at('b'), q(0)));
    expect((await failure(() => merge(recipe, root, at('a'), { overwrite: true }))).message).toMatch(
      /is an input of this merge/,
    );
  });

  it('an input that shrinks under the merge is a clear error and leaves nothing', async () => {
    writeToy(at('shrinks'), { seed: 1, width: 64 });
    const out = fresh();
    const made = plan({ merge_method: 'passthrough', models: [{ model: 'shrinks' }], dtype: 'bfloat16' }, root);
    const { writeMerge } = await import('../../lib/merge/write.js');
    const file = join(at('shrinks'), 'model.safetensors');
    truncateSync(file, statSync(file).size >> 1);
    const error = await failure(() => writeMerge(made, { out, recipe: '', version: 'test' }));
    expect(error.code).toBe('BAD_FILE');
    expect(error.message).toMatch(/shrinks.*the file ends before/);
    expect(existsSync(out) || existsSync(`${out}.partial`)).toBe(false);
  });
});
