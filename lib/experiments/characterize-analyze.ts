/** Tensor records of the ledger → figures per layer, region, tower and module. Norms add as roots of sums of squares. */
import type { Region } from '../checkpoint/graft.js';
import type { Observation } from '../run/rows.js';
import { seededRandom } from '../stats/random.js';
import { addPowerSums, type Moments, momentsOf } from '../weights.js';
import { characterizeExperiment, type PartRecord } from './characterize.js';
import { analyzeDetail, type WeightDetail } from './characterize-detail.js';
import type { StepRecord, TensorRecord } from './characterize-record.js';
import { type RegionShare, regionShares } from './characterize-regions.js';
import type { Select } from './measure.js';

export const groupKinds = ['whole', 'layer', 'vision block', 'region', 'part', 'module', 'vision module'] as const;
export type GroupKind = (typeof groupKinds)[number];

export interface WeightStep {
  /** ‖Δ‖_F of the group. */
  readonly frobeniusNorm: number;
  /** ‖Δ‖_F / ‖W before‖_F of the group; null when the weights are zero. */
  readonly relativeNorm: number | null;
  readonly maxAbs: number;
  /** Of the group's entries; null: none. */
  readonly moments: Moments | null;
  /** Counts of |Δ| in bf16 steps of the weight, by powers of two from 2^−8; entries with Δ = 0 are in no bin. */
  readonly ulpHistogram: readonly number[];
  /** Share of entries that are bit for bit the same. */
  readonly unchangedFraction: number | null;
  /** Share of entries that moved by less than half a bf16 step of the weight. */
  readonly belowHalfUlpFraction: number | null;
  /** Means over the group's matrices with a spectrum. */
  readonly matrices: number;
  readonly stableRank: number | null;
  readonly participationRatio: number | null;
  readonly effectiveRank: number | null;
  /** How evenly ‖Δ‖² lies over rows and over columns: 1 = evenly, near 0 = in a few. Means over matrices. */
  readonly rowSpread: number | null;
  readonly columnSpread: number | null;
  readonly rankAboveFloor: number | null;
  readonly effectiveRankAboveFloor: number | null;
  /** The same from rounding alone: ‖·‖_F of the group's matrices, and mean ranks. */
  readonly floorNorm: number | null;
  readonly floorStableRank: number | null;
  readonly floorEffectiveRank: number | null;
  /** What the published script prints: ‖Δ‖ added over tensors, and the mean of ‖Δ‖/‖W_in‖. */
  readonly referenceNormSum: number;
  readonly referenceRelativeMean: number | null;
}

export interface WeightCell {
  readonly comparison: string;
  readonly kind: GroupKind;
  readonly group: string;
  /** Index of the layer or block. */
  readonly layer: number | null;
  readonly tensors: number;
  readonly elements: number;
  /** One per step of training. */
  readonly steps: readonly WeightStep[];
  /** Between the two steps of three checkpoints. */
  readonly cosine: number | null;
  readonly signAgreement: number | null;
  readonly select: Select;
}

export interface WeightComparison {
  readonly name: string;
  readonly models: readonly string[];
  /** "base → in", "in → rl". */
  readonly steps: readonly string[];
  readonly coverage: {
    /** Tensors and entries in the checkpoints. */
    readonly tensors: number;
    readonly elements: number;
    readonly compared: number;
    readonly comparedElements: number;
    readonly notFloat: readonly string[];
    /** Entries that are NaN or infinite and in no figure. */
    readonly nonFinite: number;
  };
  /** Parts whose comparison failed: they are in no figure. */
  readonly failed: readonly { readonly part: string; readonly error: string }[];
  /** Rank correlation of the step's relative norm with depth, per step; null below three layers. */
  readonly depthTrend: readonly (Trend | null)[];
}

export interface Trend {
  /** Spearman. */
  readonly correlation: number;
  /** Two-sided, over 10,000 seeded permutations of the layers: could this order of layers be chance? */
  readonly p: number;
  readonly layers: number;
}

export interface CharacterizeResult {
  readonly comparisons: readonly WeightComparison[];
  readonly cells: readonly WeightCell[];
  /** Where the update sits, beside random sets of as many layers. */
  readonly regionShares: readonly RegionShare[];
  readonly detail: WeightDetail;
}

