/** Models between two checkpoints: the bytes a merge would write, what they share, and the memory they may take. */
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Blend, describeBlend, graftOfBlend, regionBlend } from '../../lib/checkpoint/blend.js';
import { blockGraft } from '../../lib/checkpoint/graft.js';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { Engine } from '../../lib/engine.js';
import type { GalvaniError } from '../../lib/errors.js';
import { type DType, type Native, native, type TensorBytes } from '../../lib/native.js';
import { blendFingerprint, graftFingerprint } from '../../lib/run/fingerprint.js';
import type { Trial, TrialResult } from '../../lib/types.js';
import { merge } from '../support/merge.js';
import { plant } from '../support/planted.js';
import { imagePrompt, randomImage, writeRandomModel } from '../support/random-model.js';

const lab = (name: string): string => fileURLToPath(new URL(`../../lab/checkpoints/${name}`, import.meta.url));
const layers = 6;
let root: string;
let sft: string;
let rl: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'galvani-blends-'));
  sft = writeRandomModel({ layers, seed: 1 });
  rl = writeRandomModel({ layers, seed: 2 });
});
afterAll(() => {
  for (const dir of [root, sft, rl]) rmSync(dir, { recursive: true, force: true });
});

let serial = 0;
/** What `galvani merge` writes for (1 − α) · a + α · b. */
async function merged(a: string, b: string, alpha: number): Promise<string> {
  const out = join(root, `merged ${serial++}`);
  const models = [
    { model: a, parameters: { weight: 1 - alpha } },
    { model: b, parameters: { weight: alpha } },
  ];
  await merge({ merge_method: 'linear', models, parameters: { normalize: false } }, root, out);
  return out;
}

/** A copy of `base` with the tensors that `wanted` names taken from `donor`. */
function spliced(base: string, donor: string, wanted: RegExp): string {
  const out = join(root, `spliced ${serial++}`);
  return plant(base, out, (name) => (wanted.test(name) ? { from: donor } : undefined));
}

const prompt = imagePrompt(randomImage(11));
const ask = (model: string, id = model): Trial => ({
  id,
  prompt,
  model,
  interventions: [{ site: 'logits', op: 'capture', layers: [], rows: 'all', name: 'logits' }],
  generate: { maxTokens: 6, stopTokens: [] },
});

async function opened(options: { blendBytes?: number } = {}): Promise<Engine> {
  const engine = await Engine.open({ threads: 2, ...options });
  await engine.addModel('in', sft);
  await engine.addModel('rl', rl);
  return engine;
}

async function results(engine: Engine, models: readonly string[]): Promise<TrialResult[]> {
  const { outcomes } = await engine.run(models.map((model) => ask(model)));
  return outcomes.map((outcome) => {
    if (!outcome.ok) throw outcome.error;
    return outcome.result;
  });
}

function expectSame(a: TrialResult, b: TrialResult): void {
  expect([...a.tokens]).toEqual([...b.tokens]);
  expect(a.logprobs).toEqual(b.logprobs);
  expect(a.captures.logits).toEqual(b.captures.logits);
}

async function failure(work: () => unknown): Promise<GalvaniError> {
  try {
    await work();
  } catch (error) {
    return error as GalvaniError;
  }
  throw new Error('expected an error, got none');
}

const late = (alpha: number): Blend => ({
  from: 'in',
  to: 'rl',
  alpha,
  layers: [4, 5],
  component: 'all',
  rest: 'from',
});

