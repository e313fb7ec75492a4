// The weight comparison against numpy in float64 (test/fixtures/make_weights.py), and what it must refuse.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { GalvaniError } from '../../lib/errors.js';
import { native, type TensorBytes } from '../../lib/native.js';
import { aggregate, type Characterization, characterize, metrics, verifyFrozen } from '../../lib/weights.js';
import { bfloat16, float32, type Stored, writeTensors } from '../support/weight-files.js';

const fixtures = fileURLToPath(new URL('../fixtures/weights/', import.meta.url));
const base = join(fixtures, 'base.safetensors');
const mid = join(fixtures, 'in.safetensors');
const rl = join(fixtures, 'rl.safetensors');

interface ExpectedStep {
  readonly frobeniusNorm: number;
  readonly maxAbs: number;
  /** Mean, standard deviation, skewness, kurtosis. */
  readonly moments: [number, number, number | null, number | null] | null;
  readonly zero: number;
  readonly identical: number;
  readonly belowHalfUlp: number;
  readonly ulpHistogram: number[];
  readonly singularValues?: number[];
  readonly measures?: Record<string, number | null>;
  readonly rowSquares?: number[];
  readonly columnSquares?: number[];
  readonly floor?: { readonly frobeniusNorm: number; readonly edgeMean: number; readonly edgeMax: number };
}
interface Expected {
  readonly top: number;
  readonly subspace: number;
  readonly tensors: Record<
    string,
    {
      readonly shape: number[];
      readonly weightNorms: number[];
      readonly steps: ExpectedStep[];
      readonly dot: number;
      readonly bothChanged: number;
      readonly sameSign: number;
      readonly pairCosines?: [number[], number[]];
      readonly weightCosines?: [number[], number[]][];
    }
  >;
}
const expected = JSON.parse(readFileSync(join(fixtures, 'expected.json'), 'utf8')) as Expected;

let folder = '';
let result: Characterization;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'galvani-weights-'));
  const { subspace, top } = expected;
  result = await characterize({ before: base, mid, after: rl, spectra: true, mass: true, subspace, top });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Largest difference, as a share of the largest expected value. */
function relativeError(got: ArrayLike<number>, want: readonly number[]): number {
  expect(got.length).toBe(want.length);
  const scale = Math.max(...want.map(Math.abs), Number.MIN_VALUE);
  return want.reduce((worst, value, i) => Math.max(worst, Math.abs(value - got[i]!) / scale), 0);
}
// float64 sums of n terms in another order than numpy's: n·ε would be the bound, sqrt(n)·ε the habit.
const sumTolerance = 1e-12;

async function rejection(run: Promise<unknown>): Promise<GalvaniError> {
  const error = await run.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(GalvaniError);
  return error as GalvaniError;
}
function write(name: string, tensors: readonly (readonly [string, readonly number[], Float32Array])[]): string {
  const path = join(folder, name);
  writeSafetensors(
    path,
    tensors.map(
      ([tensor, shape, data]): TensorBytes => ({
        name: tensor,
        dtype: 'F32',
        shape,
        data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      }),
    ),
  );
  return path;
}
function noise(count: number, seed: number, scale = 1): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return scale * (state / 2 ** 32 - 0.5);
  });
}

