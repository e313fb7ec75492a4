/** Inside the layers: every kind of matrix at every depth, singular-value curves, subspaces, heads. */
import { median } from '../stats/order.js';
import { curvePlaces, type Sides, type TensorRecord } from './characterize-record.js';

/** One kind of matrix (its weight and bias together) in one layer or block. */
export interface MatrixCell {
  readonly comparison: string;
  readonly tower: 'decoder' | 'vision';
  readonly layer: number;
  readonly module: string;
  /** Per step. */
  readonly relativeNorm: readonly (number | null)[];
  readonly effectiveRank: readonly (number | null)[];
  readonly rankAboveFloor: readonly (number | null)[];
  readonly cosine: number | null;
}

/** Singular values of one kind of decoder matrix at curvePlaces: medians over the layers. */
export interface SpectrumCurve {
  readonly comparison: string;
  readonly step: number;
  readonly module: string;
  readonly matrices: number;
  readonly places: readonly number[];
  readonly values: readonly number[];
  /** The same from rounding alone; null when it was not computed. */
  readonly floor: readonly number[] | null;
  readonly edge: number | null;
}

/** How leading subspaces of a decoder layer's matrices lie to each other: mean squared cosine of the angles, 1 = equal. */
export interface LayerGeometry {
  readonly comparison: string;
  readonly layer: number;
  readonly matrices: number;
  /** Δ of the first step with Δ of the second; null for two checkpoints. */
  readonly steps: Overlap | null;
  /** Δ of each step with the weights before it. */
  readonly weights: readonly (Overlap | null)[];
  /** What independent random subspaces of these sizes would give on average. */
  readonly chance: Overlap;
}
export interface Overlap {
  readonly left: number;
  readonly right: number;
}

/** Share of each query head in its layer's q projection, times the number of heads: 1 = its even share. */
export interface HeadShares {
  readonly comparison: string;
  readonly step: number;
  readonly layers: readonly { readonly layer: number; readonly shares: readonly number[] }[];
}

export interface WeightDetail {
  readonly matrices: MatrixCell[];
  readonly curves: SpectrumCurve[];
  readonly geometry: LayerGeometry[];
  readonly heads: HeadShares[];
}

/** Adds one comparison to `into`. */
export function analyzeDetail(
  comparison: string,
  steps: number,
  tensors: readonly TensorRecord[],
  into: WeightDetail,
): void {
  into.matrices.push(...matrixCells(comparison, steps, tensors));
  const decoder = tensors.filter(({ place }) => place.tower === 'decoder' && place.layer !== null);
  for (let step = 0; step < steps; step += 1) {
    into.curves.push(...spectrumCurves(comparison, step, decoder));
    const heads = headShares(comparison, step, decoder);
    if (heads) into.heads.push(heads);
  }
  into.geometry.push(...layerGeometry(comparison, steps, decoder));
}

function matrixCells(comparison: string, steps: number, tensors: readonly TensorRecord[]): MatrixCell[] {
  const layered = tensors.filter(({ place }) => place.layer !== null);
  const groups = grouped(layered, ({ place }) => `${place.tower} ${place.layer} ${place.module}`);
  return groups.flatMap((own): MatrixCell[] => {
    const { tower, layer, module } = own[0]!.place;
    if ((tower !== 'decoder' && tower !== 'vision') || layer === null) return [];
    const each = Array.from({ length: steps }, (_, step) => step);
    const norm = (step: number): number => rootSum(own.map((tensor) => tensor.steps[step]!.frobeniusNorm));
    const spectra = (step: number) => own.map((tensor) => tensor.steps[step]!.spectrum);
    const dot = own.reduce((sum, { pair }) => sum + (pair?.dot ?? 0), 0);
    const norms = steps === 2 ? norm(0) * norm(1) : 0;
    return [
      {
        comparison,
        tower,
        layer,
        module,
        relativeNorm: each.map((step) => {
          const before = rootSum(own.map(({ weightNorms }) => weightNorms[step]!));
          return before > 0 ? norm(step) / before : null;
        }),
        effectiveRank: each.map((step) => firstOf(spectra(step).map((spectrum) => spectrum?.effectiveRank))),
        rankAboveFloor: each.map((step) => firstOf(spectra(step).map((spectrum) => spectrum?.rankAboveFloor))),
        cosine: norms > 0 ? dot / norms : null,
      },
    ];
  });
}

