/** JSON files of a checkpoint folder, with errors that name the file. */
import { readFileSync } from 'node:fs';
import { GalvaniError } from '../errors.js';

export type JsonObject = Readonly<Record<string, unknown>>;

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new GalvaniError('IO', `${path}: cannot be read (${code ?? String(cause)})`, { cause });
  }
}

/** Text of the file, or undefined when it does not exist. @throws IO */
export function readOptionalText(path: string): string | undefined {
  return readText(path);
}

/** The object in the file, or undefined when the file does not exist. @throws BAD_CONFIG, IO */
export function readOptionalJson(path: string): JsonObject | undefined {
  const text = readText(path);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new GalvaniError('BAD_CONFIG', `${path}: not valid JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const got = Array.isArray(value) ? 'an array' : value === null ? 'null' : `a ${typeof value}`;
    throw new GalvaniError('BAD_CONFIG', `${path}: expected a JSON object, got ${got}`);
  }
  return value as JsonObject;
}

/** @throws FILE_NOT_FOUND, BAD_CONFIG, IO */
export function readJson(path: string): JsonObject {
  const value = readOptionalJson(path);
  if (value === undefined) throw new GalvaniError('FILE_NOT_FOUND', `${path}: no such file`, { details: { path } });
  return value;
}
