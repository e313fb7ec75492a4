/** Moments of an update from sums of its powers, which add up over tensors. */

/** Σ Δ, Σ Δ², Σ Δ³, Σ Δ⁴. */
export type PowerSums = readonly [number, number, number, number];

export interface Moments {
  readonly mean: number;
  /** Of the population: divided by n. */
  readonly std: number;
  /** null: std is 0, or lost beside the mean. */
  readonly skewness: number | null;
  /** Not in excess: 3 for a normal distribution, large when few entries carry the update. */
  readonly kurtosis: number | null;
}

export function addPowerSums(all: readonly PowerSums[]): PowerSums {
  const total: [number, number, number, number] = [0, 0, 0, 0];
  for (const sums of all) for (let i = 0; i < 4; i += 1) total[i]! += sums[i]!;
  return total;
}

/** Central moments of n entries; null for none. */
export function momentsOf(n: number, [s1, s2, s3, s4]: PowerSums): Moments | null {
  if (n === 0) return null;
  const mean = s1 / n;
  const second = s2 / n;
  const variance = second - mean * mean;
  // Central moments from raw ones lose digits when the mean outweighs the spread; below 2^−20 too few are left.
  if (!(variance > second * 2 ** -20))
    return { mean, std: Math.sqrt(Math.max(variance, 0)), skewness: null, kurtosis: null };
  const third = s3 / n - 3 * mean * second + 2 * mean ** 3;
  const fourth = s4 / n - (4 * mean * s3) / n + 6 * mean * mean * second - 3 * mean ** 4;
  // Squares of float32 numbers may leave float32's range, on which Σ Δ³ and Σ Δ⁴ are built.
  const usable = (x: number): number | null => (Number.isFinite(x) ? x : null);
  return {
    mean,
    std: Math.sqrt(variance),
    skewness: usable(third / variance ** 1.5),
    kurtosis: usable(fourth / (variance * variance)),
  };
}