function spectrumCurves(comparison: string, step: number, decoder: readonly TensorRecord[]): SpectrumCurve[] {
  return grouped(decoder, ({ place }) => place.module).flatMap((own): SpectrumCurve[] => {
    const spectra = own.flatMap((tensor) => tensor.steps[step]!.spectrum ?? []);
    const [first] = spectra;
    if (!first) return [];
    // Matrices of one kind have one shape; where they do not, those that differ from the first are left out.
    const like = spectra.filter(({ count }) => count === first.count);
    const floors = like.flatMap(({ floor }) => floor ?? []);
    const hasFloor = floors.length === like.length && floors.every(({ curve }) => curve.length === first.curve.length);
    const medians = (curves: readonly (readonly number[])[]): number[] =>
      curves[0]!.map((_, i) => median(curves.map((curve) => curve[i]!)));
    return [
      {
        comparison,
        step,
        module: own[0]!.place.module,
        matrices: like.length,
        places: curvePlaces(first.count),
        values: medians(like.map(({ curve }) => curve)),
        floor: hasFloor ? medians(floors.map(({ curve }) => curve)) : null,
        edge: floors.length > 0 ? median(floors.map(({ edge }) => edge)) : null,
      },
    ];
  });
}

function layerGeometry(comparison: string, steps: number, decoder: readonly TensorRecord[]): LayerGeometry[] {
  return grouped(decoder, ({ place }) => String(place.layer)).flatMap((own): LayerGeometry[] => {
    const matrices = own.filter((tensor) => tensor.steps.some(({ spectrum }) => spectrum?.weightSubspaces));
    if (matrices.length === 0) return [];
    const chance = matrices.map((tensor): Overlap => {
      const { left } = tensor.steps.find(({ spectrum }) => spectrum?.weightSubspaces)!.spectrum!.weightSubspaces!;
      const rows = tensor.shape[0]!;
      const columns = tensor.shape.slice(1).reduce((a, b) => a * b, 1);
      return { left: Math.min(1, left.length / rows), right: Math.min(1, left.length / columns) };
    });
    return [
      {
        comparison,
        layer: own[0]!.place.layer!,
        matrices: matrices.length,
        steps: meanOverlap(matrices.map(({ pair }) => pair?.subspaces ?? null)),
        weights: Array.from({ length: steps }, (_, step) =>
          meanOverlap(matrices.map((tensor) => tensor.steps[step]!.spectrum?.weightSubspaces ?? null)),
        ),
        chance: { left: mean(chance.map(({ left }) => left)), right: mean(chance.map(({ right }) => right)) },
      },
    ];
  });
}

function headShares(comparison: string, step: number, decoder: readonly TensorRecord[]): HeadShares | null {
  const layers = decoder.flatMap((tensor) => {
    const heads = tensor.place.part === 'weight' ? tensor.steps[step]!.mass?.heads : null;
    return heads ? [{ layer: tensor.place.layer!, shares: heads.map((share) => share * heads.length) }] : [];
  });
  return layers.length > 0 ? { comparison, step, layers: layers.sort((a, b) => a.layer - b.layer) } : null;
}

function meanOverlap(all: readonly (Sides | null)[]): Overlap | null {
  const known = all.flatMap((sides) => sides ?? []);
  if (known.length === 0) return null;
  const squares = (side: readonly number[]): number => mean(side.map((cosine) => cosine * cosine));
  return { left: mean(known.map(({ left }) => squares(left))), right: mean(known.map(({ right }) => squares(right))) };
}

function grouped<T>(items: readonly T[], key: (item: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const own = groups.get(key(item));
    if (own) own.push(item);
    else groups.set(key(item), [item]);
  }
  return [...groups.values()];
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
const rootSum = (values: readonly number[]): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
const firstOf = (values: readonly (number | null | undefined)[]): number | null =>
  values.find((value) => value != null) ?? null;
