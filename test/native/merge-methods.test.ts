// Every merge method: against what mergekit computes in float64 (test/fixtures/make_merge.py), against identities, and
// against itself on other instruction sets and thread counts.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { mergeMethods } from '../../lib/merge/methods.js';
import { type NativeMergeTensor, native } from '../../lib/native.js';
import { fixturePath, readFixtureJson } from '../support/fixture.js';
import { bf16Ulps, f32, merge, random } from '../support/merge.js';

let root = '';
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'galvani-merge-'));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

it('every method has a row in TypeScript and a function in C++', () => {
  expect(mergeMethods.map(({ name }) => name).sort()).toEqual(native().mergeMethods().sort());
});

describe('as mergekit merges', () => {
  const recipes = readFixtureJson<Record<string, object>>('merge/recipes.json');
  const expected = openCheckpoint(fixturePath('merge/expected.safetensors'));
  it.each(Object.entries(recipes))('%s', async (name, recipe) => {
    const out = join(root, `fixture-${name}`);
    await merge(recipe, fixturePath('merge'), out);
    const ours = openCheckpoint(out);
    const theirs = expected.names().filter((one) => one.startsWith(`${name}/`));
    expect(ours.names()).toEqual(theirs.map((one) => one.slice(name.length + 1)));
    for (const one of theirs) {
      const ulps = bf16Ulps(ours.raw(one.slice(name.length + 1)), expected.raw(one));
      expect(Math.max(...ulps), one).toBeLessThanOrEqual(1);
    }
  });
});

/** One tensor of n normal-ish values per model, in files m0 … */
function writeVectors(dir: string, vectors: readonly (readonly number[])[], shape?: readonly number[]): void {
  for (const [m, vector] of vectors.entries())
    writeSafetensors(join(dir, `m${m}.safetensors`), [f32('w', shape ?? [vector.length], vector)]);
}
let serial = 0;
/** Runs one method natively on vectors; the first is the base when `base` is 0. */
async function combine(
  method: string,
  vectors: readonly (readonly number[])[],
  options: Partial<NativeMergeTensor> & { readonly seed?: number; readonly threads?: number } = {},
): Promise<number[]> {
  const dir = mkdtempSync(join(root, 'vectors-'));
  const shape = options.shape ?? [vectors[0]!.length];
  writeVectors(dir, vectors, shape);
  const checkpoints = vectors.map((_, m) => openCheckpoint(join(dir, `m${m}.safetensors`)));
  const out = join(dir, `out${serial++}.safetensors`);
  const { seed = 0, threads = 2, ...given } = options;
  const tensor: NativeMergeTensor = {
    name: 'w',
    dtype: 'F32',
    shape,
    method,
    inputs: vectors.map((_, checkpoint) => ({ tables: [{ checkpoint, name: 'w' }] })),
    base: -1,
    shared: {},
    each: {},
    ...given,
  };
  await native().writeMerged(out, {}, checkpoints, [tensor], { seed, threads });
  return [...openCheckpoint(out).read('w').data];
}
const draw = (n: number, seed: number, scale = 1): number[] =>
  Array.from({ length: n }, random(seed)).map((x) => Math.fround(x * scale));
const task = (density: number, more: object = {}) => ({
  base: 0,
  shared: { normalize: 0, rescale: 0, lambda: 1, ...more },
  each: { weight: [0, 1], density: [0, density], gamma: [0, 0.1], epsilon: [0, 0.2] },
});

describe('identities', () => {
  const a = draw(1000, 1);
  const b = draw(1000, 2);
  it('merging a model with itself changes nothing', async () => {
    const weights = { each: { weight: [1, 2] }, shared: { normalize: 1 } };
    expect(await combine('linear', [a, a], weights)).toEqual(a);
    expect(await combine('slerp', [a, a], { base: 0, shared: { t: 0.3 } })).toEqual(a);
    expect(await combine('ties', [a, a], { ...task(0.5), shared: { ...task(0.5).shared, normalize: 1 } })).toEqual(a);
    expect(await combine('arcee_fusion', [a, a], { base: 0 })).toEqual(a);
  });
  it('whole density and weight 1 give the model back', async () => {
    for (const method of ['task_arithmetic', 'dare_linear', 'della_linear', 'breadcrumbs', 'ties', 'sce', 'ram'])
      expect(await combine(method, [a, b], task(1, { select_topk: 1, epsilon: 0 })), method).toEqual(b);
  });
  it('slerp ends at its ends', async () => {
    for (const [t, end] of [
      [0, a],
      [1, b],
    ] as const) {
      const got = await combine('slerp', [a, b], { base: 0, shared: { t } });
      for (const [i, value] of got.entries()) expect(value).toBeCloseTo(end[i]!, 6);
    }
  });
  it('the Karcher mean of two is slerp halfway between unit vectors', async () => {
    const unit = (x: number[]) => {
      const norm = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
      return x.map((value) => value / norm);
    };
    const mean = await combine('karcher', [unit(a), unit(b)], { shared: { max_iter: 50, tol: 1e-9 } });
    const half = await combine('slerp', [unit(a), unit(b)], { base: 0, shared: { t: 0.5 } });
    for (const [i, value] of mean.entries()) expect(value).toBeCloseTo(half[i]!, 6);
  });
});

