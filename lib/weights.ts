/**
 * What training changed in the weights (METHODS §2): every tensor of two or three checkpoints, measured natively from
 * the mapped files. Knows nothing of what a tensor's name means; aggregate() takes the grouping.
 */
import { openCheckpoint } from './checkpoint/safetensors.js';
import { GalvaniError } from './errors.js';
import type {
  DType,
  NativeCheckpoint,
  NativeSpectrum,
  NativeTensorDelta,
  SpectrumMethod,
  TensorKey,
} from './native.js';
import { type EigensolverStatus, native, withSignal } from './native.js';
import { isFloat, matchTensors } from './weights/match.js';
import { addPowerSums, type Moments, momentsOf, type PowerSums } from './weights/moments.js';

export { type Metric, metrics } from './weights/metrics.js';
export { addPowerSums, type Moments, momentsOf, type PowerSums } from './weights/moments.js';

/** Bin b of an ulp histogram counts 2^(b−8) ≤ |Δ|/ulp < 2^(b−7); the first and last are open. Δ = 0 is in no bin. */
export const ulpBins: readonly number[] = Array.from({ length: 16 }, (_, bin) => 2 ** (bin - 8));

/** Singular values of an update beside those of rounding noise. `null`: not defined (all zero, or below resolution). */
export type UpdateSpectrum = NativeSpectrum;

export interface StepDelta {
  readonly frobeniusNorm: number;
  /** ‖Δ‖/‖W_before‖; null when W is zero. */
  readonly relativeNorm: number | null;
  /** ‖Δ‖/‖W_in‖ with W_in the middle checkpoint (of two: the first), as the published script divides. */
  readonly referenceRelativeNorm: number | null;
  readonly maxAbs: number;
  /** Σ Δ, Σ Δ², Σ Δ³, Σ Δ⁴ over `elements`: those of a group are their sums. */
  readonly powerSums: PowerSums;
  /** null: no elements. */
  readonly moments: Moments | null;
  /** Shares of `elements`; null when there are none. */
  readonly unchangedFraction: number | null;
  readonly belowHalfUlpFraction: number | null;
  /** Entries with Δ = 0; −0 and +0 count as equal here and not in unchangedFraction. */
  readonly zeroFraction: number | null;
  /** Counts per bin of ulpBins. */
  readonly ulpHistogram: readonly number[];
  readonly spectrum?: UpdateSpectrum;
  /** Σ Δ² per row and per column (of the matrix rows × the rest), with `mass`. */
  readonly rowSquares?: Float64Array;
  readonly columnSquares?: Float64Array;
}

/** How the two steps of one tensor relate. `null`: not defined (a step without change). */
export interface PairDelta {
  readonly dot: number;
  readonly cosine: number | null;
  readonly signAgreement: number | null;
  /** Entries both steps changed: the n of signAgreement. */
  readonly bothChanged: number;
  /** Principal-angle cosines of the steps' leading subspaces, with `subspace`. */
  readonly principalCosines?: { readonly left: Float64Array; readonly right: Float64Array };
}

export interface TensorDelta {
  readonly name: string;
  /** Stored types, one per checkpoint. */
  readonly dtypes: readonly DType[];
  readonly shape: readonly number[];
  /** Finite entries compared. */
  readonly elements: number;
  /** Entries that are NaN or infinite in some checkpoint, left out of everything; such tensors have no spectrum. */
  readonly nonFinite: number;
  /** ‖W‖_F of each checkpoint. */
  readonly weightNorms: readonly number[];
  /** One step for two checkpoints; two (before → mid, mid → after) for three. */
  readonly steps: readonly StepDelta[];
  readonly pair?: PairDelta;
}

export interface Coverage {
  /** Tensors in the checkpoints, and their elements. */
  readonly tensors: number;
  readonly elements: number;
  /** Of those, compared here. */
  readonly compared: number;
  readonly comparedElements: number;
  /** Integer and boolean tensors: no norms; `identical` says whether every checkpoint stores the same bytes. */
  readonly notFloat: readonly { readonly name: string; readonly dtype: DType; readonly identical: boolean }[];
}

