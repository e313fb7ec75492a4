/**
 * The typed door to the C++ addon: one interface row per native export (native/bindings/addon.cc), loaded on first
 * use. Every exported function and method is wrapped so that a native failure is a GalvaniError with the caller's
 * stack. Nothing else in lib touches the addon.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { fromNative, GalvaniError } from './errors.js';
import type { Capture, RunStats } from './types.js';

/** Element types of stored tensors, in the safetensors spelling. */
export type DType =
  | 'F64'
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'F8_E4M3'
  | 'F8_E5M2'
  | 'F8_E4M3FNUZ'
  | 'F8_E5M2FNUZ'
  | 'F8_E8M0'
  | 'I64'
  | 'I32'
  | 'I16'
  | 'I8'
  | 'U64'
  | 'U32'
  | 'U16'
  | 'U8'
  | 'BOOL';

/** Cancels the tasks it was passed to. One flag may serve several tasks. */
export interface CancelFlag {
  cancel(): void;
}

/** Options every native task takes. */
export interface TaskOptions {
  readonly cancel?: CancelFlag;
  /** Called on the JavaScript thread, at most every 50 ms and once at the end. */
  readonly onProgress?: (done: number, total: number) => void;
}

export interface TensorInfo {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
  /** Path of the shard that holds it. */
  readonly file: string;
}

/** An opened checkpoint: a table of views into mapped files. Freed when nothing refers to it. */
export interface NativeCheckpoint {
  readonly path: string;
  /** Bytes of tensor data, all shards. */
  readonly bytes: number;
  /** Sorted. */
  names(): string[];
  info(name: string): TensorInfo;
  /** Values widened to float32 (F64 is rounded). Integer tensors: UNSUPPORTED. */
  read(name: string): { readonly dtype: DType; readonly shape: readonly number[]; readonly data: Float32Array };
  /** The stored bytes, copied. */
  raw(name: string): Uint8Array;
  files(): string[];
  /** `__metadata__` of the file (of all shards; the first wins). */
  metadata(): Record<string, string>;
  /** Lets go of files and memory now; models and tasks that use them go on. Everything else is CLOSED afterwards. */
  release(): void;
}

