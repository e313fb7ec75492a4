/** Attention captures of one run → the few numbers per layer that are kept. */
import { GalvaniError } from '../errors.js';
import { resolveSpan, rowCount } from '../hooks/spans.js';
import type { Reducer } from '../run/plan.js';
import type { Json } from '../run/rows.js';
import type { Capture, Prompt, Range } from '../types.js';

/**
 * Image keys that swallow attention without being read: those whose received mass (mean over heads) has a modified
 * z-score above 3.5 among the image keys of the same run and layer, 0.6745·(x − median)/MAD (Iglewicz & Hoaglin 1993).
 * A patch that is truly looked at can also be such an outlier; so both figures are reported, with and without.
 */
export const sinkScore = 3.5;

export interface SpanKeys {
  readonly first: readonly Range[];
  readonly image: readonly Range[];
  readonly question: readonly Range[];
  readonly text: readonly Range[];
}

/** Means over the query rows of one span; every list has one number per layer. */
export interface LayerAttention {
  /** Query rows. */
  readonly tokens: number;
  readonly first: readonly number[];
  readonly image: readonly number[];
  readonly question: readonly number[];
  readonly text: readonly number[];
  readonly other: readonly number[];
  /** Mass on the image divided by the image's share of the visible keys; 1 is what uniform attention gives. */
  readonly imagePerShare: readonly number[];
  /** The image without its sinks, as a share of the mass that is on no sink (key 0 and image sinks). */
  readonly imageSinkFree: readonly number[];
  readonly imageSinkFreePerShare: readonly number[];
  /** Image keys taken out as sinks. */
  readonly sinks: readonly number[];
  /** [layer][head] mass on the image. */
  readonly imageByHead: readonly (readonly number[])[];
}

export type ReducedAttention = Readonly<Record<string, LayerAttention>>;

/** @param queries span names; those the prompt lacks are left out of the result. */
export function attentionReducer(keys: SpanKeys, queries: readonly string[]): Reducer {
  return {
    name: `attention ${sinkScore}`,
    apply: (result, prompt) => {
      const out: Record<string, LayerAttention> = {};
      for (const query of queries) {
        const mass = result.captures[`mass ${query}`];
        const received = result.captures[`keys ${query}`];
        if (mass && received) out[query] = reduceSpan(mass, received, prompt, query, keys);
      }
      return out as unknown as Json;
    },
  };
}

function reduceSpan(mass: Capture, received: Capture, prompt: Prompt, query: string, keys: SpanKeys): LayerAttention {
  const rows = rowsOf(resolveSpan(prompt, query));
  const [layers, queryRows, heads, columns] = mass.shape as [number, number, number, number];
  const names = (Object.keys(keys) as (keyof SpanKeys)[]).filter((name) => rowCount(keys[name]) > 0);
  if (queryRows !== rows.length || columns !== names.length) {
    throw new GalvaniError(
      'INTERNAL',
      `attention capture: expected [layers, ${rows.length}, heads, ${names.length}], got [${mass.shape.join(', ')}]`,
    );
  }
  const imageKeys = rowCount(keys.image);
  const column = (name: keyof SpanKeys): number => names.indexOf(name);
  const at = (l: number, r: number, h: number, c: number): number =>
    c < 0 ? 0 : mass.data[((l * queryRows + r) * heads + h) * columns + c]!;
  // Mean over rows and heads of one column, each row weighted by `weight`.
  const mean = (l: number, c: number, weight: (row: number) => number = () => 1): number => {
    let sum = 0;
    for (let r = 0; r < queryRows; r += 1) for (let h = 0; h < heads; h += 1) sum += at(l, r, h, c) * weight(rows[r]!);
    return sum / (queryRows * heads);
  };
  const perLayer = (value: (layer: number) => number): number[] =>
    Array.from({ length: layers }, (_, layer) => round(value(layer)));
  const visible = rows.reduce((sum, row) => sum + row + 1, 0) / rows.length;
  const image = column('image');
  const free = Array.from({ length: layers }, (_, layer) => withoutSinks(received, layer, keys, visible));
  return {
    tokens: rows.length,
    first: perLayer((l) => mean(l, column('first'))),
    image: perLayer((l) => mean(l, image)),
    question: perLayer((l) => mean(l, column('question'))),
    text: perLayer((l) => mean(l, column('text'))),
    other: perLayer((l) => Math.max(0, 1 - names.reduce((sum, name) => sum + mean(l, column(name)), 0))),
    imagePerShare: perLayer((l) => (imageKeys === 0 ? 0 : mean(l, image, (row) => (row + 1) / imageKeys))),
    imageSinkFree: free.map(({ mass: value }) => round(value)),
    imageSinkFreePerShare: free.map(({ perShare }) => round(perShare)),
    sinks: free.map(({ sinks }) => sinks),
    imageByHead: Array.from({ length: layers }, (_, l) =>
      Array.from({ length: heads }, (_, h) => {
        let sum = 0;
        for (let r = 0; r < queryRows; r += 1) sum += at(l, r, h, image);
        return round(sum / queryRows);
      }),
    ),
  };
}

function withoutSinks(
  received: Capture,
  layer: number,
  keys: SpanKeys,
  visible: number,
): { mass: number; perShare: number; sinks: number } {
  const [, heads, total] = received.shape as [number, number, number];
  const of = (key: number): number => {
    let sum = 0;
    for (let h = 0; h < heads; h += 1) sum += received.data[(layer * heads + h) * total + key]!;
    return sum / heads;
  };
  const image = rowsOf(keys.image).map(of);
  const isSink = outliers(image);
  const swallowed = image.reduce((sum, value, i) => sum + (isSink[i] ? value : 0), 0);
  const rest = image.reduce((sum, value, i) => sum + (isSink[i] ? 0 : value), 0);
  const sinks = isSink.filter(Boolean).length;
  const remaining = 1 - rowsOf(keys.first).reduce((sum, key) => sum + of(key), 0) - swallowed;
  const mass = remaining > 0 ? rest / remaining : 0;
  const share = (image.length - sinks) / (visible - 1 - sinks);
  return { mass, perShare: share > 0 ? mass / share : 0, sinks };
}

/** Which values stand out upwards; none when more than half of them are equal. */
export function outliers(values: readonly number[]): boolean[] {
  const centre = median(values);
  const spread = median(values.map((value) => Math.abs(value - centre)));
  return values.map((value) => spread > 0 && (0.6745 * (value - centre)) / spread > sinkScore);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return 0;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function rowsOf(ranges: readonly Range[]): number[] {
  return ranges.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
}

function round(value: number): number {
  return Number(value.toPrecision(6));
}
