/** One tensor's comparison as the ledger keeps it: every figure, no array of the tensor's size. */
import type { TensorDescription } from '../models/family.js';
import type { PowerSums, StepDelta, TensorDelta } from '../weights.js';

/** Where a tensor sits, and in which region when it belongs to a decoder layer. */
export interface PlacedTensor extends TensorDescription {
  readonly region: string | null;
  /** Rows of one attention head of a q projection; null elsewhere. */
  readonly headRows: number | null;
}

export interface TensorRecord {
  readonly name: string;
  readonly place: PlacedTensor;
  readonly shape: readonly number[];
  readonly dtypes: readonly string[];
  readonly elements: number;
  readonly nonFinite: number;
  readonly weightNorms: readonly number[];
  readonly steps: readonly StepRecord[];
  readonly pair: {
    readonly dot: number;
    readonly cosine: number | null;
    readonly signAgreement: number | null;
    readonly bothChanged: number;
    /** Cosines between the steps' leading singular subspaces; null without spectra. */
    readonly subspaces: Sides | null;
  } | null;
}

/** Principal-angle cosines on both sides of the matrix, descending. */
export interface Sides {
  readonly left: readonly number[];
  readonly right: readonly number[];
}

export interface StepRecord {
  readonly frobeniusNorm: number;
  readonly relativeNorm: number | null;
  readonly referenceRelativeNorm: number | null;
  readonly maxAbs: number;
  /** Σ Δ, Σ Δ², Σ Δ³, Σ Δ⁴. */
  readonly powerSums: PowerSums;
  readonly unchangedFraction: number | null;
  readonly belowHalfUlpFraction: number | null;
  readonly ulpHistogram: readonly number[];
  /** null: a vector, or no change. */
  readonly mass: MassRecord | null;
  /** null: a vector, or entries that are not finite. */
  readonly spectrum: SpectrumRecord | null;
}

/** Where in the matrix ‖Δ‖² lies. */
export interface MassRecord {
  /** (Σm)² / (n Σm²) over rows: 1 = spread evenly, 1/n = one row has it all. */
  readonly rowSpread: number;
  readonly columnSpread: number;
  /** Rows and columns with the largest shares of ‖Δ‖². */
  readonly topRows: readonly (readonly [index: number, share: number])[];
  readonly topColumns: readonly (readonly [index: number, share: number])[];
  /** Share of every query head; null for other matrices. */
  readonly heads: readonly number[] | null;
}

export interface SpectrumRecord {
  readonly method: string;
  readonly spectralNorm: number;
  readonly nuclearNorm: number | null;
  readonly stableRank: number | null;
  readonly participationRatio: number | null;
  readonly effectiveRank: number | null;
  readonly conditionNumber: number | null;
  /** Values computed: the small side of the matrix, or the leading ones. */
  readonly count: number;
  /** σ at curvePlaces(count): 1, 2, 3, 4, 6, 8, … */
  readonly curve: readonly number[];
  /** What rounding to the stored type alone would show. */
  readonly floor: {
    readonly frobeniusNorm: number;
    readonly edge: number;
    readonly stableRank: number | null;
    readonly effectiveRank: number | null;
    readonly curve: readonly number[];
  } | null;
  /** Singular values above the floor's largest, and their ranks. */
  readonly rankAboveFloor: number | null;
  readonly stableRankAboveFloor: number | null;
  readonly effectiveRankAboveFloor: number | null;
  /** Of Δ's leading subspaces with those of the weight before the step. */
  readonly weightSubspaces: Sides | null;
}

/** Places at which a curve of `count` values is kept: about every half doubling, so that a few large values show. */
export function curvePlaces(count: number): number[] {
  const places: number[] = [];
  for (let half = 0; ; half += 1) {
    const place = Math.round(2 ** (half / 2));
    if (place >= count) break;
    if (place !== places.at(-1)) places.push(place);
  }
  return count > 0 ? [...places, count] : places;
}

const curveOf = (values: Float64Array): number[] =>
  curvePlaces(values.length).map((place) => Number(values[place - 1]!.toPrecision(6)));