describe('against numpy', () => {
  it('covers every tensor', () => {
    expect(result.tensors.map((tensor) => tensor.name)).toEqual(Object.keys(expected.tensors).sort());
    const elements = Object.values(expected.tensors).map((tensor) => tensor.shape.reduce((a, b) => a * b, 1));
    const floats = elements.reduce((a, b) => a + b, 0);
    expect(result.coverage).toEqual({
      tensors: elements.length + 1,
      elements: floats + 5,
      compared: elements.length,
      comparedElements: floats,
      notFloat: [{ name: 'ids.i64', dtype: 'I64', identical: true }],
    });
  });

  it.each(Object.keys(expected.tensors))('%s: norms, counts, agreement', (name) => {
    const want = expected.tensors[name]!;
    const got = result.tensors.find((tensor) => tensor.name === name)!;
    expect(got.shape).toEqual(want.shape);
    expect(got.nonFinite).toBe(0);
    expect(relativeError(got.weightNorms, want.weightNorms)).toBeLessThan(sumTolerance);
    const n = got.elements;
    for (const [s, step] of got.steps.entries()) {
      const wanted = want.steps[s]!;
      expect(relativeError([step.frobeniusNorm], [wanted.frobeniusNorm])).toBeLessThan(sumTolerance);
      expect(step.maxAbs).toBe(wanted.maxAbs);
      if (wanted.moments === null) expect(step.moments).toBeNull();
      else {
        const [mean, std, skewness, kurtosis] = wanted.moments;
        const { moments } = step;
        expect(Math.abs(moments!.mean - mean)).toBeLessThanOrEqual(sumTolerance * (std + Math.abs(mean)));
        expect(relativeError([moments!.std], [std])).toBeLessThan(1e-11);
        // Δ³ and Δ⁴ are summed with Δ² in float32: 2^−24 of each.
        if (skewness === null || kurtosis === null) expect(moments).toMatchObject({ skewness: null, kurtosis: null });
        else {
          expect(Math.abs(moments!.skewness! - skewness)).toBeLessThan(1e-6);
          expect(Math.abs(moments!.kurtosis! - kurtosis)).toBeLessThan(1e-6 * kurtosis);
        }
      }
      expect(step.ulpHistogram).toEqual(wanted.ulpHistogram);
      expect(step.unchangedFraction).toBe(n ? wanted.identical / n : null);
      expect(step.zeroFraction).toBe(n ? wanted.zero / n : null);
      expect(step.belowHalfUlpFraction).toBe(n ? wanted.belowHalfUlp / n : null);
      const before = want.weightNorms[s]!;
      if (before === 0) expect(step.relativeNorm).toBeNull();
      else expect(step.relativeNorm!).toBeCloseTo(wanted.frobeniusNorm / before, 12);
      if (wanted.rowSquares) {
        expect(relativeError(step.rowSquares!, wanted.rowSquares)).toBeLessThan(sumTolerance);
        expect(relativeError(step.columnSquares!, wanted.columnSquares!)).toBeLessThan(sumTolerance);
      }
    }
    const scale = want.steps[0]!.frobeniusNorm * want.steps[1]!.frobeniusNorm;
    expect(Math.abs(got.pair!.dot - want.dot)).toBeLessThanOrEqual(sumTolerance * scale);
    expect(got.pair!.cosine === null).toBe(scale === 0);
    expect(got.pair!.bothChanged).toBe(want.bothChanged);
    expect(got.pair!.signAgreement).toBe(want.bothChanged ? want.sameSign / want.bothChanged : null);
  });

  const matrices = Object.keys(expected.tensors).filter((name) => expected.tensors[name]!.steps[0]!.singularValues);
  it.each(matrices)('%s: singular values, ranks, rounding floor, subspaces', (name) => {
    const want = expected.tensors[name]!;
    const got = result.tensors.find((tensor) => tensor.name === name)!;
    for (const [s, step] of got.steps.entries()) {
      const wanted = want.steps[s]!;
      const spectrum = step.spectrum!;
      // The stated bound: k ε σ1²/σ (Gram) or the resolution (direct); values below the resolution come back as 0.
      const k = wanted.singularValues!.length;
      const largest = wanted.singularValues![0]!;
      for (const [i, sigma] of wanted.singularValues!.entries()) {
        const bound =
          spectrum.method === 'gram' && sigma > spectrum.resolution
            ? (k * Number.EPSILON * largest ** 2) / sigma
            : spectrum.resolution;
        expect(Math.abs(spectrum.singularValues[i]! - sigma)).toBeLessThanOrEqual(bound * 1.01);
      }
      if (largest === 0) {
        expect(spectrum).toMatchObject({
          stableRank: null,
          effectiveRank: null,
          conditionNumber: null,
          logVolume: null,
        });
        expect(spectrum.floor).toMatchObject({ edge: 0, frobeniusNorm: 0, draws: 0 });
        expect(spectrum.aboveFloor).toMatchObject({ rank: 0, stableRank: null });
        continue;
      }
      // Both sides drop what is below the resolution, so that the measures are of the same values.
      const kept = wanted.singularValues!.filter((sigma) => sigma >= spectrum.resolution);
      const nuclear = kept.reduce((a, b) => a + b, 0);
      const entropy = -kept.reduce((a, sigma) => a + (sigma / nuclear) * Math.log(sigma / nuclear), 0);
      expect(spectrum.resolved).toBe(kept.length);
      expect(relativeError([spectrum.nuclearNorm!], [nuclear])).toBeLessThan(1e-9);
      expect(relativeError([spectrum.effectiveRank!], [Math.exp(entropy)])).toBeLessThan(1e-9);
      expect(relativeError([spectrum.stableRank!], [wanted.measures!.stableRank!])).toBeLessThan(1e-9);
      expect(relativeError([spectrum.participationRatio!], [wanted.measures!.participationRatio!])).toBeLessThan(1e-9);
      expect(relativeError([spectrum.logVolume!], [wanted.measures!.logVolume!])).toBeLessThan(1e-9);

      // The floor's energy is exact; its edge is one of 5 draws of other signs than numpy's 20.
      expect(relativeError([spectrum.floor!.frobeniusNorm], [wanted.floor!.frobeniusNorm])).toBeLessThan(1e-6);
      const edge = spectrum.floor!.edge / (1 + k ** (-2 / 3));
      expect(edge).toBeGreaterThan(wanted.floor!.edgeMean * 0.93);
      expect(edge).toBeLessThan(wanted.floor!.edgeMax * 1.07);
    }
    for (const side of ['left', 'right'] as const) {
      const at = side === 'left' ? 0 : 1;
      const pair = want.pairCosines![at];
      if (pair.length > 0) expect(relativeError(got.pair!.principalCosines![side], pair)).toBeLessThan(1e-8);
      for (const s of [0, 1]) {
        const own = want.weightCosines![s]![at];
        if (own.length > 0) expect(relativeError(got.steps[s]!.spectrum!.weightCosines![side], own)).toBeLessThan(1e-8);
      }
    }
  });
});

