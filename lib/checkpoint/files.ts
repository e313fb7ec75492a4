/** Writing files of a folder so that a reader, or the next run after a kill, sees the old one or the new one. */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { GalvaniError } from '../errors.js';

/** Writes beside, flushes, renames. @throws IO */
export function writeAtomic(path: string, content: string | Uint8Array): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const fd = openSync(temporary, 'w');
    try {
      const bytes = typeof content === 'string' ? Buffer.from(content, 'utf8') : content;
      for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw new GalvaniError('IO', `${path}: writing failed: ${(cause as Error).message}`, { cause });
  }
}

/** Makes the names in a folder durable; some file systems refuse, their data are safe anyway. */
export function syncFolder(dir: string): void {
  let fd: number | undefined;
  try {
    fd = openSync(dir, 'r');
    fsyncSync(fd);
  } catch {
    // not every file system syncs folders
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
