// What small fixtures do not reach: many bands, very long rows, the iterative methods for large matrices, and a reader
// that must not care how a tensor lies in its file.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { native } from '../../lib/native.js';
import { characterize, type TensorDelta } from '../../lib/weights.js';
import { bfloat16, float32, lowRank, normals, sum, writeTensors } from '../support/weight-files.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galvani-weights-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function compare(
  tensors: Readonly<Record<string, readonly [readonly number[], Float32Array, Float32Array]>>,
  options: Partial<Parameters<typeof characterize>[0]> = {},
  store = float32,
): Promise<TensorDelta[]> {
  const of = (version: 1 | 2) =>
    Object.fromEntries(Object.entries(tensors).map(([name, row]) => [name, store(row[0], row[version])]));
  const before = writeTensors(folder, 'before.safetensors', of(1));
  const after = writeTensors(folder, 'after.safetensors', of(2));
  return [...(await characterize({ before, after, ...options })).tensors];
}

describe('the one pass', () => {
  it('adds up row and column sums over bands, and over parts of very long rows', async () => {
    const shapes = {
      tall: [3000, 70],
      wide: [3, 70_001],
      long: [1, 150_000],
      narrow: [9000, 3],
      deep: [7, 5, 3, 2, 11],
    };
    const tensors = Object.fromEntries(
      Object.entries(shapes).map(([name, shape], i) => {
        const count = shape.reduce((a, b) => a * b, 1);
        return [name, [shape, normals(count, 2 * i), normals(count, 2 * i + 1)] as const];
      }),
    );
    for (const { name, shape, elements, steps } of await compare(tensors, { mass: true })) {
      const [, a, b] = tensors[name]!;
      const rows = shape[0]!;
      const columns = elements / rows;
      const square = Float64Array.from(a, (x, i) => Math.fround(b[i]! - x) ** 2);
      const rowSquares = new Float64Array(rows);
      const columnSquares = new Float64Array(columns);
      square.forEach((value, i) => {
        rowSquares[Math.floor(i / columns)]! += value;
        columnSquares[i % columns]! += value;
      });
      const near = (got: Float64Array | undefined, want: Float64Array): void => {
        expect(got?.length).toBe(want.length);
        const worst = want.reduce((most, value, i) => Math.max(most, Math.abs(got![i]! - value) / value), 0);
        expect(worst).toBeLessThan(1e-12);
      };
      near(steps[0]!.rowSquares, rowSquares);
      near(steps[0]!.columnSquares, columnSquares);
      expect(steps[0]!.frobeniusNorm ** 2).toBeCloseTo(
        square.reduce((x, y) => x + y),
        6,
      );
      expect(steps[0]!.ulpHistogram.reduce((x, y) => x + y)).toBe(elements); // nothing is unchanged here
    }
  });

  it('counts a histogram beyond the reach of its short counters', async () => {
    const count = 1_000_003; // every entry in one bin
    const [tensor] = await compare({
      w: [[count], new Float32Array(count).fill(1), new Float32Array(count).fill(1.25)],
    });
    const { ulpHistogram, moments } = tensor!.steps[0]!;
    expect(ulpHistogram.filter((n) => n > 0)).toEqual([count]);
    expect(moments).toEqual({ mean: 0.25, std: 0, skewness: null, kurtosis: null });
  });
});

describe('methods for large matrices', () => {
  const [rows, columns] = [560, 700];

  it('top: values within their bounds, subspaces those of the whole spectrum', async () => {
    const w = normals(rows * columns, 1, 0.02);
    const after = sum(w, sum(lowRank(rows, columns, 6, 2, 1e-3), normals(rows * columns, 9, 1e-5)));
    for (const [shape, name] of [
      [[rows, columns], 'wide'],
      [[columns, rows], 'tall'],
    ] as const) {
      const [top] = await compare({ [name]: [shape, w, after] }, { spectra: true, method: 'top', subspace: 6 });
      const [whole] = await compare({ [name]: [shape, w, after] }, { spectra: true, method: 'gram', subspace: 6 });
      const [a, b] = [top!.steps[0]!.spectrum!, whole!.steps[0]!.spectrum!];
      expect(a.singularValues).toHaveLength(6);
      a.singularValues.forEach((value, i) => {
        expect(Math.abs(value - b.singularValues[i]!)).toBeLessThanOrEqual(a.bounds![i]! + 1e-12);
        expect(a.bounds![i]!).toBeLessThan(1e-5 * value);
      });
      expect(a.stableRank!).toBeCloseTo(b.stableRank!, 6);
      expect(a).toMatchObject({ nuclearNorm: null, effectiveRank: null, participationRatio: null });
      expect(a.aboveFloor!.rank).toBe(6);
      for (const side of ['left', 'right'] as const)
        for (const [i, cosine] of a.weightCosines![side].entries())
          expect(cosine).toBeCloseTo(b.weightCosines![side][i]!, 2);
    }
  });

  it('the rounding floor by Lanczos is that of independent noise', async () => {
    // All weights in one binade and an update of the same size everywhere: noise of one variance, whose spectrum is
    // that of any random matrix of its shape (Marchenko & Pastur 1967).
    const w = normals(rows * columns, 3, 0.05).map((x) => 1.5 + Math.max(-0.4, Math.min(0.4, x)));
    const after = sum(w, normals(rows * columns, 4, 0.01));
    const [tensor] = await compare({ w: [[rows, columns], w, after] }, { spectra: true }, bfloat16);
    const { floor } = tensor!.steps[0]!.spectrum!;
    const noise = native().singularValues(normals(rows * columns, 5), rows, columns, 'gram').values;
    const total = noise.reduce((a, b) => a + b, 0);
    const energy = noise.reduce((a, b) => a + b * b, 0);
    const entropy = -noise.reduce((a, value) => a + (value / total) * Math.log(value / total), 0);
    expect(floor!.draws).toBe(1);
    const edge = floor!.edge / (1 + rows ** (-2 / 3)); // without the margin for fluctuation
    expect(edge / floor!.frobeniusNorm / (noise[0]! / Math.sqrt(energy))).toBeGreaterThan(0.98);
    expect(edge / floor!.frobeniusNorm / (noise[0]! / Math.sqrt(energy))).toBeLessThan(1.03);
    expect(floor!.effectiveRank! / Math.exp(entropy)).toBeGreaterThan(0.97);
    expect(floor!.effectiveRank! / Math.exp(entropy)).toBeLessThan(1.03);
    const middle = (values: Float64Array) => values[rows / 2]!;
    expect(middle(floor!.singularValues) / floor!.frobeniusNorm / (middle(noise) / Math.sqrt(energy))).toBeCloseTo(
      1,
      1,
    );
    const curve = [...floor!.singularValues];
    expect(curve).toHaveLength(rows);
    expect(curve).toEqual([...curve].sort((a, b) => b - a));
  });
});