/** A checkpoint of the same numbers in another dtype: small integers and halves, which all of them hold. */
function toy(name: string, dtype: 'F32' | 'F16' | 'BF16', seed: number, shape: readonly number[] = [9, 7]): string {
  const values = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => ((i * seed) % 17) / 2 - 4);
  const path = join(root, `${name} ${serial++}.safetensors`);
  const bytes: Record<string, (x: number) => number[]> = {
    F32: (x) => [...new Uint8Array(Float32Array.of(x).buffer)],
    BF16: (x) => [...new Uint8Array(Float32Array.of(x).buffer)].slice(2),
    F16: (x) => {
      const [word] = new Uint32Array(Float32Array.of(x).buffer) as unknown as [number];
      const half =
        x === 0 ? 0 : ((word >>> 16) & 0x8000) | ((((word >>> 23) & 255) - 112) << 10) | ((word >>> 13) & 0x3ff);
      return [half & 255, half >> 8];
    },
  };
  const data = Uint8Array.from(values.flatMap((x) => bytes[dtype]!(x)));
  writeSafetensors(path, [{ name: 'w', dtype, shape, data }]);
  return path;
}

async function blendOf(a: string, b: string, alpha: number, names?: readonly string[]) {
  const checkpoints = [openCheckpoint(a), openCheckpoint(b)];
  const tensors = (names ?? checkpoints[0]!.names()).map((name) => ({
    name,
    from: [0, name] as const,
    to: [1, name] as const,
  }));
  return native().blend({ what: 'the blend', checkpoints, tensors, alpha });
}

describe('values', () => {
  test.each([0.25, 0.5, 0.9, -0.5, 1.75])('α = %f: every byte is the one a merge writes (bf16)', async (alpha) => {
    const { checkpoint, equal } = await blendOf(lab('in'), lab('rl'), alpha);
    const written = openCheckpoint(await merged(lab('in'), lab('rl'), alpha));
    expect([...checkpoint.names(), ...equal].sort()).toEqual(written.names());
    expect(checkpoint.names().length).toBeGreaterThan(50);
    for (const name of checkpoint.names()) {
      expect(Buffer.compare(checkpoint.raw(name), written.raw(name)), name).toBe(0);
    }
  });

  test('types: each with itself, and the wider one of two', async () => {
    for (const [a, b, made] of [
      ['F32', 'F32', 'F32'],
      ['F16', 'F16', 'F16'],
      ['BF16', 'BF16', 'BF16'],
      ['BF16', 'F32', 'F32'],
      ['F16', 'BF16', 'F32'],
    ] as const) {
      const [from, to] = [toy('a', a, 3), toy('b', b, 5)];
      const { checkpoint } = await blendOf(from, to, 0.25);
      const [x, y] = [openCheckpoint(from).read('w').data, openCheckpoint(to).read('w').data];
      expect(checkpoint.info('w').dtype, `${a} ${b}`).toBe(made);
      expect([...checkpoint.read('w').data]).toEqual([...x].map((value, i) => 0.75 * value + 0.25 * y[i]!));
    }
  });

  test('what is equal in both is not made: NaN, infinities and zeros of either sign stay as they are', async () => {
    const special = (extra: number): TensorBytes[] => [
      {
        name: 'same',
        dtype: 'F32',
        shape: [4],
        data: new Uint8Array(Float32Array.of(NaN, Infinity, -0, 1).buffer),
      },
      { name: 'empty', dtype: 'F32', shape: [0], data: new Uint8Array(0) },
      { name: 'other', dtype: 'F32', shape: [1], data: new Uint8Array(Float32Array.of(extra).buffer) },
    ];
    const [a, b] = [join(root, 'special a.safetensors'), join(root, 'special b.safetensors')];
    writeSafetensors(a, special(1));
    writeSafetensors(b, special(2));
    const { checkpoint, equal } = await blendOf(a, b, 0.5);
    expect([...equal].sort()).toEqual(['empty', 'same']);
    expect(checkpoint.names()).toEqual(['other']);
    expect([...checkpoint.read('other').data]).toEqual([1.5]);
    expect(checkpoint.bytes).toBe(4);
  });
});