describe('where terms cancel, what float64 leaves', () => {
  // Each case is base + Σ f · (W − base), f known in float64, with a base such that the sum nearly vanishes: a factor or a
  // difference rounded to float32 would be wrong in the first digit.
  type Numbers = readonly (readonly number[])[];
  const n = 4000;
  const inner = (x: readonly number[], y: readonly number[]) => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
  const minus = (x: readonly number[], y: readonly number[]) => x.map((value, i) => value - y[i]!);
  const slerp = (t: number) => (vectors: Numbers) => {
    const [d, e] = [minus(vectors[1]!, vectors[0]!), minus(vectors[2]!, vectors[0]!)];
    const angle = Math.acos(inner(d, e) / Math.sqrt(inner(d, d) * inner(e, e)));
    return [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  };
  const tasks = (weight: number[], lambda: number) => ({
    ...task(1, { lambda }),
    each: { weight: [0, ...weight], density: weight.map(() => 1).concat(1), gamma: weight.map(() => 0).concat(0) },
  });
  const cases: [string, Partial<NativeMergeTensor>, (vectors: Numbers) => number[]][] = [
    ['linear', { each: { weight: [0.4, 0.3, 0.3] }, shared: { normalize: 0 } }, () => [0.3, 0.3]],
    ['task_arithmetic', tasks([0.6, 0.7], 0.8), () => [0.6 * 0.8, 0.7 * 0.8]],
    ['ties', tasks([0.7], 0.3), () => [0.7 * 0.3]],
    ['breadcrumbs', tasks([0.6, 0.7], 1), () => [0.6, 0.7]],
    [
      'nuslerp',
      { base: 0, each: { weight: [0, 0.4, 0.6] }, shared: { nuslerp_flatten: 1, nuslerp_row_wise: 0 } },
      slerp(0.6),
    ],
  ];
  it.each(cases)('%s', async (method, options, factors) => {
    const zero = draw(n, 21, 0);
    const count = factors([zero, draw(n, 22), draw(n, 23)]).length;
    const moves = Array.from({ length: count }, (_, m) => draw(n, 22 + m));
    const first = factors([zero, ...moves]);
    const base = zero.map((_, i) => Math.fround(-first.reduce((x, factor, m) => x + factor * moves[m]![i]!, 0)));
    const all = [base, ...moves.map((move) => move.map((d, i) => Math.fround(base[i]! + d)))];
    const f = factors(all);
    const wanted = base.map((b, i) => f.reduce((x, factor, m) => x + factor * (all[m + 1]![i]! - b), b));
    expect(Math.max(...wanted.map(Math.abs))).toBeLessThan(1e-6); // they do cancel
    for (const [i, value] of (await combine(method, all, options)).entries())
      expect(Math.abs(value - wanted[i]!), `element ${i}`).toBeLessThan(2 ** -24 * Math.abs(wanted[i]!) + 2e-14);
  });
});

describe('what is kept', () => {
  const n = 40_000;
  const base = Array.from({ length: n }, () => 0);
  it('ties keeps exactly the largest share, the first among equals', async () => {
    // magnitudes 0 … 9, each 4000 times, so that the threshold lies among equals
    const update = base.map((_, i) => ((i * 7) % 10) * (i % 2 ? -1 : 1));
    const got = await combine('ties', [base, update], task(0.25));
    const order = update.map((value, i) => [Math.abs(value), i] as const).sort((x, y) => y[0] - x[0] || x[1] - y[1]);
    const kept = new Set(order.slice(0, n / 4).map(([, i]) => i));
    expect(got).toEqual(update.map((value, i) => (kept.has(i) ? value : 0)));
  });
  it('breadcrumbs drops the top and the bottom by rank', async () => {
    const update = draw(n, 3);
    const got = await combine('breadcrumbs', [base, update], task(0.5));
    const order = update.map((value, i) => [Math.abs(value), i] as const).sort((x, y) => x[0] - y[0] || x[1] - y[1]);
    const kept = new Set(order.slice(n * 0.4, n * 0.9).map(([, i]) => i));
    expect(got).toEqual(update.map((value, i) => (kept.has(i) ? value : 0)));
  });
  it('DARE keeps each entry with the density, whatever its size, and restores the sum of magnitudes', async () => {
    const update = draw(n, 4);
    const got = await combine('dare_linear', [base, update], { ...task(0.3, { rescale: 1 }), seed: 5 });
    const share = got.filter((value) => value !== 0).length / n;
    expect(Math.abs(share - 0.3)).toBeLessThan(5 * Math.sqrt((0.3 * 0.7) / n));
    const large = update.flatMap((value, i) => (Math.abs(value) > 0.25 ? [got[i]! !== 0 ? 1 : 0] : []));
    expect(Math.abs(large.reduce<number>((x, y) => x + y, 0) / large.length - 0.3)).toBeLessThan(
      5 * Math.sqrt(0.21 / large.length),
    );
    const size = (x: number[]) => x.reduce((sum, value) => sum + Math.abs(value), 0);
    expect(size(got) / size(update)).toBeCloseTo(1, 5);
  });
  it('DARE draws anew for another seed and another model, and the same for the same', async () => {
    const update = draw(n, 4);
    const run = (seed: number) => combine('dare_linear', [base, update], { ...task(0.5), seed });
    const [one, same, other] = [await run(1), await run(1), await run(2)];
    expect(same).toEqual(one);
    const both = one.filter((value, i) => value !== 0 && other[i] !== 0).length / n;
    expect(Math.abs(both - 0.25)).toBeLessThan(0.015); // independent
    const twice = { ...task(0.5), each: { weight: [0, 1, 1], density: [0, 0.5, 0.5] } };
    const sum = await combine('dare_linear', [base, update, update], twice);
    const kept = (factor: number) => sum.filter((value, i) => Math.abs(value - factor * update[i]!) < 1e-6).length / n;
    expect(Math.abs(kept(2) - 0.25)).toBeLessThan(0.015);
  });
  it('DELLA’s chance rises with the rank in the row from density − epsilon to density + epsilon', async () => {
    const update = draw(n, 6);
    const got = await combine('della_linear', [base, update], { ...task(0.5), shape: [40, 1000] });
    const ranked: [rank: number, kept: number][] = [];
    for (let row = 0; row < 40; row++) {
      const order = Array.from({ length: 1000 }, (_, i) => row * 1000 + i).sort(
        (i, j) => Math.abs(update[i]!) - Math.abs(update[j]!),
      );
      for (const [rank, i] of order.entries()) ranked.push([rank, got[i] === 0 ? 0 : 1]);
    }
    for (const [from, to, chance] of [
      [0, 100, 0.32],
      [450, 550, 0.5],
      [900, 1000, 0.68],
    ] as const) {
      const own = ranked.filter(([rank]) => rank >= from && rank < to).map(([, kept]) => kept);
      const share = own.reduce((x, y) => x + y, 0) / own.length;
      expect(Math.abs(share - chance)).toBeLessThan(5 * Math.sqrt(0.25 / own.length));
    }
  });
  it('noise has the size asked for, mean 0, and no two neighbours alike', async () => {
    const w = draw(n, 7);
    const got = await combine('noise', [w], { shared: { scale: 0.1, relative: 1 }, seed: 3 });
    const noise = got.map((value, i) => value - w[i]!);
    const rms = (x: number[]) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
    expect(rms(noise) / rms(w)).toBeCloseTo(0.1, 2);
    expect(Math.abs(noise.reduce((x, y) => x + y, 0) / n)).toBeLessThan((5 * 0.1 * rms(w)) / Math.sqrt(n));
    const beyond = noise.filter((value) => Math.abs(value) > 2 * 0.1 * rms(w)).length / n;
    expect(Math.abs(beyond - 0.0455)).toBeLessThan(0.006);
    const neighbours = noise.slice(1).reduce((sum, value, i) => sum + value * noise[i]!, 0) / n / rms(noise) ** 2;
    expect(Math.abs(neighbours)).toBeLessThan(5 / Math.sqrt(n));
  });
});

describe('the same bits', () => {
  // Large enough for two chunks, and not a multiple of any tile.
  const n = 135_007;
  const vectors = [draw(n, 11), draw(n, 12, 0.9), draw(n, 13, 1.1)];
  const shared = Object.assign(
    {},
    ...mergeMethods.flatMap(({ parameters }) =>
      parameters
        .filter(({ scope }) => scope === 'shared')
        .map(({ name, default: value }) => ({ [name]: Number(value ?? 0.3) })),
    ),
  ) as Record<string, number>;
  const settings = (name: string) => {
    const { base, others } = mergeMethods.find((row) => row.name === name)!;
    const models = Math.min(3, others[1] + (base === 'none' ? 0 : 1));
    const each = {
      weight: [0.2, 0.5, 0.4],
      density: [1, 0.4, 0.6],
      gamma: [0, 0.05, 0.1],
      epsilon: [0, 0.1, 0.2],
      scale: [0.5],
    };
    const cut = Object.fromEntries(Object.entries(each).map(([key, list]) => [key, list.slice(0, models)]));
    return {
      models,
      tensor: { base: base === 'none' ? -1 : 0, shared: { ...shared, select_topk: 0.5 }, each: cut, seed: 9 },
    };
  };
  it.each(mergeMethods.filter(({ name }) => name !== 'nuslerp').map(({ name }) => name))(
    '%s on one thread and on four',
    async (name) => {
      const { models, tensor } = settings(name);
      const one = await combine(name, vectors.slice(0, models), { ...tensor, threads: 1 });
      const four = await combine(name, vectors.slice(0, models), { ...tensor, threads: 4 });
      expect(
        Buffer.compare(Buffer.from(Float32Array.from(one).buffer), Buffer.from(Float32Array.from(four).buffer)),
      ).toBe(0);
    },
  );

  it('on every instruction set', () => {
    const child = fileURLToPath(new URL('merge-child.mjs', import.meta.url));
    const dir = mkdtempSync(join(root, 'isa-'));
    const digests = ['portable', 'avx2', 'avx512'].map((isa) =>
      execFileSync(process.execPath, [child, dir], { env: { ...process.env, GALVANI_ISA: isa }, encoding: 'utf8' }),
    );
    expect(digests[0]).toMatch(/^linear [0-9a-f]{64}$/m);
    expect(digests[1]).toBe(digests[0]);
    expect(digests[2]).toBe(digests[0]);
  });
});

it('stores every float type to the nearest value', async () => {
  const x = [
    0,
    -0,
    1,
    1.0625,
    448,
    500,
    1e-9,
    -3.2,
    57344,
    1e9,
    0.001953125,
    0.0009765625,
    Number.NaN,
    Number.POSITIVE_INFINITY,
  ];
  const dir = mkdtempSync(join(root, 'dtype-'));
  writeVectors(dir, [x]);
  const tensor = (dtype: NativeMergeTensor['dtype']): NativeMergeTensor => ({
    name: dtype,
    dtype,
    shape: [x.length],
    method: 'passthrough',
    base: -1,
    shared: {},
    each: {},
    inputs: [{ tables: [{ checkpoint: 0, name: 'w' }] }],
  });
  const dtypes = ['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'] as const;
  const out = join(dir, 'out.safetensors');
  await native().writeMerged(out, {}, [openCheckpoint(join(dir, 'm0.safetensors'))], dtypes.map(tensor), {});
  const read = (dtype: string) => [...openCheckpoint(out).read(dtype).data];
  expect(read('F32')).toEqual(x.map(Math.fround));
  expect(read('F64')).toEqual(x.map(Math.fround));
  expect(read('BF16').slice(0, 5)).toEqual([0, -0, 1, 1.0625, 448]);
  expect(read('F16')[9]).toBe(Number.POSITIVE_INFINITY);
  // E4M3: steps of 1/8 at 1, ties to even; no infinity, so beyond 448 the largest; subnormals of 2^−9
  expect(read('F8_E4M3')).toEqual([0, -0, 1, 1, 448, 448, 0, -3.25, 448, 448, 0.001953125, 0, Number.NaN, 448]);
  expect(read('F8_E5M2')).toEqual([
    0,
    -0,
    1,
    1,
    448,
    512,
    0,
    -3,
    57344,
    Number.POSITIVE_INFINITY,
    0.001953125,
    0.0009765625,
    Number.NaN,
    Number.POSITIVE_INFINITY,
  ]);
});

it('refuses what a method cannot do, naming the tensor', async () => {
  const a = draw(64, 1);
  const b = draw(64, 2);
  const refused: [string, number[][], Partial<NativeMergeTensor>, RegExp][] = [
    ['nothing', [a], {}, /unknown method 'nothing'/],
    ['slerp', [a, b], { shared: { t: 0.5 } }, /tensor w: expected a base/],
    ['slerp', [a, b], { base: 0 }, /parameter t is missing/],
    ['linear', [a, b], { each: { weight: [1, -1] }, shared: { normalize: 1 } }, /weights add up to 0/],
    ['ties', [a, b], { ...task(0.5), each: { weight: [0, 1], density: [0, -1] } }, /density: expected/],
    [
      'della',
      [a, b],
      { ...task(0.9), each: { weight: [0, 1], density: [0, 0.9], epsilon: [0, 0.2] } },
      /density ± epsilon/,
    ],
    ['ties', [a, b], { ...task(0.5), each: { weight: [1], density: [1, 1] } }, /weight: expected one value per input/],
    [
      'multislerp',
      [a, a.map((x) => -x), a, a.map((x) => -x)],
      { each: { weight: [1, 1, 1, 1] }, shared: { normalize_weights: 1, eps: 1e-8 } },
      /cancel/,
    ],
  ];
  for (const [method, vectors, options, message] of refused)
    await expect(combine(method, vectors, options)).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(message),
    });
});
