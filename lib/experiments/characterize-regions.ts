/** Is an update concentrated in a region? Its share of the change beside random sets of as many layers. */
import type { Region } from '../checkpoint/graft.js';
import { namedRandom, sample } from '../stats/random.js';
import { adjusted } from './measure.js';

export interface RegionShare {
  readonly comparison: string;
  readonly step: string;
  readonly region: Region['name'];
  readonly layers: number;
  /** Share of the decoder layers' ‖Δ‖² that lies in the region. */
  readonly share: number;
  /** What an even spread over layers would give: layers / L. */
  readonly even: number;
  /** Central 95 % of the shares of random sets of as many layers. */
  readonly randomLow: number;
  readonly randomHigh: number;
  /** Share of random sets that lie as far from `even` as the region does; layers taken as exchangeable. */
  readonly p: number;
  readonly pHolm: number | null;
  readonly pBh: number | null;
}

const draws = 10_000;

/**
 * Shares of every region, tested over the regions of one step.
 * @param energies ‖Δ‖² per layer, one list per step.
 */
export function regionShares(
  comparison: string,
  steps: readonly { readonly name: string; readonly energies: readonly number[] }[],
  regions: readonly Region[],
  seed: number,
): RegionShare[] {
  return steps.flatMap(({ name, energies }) => {
    const total = energies.reduce((sum, value) => sum + value, 0);
    if (!(total > 0)) return [];
    const cells = regions.map(({ name: region, start, end }) => {
      const size = end - start;
      const even = size / energies.length;
      const share = energies.slice(start, end).reduce((sum, value) => sum + value, 0) / total;
      const shares = randomShares(energies, total, size, seed);
      const extreme = shares.filter((value) => Math.abs(value - even) >= Math.abs(share - even) - 1e-12).length;
      const at = (q: number): number => shares[Math.round(q * (shares.length - 1))]!;
      return {
        comparison,
        step: name,
        region,
        layers: size,
        share,
        even,
        randomLow: at(0.025),
        randomHigh: at(0.975),
        // the region is one of the sets that could have been drawn
        p: Math.min(1, (extreme + 1) / (shares.length + 1)),
        n: size,
      };
    });
    return adjusted(cells).map((cell) => {
      const { n: _, ...share } = cell!;
      return share;
    });
  });
}

/** Ascending. */
function randomShares(energies: readonly number[], total: number, size: number, seed: number): number[] {
  const random = namedRandom(seed, 'region shares', size);
  return Array.from(
    { length: draws },
    () => sample(random, energies.length, size).reduce((sum, layer) => sum + energies[layer]!, 0) / total,
  ).sort((a, b) => a - b);
}
