/**
 * A folder that appears whole or not at all: everything is written to NAME.partial beside it, which is renamed at the
 * end. What a killed run finished there is kept, provided the next one would write the same.
 */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { syncFolder, writeAtomic } from '../checkpoint/files.js';
import { GalvaniError } from '../errors.js';

/** JSON with sorted keys. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    inner === null || typeof inner !== 'object' || Array.isArray(inner)
      ? inner
      : Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))),
  );
}
export const contentHash = (value: unknown): string => createHash('sha256').update(canonicalJson(value)).digest('hex');

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'EPERM';
  }
}

export class Staging {
  /** Where the finished folder will be. */
  readonly target: string;
  /** Where files are written. */
  readonly dir: string;
  /** Files of an earlier run of the same work. */
  readonly finished: ReadonlySet<string>;
  readonly #key: string;
  readonly #lock: string;

  /** `key`: identity of the work. @throws BAD_ARGUMENT when the target is in use, IO */
  constructor(target: string, key: string, overwrite: boolean) {
    this.target = resolve(target);
    this.dir = `${this.target}.partial`;
    this.#key = key;
    this.#lock = join(this.dir, '.lock');
    if (existsSync(this.target) && !overwrite && !isEmptyFolder(this.target)) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `${this.target}: exists and is not empty; --overwrite replaces it when the new one is complete`,
      );
    }
    try {
      mkdirSync(this.dir, { recursive: true });
      this.#take();
      this.finished = this.#keep();
    } catch (cause) {
      if (cause instanceof GalvaniError) throw cause;
      throw new GalvaniError('IO', `${this.dir}: cannot be used: ${(cause as Error).message}`, { cause });
    }
  }

  #take(): void {
    for (let attempt = 0; attempt < 2; attempt += 1) {
      try {
        writeFileSync(this.#lock, `${process.pid}\n`, { flag: 'wx' });
        return;
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
      }
      const owner = Number.parseInt(readFileSync(this.#lock, 'utf8'), 10);
      if (owner > 0 && owner !== process.pid && alive(owner)) {
        throw new GalvaniError(
          'BAD_ARGUMENT',
          `${this.dir}: process ${owner} is writing it; wait for it, or delete ${this.#lock}`,
        );
      }
      rmSync(this.#lock, { force: true });
    }
  }

  /** Keeps what the same work left, removes everything else. */
  #keep(): Set<string> {
    const path = join(this.dir, '.work');
    const same = existsSync(path) && readFileSync(path, 'utf8') === this.#key;
    const kept = new Set<string>();
    for (const name of readdirSync(this.dir)) {
      if (name === '.lock' || name === '.work') continue;
      if (same && !/\.tmp(-|$)|\.tmp-\d/.test(name)) kept.add(name);
      else rmSync(join(this.dir, name), { recursive: true, force: true });
    }
    if (!same) writeAtomic(path, this.#key);
    return kept;
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** @throws IO when the disk cannot take so many bytes more. */
  needSpace(bytes: number): void {
    const { bavail, bsize } = statfsSync(this.dir);
    const free = bavail * bsize;
    if (bytes <= free) return;
    const gb = (n: number) => `${(n / 1e9).toFixed(2)} GB`;
    throw new GalvaniError('IO', `${this.dir}: no space: ${gb(bytes)} are still to be written, ${gb(free)} are free`);
  }

  /** Drops what is not of the finished folder and puts it in place. */
  finish(names: readonly string[]): void {
    const wanted = new Set(names);
    for (const name of readdirSync(this.dir)) if (!wanted.has(name)) rmSync(join(this.dir, name), { recursive: true });
    syncFolder(this.dir);
    const old = `${this.target}.old-${process.pid}`;
    const replaces = existsSync(this.target);
    if (replaces) renameSync(this.target, old);
    renameSync(this.dir, this.target);
    syncFolder(dirname(this.target));
    if (replaces) rmSync(old, { recursive: true, force: true });
  }

  /** Lets go. What is finished stays for the next run; a folder without any goes. */
  close(): void {
    rmSync(this.#lock, { force: true });
    if (!existsSync(this.dir)) return;
    const left = readdirSync(this.dir).filter((name) => name !== '.work');
    if (left.length > 0) return;
    rmSync(join(this.dir, '.work'), { force: true });
    try {
      rmdirSync(this.dir);
    } catch {
      // another run came in between
    }
  }

  /** Drops everything: the work itself was wrong. */
  discard(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** Says where unfinished work lies, or nothing. */
  leftover(): string {
    const files = existsSync(this.dir) ? readdirSync(this.dir).filter((name) => !name.startsWith('.')) : [];
    return files.length > 0
      ? `; ${files.length} finished file(s) wait in ${basename(this.dir)}, the same command continues`
      : '';
  }
}

function isEmptyFolder(path: string): boolean {
  try {
    return readdirSync(path).length === 0;
  } catch {
    return false; // a file
  }
}