export interface CharacterizeOptions {
  /** Checkpoint folders or files. With `mid`: base, IN, RL. */
  readonly before: string;
  readonly mid?: string;
  readonly after: string;
  /** Singular values of Δ and its noise floor for every matrix. Default false. */
  readonly spectra?: boolean;
  /** With spectra: the noise floor. Default true. */
  readonly floor?: boolean;
  /** With spectra: dimension of the leading subspaces to compare (0 = none, the default). */
  readonly subspace?: number;
  /** With spectra: log-volume of this many values. Default 50, as the published script. */
  readonly top?: number;
  /** Σ Δ² per row and column. Default false. */
  readonly mass?: boolean;
  /** Seeds the signs of the noise floor. Default 0. */
  readonly seed?: number;
  /**
   * auto: direct for small matrices, gram for the rest; top: the leading `subspace` (or 16) values and subspaces only,
   * in a few passes (native/ops/spectrum.h).
   */
  readonly method?: SpectrumMethod;
  /** 0 (default): all processors this process may use. The results do not depend on it. */
  readonly threads?: number;
  /**
   * Where sums and Gram matrices are computed. cuda: every tensor of a type the device reads is copied there once; its
   * sums differ from the CPU's by the order of their float64 additions. Default: cpu, since the bytes come from a disk
   * that is slower than either. @throws UNSUPPORTED without a device, saying what is missing
   */
  readonly device?: 'cpu' | 'cuda';
  /** Only tensors it accepts are compared; coverage still counts all. */
  readonly filter?: (name: string) => boolean;
  /** The name under which checkpoints of different layouts agree, e.g. a family's canonical name. Default: as stored. */
  readonly canonicalName?: (name: string) => string;
  /** Elements done, of all. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface Characterization {
  /** Sorted by name. */
  readonly tensors: readonly TensorDelta[];
  readonly coverage: Coverage;
}

/** @throws UNSUPPORTED when there is no such device here, saying what is missing */
export function requireDevice(device: 'cpu' | 'cuda'): void {
  if (device === 'cpu') return;
  const { status, reason } = native().cudaStatus();
  if (status !== 'ok') throw new GalvaniError('UNSUPPORTED', `device cuda: ${reason}`);
}

const eigensolvers = (device: 'cpu' | 'cuda'): EigensolverStatus[] =>
  (device === 'cpu' ? (['cpu'] as const) : (['cpu', 'cuda'] as const)).map((one) => native().eigensolver(one));

/**
 * The libraries that GALVANI_LAPACK and, for a device, GALVANI_CUSOLVER named, where they can be used; '': galvani's own
 * routine.
 */
export function eigensolver(device: 'cpu' | 'cuda' = 'cpu'): string {
  return eigensolvers(device)
    .map(({ name }) => name)
    .filter(Boolean)
    .join('; ');
}

/** eigensolver(). @throws UNSUPPORTED: a variable is set and its library unusable */
export function requireEigensolver(device: 'cpu' | 'cuda' = 'cpu'): string {
  for (const { problem } of eigensolvers(device)) if (problem) throw new GalvaniError('UNSUPPORTED', problem);
  return eigensolver(device);
}

/**
 * Compares every tensor of two or three checkpoints.
 * Errors: SHAPE_MISMATCH (names or shapes differ: lists every difference), those of openCheckpoint, BAD_ARGUMENT, ABORTED.
 */
export async function characterize(options: CharacterizeOptions): Promise<Characterization> {
  for (const [name, value] of Object.entries({ subspace: options.subspace, top: options.top, seed: options.seed })) {
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= (name === 'top' ? 1 : 0)))
      throw new GalvaniError('BAD_ARGUMENT', `characterize: ${name}: expected a non-negative integer, got ${value}`);
  }
  requireDevice(options.device ?? 'cpu');
  if (options.spectra) requireEigensolver(options.device);
  const paths =
    options.mid === undefined ? [options.before, options.after] : [options.before, options.mid, options.after];
  const checkpoints = paths.map((path) => openCheckpoint(path));
  const all = matchTensors(checkpoints, options.canonicalName ?? ((name) => name));
  const first = checkpoints[0]!;
  const info = new Map(all.map((key) => [key.name, first.info(key.names[0]!)]));
  const count = (keys: readonly TensorKey[]) =>
    keys.reduce((sum, key) => sum + info.get(key.name)!.shape.reduce((a, b) => a * b, 1), 0);
  const floats = all.filter((key) => isFloat(info.get(key.name)!.dtype));
  const keys = floats.filter((key) => options.filter?.(key.name) ?? true);
  const integers = all.filter((key) => !isFloat(info.get(key.name)!.dtype));
  const { spectra, floor, subspace, top, mass, seed, method, threads, device } = options;
  const settings = defined({ spectra, floor, subspace, top, mass, seed, method, threads, device });
  const progress = options.onProgress ? { onProgress: options.onProgress } : {};
  const raw = await withSignal(options.signal, (task) =>
    native().compareWeights(checkpoints, keys, settings, { ...task, ...progress }),
  );
  const notFloat = await Promise.all(
    integers.map(async (key) => ({
      name: key.name,
      dtype: info.get(key.name)!.dtype,
      identical: await allEqual(checkpoints, key),
    })),
  );
  return {
    tensors: raw.map(toTensorDelta),
    coverage: {
      tensors: all.length,
      elements: count(all),
      compared: keys.length,
      comparedElements: count(keys),
      notFloat,
    },
  };
}

