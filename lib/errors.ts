/** The closed set of failure kinds. A caller may switch on them; the message says what, where, expected and got. */
export const errorCodes = [
  'BAD_ARGUMENT', // an option or value is outside its documented range
  'BAD_CONFIG', // a configuration file (YAML, config.json, recipe) does not fit its schema
  'BAD_FILE', // a file is damaged or hostile: header, sizes, dtype, truncation
  'FILE_NOT_FOUND', // a path or a shard does not exist
  'SHAPE_MISMATCH', // two things that must agree in shape do not
  'TENSOR_MISSING', // a checkpoint lacks a tensor its architecture names
  'UNSUPPORTED', // valid, but not something this build or model family can do
  'NATIVE_MISSING', // the native addon is not built
  'ABORTED', // the caller's AbortSignal fired
  'CLOSED', // the engine was closed before or during the call
  'OUT_OF_MEMORY', // an allocation failed
  'IO', // reading or writing failed (disk full, permission)
  'LEDGER', // a run directory's ledger contradicts the plan
  'NETWORK', // an optional remote service (judge, hub) failed
  'INTERNAL', // a broken invariant of ours
] as const;

export type ErrorCode = (typeof errorCodes)[number];

/** Every error galvani throws on purpose. `code` is stable; `details` holds the values named in the message. */
export class GalvaniError extends Error {
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; details?: Record<string, unknown> } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'GalvaniError';
    this.code = code;
    this.details = options.details ?? {};
  }
}

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && (errorCodes as readonly string[]).includes(value);
}

/** Turns whatever the addon threw into a GalvaniError with a JavaScript stack that names the caller. */
export function fromNative(cause: unknown): GalvaniError {
  if (cause instanceof GalvaniError) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  const code = cause instanceof Error && 'code' in cause && isErrorCode(cause.code) ? cause.code : 'INTERNAL';
  return new GalvaniError(code, message, { cause });
}
