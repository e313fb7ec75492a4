/**
 * The weights of blends, in memory within a budget: made when a request first uses them, dropped (least recently used
 * first) when others need the room. What does not move, and what is equal in both parents, stays a view of theirs.
 */
import { totalmem } from 'node:os';
import { GalvaniError } from '../errors.js';
import { native, type TaskOptions, withSignal } from '../native.js';
import { type Blend, describeBlend, partOf } from './blend.js';
import type { Checkpoint } from './safetensors.js';

/** canonical tensor name → where it is read from */
export type TensorPlaces = ReadonlyMap<string, { readonly checkpoint: Checkpoint; readonly name: string }>;

/** Half of the memory this process may use: the other half is for mapped weights, keys and values. */
export function defaultBlendBytes(): number {
  // 0, or a number beyond the machine's memory, where nothing limits the process
  const limit = process.constrainedMemory();
  return Math.floor((limit > 0 ? Math.min(limit, totalmem()) : totalmem()) / 2);
}

export interface BlendTable {
  readonly blend: Blend;
  /** The blend's table, with `from`'s tensors where values are yet to be made. */
  readonly views: TensorPlaces;
  /** Canonical names of the values to be made, and where the other parent's are. */
  readonly moving: TensorPlaces;
  /** What the values to be made take at most. */
  readonly bytes: number;
}

const floats: readonly string[] = ['F32', 'F16', 'BF16'];

/** @throws TENSOR_MISSING; UNSUPPORTED naming both files for elements that cannot be blended. */
export function blendTable(blend: Blend, from: TensorPlaces, to: TensorPlaces): BlendTable {
  const views = new Map(from);
  const moving = new Map<string, { checkpoint: Checkpoint; name: string }>();
  let bytes = 0;
  for (const canonical of new Set([...from.keys(), ...(to.has('head') ? ['head'] : [])])) {
    const part = partOf(canonical, blend);
    if (part === 'from' || (part === 'blend' && blend.alpha === 0)) continue;
    // A tied head is its parent's embedding.
    const [mine, its] = [from, to].map(
      (table) => table.get(canonical) ?? (canonical === 'head' ? table.get('embed') : undefined),
    );
    if (!mine || !its) {
      throw new GalvaniError('TENSOR_MISSING', `blend: ${canonical} is not in both ${blend.from} and ${blend.to}`);
    }
    views.set(canonical, part === 'to' || blend.alpha === 1 ? its : mine);
    if (part === 'to' || blend.alpha === 1 || (mine.checkpoint === its.checkpoint && mine.name === its.name)) continue;
    const [a, b] = [mine, its].map(({ checkpoint, name }) => checkpoint.info(name)) as [Info, Info];
    if (!floats.includes(a.dtype) || !floats.includes(b.dtype)) {
      throw new GalvaniError(
        'UNSUPPORTED',
        `blend: ${canonical}: ${a.dtype} of ${mine.name} in ${a.file} and ${b.dtype} of ${its.name} in ${b.file}; ` +
          `${floats.join(', ')} can be blended`,
      );
    }
    moving.set(canonical, its);
    bytes += a.dtype === b.dtype ? a.bytes : 4 * a.shape.reduce((size, n) => size * n, 1);
  }
  return { blend, views, moving, bytes };
}
type Info = ReturnType<Checkpoint['info']>;

export interface FillOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

export class BlendMemory {
  /** The most that made weights may take together. */
  readonly budget: number;
  readonly #threads: number;
  readonly #open: (name: string, tensors: TensorPlaces) => void;
  readonly #close: (name: string) => void;
  readonly #tables = new Map<string, BlendTable>();
  /** Bytes of what is made, least recently used first. */
  readonly #made = new Map<string, number>();

