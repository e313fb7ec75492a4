/** Means of many columns over the same items, with intervals from one set of resamples. */
import { GalvaniError } from '../errors.js';
import { seededRandom } from './random.js';

export interface ColumnMeans {
  /** One number per column. */
  readonly mean: Float64Array;
  readonly low: Float64Array;
  readonly high: Float64Array;
}

/**
 * Percentile bootstrap over rows. Every column sees the same resamples, so that hundreds of columns (the heads of a model)
 * cost one set of draws.
 * @param rows one array per item, all of one length; not empty.
 */
export function bootstrapColumns(
  rows: readonly Float64Array[],
  {
    seed,
    resamples = 2000,
    level = 0.95,
  }: { readonly seed: number; readonly resamples?: number; readonly level?: number },
): ColumnMeans {
  const columns = rows[0]?.length ?? 0;
  if (rows.length === 0 || rows.some((row) => row.length !== columns)) {
    throw new GalvaniError('BAD_ARGUMENT', 'bootstrapColumns: expected at least one row, all of one length');
  }
  const random = seededRandom(seed);
  const mean = new Float64Array(columns);
  for (const row of rows) for (let c = 0; c < columns; c += 1) mean[c]! += row[c]! / rows.length;
  const drawn = new Float64Array(resamples * columns); // [columns, resamples]
  const times = new Uint32Array(rows.length);
  const sums = new Float64Array(columns);
  for (let r = 0; r < resamples; r += 1) {
    times.fill(0);
    for (let i = 0; i < rows.length; i += 1) times[random.below(rows.length)]! += 1;
    sums.fill(0);
    rows.forEach((row, i) => {
      const weight = times[i]! / rows.length;
      if (weight > 0) for (let c = 0; c < columns; c += 1) sums[c]! += weight * row[c]!;
    });
    for (let c = 0; c < columns; c += 1) drawn[c * resamples + r] = sums[c]!;
  }
  const tail = (1 - level) / 2;
  const low = new Float64Array(columns);
  const high = new Float64Array(columns);
  for (let c = 0; c < columns; c += 1) {
    const sorted = drawn.subarray(c * resamples, (c + 1) * resamples).sort();
    low[c] = quantile(sorted, tail);
    high[c] = quantile(sorted, 1 - tail);
  }
  return { mean, low, high };
}

/** Type-7 quantile of ascending values. */
function quantile(sorted: Float64Array, p: number): number {
  const at = (sorted.length - 1) * p;
  const below = Math.floor(at);
  const under = sorted[below]!;
  return under + (sorted[Math.min(below + 1, sorted.length - 1)]! - under) * (at - below);
}
