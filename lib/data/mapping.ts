/** Declares which field of a foreign row is what: turns a row of any data set into a row of ours. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import type { MatchRule } from '../types.js';
import { type JsonLine, lineError } from './jsonl.js';
import { ruleSchema } from './rules.js';

/**
 * A field is the dotted path of a value ("metadata.task", "images.0"), or, with braces, a text in which paths in braces
 * are filled in ("Is there a {folder} here?"); {row} is the row's number from 0.
 */
export interface Mapping {
  readonly id: string;
  readonly question: string;
  readonly answer: string;
  /** Default: the data set's name (its preset's, else its file's). */
  readonly task?: string | undefined;
  /** One image or a list: paths relative to the file, bytes, or {bytes, path}. */
  readonly images?: string | undefined;
  readonly choices?: string | undefined;
  readonly description?: string | undefined;
  /** Only what follows this in the answer counts, such as GSM8K's "####". */
  readonly answerAfter?: string | undefined;
  /** A field whose value names the rule in `rules`. */
  readonly answerType?: string | undefined;
  /** Rule by value of answerType; choices, where the row has some, win. */
  readonly rules?: Readonly<Record<string, MatchRule>> | undefined;
  /** Rule of every row without one from answerType. */
  readonly rule?: MatchRule | undefined;
  /** Decimals gold is given with: where gold has a decimal point, a number is right when it rounds to gold. */
  readonly precision?: string | undefined;
  /** Unit of gold, for numbers. */
  readonly unit?: string | undefined;
  /** Path → the value, or one of the values, a row must have. Others are left out. */
  readonly where?: Readonly<Record<string, Scalar | readonly Scalar[]>> | undefined;
}
type Scalar = string | number | boolean | null;

const field = z.string().min(1);
const scalar = z.union([z.string(), z.number(), z.boolean(), z.null()]);
export const whereSchema: z.ZodType<NonNullable<Mapping['where']>> = z.record(
  field,
  z.union([scalar, z.array(scalar)]),
);
export const mappingSchema: z.ZodType<Mapping> = z.strictObject({
  id: field,
  question: field,
  answer: field,
  task: field.optional(),
  images: field.optional(),
  choices: field.optional(),
  description: field.optional(),
  answerAfter: field.optional(),
  answerType: field.optional(),
  rules: z.record(field, ruleSchema).optional(),
  rule: ruleSchema.optional(),
  precision: field.optional(),
  unit: field.optional(),
  where: whereSchema.optional(),
});

export interface MapOptions {
  /** Where images that come as bytes are kept as files. Default: galvani/images in the user's cache folder. */
  readonly imageCache?: string;
  /** Task of rows whose mapping names none. */
  readonly task?: string;
}

/** The row in our own fields; null: `where` leaves it out. BAD_FILE naming file, line and field. */
export function mapRow(at: JsonLine, mapping: Mapping, options: MapOptions = {}): JsonLine | null {
  for (const [path, wanted] of Object.entries(mapping.where ?? {})) {
    const value = valueAt(at, path);
    if (!(Array.isArray(wanted) ? wanted : [wanted]).some((one) => one === (value ?? null))) return null;
  }
  const optional = (name: string | undefined): unknown => (name === undefined ? undefined : fieldOf(at, name));
  const choices = optional(mapping.choices);
  const images = imagesOf(at, optional(mapping.images), options);
  const description = optional(mapping.description);
  const rule = Array.isArray(choices) && choices.length > 0 ? undefined : ruleOf(at, mapping);
  return {
    ...at,
    value: {
      id: String(required(at, 'id', mapping.id)),
      task: mapping.task === undefined ? (options.task ?? 'items') : String(required(at, 'task', mapping.task)),
      question: required(at, 'question', mapping.question),
      answer: answerOf(at, mapping),
      ...(images.length > 0 ? { image: images[0] } : {}),
      ...(images.length > 1 ? { images } : {}),
      ...(Array.isArray(choices) && choices.length > 0 ? { choices } : {}),
      ...(description == null ? {} : { description }),
      ...(rule === undefined ? {} : { rule }),
    },
  };
}

function required(at: JsonLine, role: string, name: string): unknown {
  const value = fieldOf(at, name);
  if (value != null && value !== '') return value;
  throw lineError(at, `${role}: expected a value at '${name}', got ${JSON.stringify(value)}; the row has ${names(at)}`);
}

