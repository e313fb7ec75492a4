/** Attention captures of one run → the few numbers per layer that are kept. */
import { GalvaniError } from '../errors.js';
import { resolveSpan, rowCount } from '../hooks/spans.js';
import { type Packed, pack } from '../run/packed.js';
import type { Reducer } from '../run/plan.js';
import type { Json } from '../run/rows.js';
import { median } from '../stats/order.js';
import type { Capture, Prompt, Range } from '../types.js';

/**
 * Image keys that swallow attention without being read: those whose received mass (mean over heads) has a modified
 * z-score above 3.5 among the image keys of the same run and layer, 0.6745·(x − median)/MAD (Iglewicz & Hoaglin 1993).
 * A patch that is truly looked at can also be such an outlier; so both figures are reported, with and without.
 */
export const sinkScore = 3.5;

/** Disjoint key spans; what they leave is `other`. Key 0 stands alone: it is the usual attention sink. */
export interface SpanKeys {
  readonly first: readonly Range[];
  readonly image: readonly Range[];
  readonly question: readonly Range[];
  /** The generated text itself: its reasoning and its final answer; tags between them belong to neither. */
  readonly think: readonly Range[];
  readonly final: readonly Range[];
}

/** What a head's attention is split into; together 1. `image` holds the image's sinks, which stand apart once more. */
export const headSpans = ['first', 'image', 'question', 'think', 'final', 'other', 'imageSinks'] as const;
export type HeadSpan = (typeof headSpans)[number];

/** Attention to each merged patch of the prompt's first image. */
export interface PatchMap {
  /** Image tokens, top to bottom and left to right; the picture is stretched over them whole. */
  readonly grid: readonly [rows: number, columns: number];
  /** [layers, rows, columns] mass per token, mean over query rows and heads. */
  readonly mass: Packed;
  /** Tokens taken out as sinks, by layer. */
  readonly sinks: readonly (readonly number[])[];
}

/** Means over the query rows of one span; every list has one number per layer. */
export interface LayerAttention {
  /** Query rows. */
  readonly tokens: number;
  readonly first: readonly number[];
  readonly image: readonly number[];
  readonly question: readonly number[];
  /** Generated reasoning and final answer, as far as they were there. */
  readonly think: readonly number[];
  readonly final: readonly number[];
  /** System turn, template and tags. */
  readonly other: readonly number[];
  /** Mass on the image divided by the image's share of the visible keys; 1 is what uniform attention gives. */
  readonly imagePerShare: readonly number[];
  /** The image without its sinks, as a share of the mass that is on no sink (key 0 and image sinks). */
  readonly imageSinkFree: readonly number[];
  readonly imageSinkFreePerShare: readonly number[];
  /** Image keys taken out as sinks. */
  readonly sinks: readonly number[];
  /** [layers, heads, headSpans]. */
  readonly byHead: Packed;
  readonly map?: PatchMap;
}

export type ReducedAttention = Readonly<Record<string, LayerAttention>>;

/**
 * @param queries span names; those the prompt lacks are left out of the result.
 * @param withMap keep the attention to every patch too.
 */