export interface TensorBytes {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** A tensor under the name each checkpoint gives it. */
export interface TensorKey {
  readonly name: string;
  readonly names: readonly string[];
}

/** Measures of a list of singular values. `null`: not defined (no value above the resolution, or not all known). */
export interface SpectrumMeasures {
  readonly spectralNorm: number;
  readonly nuclearNorm: number | null;
  readonly frobeniusNorm: number;
  /** Values above the resolution. */
  readonly resolved: number;
  readonly stableRank: number | null;
  readonly participationRatio: number | null;
  readonly effectiveRank: number | null;
  readonly conditionNumber: number | null;
  readonly logVolume: number | null;
}

export type SpectrumMethod = 'auto' | 'gram' | 'direct' | 'top';

export interface NativeSpectrum extends SpectrumMeasures {
  /** Descending; 0 = below `resolution`. Method 'top': the leading ones only. */
  readonly singularValues: Float64Array;
  readonly resolution: number;
  readonly method: Exclude<SpectrumMethod, 'auto'>;
  /** Method 'top': how far a true singular value is from each at most. */
  readonly bounds?: Float64Array;
  /** The spectrum expected from storage rounding alone (native/ops/rounding.h). */
  readonly floor?: SpectrumMeasures & {
    readonly singularValues: Float64Array;
    /** Largest σ1 over the draws, with a margin of k^(−2/3) for its fluctuation (k: the small side). */
    readonly edge: number;
    readonly draws: number;
  };
  /** Measures of the values above floor.edge. */
  readonly aboveFloor?: {
    readonly rank: number;
    readonly stableRank: number | null;
    readonly participationRatio: number | null;
    readonly effectiveRank: number | null;
    readonly frobeniusNorm: number;
  };
  /** Principal-angle cosines of the leading subspaces with those of the weight before the step. */
  readonly weightCosines?: { readonly left: Float64Array; readonly right: Float64Array };
}

/** Counts and sums of one tensor; lib/weights.ts turns them into norms and shares. */
export interface NativeTensorDelta {
  readonly name: string;
  readonly dtypes: readonly DType[];
  readonly shape: readonly number[];
  readonly elements: number;
  readonly nonFinite: number;
  readonly weightSquares: readonly number[];
  readonly steps: readonly {
    readonly sum: number;
    readonly square: number;
    readonly cube: number;
    readonly fourth: number;
    readonly maxAbs: number;
    readonly identical: number;
    readonly zero: number;
    readonly belowHalfUlp: number;
    readonly ulpHistogram: readonly number[];
    readonly spectrum?: NativeSpectrum;
    readonly rowSquares?: Float64Array;
    readonly columnSquares?: Float64Array;
  }[];
  /** With three checkpoints. */
  readonly dot?: number;
  readonly sameSign?: number;
  readonly oppositeSign?: number;
  readonly pairCosines?: { readonly left: Float64Array; readonly right: Float64Array };
}

export interface CompareOptions {
  readonly spectra?: boolean;
  readonly floor?: boolean;
  readonly mass?: boolean;
  readonly seed?: number;
  readonly subspace?: number;
  readonly top?: number;
  readonly method?: SpectrumMethod;
  readonly threads?: number;
  /** Where sums and Gram matrices are computed; 'cuda' copies every tensor to the device once. Default: 'cpu'. */
  readonly device?: 'cpu' | 'cuda';
}

/** A tensor of one of writeMerged's checkpoints, perhaps with a low-rank adapter applied. */
export interface NativeMergeTable {
  readonly checkpoint: number;
  readonly name: string;
  readonly adapter?: {
    readonly checkpoint: number;
    /** A (rank, in) and B (out, rank): W + scale · B A, or its transpose. */
    readonly a: string;
    readonly b: string;
    readonly scale: number;
    readonly transposed: boolean;
  };
}

export interface NativeMergeInput {
  /** One table; several with `rows`. */
  readonly tables: readonly NativeMergeTable[];
  /** Gathers rows of the tables, counted through: row number, −1 zeros, −2 − i the mean of the rows blends[i]. */
  readonly rows?: Int32Array;
  readonly blends?: readonly Int32Array[];
  /** Rows at the end, each the mean of all before. */
  readonly padding?: number;
}

export interface NativeMergeTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** One of mergeMethods(), or 'copy': the stored bytes of the one input. */
  readonly method: string;
  readonly inputs: readonly NativeMergeInput[];
  /** Index into inputs; −1: none. */
  readonly base: number;
  readonly shared: Readonly<Record<string, number>>;
  readonly each: Readonly<Record<string, readonly number[]>>;
}

export interface NativeBlendRequest {
  /** Names the blend in messages; its checkpoint's path. */
  readonly what: string;
  readonly checkpoints: readonly NativeCheckpoint[];
  /** Name in the blend, and its two tensors: [index into checkpoints, tensor name]. */
  readonly tensors: readonly {
    readonly name: string;
    readonly from: readonly [checkpoint: number, name: string];
    readonly to: readonly [checkpoint: number, name: string];
  }[];
  /** (1 − alpha) · from + alpha · to */
  readonly alpha: number;
  readonly threads?: number;
}

export interface NativeLowRankRequest {
  /** File written, with the tensors nameA (rank, columns) and nameB (rows, rank). */
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly before: NativeCheckpoint;
  readonly beforeName: string;
  readonly after: NativeCheckpoint;
  readonly afterName: string;
  readonly nameA: string;
  readonly nameB: string;
  readonly rank: number;
  readonly energy?: number;
  readonly least?: number;
  readonly dtype: DType;
  /** Factors of the transpose, as embeddings have them. */
  readonly transposed?: boolean;
  readonly threads?: number;
}

export interface CpuInfo {
  /** The code path in use; GALVANI_ISA=portable|avx2 lowers it. */
  readonly isa: 'portable' | 'avx2' | 'avx512';
  readonly threads: number;
  /** What the CPU reports, in /proc/cpuinfo's spelling. */
  readonly features: readonly string[];
}