describe('in the engine', () => {
  test.each([
    ['late', 'all', 0.25, /layers\.[45]\./],
    ['mid', 'attn', 0.5, /layers\.[23]\.(self_attn|input_layernorm)/],
    ['early', 'mlp', 0.75, /layers\.[01]\.(mlp|post_attention_layernorm)/],
    ['layers', 'all', 1.25, /layers\./],
    ['whole', 'all', 0.5, /./],
  ] as const)(
    '%s, %s, α = %f: a run is the same as of the merged checkpoint',
    async (region, component, alpha, moves) => {
      await using engine = await opened();
      const cuts = [2, 4] as const;
      const blend = regionBlend({ from: 'in', to: 'rl', alpha, region, component, totalLayers: layers, cuts });
      const info = engine.addBlend('blend', blend);
      await engine.addModel('merged', spliced(sft, await merged(sft, rl, alpha), moves));
      expect(info).toMatchObject({ layers, parameters: engine.model('in').parameters, blend });
      expect(engine.blendBytes.used).toBe(0);
      const [a, b, start] = await results(engine, ['blend', 'merged', 'in']);
      expectSame(a!, b!);
      expect(a!.captures.logits!.data).not.toEqual(start!.captures.logits!.data);
      expect(engine.blendBytes.used).toBe(info.blendBytes);
    },
  );

  test('the halves of a layer make up the layer: α = 1 of both, one after the other', async () => {
    await using engine = await opened();
    for (const component of ['attn', 'mlp', 'all'] as const) engine.addBlend(component, { ...late(1), component });
    await engine.addModel('attn there', spliced(sft, rl, /layers\.[45]\.(self_attn|input_layernorm)/));
    await engine.addModel('mlp there', spliced(sft, rl, /layers\.[45]\.(mlp|post_attention_layernorm)/));
    await engine.addModel('all there', spliced(sft, rl, /layers\.[45]\./));
    const found = await results(engine, ['attn', 'attn there', 'mlp', 'mlp there', 'all', 'all there']);
    for (const i of [0, 2, 4]) expectSame(found[i]!, found[i + 1]!);
    expect(engine.blendBytes.used).toBe(0); // views, all of them
  });

  test('what does not move is shared with the parents, and so is its work', async () => {
    await using engine = await opened();
    engine.addBlend('blend', late(0.5));
    const together = await engine.run([ask('in'), ask('blend')]);
    const rows = prompt.ids.length;
    expect(together.stats.naiveLayerRows).toBe(2 * layers * rows);
    expect(together.stats.prefillLayerRows).toBe((layers + 2) * rows);
    expect(together.stats.visionLayerRows * 2).toBe(together.stats.naiveVisionLayerRows);
  });

  test('the ends are grafts: no memory, and the fingerprint of what they are', async () => {
    await using engine = await opened();
    const names = { in: 'in', rl: 'rl' };
    const fingerprint = (model: string): string => `of ${model}`;
    const end = late(1);
    const cuts = [2, 4] as const;
    const graft = blockGraft({ blocks: 'IN:IN:RL', totalLayers: layers, policy: 'in', names, cuts });
    expect(graftOfBlend(end, layers)).toEqual(graft);
    expect(blendFingerprint(end, layers, fingerprint)).toBe(graftFingerprint(graft, fingerprint));
    expect(blendFingerprint(late(0), layers, fingerprint)).toBe('of in');
    const whole = regionBlend({ ...late(1), region: 'whole', totalLayers: layers });
    expect(blendFingerprint(whole, layers, fingerprint)).toBe('of rl');
    expect(engine.addBlend('start', late(0))).toMatchObject({ graft: { head: 'in' } });
    engine.addBlend('end', end);
    engine.addGraft('graft', graft);
    const [a, b, c, d] = await results(engine, ['start', 'in', 'end', 'graft']);
    expectSame(a!, b!);
    expectSame(c!, d!);
    expect(engine.blendBytes.used).toBe(0);
  });

  test('fingerprints tell apart whatever changes the weights, and nothing else', () => {
    const fingerprint = (model: string): string => `of ${model}`;
    const of = (change: Partial<Blend>): string => blendFingerprint({ ...late(0.5), ...change }, layers, fingerprint);
    const others: Partial<Blend>[] = [
      { alpha: 0.25 },
      { layers: [5] },
      { component: 'attn' },
      { component: 'mlp' },
      { rest: 'blend' },
      { rest: 'to' },
      { from: 'x' },
      { to: 'x' },
    ];
    expect(new Set([of({}), ...others.map(of)]).size).toBe(others.length + 1);
    expect(of({ layers: [5, 4] })).toBe(of({}));
  });
});

