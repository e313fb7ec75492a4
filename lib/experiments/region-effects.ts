/**
 * What each region contributes. The paper's eight grafts are all combinations of three blocks with two donors, so every
 * region's effect can be read from all of them, item by item, instead of from two chosen grafts.
 */
import type { RegionName } from '../checkpoint/graft.js';
import { adjusted, type MeanTestRecord, meanTest, pairedTest, type TestRecord } from './measure.js';

/** A part that comes from IN or from RL: a region, or the weights outside the layers. */
export type Player = RegionName | 'rest';

/** Right, wrong, or null per item, for every combination: bit i set means player i comes from RL. */
export type Coalitions = ReadonlyMap<number, readonly (boolean | null)[]>;

export interface PlayerEffect {
  readonly player: Player;
  /**
   * Shapley value: the mean effect of taking the part from RL over all orders of exchanging the parts. The values of all
   * parts add up to RL − IN on every item. Over items that all combinations answered.
   */
  readonly shapley: MeanTestRecord;
  /** Share of the whole gain; null where the gain is not significant, since it is then a ratio of noise. */
  readonly share: number | null;
  /** The part from RL and nothing else, against IN. */
  readonly added: TestRecord;
  /** RL, against RL with the part from IN. */
  readonly takenOut: TestRecord;
  /** Per item the mean of the two: what random sets of layers are compared by. */
  readonly both: MeanTestRecord;
}

/** Effects of all parts, each tested over the parts. `outcomes` has every combination of them. */
export function playerEffects(players: readonly Player[], outcomes: Coalitions, seed: number): PlayerEffect[] {
  const all = 2 ** players.length - 1;
  const of = (mask: number): readonly (boolean | null)[] => outcomes.get(mask) ?? [];
  const items = of(0).map((_, i) => i);
  const masks = Array.from({ length: all + 1 }, (_, mask) => mask);
  const isComplete = items.map((i) => masks.every((mask) => of(mask)[i] != null));
  const value = (mask: number, i: number): number => Number(of(mask)[i]);
  const weights = shapleyWeights(players.length);
  const gain = meanTest(
    items.map((i) => (isComplete[i] ? value(all, i) - value(0, i) : null)),
    seed,
  );
  const isGain = gain.p !== null && gain.p < 0.05;
  const cells = players.map((player, bit) => {
    const own = 1 << bit;
    const without = masks.filter((mask) => (mask & own) === 0);
    const shapley = meanTest(
      items.map((i) =>
        isComplete[i]
          ? without.reduce((sum, mask) => sum + weights[bitsOf(mask)]! * (value(mask | own, i) - value(mask, i)), 0)
          : null,
      ),
      seed,
    );
    return {
      player,
      shapley,
      share: isGain && gain.mean && shapley.mean !== null ? shapley.mean / gain.mean : null,
      added: pairedTest(of(0), of(own)),
      takenOut: pairedTest(of(all & ~own), of(all)),
      both: bothEffect(of(0), of(own), of(all & ~own), of(all), seed),
    };
  });
  const columns = {
    shapley: adjusted(cells.map(({ shapley }) => shapley)),
    added: adjusted(cells.map(({ added }) => added)),
    takenOut: adjusted(cells.map(({ takenOut }) => takenOut)),
    both: adjusted(cells.map(({ both }) => both)),
  };
  return cells.map((cell, i) => ({
    ...cell,
    shapley: columns.shapley[i]!,
    added: columns.added[i]!,
    takenOut: columns.takenOut[i]!,
    both: columns.both[i]!,
  }));
}

/** Per item ((with − nothing) + (all − without)) / 2. */
export function bothEffect(
  nothing: readonly (boolean | null)[],
  withIt: readonly (boolean | null)[],
  without: readonly (boolean | null)[],
  all: readonly (boolean | null)[],
  seed: number,
): MeanTestRecord {
  return meanTest(
    nothing.map((start, i) => {
      const [one, three, four] = [withIt[i], without[i], all[i]];
      if (start === null || one == null || three == null || four == null) return null;
      return (Number(one) - Number(start) + Number(four) - Number(three)) / 2;
    }),
    seed,
  );
}

/** |S|!·(n − |S| − 1)!/n!, by the size of S. */
function shapleyWeights(n: number): number[] {
  const factorial = (k: number): number => (k < 2 ? 1 : k * factorial(k - 1));
  return Array.from({ length: n }, (_, size) => (factorial(size) * factorial(n - size - 1)) / factorial(n));
}

function bitsOf(mask: number): number {
  return [...mask.toString(2)].filter((bit) => bit === '1').length;
}