function names(at: JsonLine): string {
  return Object.keys(at.value).join(', ');
}

function answerOf(at: JsonLine, { answer, answerAfter }: Mapping): unknown {
  const value = required(at, 'answer', answer);
  if (answerAfter === undefined) return value;
  const text = String(value);
  const start = text.lastIndexOf(answerAfter);
  if (start < 0) throw lineError(at, `answer: expected '${answerAfter}' in it, got ${JSON.stringify(text.slice(-80))}`);
  return text.slice(start + answerAfter.length).trim();
}

function ruleOf(at: JsonLine, mapping: Mapping): MatchRule | undefined {
  const type = mapping.answerType === undefined ? undefined : String(fieldOf(at, mapping.answerType));
  const found = type === undefined ? undefined : mapping.rules?.[type];
  if (type !== undefined && found === undefined && mapping.rule === undefined) {
    const known = Object.keys(mapping.rules ?? {}).join(', ');
    throw lineError(at, `answerType: no rule for '${type}'; the mapping has ${known || 'none'}`);
  }
  const rule = found ?? mapping.rule;
  if (rule?.kind !== 'number') return rule;
  const decimals = mapping.precision === undefined ? null : fieldOf(at, mapping.precision);
  const unit = mapping.unit === undefined ? null : fieldOf(at, mapping.unit);
  return {
    ...rule,
    // Rounds to gold: within half a unit of gold's last decimal.
    ...(typeof decimals === 'number' && decimals > 0 && String(fieldOf(at, mapping.answer)).includes('.')
      ? { tolerance: 0.5 * 10 ** -decimals }
      : {}),
    ...(typeof unit === 'string' && unit !== '' ? { unit } : {}),
  };
}

function fieldOf(at: JsonLine, name: string): unknown {
  if (!name.includes('{')) return valueAt(at, name);
  return name.replace(/\{([^{}]+)\}/g, (_, path: string) => {
    if (path === 'row') return String(at.line - 1);
    const value = valueAt(at, path);
    if (value == null || typeof value === 'object') {
      throw lineError(at, `'${name}': expected a text or number at '${path}'; the row has ${names(at)}`);
    }
    return String(value);
  });
}

function valueAt(at: JsonLine, path: string): unknown {
  let value: unknown = at.value;
  for (const part of path.split('.')) {
    if (value === null || typeof value !== 'object') return undefined;
    value = (value as Readonly<Record<string, unknown>>)[part];
  }
  return value;
}

/** Paths of the row's images; bytes become files named by their content, so that every reader downstream sees paths. */
function imagesOf(at: JsonLine, value: unknown, options: MapOptions): string[] {
  if (value == null) return [];
  return (Array.isArray(value) ? value : [value]).flatMap((one: unknown): string[] => {
    if (one == null) return [];
    if (typeof one === 'string') return [one];
    if (one instanceof Uint8Array) return [keepImage(one, options)];
    const { bytes, path } = one as { readonly bytes?: unknown; readonly path?: unknown };
    if (bytes instanceof Uint8Array) return [keepImage(bytes, options)];
    if (typeof path === 'string') return [path];
    throw lineError(at, `images: expected paths, bytes or {bytes, path}, got ${JSON.stringify(one)?.slice(0, 80)}`);
  });
}

function keepImage(bytes: Uint8Array, { imageCache = join(cacheFolder(), 'images') }: MapOptions): string {
  const name = createHash('sha256').update(bytes).digest('hex').slice(0, 32);
  const path = join(imageCache, `${name}${ending(bytes)}`);
  if (existsSync(path)) return path;
  mkdirSync(imageCache, { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, bytes);
  renameSync(temporary, path);
  return path;
}

function ending(bytes: Uint8Array): string {
  const start = Buffer.from(bytes.subarray(0, 12)).toString('latin1');
  if (start.startsWith('\x89PNG')) return '.png';
  if (start.startsWith('\xff\xd8')) return '.jpg';
  if (start.startsWith('GIF8')) return '.gif';
  return start.startsWith('RIFF') && start.endsWith('WEBP') ? '.webp' : '';
}

/** $XDG_CACHE_HOME/galvani, else ~/.cache/galvani. */
export function cacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'galvani');
}