describe('memory', () => {
  test('blends come and go within the budget, with the same results', async () => {
    await using plenty = await opened();
    const bytes = plenty.addBlend('probe', late(0.5)).blendBytes!;
    await using engine = await opened({ blendBytes: 2 * bytes + 100 });
    const alphas = [0.1, 0.3, 0.5, 0.7];
    for (const alpha of alphas) {
      plenty.addBlend(`${alpha}`, late(alpha));
      engine.addBlend(`${alpha}`, late(alpha));
    }
    const expected = await results(plenty, alphas.map(String));
    expect(plenty.blendBytes.used).toBe(4 * bytes);
    for (const i of [0, 1, 0, 2, 3, 0, 1, 3]) {
      const [found] = await results(engine, [String(alphas[i])]);
      expectSame(found!, expected[i]!);
      expect(engine.blendBytes.used).toBeLessThanOrEqual(2 * bytes);
    }
    const pair = await results(engine, ['0.1', '0.7']);
    expectSame(pair[0]!, expected[0]!);
    expectSame(pair[1]!, expected[3]!);
    engine.removeModel('0.1');
    expect(engine.blendBytes.used).toBe(bytes);
    expect((await failure(() => results(engine, ['0.1']))).code).toBe('BAD_ARGUMENT');
  });

  test('more than the budget at once is refused with both numbers, and nothing else is lost', async () => {
    await using probe = await opened();
    const bytes = probe.addBlend('probe', late(0.5)).blendBytes!;
    await using engine = await opened({ blendBytes: bytes });
    engine.addBlend('a', late(0.25));
    engine.addBlend('b', late(0.75));
    const error = await failure(() => engine.run([ask('a'), ask('b')]));
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' });
    expect(error.message).toContain(`the 2 blends of one request: ${2 * bytes} bytes`);
    expect(error.message).toContain(`budget for blends is ${bytes} (blendBytes; --blend-memory)`);
    await results(engine, ['a', 'in']);
    await using none = await opened({ blendBytes: 0 });
    none.addBlend('a', late(0.25));
    expect((await failure(() => results(none, ['a']))).message).toContain("blend 'a'");
    none.addBlend('end', late(1)); // views take none
    await results(none, ['end']);
    expect((await failure(() => Engine.open({ blendBytes: -1 }))).code).toBe('BAD_ARGUMENT');
    expect((await failure(() => Engine.open({ blendBytes: Number.NaN }))).code).toBe('BAD_ARGUMENT');
  });

  test('what is dropped is freed at once, not when a collector comes by', async () => {
    // The engine's model is the only holder: JavaScript's object is released as soon as the model has the weights.
    await using engine = await opened();
    engine.addBlend('a', late(0.25));
    const made = vi.spyOn(native(), 'blend');
    await results(engine, ['a']);
    const { checkpoint } = await (made.mock.results[0]!.value as ReturnType<Native['blend']>);
    made.mockRestore();
    expect((await failure(() => checkpoint.names())).code).toBe('CLOSED');

    // And a release is one: 48 MB are there before and gone after, with no chance for a collector in between.
    const size = 12e6;
    const path = (name: string): string => join(root, `large ${name}.safetensors`);
    for (const [name, value] of [
      ['a', 1],
      ['b', 2],
    ] as const) {
      const data = new Uint8Array(new Float32Array(size).fill(value).buffer);
      writeSafetensors(path(name), [{ name: 'w', dtype: 'F32', shape: [size], data }]);
    }
    const large = (await blendOf(path('a'), path('b'), 0.5)).checkpoint;
    const before = process.memoryUsage.rss();
    large.release();
    // AddressSanitizer keeps what was freed for a while
    if (!process.env.LD_PRELOAD?.includes('asan')) expect(before - process.memoryUsage.rss()).toBeGreaterThan(40e6);
  });

  test('a signal stops the making; a released checkpoint is closed', async () => {
    await using engine = await opened();
    engine.addBlend('a', late(0.25));
    const stopped = AbortSignal.abort(new Error('enough'));
    expect((await failure(() => engine.run([ask('a')], { signal: stopped }))).code).toBe('ABORTED');
    expect(engine.blendBytes.used).toBe(0);
    const cancel = new (native().CancelFlag)();
    cancel.cancel();
    const checkpoints = [openCheckpoint(sft), openCheckpoint(rl)];
    const name = 'model.norm.weight';
    const request = {
      what: 'x',
      checkpoints,
      tensors: [{ name, from: [0, name], to: [1, name] }],
      alpha: 0.5,
    } as const;
    expect((await failure(() => native().blend(request, { cancel }))).code).toBe('ABORTED');
    const seen: string[] = [];
    await engine.run([ask('a')], { onProgress: ({ stage, done, total }) => seen.push(`${stage} ${done <= total}`) });
    expect(seen).toContain('blend true');

    const { checkpoint } = await native().blend(request);
    expect(checkpoint.path).toBe('x');
    expect(checkpoint.files()).toEqual([]);
    expect(checkpoint.info(name).file).toBe('x');
    const write = () => native().writeMerged(join(root, 'never'), {}, [checkpoint], [copyOf(name, 32)], {});
    expect((await failure(write)).message).toContain('x: its tensors lie in memory');
    checkpoint.release();
    checkpoint.release();
    for (const use of [() => checkpoint.names(), () => checkpoint.bytes, () => checkpoint.raw(name)]) {
      expect((await failure(use)).code).toBe('CLOSED');
    }
  });
});

