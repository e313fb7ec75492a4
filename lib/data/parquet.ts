/** Row-wise Parquet reading, one row group at a time. Rows look like JSON; binary columns stay bytes. */
import { GalvaniError } from '../errors.js';
import { fileError, type JsonLine } from './jsonl.js';

/** The parts of hyparquet used here; imported on first use, as its codecs take a moment to compile. */
interface Hyparquet {
  readonly asyncBufferFromFile: (path: string) => Promise<unknown>;
  readonly parquetMetadataAsync: (
    file: unknown,
  ) => Promise<{ readonly row_groups: readonly { readonly num_rows: bigint }[] }>;
  readonly parquetReadObjects: (options: object) => Promise<Record<string, unknown>[]>;
}

/** Yields one object a row; `line` counts rows from 1. FILE_NOT_FOUND, IO, or BAD_FILE with the file. */
export async function* readParquet(file: string): AsyncGenerator<JsonLine, void, void> {
  const [{ asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects }, { compressors }] = await Promise.all([
    import('hyparquet') as unknown as Promise<Hyparquet>,
    import('hyparquet-compressors'),
  ]);
  let buffer: unknown;
  try {
    buffer = await asyncBufferFromFile(file);
  } catch (cause) {
    throw fileError(file, cause);
  }
  const damaged = (cause: unknown): GalvaniError =>
    new GalvaniError('BAD_FILE', `${file}: not a readable Parquet file: ${(cause as Error).message}`, {
      cause,
      details: { file },
    });
  const metadata = await parquetMetadataAsync(buffer).catch((cause: unknown) => Promise.reject(damaged(cause)));
  let rowStart = 0;
  for (const { num_rows: rows } of metadata.row_groups) {
    const rowEnd = rowStart + Number(rows);
    // utf8: false leaves columns without a declared text type as bytes: they are images.
    const options = { file: buffer, metadata, compressors, rowStart, rowEnd, utf8: false };
    const objects = await parquetReadObjects(options).catch((cause: unknown) => Promise.reject(damaged(cause)));
    for (const [i, value] of objects.entries()) yield { file, line: rowStart + i + 1, value: plainNumbers(value) };
    rowStart = rowEnd;
  }
}

/** 64-bit integers as numbers where that is exact, else as decimal text. */
function plainNumbers<T>(value: T): T {
  if (typeof value === 'bigint') {
    return (Number.isSafeInteger(Number(value)) ? Number(value) : value.toString()) as unknown as T;
  }
  if (Array.isArray(value)) return value.map(plainNumbers) as unknown as T;
  if (value === null || typeof value !== 'object' || value instanceof Uint8Array || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plainNumbers(inner)])) as unknown as T;
}