export interface CudaStatus {
  readonly status: 'ok' | 'no-driver' | 'no-library' | 'bad-library' | 'no-device' | 'error';
  /** One line: the first device, or what is missing and what to do. */
  readonly reason: string;
  /** The shared object tried: galvani_cuda.so beside the addon, or GALVANI_CUDA_LIBRARY. */
  readonly library: string;
  /** Architectures it was compiled for; '' when it did not load. */
  readonly targets: string;
  readonly devices: readonly {
    readonly name: string;
    readonly computeCapability: string;
    readonly multiprocessors: number;
    readonly memoryBytes: number;
    /** Which matrix multiply is in use, and why. */
    readonly gemm: string;
  }[];
}

/** Whose routine finds the eigenvalues of Gram matrices (native/ops/lapack.h; on a device native/ops/gpu/cusolver.h). */
export interface EigensolverStatus {
  /**
   * "LAPACK 3.9.1, OpenBLAS 0.3.21, 32-bit integers": what GALVANI_LAPACK named. '': galvani's own. Of a device:
   * "cuSOLVER 12.0.4", what GALVANI_CUSOLVER named; '': the CPU's.
   */
  readonly name: string;
  readonly path: string;
  /** The variable is set and the library unusable: why. '' otherwise. */
  readonly problem: string;
}

export type NativeRange = readonly [start: number, end: number]; // end −1: open, generated rows included

/** An intervention with spans, heads and sources resolved to numbers (native/model/interventions.h). */
export interface NativeEdit {
  readonly site: string;
  readonly op: string;
  readonly tower: string;
  readonly layers: readonly number[];
  readonly heads?: readonly number[];
  readonly rows: readonly NativeRange[];
  readonly keys?: readonly (readonly NativeRange[])[];
  readonly vector?: Float32Array;
  readonly scalar?: number;
  readonly source?: number;
  readonly sourceRows?: readonly NativeRange[];
  readonly seed?: number;
  readonly prefill: boolean;
  readonly decode: boolean;
  readonly measure?: string;
  /** topKeys: how many. */
  readonly k?: number;
  readonly capture?: number;
}

export interface NativeTrial {
  readonly prompt: number;
  readonly model: string;
  readonly edits: readonly NativeEdit[];
  readonly captures: number;
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly seed?: number;
  readonly stopTokens?: readonly number[];
  readonly scoreTokens?: readonly number[];
  readonly klTo?: number;
}

export interface NativeRequest {
  readonly images: readonly { readonly pixels: Float32Array; readonly grid: readonly number[] }[];
  readonly prompts: readonly {
    readonly ids: Int32Array;
    readonly positions: Int32Array;
    readonly nextPosition: number;
    readonly images: readonly { readonly image: number; readonly start: number; readonly count: number }[];
  }[];
  readonly trials: readonly NativeTrial[];
}

export interface NativeTrialResult {
  readonly tokens: Int32Array;
  readonly logprobs: Float32Array;
  readonly truncated: boolean;
  readonly scoreLogprobs: Float32Array;
  readonly kl: number;
  readonly captures: readonly Capture[];
}

export interface NativeModelSpec {
  /** ModelConfig of lib/models; the fields decoder and vision are read. */
  readonly config: object;
  readonly checkpoints: readonly NativeCheckpoint[];
  /** canonical tensor name → [index into checkpoints, tensor name] */
  readonly tensors: Readonly<Record<string, readonly [checkpoint: number, name: string]>>;
}

/** Runs requests, one at a time. Models are tables of views; equal bytes are shared between them. */
export interface NativeEngine {
  readonly threads: number;
  addModel(name: string, spec: NativeModelSpec): { readonly parameters: number };
  removeModel(name: string): boolean;
  /** Progress: done = 1000 · stage + share of it in thousandths; stages vision, prefill, decode. */
  run(
    request: NativeRequest,
    options?: TaskOptions,
  ): Promise<{ readonly trials: readonly NativeTrialResult[]; readonly stats: RunStats }>;
}

