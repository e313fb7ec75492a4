/** Small pieces every section of the report is made of. */

import type { BarValue } from '../report/bar-chart.js';
import type { Answer, Cell, ChartBlock, Column, ProseBlock, Table, TableBlock, Tone } from '../report/document.js';
import { formatInterval, formatP, formatValue, slug } from '../report/format.js';
import type { LineChartSpec, LinePoint } from '../report/line-chart.js';
import type { Rate } from '../types.js';
import type { MeanRecord, RateRecord, Select, TestRecord } from './measure.js';
import type { Summary } from './summary.js';

export function asRate(record: RateRecord): Rate {
  return { ...record, rate: record.rate ?? Number.NaN };
}

/** "94.0% (85.4–97.7), n = 60", with what was left out. */
export function rateText(record: RateRecord): string {
  if (record.rate === null) return `no data (${gaps(record) || 'n = 0'})`;
  const interval = formatInterval(record.low, record.high, 'percent');
  const apart = gaps(record);
  return `${formatValue(record.rate, 'percent')} ${interval}, n = ${record.n}${apart ? `, ${apart}` : ''}`;
}

function gaps({ failed, truncated }: RateRecord): string {
  return [failed > 0 ? `${failed} failed` : '', truncated > 0 ? `${truncated} cut off` : ''].filter(Boolean).join(', ');
}

/** "+19.3 points (+17.6, +21.1), p < 0.001". */
export function testText(test: TestRecord): string {
  const difference = formatValue(test.difference, 'difference');
  const p = formatP(test.pHolm ?? test.p);
  const how = test.pHolm === null ? 'p' : 'Holm-adjusted p';
  return `${difference} points ${formatInterval(test.low, test.high, 'difference')}, ${how} ${p.startsWith('<') ? p : `= ${p}`}`;
}

export function linePoint(x: number, record: RateRecord): LinePoint {
  return record.rate === null
    ? { x, y: null, n: 0 }
    : { x, y: record.rate, low: record.low, high: record.high, n: record.n };
}

export function meanPoint(x: number, { mean, low, high, n }: MeanRecord): LinePoint {
  return { x, y: mean, low, high, n };
}

export function barValue(record: RateRecord): BarValue {
  return record.rate === null
    ? { value: null, n: 0 }
    : { value: record.rate, low: record.low, high: record.high, n: record.n };
}

/** Shaded parts of a layer axis. */
export function regionMarks({ regions }: Pick<Summary, 'regions'>): NonNullable<LineChartSpec['regions']> {
  return regions.map(({ name, start, end }) => ({ from: start, to: end - 1, label: name }));
}

export function prose(text: string, tone: Tone = 'note'): ProseBlock {
  return { kind: 'prose', text, tone };
}

export function chart(id: string, title: string, caption: string, svg: string, csv: Table): ChartBlock {
  return { kind: 'chart', id, title, caption, svg, csv };
}

export function tableBlock(id: string, title: string, caption: string, table: Table): TableBlock {
  return { kind: 'table', id, title, caption, table };
}

export function answer(text: string, significant: boolean | null): Answer {
  return { text, significant };
}

export function column(key: string, label: string, format?: Column['format'], digits?: number): Column {
  return { key, label, ...(format ? { format } : {}), ...(digits === undefined ? {} : { digits }) };
}

/** Difference in points with its interval and p, for tables. */
export function testCells(test: TestRecord | null, prefix = ''): Record<string, Cell> {
  const key = (name: string): string => (prefix ? `${prefix}${name[0]!.toUpperCase()}${name.slice(1)}` : name);
  return {
    [key('difference')]: test?.difference == null ? null : 100 * test.difference,
    [key('low')]: test ? 100 * test.low : null,
    [key('high')]: test ? 100 * test.high : null,
    [key('p')]: test && test.n > 0 ? test.p : null,
    [key('pHolm')]: test?.pHolm ?? null,
    [key('pBh')]: test?.pBh ?? null,
    [key('kept')]: test?.kept ?? null,
    [key('lost')]: test?.lost ?? null,
    [key('gained')]: test?.gained ?? null,
    [key('missed')]: test?.missed ?? null,
    [key('detectable')]: test?.detectable == null ? null : 100 * test.detectable,
  };
}

export const testColumns: readonly Column[] = [
  column('difference', 'Difference, points', 'number', 1),
  column('low', 'low', 'number', 1),
  column('high', 'high', 'number', 1),
  column('p', 'p', 'p'),
  column('pHolm', 'p, Holm', 'p'),
  column('pBh', 'p, BH', 'p'),
  column('detectable', 'Detectable, points', 'number', 1),
];

/** The transition table of a test: right both times, right → wrong, wrong → right, wrong twice. */
export const transitionColumns: readonly Column[] = [
  column('kept', 'Kept', 'number'),
  column('lost', 'Lost', 'number'),
  column('gained', 'Gained', 'number'),
  column('missed', 'Missed', 'number'),
];

/** A change with its interval, in points. */
export const changeColumns: readonly Column[] = [
  column('difference', 'Change, points', 'number', 2),
  column('low', 'low', 'number', 2),
  column('high', 'high', 'number', 2),
];

/** Last column of the CSV behind a chart: what `galvani report RUN --rows` takes to print the ledger rows of a number. */
export const rowsColumn: Column = column('rows', 'Ledger rows', 'text');
export function rowsCell(select: Select): Record<string, Cell> {
  return { rows: JSON.stringify(select) };
}

/** "layers 0–2 and 5". */
export function layerList(layers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const layer of [...layers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && layer === last[1] + 1) last[1] = layer;
    else runs.push([layer, layer]);
  }
  const parts = runs.map(([from, to]) => (from === to ? String(from) : `${from}–${to}`));
  const list = parts.length > 1 ? `${parts.slice(0, -1).join(', ')} and ${parts.at(-1)}` : (parts[0] ?? 'none');
  return `${layers.length === 1 ? 'layer' : 'layers'} ${list}`;
}

export function idOf(...parts: readonly string[]): string {
  return slug(parts.join(' ')).replace(/[^A-Za-z0-9_-]/g, '-');
}