const copyOf = (name: string, size: number) => ({
  name,
  dtype: 'F32' as DType,
  shape: [size],
  method: 'copy',
  inputs: [{ tables: [{ checkpoint: 0, name }] }],
  base: -1,
  shared: {},
  each: {},
});

describe('what is refused', () => {
  test('values out of range, before anything is opened', async () => {
    await using engine = await opened();
    for (const [change, said] of [
      [{ alpha: Number.NaN }, "blend 'x', alpha: expected a finite number, got NaN"],
      [{ alpha: Number.POSITIVE_INFINITY }, 'alpha: expected a finite number, got Infinity'],
      [{ layers: [4, 6] }, 'layers: expected decoder layers from 0 to 5, got 6'],
      [{ layers: [1.5] }, 'got 1.5'],
      [{ layers: [4, 4] }, 'every layer once'],
      [{ component: 'norm' as never }, 'component: expected all, attn, mlp, got norm'],
      [{ rest: 'early' as never }, 'rest: expected from, to, blend, got early'],
      [{ to: 'nobody' }, "no model 'nobody' is open; open models: in, rl"],
    ] as const) {
      const error = await failure(() => engine.addBlend('x', { ...late(0.5), ...change }));
      expect([error.code, error.message]).toEqual(['BAD_ARGUMENT', expect.stringContaining(said)]);
    }
    engine.addBlend('x', late(0.5));
    expect((await failure(() => engine.addBlend('x', late(0.5)))).message).toContain('already open');
    expect((await failure(() => engine.addBlend('y', { ...late(0.5), from: 'x' }))).message).toContain(
      "'x' is a blend",
    );
    const graft = blockGraft({ blocks: 'RL', totalLayers: layers, policy: 'rl', names: { in: 'in', rl: 'x' } });
    expect((await failure(() => engine.addGraft('y', graft))).message).toContain("'x' is a blend");
    const region = { from: 'in', to: 'rl', alpha: 0.5, totalLayers: layers } as const;
    const unknown = () => regionBlend({ ...region, region: 'middle' as never, component: 'all' });
    expect((await failure(unknown)).message).toContain('early, mid, late, layers, whole');
    expect((await failure(() => regionBlend({ ...region, region: 'whole', component: 'mlp' }))).code).toBe(
      'BAD_ARGUMENT',
    );
  });

  test('parents that do not fit: architecture, tensors, types', async () => {
    await using engine = await opened();
    const other = writeRandomModel({ layers: 5, seed: 3 });
    await engine.addModel('other', other);
    rmSync(other, { recursive: true });
    const error = await failure(() => engine.addBlend('x', { ...late(0.5), to: 'other' }));
    expect([error.code, error.message]).toEqual(['SHAPE_MISMATCH', expect.stringContaining('decoder.layers 6 ≠ 5')]);

    const odd = join(root, 'f64 norm');
    mkdirSync(odd);
    for (const file of readdirSync(rl)) copyFileSync(join(rl, file), join(odd, file));
    const from = openCheckpoint(rl);
    const tensors = from.names().map((name): TensorBytes => {
      const { dtype, shape } = from.info(name);
      if (name !== 'model.layers.4.input_layernorm.weight') return { name, dtype, shape, data: from.raw(name) };
      return { name, dtype: 'F64', shape, data: new Uint8Array(Float64Array.from(from.read(name).data).buffer) };
    });
    writeSafetensors(join(odd, 'model.safetensors'), tensors);
    await engine.addModel('odd', odd);
    const type = await failure(() => engine.addBlend('x', { ...late(0.5), to: 'odd' }));
    expect(type.code).toBe('UNSUPPORTED');
    expect(type.message).toMatch(
      /layers\.4\.norm1: F32 of model\.layers\.4\.input_layernorm\.weight in .*F64 of .*f64 norm/,
    );
    engine.addBlend('elsewhere', { ...late(0.5), to: 'odd', layers: [5] });
  });

  test('the native call: shapes and types name both files, tensors must be there', async () => {
    const [a, b] = [toy('a', 'F32', 3), toy('b', 'F32', 5, [7, 9])];
    const shape = await failure(() => blendOf(a, b, 0.5));
    expect(shape.code).toBe('SHAPE_MISMATCH');
    expect(shape.message).toContain(`[9, 7] of "w" in ${a} and [7, 9] of "w" in ${b}`);
    const c = join(root, 'integers.safetensors');
    writeSafetensors(c, [{ name: 'w', dtype: 'I32', shape: [9, 7], data: new Uint8Array(252) }]);
    const type = await failure(() => blendOf(a, c, 0.5));
    expect([type.code, type.message]).toEqual(['UNSUPPORTED', expect.stringContaining(`I32 of "w" in ${c}`)]);
    expect((await failure(() => blendOf(a, b, 0.5, ['v']))).code).toBe('TENSOR_MISSING');
    expect((await failure(() => blendOf(a, a, Number.NaN))).code).toBe('BAD_ARGUMENT');
    const checkpoints = [openCheckpoint(a)];
    const places = { name: 'w', from: [0, 'w'], to: [1, 'w'] } as const;
    const outside = () => native().blend({ what: 'x', checkpoints, tensors: [places], alpha: 0.5 });
    expect((await failure(outside)).message).toContain('an index into checkpoints');
  });
});

test('in words', () => {
  expect(describeBlend(late(0.25))).toBe('0.75 in + 0.25 rl in layers 4–5; all else in');
  expect(describeBlend({ ...late(0.3), component: 'attn', layers: [0, 2, 3] })).toBe(
    '0.7 in + 0.3 rl in attention of layers 0, 2–3; all else in',
  );
  expect(describeBlend({ ...late(-0.5), rest: 'blend' })).toBe(
    '1.5 in − 0.5 rl in layers 4–5 and outside the layers; other layers in',
  );
  expect(describeBlend({ ...late(0.5), component: 'mlp', rest: 'to' })).toContain('MLPs of layers 4–5');
});