describe('the rounding floor', () => {
  const planted = (name: string) => result.tensors.find((tensor) => tensor.name === name)!.steps[1]!.spectrum!;

  it('finds the true rank 8 where the raw effective rank is in the hundreds (METHODS §2)', () => {
    for (const name of ['planted-1e-5', 'planted-both']) {
      const spectrum = planted(name);
      expect(spectrum.effectiveRank!).toBeGreaterThan(200);
      expect(spectrum.aboveFloor!.rank).toBe(8);
      expect(spectrum.aboveFloor!.effectiveRank!).toBeGreaterThan(7.5);
      expect(spectrum.aboveFloor!.effectiveRank!).toBeLessThanOrEqual(8);
    }
    expect(
      result.tensors.find((tensor) => tensor.name === 'planted-1e-5')!.steps[1]!.unchangedFraction,
    ).toBeGreaterThan(0.85);
  });

  it('is zero for a tensor that did not change, and absent when not asked for', async () => {
    expect(result.tensors.find((tensor) => tensor.name === 'frozen.bf16')!.steps[1]!.spectrum!.floor!.edge).toBe(0);
    const bare = await characterize({ before: mid, after: rl, spectra: true, floor: false });
    expect(bare.tensors.every((tensor) => tensor.steps[0]!.spectrum?.floor === undefined)).toBe(true);
    expect(bare.tensors[0]!.pair).toBeUndefined();
  });

  it('in bf16, an entry is unchanged exactly when its update is below half a spacing', () => {
    // Rounding moves a stored value by whole spacings; the only smaller moves are across a power of two, half each.
    for (const tensor of result.tensors.filter((t) => t.dtypes.every((dtype) => dtype === 'BF16')))
      for (const step of tensor.steps) expect(step.belowHalfUlpFraction).toBe(step.zeroFraction);
  });
});