export function attentionReducer(keys: SpanKeys, queries: readonly string[], withMap = false): Reducer {
  return {
    name: `attention by span and head ${sinkScore}${withMap ? ', patches' : ''}`,
    apply: (result, prompt) => {
      const out: Record<string, LayerAttention> = {};
      for (const query of queries) {
        const mass = result.captures[`mass ${query}`];
        const received = result.captures[`keys ${query}`];
        if (!mass || !received) continue;
        const map = withMap ? patchMap(received, prompt, keys) : undefined;
        out[query] = { ...reduceSpan(mass, received, prompt, query, keys), ...(map ? { map } : {}) };
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
  const other = (l: number): number => Math.max(0, 1 - names.reduce((sum, name) => sum + mean(l, column(name)), 0));
  return {
    tokens: rows.length,
    first: perLayer((l) => mean(l, column('first'))),
    image: perLayer((l) => mean(l, image)),
    question: perLayer((l) => mean(l, column('question'))),
    think: perLayer((l) => mean(l, column('think'))),
    final: perLayer((l) => mean(l, column('final'))),
    other: perLayer(other),
    imagePerShare: perLayer((l) => (imageKeys === 0 ? 0 : mean(l, image, (row) => (row + 1) / imageKeys))),
    imageSinkFree: free.map(({ mass: value }) => round(value)),
    imageSinkFreePerShare: free.map(({ perShare }) => round(perShare)),
    sinks: free.map(({ sinks }) => sinks.length),
    byHead: byHead(mass, received, free, keys, names),
  };
}

/** [layers, heads, headSpans], mean over the query rows. */
function byHead(
  mass: Capture,
  received: Capture,
  free: readonly SinkFree[],
  keys: SpanKeys,
  names: readonly (keyof SpanKeys)[],
): Packed {
  const [layers, rows, heads, columns] = mass.shape as [number, number, number, number];
  const total = received.shape[2]!;
  const image = rowsOf(keys.image);
  const values = new Float64Array(layers * heads * headSpans.length);
  for (let l = 0; l < layers; l += 1) {
    for (let h = 0; h < heads; h += 1) {
      const at = (l * heads + h) * headSpans.length;
      const put = (name: HeadSpan, value: number): void => {
        values[at + headSpans.indexOf(name)] = Math.min(1, Math.max(0, value)); // sums of float32 may pass 1
      };
      let seen = 0;
      names.forEach((name, c) => {
        let sum = 0;
        for (let r = 0; r < rows; r += 1) sum += mass.data[((l * rows + r) * heads + h) * columns + c]!;
        put(name, sum / rows);
        seen += sum / rows;
      });
      put('other', 1 - seen);
      const swallowed = free[l]!.sinks.map((i) => received.data[(l * heads + h) * total + image[i]!]!);
      put(
        'imageSinks',
        swallowed.reduce((sum, value) => sum + value, 0),
      );
    }
  }
  // One scale for all: what two models have in common must not differ by rounding.
  return pack(values, [layers, heads, headSpans.length], 16, 1);
}

/** Undefined without an image. */
function patchMap(received: Capture, prompt: Prompt, keys: SpanKeys): PatchMap | undefined {
  const [placed] = prompt.images;
  if (!placed) return undefined;
  const { start, count } = placed;
  const [frames, height, width] = placed.image.grid;
  const merge = Math.round(Math.sqrt((frames * height * width) / count));
  const grid = [height / merge, width / merge] as const;
  if (frames * grid[0] * grid[1] !== count || frames !== 1) return undefined;
  const layers = received.shape[0]!;
  const values = new Float64Array(layers * count);
  for (let l = 0; l < layers; l += 1) {
    for (let i = 0; i < count; i += 1) values[l * count + i] = receivedMass(received, l, start + i);
  }
  const image = rowsOf(keys.image);
  const sinks = Array.from({ length: layers }, (_, l) =>
    withoutSinks(received, l, keys, prompt.ids.length)
      .sinks.map((i) => image[i]! - start)
      .filter((token) => token >= 0 && token < count),
  );
  return { grid, mass: pack(values, [layers, ...grid], 8), sinks };
}

/** Mass that a key receives, mean over heads and query rows. */
function receivedMass({ data, shape }: Capture, layer: number, key: number): number {
  const [, heads, total] = shape as [number, number, number];
  let sum = 0;
  for (let h = 0; h < heads; h += 1) sum += data[(layer * heads + h) * total + key]!;
  return sum / heads;
}

interface SinkFree {
  readonly mass: number;
  readonly perShare: number;
  /** Places among the image keys. */
  readonly sinks: readonly number[];
}

function withoutSinks(received: Capture, layer: number, keys: SpanKeys, visible: number): SinkFree {
  const of = (key: number): number => receivedMass(received, layer, key);
  const image = rowsOf(keys.image).map(of);
  const isSink = outliers(image);
  const swallowed = image.reduce((sum, value, i) => sum + (isSink[i] ? value : 0), 0);
  const rest = image.reduce((sum, value, i) => sum + (isSink[i] ? 0 : value), 0);
  const sinks = isSink.flatMap((yes, i) => (yes ? [i] : []));
  const remaining = 1 - rowsOf(keys.first).reduce((sum, key) => sum + of(key), 0) - swallowed;
  const mass = remaining > 0 ? rest / remaining : 0;
  const share = (image.length - sinks.length) / (visible - 1 - sinks.length);
  return { mass, perShare: share > 0 ? mass / share : 0, sinks };
}

/** Which values stand out upwards; none when more than half of them are equal. */
export function outliers(values: readonly number[]): boolean[] {
  const centre = median(values);
  const spread = median(values.map((value) => Math.abs(value - centre)));
  return values.map((value) => spread > 0 && (0.6745 * (value - centre)) / spread > sinkScore);
}

function rowsOf(ranges: readonly Range[]): number[] {
  return ranges.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
}

function round(value: number): number {
  return Number(value.toPrecision(6));
}