export function analyzeCharacterize(
  observed: readonly Observation[],
  options: { readonly regions: readonly Region[]; readonly seed: number },
): CharacterizeResult {
  const shares: RegionShare[] = [];
  const detail: WeightDetail = { matrices: [], curves: [], geometry: [], heads: [] };
  const comparisons: WeightComparison[] = [];
  const cells: WeightCell[] = [];
  for (const name of new Set(observed.map(({ meta }) => String(meta.comparison)))) {
    const own = observed.filter(({ meta }) => meta.comparison === name);
    const models = own[0]!.meta.models as readonly string[];
    const parts = own.flatMap(({ row }) => (row?.kind === 'measure' ? [row.value as unknown as PartRecord] : []));
    const tensors = parts.flatMap((part) => part.tensors);
    analyzeDetail(name, models.length - 1, tensors, detail);
    const groups = cellsOf(name, tensors);
    cells.push(...groups);
    const byLayer = groups.filter(({ kind }) => kind === 'layer');
    const steps = models.slice(1).map((model, step) => ({
      name: `${models[step]} → ${model}`,
      energies: byLayer.map((cell) => cell.steps[step]!.frobeniusNorm ** 2),
    }));
    // A part that failed leaves a hole in the layers: shares would be of something else.
    if (byLayer.length === options.regions.at(-1)?.end)
      shares.push(...regionShares(name, steps, options.regions, options.seed));
    comparisons.push({
      name,
      models,
      steps: models.slice(1).map((model, i) => `${models[i]} → ${model}`),
      coverage: coverageOf(parts, tensors),
      failed: own.flatMap(({ meta, row }) =>
        row?.kind === 'measure'
          ? []
          : [{ part: String(meta.part), error: row?.kind === 'failed' ? row.error.message : 'not run' }],
      ),
      depthTrend: models.slice(1).map((_, step) => {
        const layers = groups.filter(({ kind }) => kind === 'layer');
        return depthTrend(layers.map((cell) => cell.steps[step]!.relativeNorm ?? 0));
      }),
    });
  }
  return { comparisons, cells, regionShares: shares, detail };
}

function coverageOf(parts: readonly PartRecord[], tensors: readonly TensorRecord[]): WeightComparison['coverage'] {
  const [first] = parts;
  return {
    tensors: first?.coverage.tensors ?? 0,
    elements: first?.coverage.elements ?? 0,
    compared: parts.reduce((sum, { coverage }) => sum + coverage.compared, 0),
    comparedElements: parts.reduce((sum, { coverage }) => sum + coverage.comparedElements, 0),
    notFloat: (first?.coverage.notFloat ?? []).map((tensor) => tensor.name),
    nonFinite: tensors.reduce((sum, tensor) => sum + tensor.nonFinite, 0),
  };
}

interface Group {
  readonly kind: GroupKind;
  readonly group: string;
  readonly layer: number | null;
}

function groupsOf({ place }: TensorRecord): Group[] {
  const { tower, layer, module, region } = place;
  const groups: Group[] = [
    { kind: 'whole', group: 'whole model', layer: null },
    { kind: 'part', group: tower, layer: null },
  ];
  if (layer !== null && tower === 'decoder') {
    groups.push({ kind: 'layer', group: `layer ${layer}`, layer });
    groups.push({ kind: 'module', group: module, layer: null });
  }
  if (layer !== null && tower === 'vision') {
    groups.push({ kind: 'vision block', group: `block ${layer}`, layer });
    groups.push({ kind: 'vision module', group: module, layer: null });
  }
  if (region !== null) groups.push({ kind: 'region', group: region, layer: null });
  return groups;
}

function cellsOf(comparison: string, tensors: readonly TensorRecord[]): WeightCell[] {
  const members = new Map<string, { readonly group: Group; readonly tensors: TensorRecord[] }>();
  for (const tensor of tensors) {
    for (const group of groupsOf(tensor)) {
      const id = `${group.kind} ${group.group}`;
      const known = members.get(id);
      if (known) known.tensors.push(tensor);
      else members.set(id, { group, tensors: [tensor] });
    }
  }
  const cells = [...members.values()].map(({ group, tensors: own }) => cellOf(comparison, group, own));
  const place = ({ kind, layer }: WeightCell): number => groupKinds.indexOf(kind) * 1e6 + (layer ?? 0);
  return cells.sort((a, b) => place(a) - place(b));
}

function cellOf(comparison: string, { kind, group, layer }: Group, tensors: readonly TensorRecord[]): WeightCell {
  const steps = tensors[0]!.steps.map((_, step) => stepOf(tensors, step));
  const pairs = tensors.flatMap(({ pair }) => (pair ? [pair] : []));
  const both = pairs.reduce((sum, { bothChanged }) => sum + bothChanged, 0);
  const agreeing = pairs.reduce((sum, pair) => sum + (pair.signAgreement ?? 0) * pair.bothChanged, 0);
  const norms = steps.length === 2 ? steps[0]!.frobeniusNorm * steps[1]!.frobeniusNorm : 0;
  return {
    comparison,
    kind,
    group,
    layer,
    tensors: tensors.length,
    elements: tensors.reduce((sum, { elements }) => sum + elements, 0),
    steps,
    cosine: norms > 0 ? pairs.reduce((sum, { dot }) => sum + dot, 0) / norms : null,
    signAgreement: both > 0 ? agreeing / both : null,
    select: { experiment: characterizeExperiment, comparison },
  };
}

