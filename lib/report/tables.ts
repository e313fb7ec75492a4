/** Tables as HTML, and the tables that lie behind charts. */

import type { Rate } from '../types.js';
import type { BarChartSpec } from './bar-chart.js';
import { type Cell, type Column, type ColumnFormat, isRate, type Table } from './document.js';
import {
  escapeHtml,
  formatInterval,
  formatNumber,
  formatP,
  formatRate,
  formatValue,
  gapText,
  leftOut,
} from './format.js';
import type { HeatMapSpec } from './heat-map.js';
import type { LineChartSpec } from './line-chart.js';
import type { PointRangeSpec } from './point-range.js';

/** How a cell is shown: its column's format, else what its value suggests. */
export function cellFormat(column: Column, cell: Cell | undefined): ColumnFormat {
  if (isRate(cell)) return 'rate';
  return column.format ?? (typeof cell === 'number' ? 'number' : 'text');
}

/** A cell as plain text; a gap is a dash. */
export function cellText(column: Column, cell: Cell | undefined): string {
  if (cell == null || (typeof cell === 'number' && Number.isNaN(cell))) return gapText;
  if (isRate(cell)) return formatRate(cell);
  if (typeof cell === 'string') return cell;
  switch (cellFormat(column, cell)) {
    case 'rate':
      return formatValue(cell, 'percent');
    case 'p':
      return formatP(cell);
    default:
      return formatNumber(cell, column.digits);
  }
}

/** A scrollable HTML table; rates carry their interval as text and as a small drawing. */
export function tableHtml(table: Table): string {
  // Many rates side by side are stacked in two lines, without the drawing.
  const compact = table.columns.filter((column) => table.rows.some((row) => isRate(row[column.key]))).length > 3;
  const numeric = table.columns.map((column) => isNumeric(table, column));
  const cellClass = (i: number): string => (numeric[i] ? ' class="num"' : '');
  const head = table.columns
    .map((column, i) => {
      const unit = column.unit === undefined ? '' : ` <span class="unit">${escapeHtml(column.unit)}</span>`;
      return `<th scope="col"${cellClass(i)}>${escapeHtml(column.label)}${unit}</th>`;
    })
    .join('');
  const rows = table.rows.map((row) => {
    const cells = table.columns.map((column, i) => {
      const cell = row[column.key];
      const inner = isRate(cell) ? rateHtml(cell, compact) : escapeHtml(cellText(column, cell));
      return i === 0 && !numeric[0] ? `<th scope="row">${inner}</th>` : `<td${cellClass(i)}>${inner}</td>`;
    });
    return `<tr>${cells.join('')}</tr>`;
  });
  const kind = hasSentences(table) ? ' class="sentences"' : '';
  return `<div class="scroll" tabindex="0"><table${kind}><thead><tr>${head}</tr></thead><tbody>${rows.join('')}</tbody></table></div>`;
}

/** Names stay on one line; sentences must not. */
function hasSentences({ columns: [first], rows }: Table): boolean {
  return first !== undefined && rows.some((row) => cellText(first, row[first.key]).length > 40);
}

function isNumeric(table: Table, column: Column): boolean {
  if (column.format !== undefined) return column.format !== 'text';
  return table.rows.some((row) => typeof row[column.key] === 'number' || isRate(row[column.key]));
}

