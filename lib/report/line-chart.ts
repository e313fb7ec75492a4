/** Lines over a numeric axis (layers), with interval bands or whiskers. A gap breaks the line. */

import type { Rate } from '../types.js';
import { formatInterval, formatValue, type ValueFormat } from './format.js';
import { makeScale, type Scale, textWidth, thinned, wrapText } from './scale.js';
import {
  type Canvas,
  dashes,
  fontSize,
  label,
  marker,
  renderChart,
  round,
  says,
  seriesClass,
  tag,
  widest,
} from './svg.js';
import type { SeriesColor } from './theme.js';

/** y null or NaN: a gap. */
export interface LinePoint {
  readonly x: number;
  readonly y: number | null;
  readonly low?: number | null;
  readonly high?: number | null;
  readonly n?: number | null;
}

export interface LineSeries {
  readonly name: string;
  readonly color?: SeriesColor;
  readonly points: readonly LinePoint[];
}

export interface LineChartSpec {
  readonly id: string;
  readonly title: string;
  /** All places of the axis, ascending. A series without a point at one of them has a gap there. */
  readonly x: { readonly label: string; readonly values: readonly number[] };
  readonly y: {
    readonly label: string;
    readonly min?: number;
    readonly max?: number;
    readonly format: ValueFormat;
    readonly scale?: 'linear' | 'log';
  };
  readonly series: readonly LineSeries[];
  /** Default 'band'. */
  readonly interval?: 'band' | 'whisker';
  /** Parts of the axis, both ends included, such as early, mid and late layers. */
  readonly regions?: readonly { readonly from: number; readonly to: number; readonly label: string }[];
  /**
   * Horizontal lines, such as the accuracy without an intervention. Those of one label share a dash and are named once;
   * one of a series has its colour.
   */
  readonly references?: readonly { readonly value: number; readonly label: string; readonly series?: string }[];
  /** In units of the drawing; default 300 wide, 260 narrow. */
  readonly height?: number;
}

/** A rate as a point; without data a gap. */
export function ratePoint(x: number, rate: Rate): LinePoint {
  if (rate.n === 0 || !Number.isFinite(rate.rate)) return { x, y: null, n: 0 };
  return { x, y: rate.rate, low: rate.low, high: rate.high, n: rate.n };
}

/** Markup of the chart: legend and drawings. */
export function lineChart(spec: LineChartSpec): string {
  return renderChart({
    id: spec.id,
    title: spec.title,
    legend: spec.series.map(({ name, color }) => ({ name, color })),
    draw: (canvas) => drawLines(spec, canvas),
  });
}