/** Single ops on the caller's arrays, synchronous. For tests and benches; not part of the package's interface. */
export interface NativeOps {
  /** y (m, n) = x (m, k) · wᵀ + bias; w holds n · k stored values. Contract: native/ops/matmul.h. */
  matmul(request: {
    readonly m: number;
    readonly n: number;
    readonly k: number;
    readonly x: Float32Array;
    readonly w: Uint8Array;
    readonly dtype: 'F32' | 'F16' | 'BF16';
    readonly bias?: Float32Array;
    readonly y: Float32Array;
  }): void;
  /** One item: q, out (rows, heads, headDim); k, v (kvHeads, keys, headDim). Contract: native/ops/attention.h. */
  attention(request: {
    readonly heads: number;
    readonly kvHeads: number;
    readonly headDim: number;
    readonly scale: number;
    readonly rows: number;
    readonly keys: number;
    readonly q: Float32Array;
    readonly k: Float32Array;
    readonly v: Float32Array;
    readonly out: Float32Array;
    readonly limit: Int32Array; // (rows) last visible key
    readonly low?: Int32Array; // (rows) first visible key
    readonly runs: Int32Array; // [first, count, segment] each
    readonly segments?: number;
    /** Tables are [head class][row class][run]. */
    readonly edits?: {
      readonly headClasses: number;
      readonly rowClasses: number;
      readonly headClass: Uint8Array;
      readonly rowClass: Uint8Array;
      readonly gamma: Float32Array;
      readonly beta: Float32Array;
      readonly blocked: Uint8Array;
      readonly post?: Float32Array;
    };
    readonly headScale?: Float32Array; // (heads)
    readonly headAdd?: Float32Array; // (heads, headDim)
    readonly mass?: Float32Array; // (rows, heads, segments)
    readonly entropy?: Float32Array; // (rows, heads)
    readonly lse?: Float32Array; // (rows, heads)
    readonly keyMass?: Float32Array; // (heads, keys), added to
    readonly pattern?: Float32Array; // (rows, heads, keys)
    readonly topK?: number;
    readonly topIndex?: Int32Array; // (rows, heads, topK)
    readonly topWeight?: Float32Array; // (rows, heads, topK)
  }): void;
  /** positions (3, rows); cos, sin (rows, headDim / 2). Contract: native/ops/rope.h. */
  mropeTable(request: {
    readonly rows: number;
    readonly headDim: number;
    readonly positions: Int32Array;
    readonly section: readonly number[];
    readonly theta: number;
    readonly cos: Float32Array;
    readonly sin: Float32Array;
  }): void;
  /** positions (rows, 2) as row, column; cos, sin (rows, headDim / 2). */
  visionRopeTable(request: {
    readonly rows: number;
    readonly headDim: number;
    readonly positions: Int32Array;
    readonly cos: Float32Array;
    readonly sin: Float32Array;
  }): void;
}

