/** Attention per head and span, and its change between models on the same items. */
import { unpack } from '../run/packed.js';
import { benjaminiHochberg } from '../stats/corrections.js';
import { signFlip } from '../stats/permutation.js';
import type { QuerySpan, TextMode } from './attend.js';
import { type HeadSpan, headSpans, type LayerAttention } from './attend-reduce.js';
import { meanOf } from './measure.js';

/** A span of keys, or the image without its sinks as a share of what no sink (first key, image sinks) takes. */
export type HeadFigure = HeadSpan | 'imageSinkFree';
export const headFigures: readonly HeadFigure[] = [...headSpans, 'imageSinkFree'];

/** [layer][head]. */
export type HeadNumbers = readonly (readonly number[])[];

export interface HeadMap {
  readonly mode: TextMode;
  readonly query: QuerySpan;
  readonly model: string;
  /** Mean over items, by figure. */
  readonly mass: Readonly<Record<HeadFigure, HeadNumbers>>;
  readonly n: number;
}

/** to − from on the same items. */
export interface HeadShift {
  readonly mode: TextMode;
  readonly query: QuerySpan;
  readonly from: string;
  readonly to: string;
  readonly figure: HeadFigure;
  readonly difference: HeadNumbers;
  /** 95 % bootstrap over items, each head by itself. */
  readonly low: HeadNumbers;
  readonly high: HeadNumbers;
  /** Sign-flip test over items, Benjamini–Hochberg over all heads; for the image without sinks only. */
  readonly pBh: HeadNumbers | null;
  readonly n: number;
}

type Values = readonly (LayerAttention | null)[];

export function headMap(facts: Pick<HeadMap, 'mode' | 'query' | 'model'>, lists: Values): HeadMap[] {
  const present = lists.filter((value) => value !== null);
  const [layers, heads] = shapeOf(present);
  if (present.length === 0) return [];
  const rows = present.map(figuresOf);
  const mean = Float64Array.from(rows[0]!, (_, c) => rows.reduce((sum, row) => sum + row[c]!, 0) / rows.length);
  const mass = Object.fromEntries(
    headFigures.map((name, f) => [name, grid(mean, f, layers, heads)]),
  ) as HeadMap['mass'];
  return [{ ...facts, mass, n: present.length }];
}

export function headShift(
  facts: Pick<HeadShift, 'mode' | 'query' | 'from' | 'to'>,
  before: Values,
  after: Values,
  seed: number,
): HeadShift[] {
  const both = before.flatMap((value, i) => {
    const other = after[i];
    return value === null || other == null ? [] : [[value, other] as const];
  });
  if (both.length === 0) return [];
  const [layers, heads] = shapeOf(both.map(([value]) => value));
  if (both.some(([, other]) => shapeOf([other]).join() !== `${layers},${heads}`)) return [];
  const rows = both.map(([from, to]) => {
    const [a, b] = [figuresOf(from), figuresOf(to)];
    return b.map((value, i) => value - a[i]!);
  });
  const columns = Array.from(rows[0]!, (_, c) => rows.map((row) => row[c]!));
  const means = columns.map((own) => meanOf(own, seed));
  return headFigures.map((figure, f): HeadShift => {
    const of = (values: readonly number[]): HeadNumbers => grid(values, f, layers, heads);
    let pBh: HeadNumbers | null = null;
    if (figure === 'imageSinkFree') {
      const own = columns.filter((_, c) => c % headFigures.length === f);
      const adjusted = benjaminiHochberg(own.map((differences) => signFlip(differences, seed).p));
      pBh = Array.from({ length: layers }, (_, l) => adjusted.slice(l * heads, (l + 1) * heads).map((p) => p!));
    }
    return {
      ...facts,
      figure,
      difference: of(means.map(({ mean }) => mean!)),
      low: of(means.map(({ low }) => low!)),
      high: of(means.map(({ high }) => high!)),
      pBh,
      n: both.length,
    };
  });
}

function shapeOf([first]: readonly LayerAttention[]): [layers: number, heads: number] {
  const [layers = 0, heads = 0] = first?.byHead.shape ?? [];
  return [layers, heads];
}

/** [layers, heads, headFigures] of one item. */
function figuresOf({ byHead }: LayerAttention): Float64Array {
  const spans = unpack(byHead);
  const [layers, heads] = byHead.shape as readonly [number, number];
  const out = new Float64Array(layers * heads * headFigures.length);
  for (let i = 0; i < layers * heads; i += 1) {
    const at = (name: HeadSpan): number => spans[i * headSpans.length + headSpans.indexOf(name)]!;
    headSpans.forEach((name, s) => {
      out[i * headFigures.length + s] = at(name);
    });
    const remaining = 1 - at('first') - at('imageSinks');
    out[i * headFigures.length + headSpans.length] =
      remaining > 0 ? Math.max(0, at('image') - at('imageSinks')) / remaining : 0;
  }
  return out;
}

function grid(values: ArrayLike<number>, figure: number, layers: number, heads: number): HeadNumbers {
  return Array.from({ length: layers }, (_, l) =>
    Array.from({ length: heads }, (_, h) =>
      Number(values[(l * heads + h) * headFigures.length + figure]!.toPrecision(5)),
    ),
  );
}
