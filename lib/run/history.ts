/** Who computed what a run directory holds: one row when a process begins to work on it, one when it ends. */
import { readdirSync } from 'node:fs';
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { readLines } from './json-lines.js';

/** The machine, without its name. */
export interface Environment {
  readonly system: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** Threads that compute, and the code path of the kernels: results do not depend on them on a CPU. */
  readonly threads: number;
  readonly isa: string;
  /** The library that GALVANI_LAPACK named, by whose bits the spectra are; absent: galvani's own routine. */
  readonly eigensolver?: string;
}

/** `start` without an `end` after it: the process was killed, or is still at work. */
export type HistoryRow =
  | {
      readonly kind: 'start';
      readonly time: string;
      readonly galvani: string;
      readonly node: string;
      /** Exact versions of what galvani is built on. */
      readonly dependencies: Readonly<Record<string, string>>;
      readonly environment: Environment;
      /** "1/4", or "0/1" for a whole run. */
      readonly shard: string;
    }
  | {
      readonly kind: 'end';
      readonly time: string;
      readonly seconds: number;
      readonly computed: number;
      readonly skipped: number;
      readonly failed: number;
      readonly finished: boolean;
    };

export function environment(engine: { readonly threads: number; readonly isa: string }, solver: string): Environment {
  const all = cpus();
  return {
    system: `${platform()} ${release()} ${arch()}`,
    cpu: all[0]?.model.trim() ?? 'unknown',
    cores: all.length,
    memoryBytes: totalmem(),
    threads: engine.threads,
    isa: engine.isa,
    ...(solver ? { eigensolver: solver } : {}),
  };
}

/** Rows of all shards, in order of time. A directory written before histories existed has none. */
export function readHistory(dir: string): HistoryRow[] {
  return readdirSync(dir)
    .filter((name) => /^history(\.\d+-of-\d+)?\.jsonl$/.test(name))
    .flatMap((name) => readLines<HistoryRow>(join(dir, name)))
    .sort((a, b) => (a.time < b.time ? -1 : 1));
}