function stepOf(tensors: readonly TensorRecord[], step: number): WeightStep {
  const own = tensors.map((tensor) => ({
    ...tensor.steps[step]!,
    elements: tensor.elements,
    before: tensor.weightNorms[step]!,
  }));
  const frobeniusNorm = rootSum(own.map((delta) => delta.frobeniusNorm));
  const before = rootSum(own.map((delta) => delta.before));
  const elements = own.reduce((sum, delta) => sum + delta.elements, 0);
  const share = (of: (delta: StepRecord) => number | null): number | null =>
    elements > 0 ? own.reduce((sum, delta) => sum + (of(delta) ?? 0) * delta.elements, 0) / elements : null;
  const masses = own.flatMap(({ mass }) => (mass ? [mass] : []));
  const spectra = own.flatMap(({ spectrum }) => (spectrum ? [spectrum] : []));
  const floors = spectra.flatMap(({ floor }) => (floor ? [floor] : []));
  return {
    frobeniusNorm,
    relativeNorm: before > 0 ? frobeniusNorm / before : null,
    maxAbs: own.reduce((largest, delta) => Math.max(largest, delta.maxAbs), 0),
    moments: momentsOf(elements, addPowerSums(own.map((delta) => delta.powerSums))),
    ulpHistogram: (own[0]?.ulpHistogram ?? []).map((_, bin) =>
      own.reduce((sum, delta) => sum + delta.ulpHistogram[bin]!, 0),
    ),
    unchangedFraction: share((delta) => delta.unchangedFraction),
    belowHalfUlpFraction: share((delta) => delta.belowHalfUlpFraction),
    matrices: spectra.length,
    stableRank: mean(spectra.map((spectrum) => spectrum.stableRank)),
    participationRatio: mean(spectra.map((spectrum) => spectrum.participationRatio)),
    effectiveRank: mean(spectra.map((spectrum) => spectrum.effectiveRank)),
    rowSpread: mean(masses.map(({ rowSpread }) => rowSpread)),
    columnSpread: mean(masses.map(({ columnSpread }) => columnSpread)),
    rankAboveFloor: mean(spectra.map((spectrum) => spectrum.rankAboveFloor)),
    effectiveRankAboveFloor: mean(spectra.map((spectrum) => spectrum.effectiveRankAboveFloor)),
    floorNorm: floors.length > 0 ? rootSum(floors.map((floor) => floor.frobeniusNorm)) : null,
    floorStableRank: mean(floors.map((floor) => floor.stableRank)),
    floorEffectiveRank: mean(floors.map((floor) => floor.effectiveRank)),
    referenceNormSum: own.reduce((sum, delta) => sum + delta.frobeniusNorm, 0),
    referenceRelativeMean: mean(own.map((delta) => delta.referenceRelativeNorm)),
  };
}

function rootSum(values: readonly number[]): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** Mean of what exists; null when nothing does. */
function mean(values: readonly (number | null)[]): number | null {
  const present = values.filter((value): value is number => value !== null);
  return present.length > 0 ? present.reduce((sum, value) => sum + value, 0) / present.length : null;
}

const permutations = 10_000;

/** Trend of values given in order of depth; null below three. */
export function depthTrend(values: readonly number[], seed = 1): Trend | null {
  const depth = values.map((_, i) => i);
  const correlation = spearman(depth, values);
  if (correlation === null) return null;
  const random = seededRandom(seed);
  const shuffled = [...values];
  let asLarge = 1; // the order observed is one of the permutations
  for (let round = 0; round < permutations; round += 1) {
    for (let i = shuffled.length - 1; i > 0; i -= 1) {
      const j = random.below(i + 1);
      [shuffled[i], shuffled[j]] = [shuffled[j]!, shuffled[i]!];
    }
    if (Math.abs(spearman(depth, shuffled)!) >= Math.abs(correlation) - 1e-12) asLarge += 1;
  }
  return { correlation, p: asLarge / (permutations + 1), layers: values.length };
}

/** Pearson's correlation of the ranks, ties sharing their mean rank. */
export function spearman(x: readonly number[], y: readonly number[]): number | null {
  if (x.length < 3) return null;
  const [a, b] = [ranks(x), ranks(y)];
  const middle = (x.length + 1) / 2;
  const dot = (u: readonly number[], v: readonly number[]): number =>
    u.reduce((sum, value, i) => sum + (value - middle) * (v[i]! - middle), 0);
  const scale = Math.sqrt(dot(a, a) * dot(b, b));
  return scale > 0 ? dot(a, b) / scale : null;
}

function ranks(values: readonly number[]): number[] {
  const sorted = [...values].sort((a, b) => a - b);
  return values.map((value) => (sorted.indexOf(value) + sorted.lastIndexOf(value)) / 2 + 1);
}