function drawLines(spec: LineChartSpec, canvas: Canvas): { height: number; body: string } {
  const { width, narrow } = canvas;
  const height = spec.height ?? (narrow ? 250 : 300);
  const regions = spec.regions ?? [];
  const references = spec.references ?? [];
  const axisLines = wrapText(spec.y.label, fontSize, width - 12, 2);
  const header = headerRows(spec, axisLines, width);
  const top = 24 + 16 * (header - 1) + (regions.length > 0 ? 18 : 0);
  const bottom = height - 40;
  const values = spec.series.flatMap((s) => s.points.flatMap((p) => [p.y, p.low, p.high]));
  const y = makeScale({
    values: [...values, ...references.map((r) => r.value)],
    min: spec.y.min,
    max: spec.y.max,
    format: spec.y.format,
    kind: spec.y.scale,
    from: bottom,
    to: top,
    count: narrow ? 4 : 5,
  });
  const left = Math.max(28, widest(y.ticks.map((t) => t.label)) + 10);
  const right = width - 12;
  const places = [...spec.x.values];
  const [first = 0, last = 1] = [places[0], places.at(-1)];
  const pitch = (right - left - 16) / Math.max(1, last - first);
  const x = (value: number): number =>
    last === first ? (left + right) / 2 : left + 8 + ((value - first) / (last - first)) * (right - left - 16);
  const edge = (value: number, side: -1 | 1): number => Math.min(right, Math.max(left, x(value) + (side * pitch) / 2));

  const body: string[] = [];
  regions.forEach((region, index) => {
    const [a, b] = [edge(region.from, -1), edge(region.to, 1)];
    if (index % 2 === 0) body.push(tag('rect', { class: 'region', x: a, y: top, width: b - a, height: bottom - top }));
    if (textWidth(region.label, fontSize) > b - a) return; // a name wider than its region would lie on its neighbour
    body.push(label(region.label, { class: 'region-label', x: (a + b) / 2, y: top - 7, 'text-anchor': 'middle' }));
  });
  body.push(...yAxis(y, left, right, axisLines));
  body.push(...xAxis(places, x, pitch, bottom, (left + right) / 2, spec.x.label));
  const names = referenceNames(spec);
  const dash = (name: string): string => `dash-${names.indexOf(name) % 3}`;
  for (const { value, label: name, series } of references) {
    const of = spec.series.findIndex((one) => one.name === series);
    const own = of < 0 ? '' : ` of ${seriesClass(of, series!, spec.series[of]!.color)}`;
    const at = y.at(value);
    body.push(tag('line', { class: `reference ${dash(name)}${own}`, x1: left, x2: right, y1: at, y2: at }));
  }
  names.forEach((name, index) => {
    // Named in the header, not at the line: there it would lie on the data.
    const row = fontSize + 16 * (header - names.length + index);
    const place = { x1: right - 24, x2: right, y1: row - 4, y2: row - 4 };
    body.push(tag('line', { class: `reference-sample ${dash(name)}`, ...place }));
    body.push(label(name, { class: 'reference-label', x: right - 30, y: row, 'text-anchor': 'end' }));
  });
  const radius = Math.min(2.8, Math.max(1.6, pitch / 4.5));
  const bands: string[] = [];
  const lines: string[] = [];
  const marks: string[] = [];
  spec.series.forEach((series, index) => {
    const className = seriesClass(index, series.name, series.color);
    for (const run of unbroken(series.points, places)) {
      const hasBand = spec.interval !== 'whisker' && run.length > 1;
      if (hasBand) bands.push(...bandPaths(run, x, y, className));
      else bands.push(...run.flatMap((p) => whisker(p, x(p.x), y, className)));
      if (run.length > 1) {
        const d = run.map((p, i) => `${i === 0 ? 'M' : 'L'}${round(x(p.x))} ${round(y.at(p.y))}`).join('');
        lines.push(tag('path', { class: `line ${className}`, d, 'stroke-dasharray': dashes(index) }));
      }
      for (const p of run) {
        const value = [formatValue(p.y, spec.y.format), formatInterval(p.low, p.high, spec.y.format)];
        const said = says(
          `${spec.x.label} ${p.x}`,
          series.name,
          value.filter((part) => part !== '').join(' ') + (p.n == null ? '' : `, n = ${p.n}`),
        );
        const data = { ...said.data, 'data-i': String(p.x) };
        marks.push(
          marker(
            index,
            x(p.x),
            y.at(p.y),
            radius,
            `mark point${radius < 2.2 ? ' dense' : ''} ${className}`,
            data,
            said.title,
          ),
        );
      }
    }
  });
  body.push(...bands, ...lines, ...marks, ...hitColumns(places, x, top, bottom, spec.x.label));
  return { height, body: body.join('') };
}

/** Rows above the plot: the axis label, and the references beside it where they fit. */
function headerRows(spec: LineChartSpec, axisLines: readonly string[], width: number): number {
  const names = referenceNames(spec);
  if (names.length === 0) return axisLines.length;
  const beside = widest(axisLines) + 20 + referenceWidth(names[0]!) <= width - 12;
  return beside ? Math.max(axisLines.length, names.length) : axisLines.length + names.length;
}

function referenceNames({ references = [] }: LineChartSpec): string[] {
  return [...new Set(references.map(({ label: name }) => name))];
}

function referenceWidth(text: string): number {
  return textWidth(text, fontSize) + 28;
}

/** A measured point. */
interface Measured extends LinePoint {
  readonly y: number;
}