describe('the two paths to singular values', () => {
  it('agree within their stated bounds on every shape, and direct keeps small values', () => {
    for (const [rows, columns] of [
      [1, 1],
      [1, 9],
      [9, 1],
      [2, 3],
      [8, 8],
      [24, 25],
      [97, 31],
      [31, 300],
      [130, 129],
    ] as const) {
      const data = noise(rows * columns, rows * 1000 + columns);
      const gram = native().singularValues(data, rows, columns, 'gram');
      const direct = native().singularValues(data, rows, columns, 'direct');
      const k = Math.min(rows, columns);
      for (let i = 0; i < k; i++) {
        const bound = (k * Number.EPSILON * direct.values[0]! ** 2) / Math.max(direct.values[i]!, gram.resolution);
        expect(Math.abs(gram.values[i]! - direct.values[i]!)).toBeLessThanOrEqual(bound + direct.resolution);
      }
      const square = data.reduce((a, x) => a + x * x, 0);
      expect(relativeError([direct.values.reduce((a, s) => a + s * s, 0)], [square])).toBeLessThan(1e-12);
    }
    const want = expected.tensors['decaying.f32']!.steps[1]!.singularValues!;
    const exact = result.tensors.find((tensor) => tensor.name === 'decaying.f32')!.steps[1]!.spectrum!;
    expect(exact.method).toBe('direct');
    expect(exact.singularValues[20]).toBeCloseTo(want[20]!, 12);
  });

  it('gives exact values for matrices known by hand', () => {
    const identity = new Float32Array(200 * 200);
    for (let i = 0; i < 200; i++) identity[i * 201] = 3;
    for (const method of ['gram', 'direct'] as const) {
      expect(
        native()
          .singularValues(identity, 200, 200, method)
          .values.every((value) => Math.abs(value - 3) < 1e-12),
      ).toBe(true);
      const ones = native().singularValues(new Float32Array(50 * 70).fill(1), 50, 70, method).values;
      expect(ones[0]).toBeCloseTo(Math.sqrt(3500), 10);
      expect(ones.slice(1).every((value) => value === 0)).toBe(true);
      expect([...native().singularValues(new Float32Array(6), 2, 3, method).values]).toEqual([0, 0]);
      const huge = native().singularValues(Float32Array.of(3e38, 0, 0, 4e-38), 2, 2, method).values;
      expect(huge[0]! / 3e38).toBeCloseTo(1, 6);
    }
    expect(native().singularValues(new Float32Array(0), 0, 5, 'auto').values.length).toBe(0);
    expect(() => native().singularValues(new Float32Array(5), 2, 3, 'auto')).toThrow(/rows · columns/);
  });
});

describe('determinism', () => {
  it('gives the same bits whatever the thread count', async () => {
    const run = (threads: number) =>
      characterize({ before: base, mid, after: rl, spectra: true, mass: true, subspace: 3, threads });
    const [one, three] = [await run(1), await run(3)];
    expect(three).toEqual(one); // exact: toEqual compares numbers by Object.is
  });

  it('gives the same bits for bf16, worked on as stored, as for its values in float32', async () => {
    const state = { seed: 1 };
    const draw = () => noise(1, state.seed++)[0]!;
    // Rows of whole vectors, rows with a rest, a vector; few moved, many moved, some not finite.
    const shapes = { even: [40, 64], odd: [33, 1021], wide: [2, 4099], bias: [77] };
    const rows = Object.entries(shapes).map(([name, shape]) => {
      const count = shape.reduce((a, b) => a * b, 1);
      const versions = [noise(count, state.seed++, 0.05)];
      for (const share of [0.1, 0.9])
        versions.push(versions.at(-1)!.map((value) => (draw() + 0.5 < share ? value * (1 + 0.02 * draw()) : value)));
      if (name === 'odd') versions[1]![500] = Number.NaN;
      if (name === 'even') versions[2]![64] = Number.POSITIVE_INFINITY;
      return { name, shape, versions: versions.map((values) => bfloat16(shape, values)) };
    });
    const widened = ({ shape, data }: Stored): Stored => {
      const words = new Uint16Array(data.buffer, data.byteOffset, data.length / 2);
      return float32(shape, new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer));
    };
    const run = async (kind: string, as: (stored: Stored) => Stored) => {
      const [before, second, after] = [0, 1, 2].map((v) =>
        writeTensors(
          folder,
          `${kind}-${v}.safetensors`,
          Object.fromEntries(rows.map(({ name, versions }) => [name, as(versions[v]!)])),
        ),
      );
      const three = await characterize({ before: before!, mid: second!, after: after!, mass: true });
      const two = await characterize({ before: before!, after: after!, mass: true });
      return [three, two].map(({ tensors }) => tensors.map(({ dtypes: _, ...numbers }) => numbers));
    };
    const stored = await run('bf16', (one) => one);
    expect(stored[0]!.map(({ nonFinite }) => nonFinite)).toEqual([0, 1, 1, 0]);
    expect(stored).toEqual(await run('float32', widened));
  });

  it('gives the same sums whatever the instruction set', () => {
    const root = fileURLToPath(new URL('../..', import.meta.url));
    const addon = process.env.GALVANI_ADDON ?? createRequire(import.meta.url)('node-gyp-build').resolve(root);
    const script = `
      const addon = require(${JSON.stringify(addon)});
      const files = ${JSON.stringify([base, mid, rl])}.map((path) => addon.openCheckpoint(path));
      const keys = files[0].names().filter((name) => name !== 'ids.i64').map((name) => ({ name, names: [name, name, name] }));
      addon.compareWeights(files, keys, {}).then((deltas) => console.log(addon.cpuInfo().isa + ' ' + JSON.stringify(deltas)));`;
    const run = (isa: string) => {
      const env = { ...process.env, GALVANI_ISA: isa };
      const text = execFileSync(process.execPath, ['-e', script], { env, encoding: 'utf8', maxBuffer: 1 << 26 });
      return [text.slice(0, text.indexOf(' ')), text.slice(text.indexOf(' '))] as const;
    };
    const [isa, portable] = run('portable');
    expect(isa).toBe('portable');
    for (const other of ['avx2', 'avx512']) expect(run(other)[1]).toBe(portable);
  });
});

