/** Splitting a run over machines: shard i of n takes the bundles whose group hashes to i, and writes its own files. */
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { GalvaniError } from '../errors.js';
import { readLines } from './json-lines.js';
import type { LedgerRow, Observation, PlanRow } from './rows.js';

/** 0 ≤ index < count. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

export const wholeRun: Shard = { index: 0, count: 1 };

/** Reads "i/n", i from 0. @throws BAD_ARGUMENT */
export function parseShard(text: string): Shard {
  const match = /^(\d+)\/(\d+)$/.exec(text);
  const shard = { index: Number(match?.[1]), count: Number(match?.[2]) };
  if (!match || shard.count < 1 || shard.index >= shard.count) {
    throw new GalvaniError('BAD_ARGUMENT', `shard: expected i/n with 0 ≤ i < n, such as 0/4, got '${text}'`);
  }
  return shard;
}

/** The shard of an array job (Slurm, Kubernetes indexed jobs), or undefined outside one. */
export function shardFromEnvironment(env: Readonly<Record<string, string | undefined>>): Shard | undefined {
  const index = env.SLURM_ARRAY_TASK_ID ?? env.JOB_COMPLETION_INDEX;
  const count = env.SLURM_ARRAY_TASK_COUNT ?? env.JOB_COMPLETIONS;
  if (index === undefined || count === undefined) return undefined;
  const first = Number(env.SLURM_ARRAY_TASK_MIN ?? '0');
  return parseShard(`${Number(index) - first}/${count}`);
}

export function ownsGroup(shard: Shard, group: string): boolean {
  if (shard.count === 1) return true;
  return createHash('sha256').update(group).digest().readUInt32BE(0) % shard.count === shard.index;
}

/** File name of a shard's log: "ledger.jsonl", or "ledger.2-of-4.jsonl". */
export function shardFile(stem: 'ledger' | 'plan' | 'history', shard: Shard): string {
  return shard.count === 1 ? `${stem}.jsonl` : `${stem}.${shard.index}-of-${shard.count}.jsonl`;
}

export interface MergedRun {
  /** Rows by key; a success beats a failure, then the last row read wins. */
  readonly rows: ReadonlyMap<string, LedgerRow>;
  readonly plan: readonly PlanRow[];
  /** Ledger files read, in order. */
  readonly files: readonly string[];
}

/**
 * Every shard of a run directory as one run, without writing.
 * @throws LEDGER when the directory holds no ledger or a damaged one.
 */
export function mergeRun(dir: string): MergedRun {
  const names = listFiles(dir);
  const files = names.filter((name) => /^ledger(\.\d+-of-\d+)?\.jsonl$/.test(name));
  if (files.length === 0) throw new GalvaniError('LEDGER', `${dir}: no ledger.jsonl here; is this a run directory?`);
  const rows = new Map<string, LedgerRow>();
  for (const name of files) {
    for (const row of readLines<LedgerRow>(join(dir, name))) {
      const known = rows.get(row.key);
      if (known === undefined || known.kind === 'failed' || row.kind !== 'failed') rows.set(row.key, row);
    }
  }
  const plan = new Map<string, PlanRow>();
  for (const name of names.filter((file) => /^plan(\.\d+-of-\d+)?\.jsonl$/.test(file))) {
    for (const row of readLines<PlanRow>(join(dir, name))) plan.set(planIdentity(row), row);
  }
  return { rows, plan: [...plan.values()], files };
}

/** One experiment may ask the same key twice under different conditions; both meanings are kept. */
export function planIdentity(row: PlanRow): string {
  return `${row.experiment}\n${row.key}\n${JSON.stringify(row.meta)}`;
}

/**
 * The plan rows of an experiment joined with their results. Where one meaning has two keys (an item that could not be
 * read at first and could later), the one with a result counts.
 */
export function observations(run: Pick<MergedRun, 'rows' | 'plan'>, experiment: string): Observation[] {
  const found = new Map<string, Observation>();
  for (const { key, meta } of run.plan.filter((row) => row.experiment === experiment)) {
    const identity = JSON.stringify(meta);
    const row = run.rows.get(key);
    const known = found.get(identity)?.row;
    if (known === undefined || known.kind === 'failed') found.set(identity, { key, meta, row });
  }
  return [...found.values()];
}

function listFiles(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch (cause) {
    throw new GalvaniError('FILE_NOT_FOUND', `${dir}: no such run directory`, { cause });
  }
}