/**
 * Did a training run hold `names` fixed, and only them? Compares stored bytes.
 * `frozenChanged`: of `names`, those that differ. `othersUnchanged`: of the rest, those that do not.
 * Errors: TENSOR_MISSING (a name neither checkpoint has), SHAPE_MISMATCH, those of openCheckpoint, ABORTED.
 */
export async function verifyFrozen(
  before: string,
  after: string,
  names: readonly string[],
  options: { readonly signal?: AbortSignal; readonly canonicalName?: (name: string) => string } = {},
): Promise<{ readonly frozenChanged: readonly string[]; readonly othersUnchanged: readonly string[] }> {
  const checkpoints = [openCheckpoint(before), openCheckpoint(after)] as const;
  const keys = matchTensors(checkpoints, options.canonicalName ?? ((name) => name));
  const known = new Set(keys.map((key) => key.names[0]!));
  const missing = names.filter((name) => !known.has(name));
  if (missing.length > 0)
    throw new GalvaniError('TENSOR_MISSING', `verifyFrozen: not in ${before}: ${missing.join(', ')}`, {
      details: { missing },
    });
  const equal = await withSignal(options.signal, (task) => native().identicalTensors(...checkpoints, keys, task));
  const frozen = new Set(names);
  const pick = (wanted: boolean, isEqual: boolean) =>
    keys.map((key) => key.names[0]!).filter((name, i) => frozen.has(name) === wanted && equal[i] === isEqual);
  return { frozenChanged: pick(true, false), othersUnchanged: pick(false, true) };
}

export interface GroupDelta {
  readonly group: string;
  readonly tensors: number;
  readonly elements: number;
  /** Root of the sum of squares over the group's tensors, per checkpoint. */
  readonly weightNorms: readonly number[];
  readonly steps: readonly {
    /** Root of the sum of squares. */
    readonly frobeniusNorm: number;
    /** The group's ‖Δ‖ over the group's ‖W_before‖. */
    readonly relativeNorm: number | null;
    readonly maxAbs: number;
    readonly moments: Moments | null;
    readonly unchangedFraction: number | null;
    readonly belowHalfUlpFraction: number | null;
    readonly ulpHistogram: readonly number[];
    /** What the published script prints: norms added, and means over tensors of ‖Δ‖ and of ‖Δ‖/‖W_in‖. */
    readonly reference: {
      readonly normSum: number;
      readonly normMean: number;
      readonly relativeNormMean: number | null;
    };
    /** Means over the group's tensors with a spectrum; n of them. null without any. */
    readonly spectrum: {
      readonly n: number;
      readonly stableRankMean: number | null;
      readonly effectiveRankMean: number | null;
      readonly rankAboveFloorMean: number | null;
    };
  }[];
  readonly pair?: { readonly dot: number; readonly cosine: number | null; readonly signAgreement: number | null };
}

/**
 * Sums tensors into groups (layers, regions, modules): norms by root of sum of squares, shares by elements.
 * `groupOf` names the groups of a tensor: one, several, or none (undefined). Groups come in order of first appearance.
 */
export function aggregate(
  deltas: readonly TensorDelta[],
  groupOf: (delta: TensorDelta) => string | readonly string[] | undefined,
): GroupDelta[] {
  const groups = new Map<string, TensorDelta[]>();
  for (const delta of deltas) {
    const named = groupOf(delta);
    for (const group of named === undefined ? [] : typeof named === 'string' ? [named] : named) {
      const members = groups.get(group);
      if (members) members.push(delta);
      else groups.set(group, [delta]);
    }
  }
  return [...groups].map(([group, members]) => groupDelta(group, members));
}