  /**
   * @param open gives a table to the engine under a name; `close` takes it away, and with it the last hold on its memory.
   * @throws BAD_ARGUMENT for a budget that is no size
   */
  constructor(options: {
    readonly budget: number;
    readonly threads: number;
    readonly open: (name: string, tensors: TensorPlaces) => void;
    readonly close: (name: string) => void;
  }) {
    this.budget = options.budget;
    this.#threads = options.threads;
    this.#open = options.open;
    this.#close = options.close;
    if (!(this.budget >= 0)) {
      throw new GalvaniError('BAD_ARGUMENT', `blendBytes: expected a number of at least 0, got ${this.budget}`);
    }
  }

  add(name: string, table: BlendTable): void {
    this.#tables.set(name, table);
  }

  remove(name: string): void {
    this.#drop(name);
    this.#tables.delete(name);
  }

  /** Bytes of the blends that are made now. */
  get used(): number {
    return [...this.#made.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /**
   * Makes the weights of those of `names` that are blends; what they do not need may be dropped for it.
   * @throws OUT_OF_MEMORY when they exceed the budget together; ABORTED
   */
  async fill(names: Iterable<string>, { signal, onProgress }: FillOptions = {}): Promise<void> {
    const wanted = new Set([...names].filter((name) => this.#tables.has(name)));
    if (wanted.size === 0) return;
    const bytesOf = (name: string): number => this.#made.get(name) ?? this.#tables.get(name)!.bytes;
    const total = [...wanted].reduce((sum, name) => sum + bytesOf(name), 0);
    if (total > this.budget) {
      throw new GalvaniError(
        'OUT_OF_MEMORY',
        `${wanted.size === 1 ? `blend '${[...wanted][0]}'` : `the ${wanted.size} blends of one request`}: ${total} bytes of ` +
          `weights, the engine's budget for blends is ${this.budget} (blendBytes; --blend-memory)`,
      );
    }
    const missing = [...wanted].filter((name) => !this.#made.has(name));
    for (const name of wanted) this.#touch(name);
    const toMake = missing.reduce((sum, name) => sum + bytesOf(name), 0);
    let next = 0;
    for (const name of missing) {
      const { bytes } = this.#tables.get(name)!;
      const before = next; // reports may come late
      next += bytes;
      for (const idle of [...this.#made.keys()]) {
        if (this.used + bytes <= this.budget) break;
        if (!wanted.has(idle)) this.#drop(idle);
      }
      await this.#make(name, { signal, onProgress: onProgress && ((done) => onProgress(before + done, toMake)) });
    }
  }

  async #make(name: string, { signal, onProgress }: FillOptions): Promise<void> {
    const { blend, views, moving } = this.#tables.get(name)!;
    const checkpoints: Checkpoint[] = [];
    const placed = ({ checkpoint, name: stored }: { checkpoint: Checkpoint; name: string }) => {
      if (!checkpoints.includes(checkpoint)) checkpoints.push(checkpoint);
      return [checkpoints.indexOf(checkpoint), stored] as const;
    };
    const tensors = [...moving].map(([canonical, its]) => ({
      name: canonical,
      from: placed(views.get(canonical)!),
      to: placed(its),
    }));
    const { checkpoint, equal } = await withSignal(signal, (cancel) => {
      const task: TaskOptions = { ...cancel, ...(onProgress ? { onProgress } : {}) };
      const { alpha } = blend;
      const what = `blend '${name}' (${describeBlend(blend)})`;
      return native().blend({ what, checkpoints, tensors, alpha, threads: this.#threads }, task);
    });
    const bytes = checkpoint.bytes;
    const same = new Set(equal);
    try {
      this.#open(
        name,
        new Map(
          [...views].map(([canonical, place]) => [
            canonical,
            moving.has(canonical) && !same.has(canonical) ? { checkpoint, name: canonical } : place,
          ]),
        ),
      );
      this.#made.set(name, bytes);
    } finally {
      // From here on the engine's model alone holds the memory: it must not wait for this object to be collected.
      checkpoint.release();
    }
  }

  #touch(name: string): void {
    const bytes = this.#made.get(name);
    if (bytes === undefined) return;
    this.#made.delete(name);
    this.#made.set(name, bytes);
  }

  #drop(name: string): void {
    if (this.#made.delete(name)) this.#close(name);
  }
}