/** Runs of neighbouring places that all have a value. */
function unbroken(points: readonly LinePoint[], places: readonly number[]): Measured[][] {
  const byPlace = new Map(points.map((p) => [p.x, p]));
  const runs: Measured[][] = [[]];
  for (const place of places) {
    const point = byPlace.get(place);
    if (point !== undefined && point.y !== null && Number.isFinite(point.y))
      runs.at(-1)!.push({ ...point, y: point.y });
    else if (runs.at(-1)!.length > 0) runs.push([]);
  }
  return runs.filter((run) => run.length > 0);
}

/** One band over each stretch of the run whose points have both limits. */
function bandPaths(run: readonly Measured[], x: (v: number) => number, y: Scale, className: string): string[] {
  const stretches: Measured[][] = [[]];
  for (const p of run) {
    if (p.low != null && p.high != null) stretches.at(-1)!.push(p);
    else stretches.push([]);
  }
  return stretches
    .filter((stretch) => stretch.length > 1)
    .map((stretch) => {
      const corner = (p: Measured, value: number): string => `${round(x(p.x))} ${round(y.at(value))}`;
      const upper = stretch.map((p) => corner(p, p.high!));
      const lower = [...stretch].reverse().map((p) => corner(p, p.low!));
      return tag('path', { class: `band ${className}`, d: `M${[...upper, ...lower].join('L')}Z` });
    });
}

function whisker(p: Measured, at: number, y: Scale, className: string): string[] {
  if (p.low == null || p.high == null) return [];
  const [low, high] = [y.at(p.low), y.at(p.high)];
  return [tag('path', { class: `whisker ${className}`, d: `M${round(at)} ${round(low)}V${round(high)}` })];
}

/** Grid lines, tick labels, and the axis label above them. Shared with the scatter chart. */
export function yAxis(y: Scale, left: number, right: number, lines: readonly string[]): string[] {
  return [
    ...y.ticks.flatMap((tick) => [
      tag('line', { class: 'grid', x1: left, x2: right, y1: y.at(tick.value), y2: y.at(tick.value) }),
      label(tick.label, { class: 'tick', x: left - 6, y: y.at(tick.value) + 4, 'text-anchor': 'end' }),
    ]),
    ...lines.map((line, i) => label(line, { class: 'axis-label', x: 0, y: fontSize + 16 * i })),
  ];
}

function xAxis(
  places: readonly number[],
  x: (v: number) => number,
  pitch: number,
  bottom: number,
  centre: number,
  text: string,
): string[] {
  // Of places with fractions the whole ones, where they suffice.
  const whole = places.filter(Number.isInteger);
  const marked = whole.length > 2 ? whole : places;
  const smallest = marked.length > 1 ? Math.min(...marked.slice(1).map((p, i) => p - marked[i]!)) : 1;
  const shown = thinned(marked.length, pitch * smallest, widest(marked.map(String)) + 8);
  return [
    ...shown.map((i) =>
      label(String(marked[i]), { class: 'tick', x: x(marked[i]!), y: bottom + 17, 'text-anchor': 'middle' }),
    ),
    label(text, { class: 'axis-label', x: centre, y: bottom + 35, 'text-anchor': 'middle' }),
  ];
}

/** Invisible columns that catch the pointer; the page's script reads out all series at that place. */
function hitColumns(
  places: readonly number[],
  x: (v: number) => number,
  top: number,
  bottom: number,
  text: string,
): string[] {
  return places.map((place, i) => {
    const before = i === 0 ? x(place) - 12 : (x(places[i - 1]!) + x(place)) / 2;
    const after = i === places.length - 1 ? x(place) + 12 : (x(places[i + 1]!) + x(place)) / 2;
    return tag(
      'g',
      { class: 'hit', 'data-i': String(place), 'data-k': `${text} ${place}` },
      tag('line', { class: 'cursor', x1: x(place), x2: x(place), y1: top, y2: bottom }),
      tag('rect', { x: before, y: top, width: after - before, height: bottom - top }),
    );
  });
}
