/**
 * The content key of a trial: a hash of everything that decides its result, the same in every process. Two trials with
 * one key are one computation, whatever experiment asked for them. References to other trials enter as their keys.
 */
import { createHash } from 'node:crypto';
import { GalvaniError } from '../errors.js';
import { resolveSpan } from '../hooks/spans.js';
import type { Intervention, Prompt, Trial, TrialSource } from '../types.js';

/** Raised when the engine changes what a trial computes, so that older rows are not taken for the new result. */
const keyVersion = 1;

/** Turns a result's captures into the small numbers that are kept; `name` is part of the key. */
export interface NamedReducer {
  readonly name: string;
}

export interface KeyedTrial {
  readonly trial: Trial;
  readonly reduce?: NamedReducer;
}

const promptHashes = new WeakMap<Prompt, string>();

function promptHash(prompt: Prompt): string {
  const known = promptHashes.get(prompt);
  if (known !== undefined) return known;
  const hash = createHash('sha256');
  hash.update(bytesOf(prompt.ids)).update(bytesOf(prompt.positions));
  hash.update(
    canonical([prompt.nextPosition, prompt.images.map(({ image, start, count }) => [image.hash, start, count])]),
  );
  const digest = hash.digest('hex');
  promptHashes.set(prompt, digest);
  return digest;
}

function bytesOf(array: Int32Array | Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** JSON with sorted keys, undefined left out, and Infinity spelt (open ranges end there). */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) => {
    if (inner === Number.POSITIVE_INFINITY) return 'Infinity';
    if (inner === null || typeof inner !== 'object' || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}

/** 128 bits of SHA-256 over the canonical JSON, in hexadecimal. */
export function contentKey(value: unknown): string {
  return createHash('sha256').update(canonical(value)).digest('hex').slice(0, 32);
}

/** Ids of the trials this one refers to. */
export function references(trial: Trial): string[] {
  const out = new Set<string>();
  for (const { value } of trial.interventions ?? []) if (isSource(value)) out.add(value.trial);
  if (trial.score?.klTo !== undefined) out.add(trial.score.klTo);
  return [...out];
}

function isSource(value: Intervention['value']): value is TrialSource {
  return typeof value === 'object' && value !== null && 'trial' in value;
}

/**
 * Keys of one bundle, by trial id.
 * @param fingerprint content identity of an opened model or graft.
 * @throws BAD_ARGUMENT for a repeated id, a reference to a trial outside the bundle, or a circle.
 */
export function trialKeys(
  bundle: readonly KeyedTrial[],
  fingerprint: (model: string) => string,
): ReadonlyMap<string, string> {
  const byId = new Map(bundle.map((planned) => [planned.trial.id, planned]));
  if (byId.size !== bundle.length) throw new GalvaniError('BAD_ARGUMENT', 'bundle: two trials have the same id');
  const keys = new Map<string, string>();
  const open = new Set<string>();

  const keyOf = (id: string, from: string): string => {
    const known = keys.get(id);
    if (known !== undefined) return known;
    const planned = byId.get(id);
    if (!planned) throw new GalvaniError('BAD_ARGUMENT', `trial ${from} refers to ${id}, which is not in its bundle`);
    if (open.has(id)) throw new GalvaniError('BAD_ARGUMENT', `trials refer to each other in a circle through ${id}`);
    open.add(id);
    const key = contentKey(
      content(
        planned,
        (reference) => {
          const target = byId.get(reference);
          return { key: keyOf(reference, id), prompt: target!.trial.prompt };
        },
        fingerprint,
      ),
    );
    open.delete(id);
    keys.set(id, key);
    return key;
  };
  for (const { trial } of bundle) keyOf(trial.id, trial.id);
  return keys;
}

function content(
  { trial, reduce }: KeyedTrial,
  lookUp: (id: string) => { key: string; prompt: Prompt },
  fingerprint: (model: string) => string,
): unknown {
  const { prompt, generate, score } = trial;
  const maxTokens = generate?.maxTokens ?? 0;
  const sampled = (generate?.temperature ?? 0) > 0;
  return {
    version: keyVersion,
    prompt: promptHash(prompt),
    model: fingerprint(trial.model),
    interventions: (trial.interventions ?? []).map((record, i) => {
      const rows = resolveSpan(prompt, record.rows ?? 'all', `trial ${trial.id}: interventions[${i}].rows`);
      return {
        site: record.site,
        op: record.op,
        tower: record.tower ?? 'decoder',
        layers: [...record.layers].sort((a, b) => a - b),
        heads: record.heads && [...record.heads].sort((a, b) => a - b),
        rows,
        keys: record.keys?.map((span, k) =>
          resolveSpan(prompt, span, `trial ${trial.id}: interventions[${i}].keys[${k}]`),
        ),
        value: valueContent(record, lookUp),
        measure: record.measure,
        name: record.name,
        phase: record.phase ?? 'both',
      };
    }),
    generate: {
      maxTokens,
      ...(maxTokens > 0 ? { stopTokens: generate?.stopTokens && [...generate.stopTokens].sort((a, b) => a - b) } : {}),
      ...(maxTokens > 0 && sampled
        ? { temperature: generate?.temperature, topK: generate?.topK, topP: generate?.topP, seed: generate?.seed ?? 0 }
        : {}),
    },
    score: score && { tokens: score.tokens, klTo: score.klTo === undefined ? undefined : lookUp(score.klTo).key },
    reduce: reduce?.name,
  };
}

function valueContent(record: Intervention, lookUp: (id: string) => { key: string; prompt: Prompt }): unknown {
  const { value } = record;
  if (value instanceof Float32Array) return { floats: createHash('sha256').update(bytesOf(value)).digest('hex') };
  if (!isSource(value)) return value;
  const { key, prompt } = lookUp(value.trial);
  return {
    source: key,
    rows: resolveSpan(prompt, value.span ?? record.rows ?? 'all', 'source span'),
    seed: value.seed,
  };
}