export function tensorRecord(delta: TensorDelta, place: PlacedTensor): TensorRecord {
  const { name, shape, dtypes, elements, nonFinite, weightNorms, steps, pair } = delta;
  return {
    name,
    place,
    shape,
    dtypes,
    elements,
    nonFinite,
    weightNorms,
    steps: steps.map((step) => stepRecord(step, place)),
    pair: pair
      ? {
          dot: pair.dot,
          cosine: pair.cosine,
          signAgreement: pair.signAgreement,
          bothChanged: pair.bothChanged,
          subspaces: sidesOf(pair.principalCosines),
        }
      : null,
  };
}

function sidesOf(cosines: { left: Float64Array; right: Float64Array } | undefined): Sides | null {
  if (!cosines || cosines.left.length === 0) return null;
  return { left: [...cosines.left], right: [...cosines.right] };
}

function stepRecord(step: StepDelta, place: PlacedTensor): StepRecord {
  const { spectrum } = step;
  return {
    frobeniusNorm: step.frobeniusNorm,
    relativeNorm: step.relativeNorm,
    referenceRelativeNorm: step.referenceRelativeNorm,
    maxAbs: step.maxAbs,
    powerSums: step.powerSums,
    unchangedFraction: step.unchangedFraction,
    belowHalfUlpFraction: step.belowHalfUlpFraction,
    ulpHistogram: step.ulpHistogram,
    mass: massRecord(step, place),
    spectrum: spectrum
      ? {
          method: spectrum.method,
          spectralNorm: spectrum.spectralNorm,
          nuclearNorm: spectrum.nuclearNorm,
          stableRank: spectrum.stableRank,
          participationRatio: spectrum.participationRatio,
          effectiveRank: spectrum.effectiveRank,
          conditionNumber: spectrum.conditionNumber,
          count: spectrum.singularValues.length,
          curve: curveOf(spectrum.singularValues),
          floor: spectrum.floor
            ? {
                frobeniusNorm: spectrum.floor.frobeniusNorm,
                edge: spectrum.floor.edge,
                stableRank: spectrum.floor.stableRank,
                effectiveRank: spectrum.floor.effectiveRank,
                curve: curveOf(spectrum.floor.singularValues),
              }
            : null,
          rankAboveFloor: spectrum.aboveFloor?.rank ?? null,
          stableRankAboveFloor: spectrum.aboveFloor?.stableRank ?? null,
          effectiveRankAboveFloor: spectrum.aboveFloor?.effectiveRank ?? null,
          weightSubspaces: sidesOf(spectrum.weightCosines),
        }
      : null,
  };
}

function massRecord({ rowSquares, columnSquares, frobeniusNorm }: StepDelta, place: PlacedTensor): MassRecord | null {
  if (!rowSquares || !columnSquares || frobeniusNorm === 0) return null;
  const { headRows } = place;
  const total = frobeniusNorm ** 2;
  const heads =
    headRows !== null && rowSquares.length % headRows === 0
      ? Array.from({ length: rowSquares.length / headRows }, (_, head) =>
          short(rowSquares.subarray(head * headRows, (head + 1) * headRows).reduce((a, b) => a + b, 0) / total),
        )
      : null;
  return {
    rowSpread: spread(rowSquares),
    columnSpread: spread(columnSquares),
    topRows: top(rowSquares, total),
    topColumns: top(columnSquares, total),
    heads,
  };
}

function spread(masses: Float64Array): number {
  let sum = 0;
  let square = 0;
  for (const mass of masses) {
    sum += mass;
    square += mass * mass;
  }
  return square > 0 ? short((sum / masses.length) * (sum / square)) : 1;
}

function top(masses: Float64Array, total: number, count = 5): [number, number][] {
  const best: [number, number][] = [];
  masses.forEach((mass, index) => {
    if (best.length === count && mass <= best.at(-1)![1]) return;
    best.push([index, mass]);
    best.sort((a, b) => b[1] - a[1]);
    if (best.length > count) best.pop();
  });
  return best.map(([index, mass]) => [index, short(mass / total)]);
}

const short = (value: number): number => Number(value.toPrecision(6));
