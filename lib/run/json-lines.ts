/**
 * An append-only file of JSON lines that survives a kill at any moment. A batch is one write followed by fsync; a torn
 * last line (killed inside the write) is cut off when the file is opened again. Anything else that does not parse is
 * damage, and said so.
 */
import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { GalvaniError } from '../errors.js';

export interface ParsedLines<T> {
  readonly rows: readonly T[];
  /** Bytes of the file that are whole lines. */
  readonly bytes: number;
  /** True when bytes after the last whole line were ignored. */
  readonly torn: boolean;
}

/** @throws LEDGER naming file and line when a line before the last does not parse. */
export function parseLines<T>(content: Buffer, path: string): ParsedLines<T> {
  const rows: T[] = [];
  let start = 0;
  for (let line = 1; start < content.length; line += 1) {
    const end = content.indexOf(0x0a, start);
    if (end < 0) return { rows, bytes: start, torn: true };
    try {
      rows.push(JSON.parse(content.toString('utf8', start, end)) as T);
    } catch (cause) {
      // A machine that lost power may leave a hole where the last write should be; only the very last line is forgiven.
      if (end === content.length - 1) return { rows, bytes: start, torn: true };
      throw new GalvaniError('LEDGER', `${path}: line ${line} is not JSON; the file was edited or damaged`, { cause });
    }
    start = end + 1;
  }
  return { rows, bytes: start, torn: false };
}

/** Whole rows of a file; [] when it does not exist. Read-only: a torn tail is ignored, not cut. */
export function readLines<T>(path: string): readonly T[] {
  try {
    return parseLines<T>(readFileSync(path), path).rows;
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return [];
    throw cause;
  }
}

export class JsonLines<T> implements Disposable {
  readonly path: string;
  /** Rows that were in the file when it was opened. */
  readonly loaded: readonly T[];
  /** True when a torn last line was cut off. */
  readonly repaired: boolean;
  #fd: number | undefined;

  /** Opens or creates the file for one writer. @throws LEDGER when another live process has it open. */
  constructor(path: string) {
    this.path = path;
    lock(path);
    try {
      this.#fd = openSync(path, 'a+');
      const parsed = parseLines<T>(readFileSync(this.#fd), path);
      this.loaded = parsed.rows;
      this.repaired = parsed.torn;
      if (parsed.torn) {
        ftruncateSync(this.#fd, parsed.bytes);
        fsyncSync(this.#fd);
      }
    } catch (cause) {
      this.close();
      throw cause;
    }
  }

  /** Returns when the rows are on disk. @throws IO when they could not be written. */
  append(rows: readonly T[]): void {
    if (this.#fd === undefined) throw new GalvaniError('CLOSED', `${this.path}: the file is closed`);
    if (rows.length === 0) return;
    const bytes = Buffer.from(rows.map((row) => `${JSON.stringify(row)}\n`).join(''), 'utf8');
    try {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#fd, bytes, done);
      fsyncSync(this.#fd);
    } catch (cause) {
      throw new GalvaniError('IO', `${this.path}: writing failed: ${(cause as Error).message}`, { cause });
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    unlock(this.path);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

const lockPath = (path: string): string => `${path}.lock`;
const held = new Set<string>();

// Two processes appending to one ledger would both compute everything; a process that was killed leaves its lock behind.
function lock(path: string): void {
  for (let attempt = 0; attempt < 2; attempt += 1) {
    try {
      writeFileSync(lockPath(path), `${process.pid}\n`, { flag: 'wx' });
      held.add(path);
      return;
    } catch (cause) {
      if (!(cause instanceof Error && 'code' in cause && cause.code === 'EEXIST')) {
        throw new GalvaniError('IO', `${path}: cannot create its lock: ${(cause as Error).message}`, { cause });
      }
    }
    const owner = lockOwner(path);
    if (owner !== undefined && (owner === process.pid ? held.has(path) : alive(owner))) {
      throw new GalvaniError(
        'LEDGER',
        `${path}: process ${owner} is writing this run; wait for it, or delete ${lockPath(path)} if it is not a galvani process`,
      );
    }
    rmSync(lockPath(path), { force: true });
  }
  throw new GalvaniError('LEDGER', `${path}: another process took the lock first`);
}

function unlock(path: string): void {
  if (!held.delete(path)) return;
  rmSync(lockPath(path), { force: true });
}

function lockOwner(path: string): number | undefined {
  try {
    const pid = Number.parseInt(readFileSync(lockPath(path), 'utf8'), 10);
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined; // gone meanwhile, or torn: its writer is dead
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return cause instanceof Error && 'code' in cause && cause.code === 'EPERM';
  }
}
