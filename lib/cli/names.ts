/** Short names for checkpoint folders given on a command line. */
import { basename, dirname, resolve } from 'node:path';
import { GalvaniError } from '../errors.js';

/** Last part of each path, with the part above where two agree. @throws BAD_ARGUMENT for a folder given twice. */
export function nameFolders(dirs: readonly string[]): Record<string, string> {
  const full = dirs.map((dir) => resolve(dir));
  const repeated = full.find((dir, i) => full.indexOf(dir) !== i);
  if (repeated !== undefined) throw new GalvaniError('BAD_ARGUMENT', `${repeated}: given twice`);
  const short = full.map((dir) => basename(dir));
  const names = full.map((dir, i) =>
    short.indexOf(short[i]!) === short.lastIndexOf(short[i]!) ? short[i]! : `${basename(dirname(dir))}/${short[i]}`,
  );
  if (new Set(names).size < names.length) return Object.fromEntries(full.map((dir) => [dir, dir]));
  return Object.fromEntries(full.map((dir, i) => [names[i]!, dir]));
}