describe('what it refuses, leaves out, and reports', () => {
  it('lists every difference of names, shapes and types', async () => {
    const a = write('a.safetensors', [
      ['x', [4], noise(4, 1)],
      ['y', [2, 2], noise(4, 2)],
      ['z', [1], noise(1, 3)],
    ]);
    const b = write('b.safetensors', [
      ['x', [4], noise(4, 1)],
      ['y', [4], noise(4, 2)],
      ['w', [1], noise(1, 3)],
    ]);
    const error = await rejection(characterize({ before: a, after: b }));
    expect(error.code).toBe('SHAPE_MISMATCH');
    expect(error.message).toMatch(/3 of 4 tensors differ/);
    expect(error.message).toMatch(/w: missing in .*a\.safetensors \(closest there: z\)/);
    expect(error.message).toMatch(/y: shapes \[2, 2\], \[4\]/);
    expect(error.message).toMatch(/z: missing in .*b\.safetensors \(closest there: w\)/);
    expect(error.details?.differences).toHaveLength(3);
    expect((await rejection(characterize({ before: a, after: join(folder, 'none') }))).code).toBe('FILE_NOT_FOUND');
    expect((await rejection(characterize({ before: a, after: a, top: 0 }))).code).toBe('BAD_ARGUMENT');
  });

  it('compares checkpoints of different layouts under canonical names', async () => {
    const a = write('old.safetensors', [['visual.w', [3], Float32Array.of(1, 2, 3)]]);
    const b = write('new.safetensors', [['model.visual.w', [3], Float32Array.of(1, 2, 7)]]);
    const { tensors } = await characterize({
      before: a,
      after: b,
      canonicalName: (name) => name.replace(/^model\./, ''),
    });
    expect(tensors.map((tensor) => [tensor.name, tensor.steps[0]!.frobeniusNorm])).toEqual([['visual.w', 4]]);
    const clash = write('clash.safetensors', [
      ['a', [1], noise(1, 1)],
      ['b', [1], noise(1, 2)],
    ]);
    expect((await rejection(characterize({ before: clash, after: clash, canonicalName: () => 'same' }))).code).toBe(
      'BAD_ARGUMENT',
    );
  });

  it('counts entries that are not finite and leaves them out', async () => {
    const a = write('finite.safetensors', [['m', [2, 2], Float32Array.of(1, 2, 3, 4)]]);
    const b = write('not-finite.safetensors', [
      ['m', [2, 2], Float32Array.of(1, Number.NaN, 5, Number.POSITIVE_INFINITY)],
    ]);
    const { tensors } = await characterize({ before: a, after: b, spectra: true });
    expect(tensors[0]).toMatchObject({ elements: 2, nonFinite: 2, weightNorms: [Math.sqrt(10), Math.sqrt(26)] });
    expect(tensors[0]!.steps[0]).toMatchObject({ frobeniusNorm: 2, maxAbs: 2, unchangedFraction: 0.5 });
    expect(tensors[0]!.steps[0]!.spectrum).toBeUndefined();
  });

  it('filters, shows progress and stops at an AbortSignal', async () => {
    const seen: [number, number][] = [];
    const { tensors, coverage } = await characterize({
      before: base,
      after: rl,
      filter: (name) => name.startsWith('planted'),
      onProgress: (done, total) => seen.push([done, total]),
    });
    expect(tensors.length).toBe(2);
    expect(coverage.compared).toBe(2);
    expect(coverage.tensors).toBe(result.coverage.tensors);
    await new Promise((resolve) => setTimeout(resolve, 50)); // progress travels beside the result
    expect(seen.at(-1)).toEqual([coverage.comparedElements, coverage.comparedElements]);

    const size = 1500;
    const big = write('big.safetensors', [['m', [size, size], noise(size * size, 1)]]);
    const other = write('other.safetensors', [['m', [size, size], noise(size * size, 2)]]);
    const before = performance.now();
    const signal = AbortSignal.timeout(30);
    const error = await rejection(characterize({ before: big, after: other, spectra: true, signal }));
    expect(error.code).toBe('ABORTED');
    expect(error.cause).toBe(signal.reason);
    expect(performance.now() - before).toBeLessThan(20_000);
    expect((await rejection(characterize({ before: big, after: other, signal }))).code).toBe('ABORTED'); // already fired
  });
});