function rateHtml(rate: Rate, compact: boolean): string {
  const rest = leftOut(rate);
  const apart = rest.length > 0 ? `<span class="apart">${escapeHtml(rest.join(', '))}</span>` : '';
  if (rate.n === 0 || !Number.isFinite(rate.rate)) return `${gapText}${apart}`;
  const interval = formatInterval(rate.low, rate.high, 'percent');
  if (compact) {
    const range = interval.replace(/[()]/g, '');
    return `<span class="rate"><b>${formatValue(rate.rate, 'percent')}</b></span><span class="apart">${range}</span><span class="apart">n ${rate.n}</span>${apart}`;
  }
  const at = (value: number): string => (1 + 46 * value).toFixed(1);
  const drawing =
    '<svg class="spark" viewBox="0 0 48 10" aria-hidden="true"><path class="spark-axis" d="M1 5H47"/>' +
    `<path class="spark-range" d="M${at(rate.low)} 5H${at(rate.high)}"/><circle cx="${at(rate.rate)}" cy="5" r="2.4"/></svg>`;
  return `<span class="rate"><b>${formatValue(rate.rate, 'percent')}</b> <span class="interval">${interval}</span>${drawing}<span class="n">n ${rate.n}</span></span>${apart}`;
}

const valueColumn = (key: string, text: string, format: ColumnFormat): Column => ({ key, label: text, format });
const columnFormat = (format: 'percent' | 'number' | 'difference'): ColumnFormat =>
  format === 'percent' ? 'rate' : 'number';

/** Long table of a line chart: series, x, value, low, high, n. */
export function lineTable(spec: LineChartSpec): Table {
  const format = columnFormat(spec.y.format);
  return {
    columns: [
      { key: 'series', label: 'Series', format: 'text' },
      valueColumn('x', spec.x.label, 'number'),
      ...estimateColumns(spec.y.label, format),
    ],
    rows: spec.series.flatMap((series) => {
      const byPlace = new Map(series.points.map((p) => [p.x, p]));
      return spec.x.values.map((x) => {
        const p = byPlace.get(x);
        return {
          series: series.name,
          x,
          value: p?.y ?? null,
          low: p?.low ?? null,
          high: p?.high ?? null,
          n: p?.n ?? null,
        };
      });
    }),
  };
}

/** Long table of a bar chart: group, series, value, low, high, n. */
export function barTable(spec: BarChartSpec): Table {
  return {
    columns: [
      { key: 'group', label: 'Group', format: 'text' },
      { key: 'series', label: 'Series', format: 'text' },
      ...estimateColumns(spec.value.label, columnFormat(spec.value.format)),
    ],
    rows: spec.groups.flatMap((group, g) =>
      spec.series.map((series) => {
        const v = series.values[g];
        return {
          group,
          series: series.name,
          value: v?.value ?? null,
          low: v?.low ?? null,
          high: v?.high ?? null,
          n: v?.n ?? null,
        };
      }),
    ),
  };
}

/** Table of a forest plot: label, group, value, low, high, n. */
export function pointTable(spec: PointRangeSpec): Table {
  const grouped = spec.rows.some((row) => row.group !== undefined);
  return {
    columns: [
      { key: 'label', label: 'Comparison', format: 'text' },
      ...(grouped ? [{ key: 'group', label: 'Group', format: 'text' } as const] : []),
      ...estimateColumns(spec.value.label, columnFormat(spec.value.format)),
    ],
    rows: spec.rows.map((row) => ({
      label: row.label,
      group: row.group ?? null,
      value: row.estimate,
      low: row.low ?? null,
      high: row.high ?? null,
      n: row.n ?? null,
    })),
  };
}

/** The matrix of a heat map, a row a row. */
export function heatTable(spec: HeatMapSpec): Table {
  return {
    columns: [
      { key: 'row', label: spec.rowLabel ?? '', format: 'text' },
      ...spec.columns.map((column, c) => valueColumn(`c${c}`, column, columnFormat(spec.format))),
    ],
    rows: spec.rows.map((row, r) => ({
      row,
      ...Object.fromEntries(spec.columns.map((_, c) => [`c${c}`, spec.values[r]?.[c] ?? null])),
    })),
  };
}

function estimateColumns(text: string, format: ColumnFormat): Column[] {
  return [
    valueColumn('value', text, format),
    valueColumn('low', 'Low', format),
    valueColumn('high', 'High', format),
    valueColumn('n', 'n', 'number'),
  ];
}
