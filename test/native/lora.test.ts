// Adapters from differences: a planted low-rank update is found, its energies are those of its singular values, and the
// adapter applied to the base gives the tuned model back.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { extractLora } from '../../lib/merge/extract-lora.js';
import { f32, merge, values, writeToy } from '../support/merge.js';

let root = '';
const at = (name: string) => join(root, name);
const q = 'model.layers.1.self_attn.q_proj.weight';
const embed = 'model.embed_tokens.weight';
const norm = 'model.norm.weight';

/** Orthonormal columns by hand: σ = 3 and 1 on q, rank 1 on the embedding, the norm shifted. */
function writeTuned(): void {
  const base = openCheckpoint(at('base'));
  const [u1, u2] = [
    [0.5, 0.5, 0.5, 0.5],
    [0.5, -0.5, 0.5, -0.5],
  ];
  const [v1, v2] = [
    [0.6, 0.8, 0, 0],
    [0, 0, 1, 0],
  ];
  const tensors = base.names().map((name) => {
    const { data, shape } = base.read(name);
    const changed = [...data].map((x, i) => {
      if (name === q) return x + 3 * u1[i >> 2]! * v1[i & 3]! + u2[i >> 2]! * v2[i & 3]!;
      if (name === embed) return x + 0.1 * (1 + (i >> 2)) * u2[i & 3]!;
      return name === norm ? x + 0.25 : x;
    });
    return f32(name, shape, changed);
  });
  writeToy(at('tuned'), { seed: 1 });
  writeSafetensors(join(at('tuned'), 'model.safetensors'), tensors);
}
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'galvani-lora-'));
  writeToy(at('base'), { seed: 1 });
  writeTuned();
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const extract = (out: string, more: object = {}) =>
  extractLora({ base: at('base'), tuned: at('tuned'), out: at(out), version: 'test', ...more });

it('finds rank, singular values and energies of a planted update', async () => {
  const result = await extract('two');
  expect(result.modules.map(({ name, rank }) => [name, rank])).toEqual([[q, 2]]);
  const [module] = result.modules;
  expect(module!.norm).toBeCloseTo(Math.sqrt(10), 5);
  expect(module!.energy[0]).toBeCloseTo(0.9, 5);
  expect(module!.energy[1]).toBeCloseTo(1, 5);
  expect(result.leftOut.map(({ name, why }) => [name, why])).toEqual([
    [embed, 'embedding or head'],
    [norm, 'not a matrix'],
  ]);
  const lost = [0.01 * 91, 4 * 0.0625];
  const total = 10 + lost[0]! + lost[1]!;
  expect(result.energyKept).toBeCloseTo(10 / total, 5);
  for (const [i, { share }] of result.leftOut.entries()) expect(share).toBeCloseTo(lost[i]! / total, 5);
});

it('a smaller rank keeps the share it says', async () => {
  for (const [out, limit] of [
    ['rank', { rank: 1 }],
    ['energy', { energy: 0.9 - 1e-6 }],
  ] as const) {
    const result = await extract(out, limit);
    expect(result.modules[0]!.rank).toBe(1);
    const merged = at(`${out}-merged`);
    await merge({ merge_method: 'passthrough', models: [{ model: `base+${out}` }] }, root, merged);
    const [tuned, got] = [values(at('tuned'), q), values(merged, q)];
    const residue = tuned.reduce((sum, x, i) => sum + (x - got[i]!) ** 2, 0);
    expect(residue).toBeCloseTo(10 * (1 - result.modules[0]!.energy[0]!), 4); // σ2² = 1
  }
});

it('with embeddings and the rest, base + adapter is the tuned model', async () => {
  const result = await extract('all', { embeddings: true, saveRest: true });
  expect(result.leftOut).toEqual([]);
  expect(result.energyKept).toBeCloseTo(1, 6);
  const config = JSON.parse(readFileSync(join(at('all'), 'adapter_config.json'), 'utf8'));
  expect(config).toMatchObject({
    peft_type: 'LORA',
    r: 2,
    lora_alpha: 2,
    rank_pattern: { 'model.embed_tokens': 1 },
    modules_to_save: ['model.norm'],
  });
  const adapter = openCheckpoint(at('all/adapter_model.safetensors'));
  expect(adapter.info('base_model.model.model.embed_tokens.lora_embedding_A').shape).toEqual([1, 6]);
  expect(adapter.info('base_model.model.model.embed_tokens.lora_embedding_B').shape).toEqual([4, 1]);
  await merge({ merge_method: 'passthrough', models: [{ model: 'base+all' }] }, root, at('back'));
  for (const name of openCheckpoint(at('tuned')).names()) {
    const [tuned, got] = [values(at('tuned'), name), values(at('back'), name)];
    for (const [i, x] of tuned.entries()) expect(got[i], name).toBeCloseTo(x, 5);
  }
});

it('an interrupted extraction goes on to the same files', async () => {
  const controller = new AbortController();
  const stopped = extract('again', {
    embeddings: true,
    signal: controller.signal,
    onProgress: () => controller.abort(),
  });
  await expect(stopped).rejects.toMatchObject({
    code: 'ABORTED',
    message: expect.stringMatching(/same command continues/),
  });
  expect(existsSync(at('again'))).toBe(false);
  const { resumed } = await extract('again', { embeddings: true });
  expect(resumed).toBeGreaterThan(0);
  await extract('once', { embeddings: true });
  for (const name of ['adapter_model.safetensors', 'adapter_config.json'])
    expect(readFileSync(join(at('again'), name)).equals(readFileSync(join(at('once'), name)))).toBe(true);
});

it('refuses checkpoints that do not fit, that do not differ, and ranks that are none', async () => {
  writeToy(at('wide'), { seed: 1, width: 8 });
  await expect(extract('x', { tuned: at('wide') })).rejects.toMatchObject({ code: 'SHAPE_MISMATCH' });
  await expect(extract('x', { tuned: at('base') })).rejects.toMatchObject({
    message: expect.stringMatching(/no matrix .* differs/),
  });
  await expect(extract('x', { rank: 0 })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  expect(existsSync(at('x')) || existsSync(at('x.partial'))).toBe(false);
});