function groupDelta(group: string, members: readonly TensorDelta[]): GroupDelta {
  const versions = members[0]!.weightNorms.length;
  if (members.some((member) => member.weightNorms.length !== versions))
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `aggregate: group ${group} mixes comparisons of two and of three checkpoints`,
    );
  const elements = sum(members.map((member) => member.elements));
  const weightNorms = indices(versions).map((c) => rootSum(members.map((member) => member.weightNorms[c]!)));
  const steps = indices(versions - 1).map((s) => {
    const own = members.map((member) => member.steps[s]!);
    const norms = own.map((step) => step.frobeniusNorm);
    const frobeniusNorm = rootSum(norms);
    const share = (of: (step: StepDelta) => number | null) =>
      ratio(sum(own.map((step, i) => (of(step) ?? 0) * members[i]!.elements)), elements);
    const spectra = own.flatMap((step) => step.spectrum ?? []);
    return {
      frobeniusNorm,
      relativeNorm: ratio(frobeniusNorm, weightNorms[s]!),
      maxAbs: own.reduce((largest, step) => Math.max(largest, step.maxAbs), 0),
      moments: momentsOf(elements, addPowerSums(own.map((step) => step.powerSums))),
      unchangedFraction: share((step) => step.unchangedFraction),
      belowHalfUlpFraction: share((step) => step.belowHalfUlpFraction),
      ulpHistogram: ulpBins.map((_, bin) => sum(own.map((step) => step.ulpHistogram[bin]!))),
      reference: {
        normSum: sum(norms),
        normMean: sum(norms) / norms.length,
        relativeNormMean: mean(own.map((step) => step.referenceRelativeNorm)),
      },
      spectrum: {
        n: spectra.length,
        stableRankMean: mean(spectra.map((spectrum) => spectrum.stableRank)),
        effectiveRankMean: mean(spectra.map((spectrum) => spectrum.effectiveRank)),
        rankAboveFloorMean: mean(spectra.map((spectrum) => spectrum.aboveFloor?.rank ?? null)),
      },
    };
  });
  const pairs = members.flatMap((member) => member.pair ?? []);
  if (pairs.length === 0) return { group, tensors: members.length, elements, weightNorms, steps };
  const dot = sum(pairs.map((pair) => pair.dot));
  const both = sum(pairs.map((pair) => pair.bothChanged));
  const agreeing = sum(pairs.map((pair) => (pair.signAgreement ?? 0) * pair.bothChanged));
  const pair = {
    dot,
    cosine: ratio(dot, steps[0]!.frobeniusNorm * steps[1]!.frobeniusNorm),
    signAgreement: ratio(agreeing, both),
  };
  return { group, tensors: members.length, elements, weightNorms, steps, pair };
}

function toTensorDelta(raw: NativeTensorDelta): TensorDelta {
  const weightNorms = raw.weightSquares.map(Math.sqrt);
  const reference = weightNorms.length === 3 ? weightNorms[1]! : weightNorms[0]!;
  const steps = raw.steps.map((step, s): StepDelta => {
    const frobeniusNorm = Math.sqrt(step.square);
    const { spectrum, rowSquares, columnSquares } = step;
    const powerSums: PowerSums = [step.sum, step.square, step.cube, step.fourth];
    return {
      frobeniusNorm,
      relativeNorm: ratio(frobeniusNorm, weightNorms[s]!),
      referenceRelativeNorm: ratio(frobeniusNorm, reference),
      maxAbs: step.maxAbs,
      powerSums,
      moments: momentsOf(raw.elements, powerSums),
      unchangedFraction: ratio(step.identical, raw.elements),
      belowHalfUlpFraction: ratio(step.belowHalfUlp, raw.elements),
      zeroFraction: ratio(step.zero, raw.elements),
      ulpHistogram: step.ulpHistogram,
      ...defined({ spectrum, rowSquares, columnSquares }),
    };
  });
  const { name, dtypes, shape, elements, nonFinite } = raw;
  const tensor = { name, dtypes, shape, elements, nonFinite, weightNorms, steps };
  if (raw.dot === undefined || raw.sameSign === undefined || raw.oppositeSign === undefined) return tensor;
  const bothChanged = raw.sameSign + raw.oppositeSign;
  const pair: PairDelta = {
    dot: raw.dot,
    cosine: ratio(raw.dot, steps[0]!.frobeniusNorm * steps[1]!.frobeniusNorm),
    signAgreement: ratio(raw.sameSign, bothChanged),
    bothChanged,
    ...(raw.pairCosines ? { principalCosines: raw.pairCosines } : {}),
  };
  return { ...tensor, pair };
}

async function allEqual(checkpoints: readonly NativeCheckpoint[], key: TensorKey): Promise<boolean> {
  for (let c = 1; c < checkpoints.length; c++) {
    const pair = [{ name: key.name, names: [key.names[0]!, key.names[c]!] }];
    const [equal] = await native().identicalTensors(checkpoints[0]!, checkpoints[c]!, pair);
    if (!equal) return false;
  }
  return true;
}

const indices = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const rootSum = (values: readonly number[]): number => Math.sqrt(sum(values.map((value) => value * value)));
const ratio = (a: number, b: number): number | null => (b > 0 ? a / b : null);
function mean(values: readonly (number | null)[]): number | null {
  const known = values.filter((value): value is number => value !== null);
  return known.length > 0 ? sum(known) / known.length : null;
}
/** The fields that are not undefined, as exactOptionalPropertyTypes wants them. */
function defined<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