export interface Native {
  readonly NativeEngine: new (threads?: number) => NativeEngine;
  readonly NativeOps: new (threads?: number) => NativeOps;
  readonly CancelFlag: new () => CancelFlag;
  openCheckpoint(path: string): NativeCheckpoint;
  writeSafetensors(path: string, tensors: readonly TensorBytes[], metadata?: Readonly<Record<string, string>>): void;
  compareWeights(
    checkpoints: readonly NativeCheckpoint[],
    tensors: readonly TensorKey[],
    options: CompareOptions,
    task?: TaskOptions,
  ): Promise<NativeTensorDelta[]>;
  /** Equal dtype, shape and stored bytes, per tensor. */
  identicalTensors(
    before: NativeCheckpoint,
    after: NativeCheckpoint,
    tensors: readonly TensorKey[],
    task?: TaskOptions,
  ): Promise<boolean[]>;
  /** Synchronous: for small matrices and tests. */
  singularValues(
    data: Float32Array,
    rows: number,
    columns: number,
    method: 'auto' | 'gram' | 'direct',
  ): { readonly values: Float64Array; readonly resolution: number; readonly method: 'gram' | 'direct' };
  /** Writes one file of copied and merged tensors, complete or not at all. Progress counts output bytes. */
  writeMerged(
    path: string,
    metadata: Readonly<Record<string, string>>,
    checkpoints: readonly NativeCheckpoint[],
    tensors: readonly NativeMergeTensor[],
    options: { readonly seed?: number; readonly threads?: number },
    task?: TaskOptions,
  ): Promise<void>;
  /** `square` = ‖Δ‖_F²; the singular values are those kept. */
  writeLowRank(
    request: NativeLowRankRequest,
    task?: TaskOptions,
  ): Promise<{ readonly rank: number; readonly singularValues: readonly number[]; readonly square: number }>;
  /**
   * A checkpoint in memory, and the tensors that are equal in both and therefore not in it. Progress counts bytes made.
   */
  blend(
    request: NativeBlendRequest,
    task?: TaskOptions,
  ): Promise<{ readonly checkpoint: NativeCheckpoint; readonly equal: readonly string[] }>;
  /** Names that lib/merge/methods.ts describes. */
  mergeMethods(): string[];
  cpuInfo(): CpuInfo;
  /** Of the library in use; of another one when a path is given. */
  cudaStatus(library?: string): CudaStatus;
  /** Of this process: each variable is read once. 'cuda' is empty where there is no device. */
  eigensolver(device?: 'cpu' | 'cuda'): EigensolverStatus;
}

type AnyFunction = (this: unknown, ...args: unknown[]) => unknown;

function wrapped(fn: AnyFunction): AnyFunction {
  return function (this: unknown, ...args: unknown[]): unknown {
    try {
      const result = fn.apply(this, args);
      if (!(result instanceof Promise)) return result;
      return result.catch((cause: unknown) => {
        throw fromNative(cause);
      });
    } catch (cause) {
      throw fromNative(cause);
    }
  };
}

function wrapMethods(prototype: object): void {
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
    if (name === 'constructor' || typeof property.value !== 'function' || !property.configurable) continue;
    Object.defineProperty(prototype, name, { ...property, value: wrapped(property.value as AnyFunction) });
  }
}

function load(): Native {
  const require = createRequire(import.meta.url);
  const root = fileURLToPath(new URL('..', import.meta.url));
  // GALVANI_ADDON: path of another build of the addon, e.g. the one with sanitizers.
  const override = process.env.GALVANI_ADDON;
  let addon: Record<string, unknown>;
  try {
    addon = (override ? require(override) : require('node-gyp-build')(root)) as Record<string, unknown>;
  } catch (cause) {
    const where = override ? `GALVANI_ADDON=${override}` : root;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new GalvaniError(
      'NATIVE_MISSING',
      `the native addon cannot be loaded (${where}). Build it with: npx galvani-build\n${reason}`,
      { cause },
    );
  }
  const door: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(addon)) {
    if (typeof value !== 'function') continue;
    const isClass = /^[A-Z]/.test(name);
    if (isClass) wrapMethods(value.prototype as object);
    door[name] = isClass ? value : wrapped(value as AnyFunction);
  }
  return door as unknown as Native;
}

let loaded: Native | undefined;

/** The addon. Errors: NATIVE_MISSING, saying how to build it. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

/**
 * Runs a native task under an AbortSignal: `start` gets the task options to pass on.
 * Errors: ABORTED when the signal fires, with the signal's reason as cause.
 */
export async function withSignal<T>(
  signal: AbortSignal | undefined,
  start: (options: Pick<TaskOptions, 'cancel'>) => Promise<T>,
): Promise<T> {
  if (!signal) return start({});
  const aborted = () => new GalvaniError('ABORTED', 'aborted by the caller', { cause: signal.reason });
  if (signal.aborted) throw aborted();
  const cancel = new (native().CancelFlag)();
  const onAbort = () => cancel.cancel();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await start({ cancel });
  } catch (error) {
    throw error instanceof GalvaniError && error.code === 'ABORTED' ? aborted() : error;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