describe('verifyFrozen', () => {
  it('finds frozen tensors that moved and others that did not', async () => {
    const w = noise(8, 5);
    const moved = Float32Array.from(w, (x, i) => (i === 3 ? x + 1e-7 : x));
    const a = write('start.safetensors', [
      ['held', [8], w],
      ['leaked', [8], w],
      ['trained', [8], w],
      ['idle', [8], w],
    ]);
    const b = write('end.safetensors', [
      ['held', [8], w],
      ['leaked', [8], moved],
      ['trained', [8], moved],
      ['idle', [8], w],
    ]);
    expect(await verifyFrozen(a, b, ['held', 'leaked'])).toEqual({
      frozenChanged: ['leaked'],
      othersUnchanged: ['idle'],
    });
    const error = await rejection(verifyFrozen(a, b, ['held', 'typo']));
    expect(error.code).toBe('TENSOR_MISSING');
    expect(error.message).toMatch(/typo/);
    // 0 → −0 is a change of the stored bytes.
    const zero = write('zero.safetensors', [['w', [1], Float32Array.of(0)]]);
    const minus = write('minus.safetensors', [['w', [1], Float32Array.of(-0)]]);
    expect((await verifyFrozen(zero, minus, ['w'])).frozenChanged).toEqual(['w']);
  });
});

describe('aggregate', () => {
  it('adds squares, not norms, and keeps the reference columns beside', () => {
    const names = ['wide.bf16', 'tall.f32', 'conv.f16'];
    const chosen = result.tensors.filter((tensor) => names.includes(tensor.name));
    const [group] = aggregate(result.tensors, ({ name }) => (names.includes(name) ? 'all' : undefined));
    expect(group).toMatchObject({ group: 'all', tensors: 3, elements: chosen.reduce((a, t) => a + t.elements, 0) });
    const step = group!.steps[1]!;
    const norms = chosen.map((tensor) => tensor.steps[1]!.frobeniusNorm);
    expect(step.frobeniusNorm).toBeCloseTo(Math.hypot(...norms), 12);
    expect(step.relativeNorm!).toBeCloseTo(
      Math.hypot(...norms) / Math.hypot(...chosen.map((t) => t.weightNorms[1]!)),
      12,
    );
    expect(step.reference.normSum).toBeCloseTo(
      norms.reduce((a, b) => a + b),
      12,
    );
    const ratios = chosen.map((tensor) => tensor.steps[0]!.frobeniusNorm / tensor.weightNorms[1]!);
    expect(group!.steps[0]!.reference.relativeNormMean!).toBeCloseTo(ratios.reduce((a, b) => a + b) / 3, 12);
    expect(group!.steps[0]!.spectrum.n).toBe(3);
    const dots = chosen.reduce((a, tensor) => a + tensor.pair!.dot, 0);
    expect(group!.pair!.cosine!).toBeCloseTo(dots / (group!.steps[0]!.frobeniusNorm * step.frobeniusNorm), 12);
  });

  it('of single tensors is those tensors; groups may overlap; the whole is the sum of its parts', () => {
    const alone = aggregate(result.tensors, ({ name }) => name);
    for (const [i, tensor] of result.tensors.entries()) {
      expect(alone[i]!.steps[0]!.relativeNorm).toBe(tensor.steps[0]!.relativeNorm);
      expect(alone[i]!.steps[1]!.unchangedFraction).toBe(tensor.steps[1]!.unchangedFraction);
    }
    const [whole] = aggregate(result.tensors, () => ['all', 'again']);
    const squares = alone.reduce((a, group) => a + group.steps[0]!.frobeniusNorm ** 2, 0);
    expect(whole!.steps[0]!.frobeniusNorm).toBeCloseTo(Math.sqrt(squares), 12);
    expect(aggregate(result.tensors, () => ['all', 'again']).map(({ group }) => group)).toEqual(['all', 'again']);
    expect(aggregate([], () => 'none')).toEqual([]);
  });

  it('names every metric once', () => {
    expect(new Set(metrics.map((metric) => metric.name)).size).toBe(metrics.length);
  });
});
