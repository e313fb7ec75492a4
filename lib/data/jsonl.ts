/** Line-wise JSON reading. Every complaint names the file and the line. */

import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { type ErrorCode, GalvaniError } from '../errors.js';

/** A JSON object and where it stood. */
export interface JsonLine {
  readonly file: string;
  /** Counted from 1, blank lines included. */
  readonly line: number;
  readonly value: Readonly<Record<string, unknown>>;
}

/** Yields one object a line; blank lines are skipped. FILE_NOT_FOUND, IO, or BAD_FILE with file and line. */
export async function* readJsonl(file: string): AsyncGenerator<JsonLine, void, void> {
  const stream = createReadStream(file, { encoding: 'utf8' });
  const lines = createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY });
  // readline does not forward its input's errors: without this a missing file would end the loop in silence.
  const opened = new Promise<void>((resolve, reject) => {
    stream.once('error', reject);
    stream.once('ready', resolve);
  });
  try {
    await opened;
    let failure: Error | undefined;
    stream.once('error', (error) => {
      failure = error;
      lines.close();
    });
    let line = 0;
    for await (const text of lines) {
      line++;
      const content = line === 1 ? text.replace(/^\uFEFF/, '') : text;
      if (content.trim() === '') continue;
      yield { file, line, value: parseObject(content, file, line) };
    }
    if (failure !== undefined) throw failure;
  } catch (error) {
    throw error instanceof GalvaniError ? error : fileError(file, error);
  } finally {
    lines.close();
    stream.destroy();
  }
}

/** BAD_FILE about one field of a line: what, where, expected, got. */
export function lineError(at: JsonLine, message: string): GalvaniError {
  return new GalvaniError('BAD_FILE', `${at.file}:${at.line}: ${message}`, {
    details: { file: at.file, line: at.line },
  });
}

/** A system error about a file as FILE_NOT_FOUND or IO. */
export function fileError(file: string, cause: unknown): GalvaniError {
  const system = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const code: ErrorCode = system === 'ENOENT' || system === 'ENOTDIR' ? 'FILE_NOT_FOUND' : 'IO';
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new GalvaniError(code, code === 'FILE_NOT_FOUND' ? `${file}: no such file` : `${file}: ${reason}`, {
    cause,
    details: { file },
  });
}

function parseObject(text: string, file: string, line: number): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new GalvaniError('BAD_FILE', `${file}:${line}: not JSON: ${reason}`, { cause, details: { file, line } });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const got = value === null ? 'null' : Array.isArray(value) ? 'an array' : `a ${typeof value}`;
    throw new GalvaniError('BAD_FILE', `${file}:${line}: expected a JSON object, got ${got}`, {
      details: { file, line },
    });
  }
  return value as Readonly<Record<string, unknown>>;
}
