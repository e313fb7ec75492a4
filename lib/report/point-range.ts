/** Estimates with intervals beside a reference line (a forest plot). A gap is a row without a point. */

import { escapeHtml, formatInterval, formatValue, gapText, type ValueFormat } from './format.js';
import { makeScale, wrapText } from './scale.js';
import {
  type Canvas,
  fontSize,
  label,
  marker,
  renderChart,
  round,
  says,
  seriesClass,
  tag,
  titleOf,
  widest,
} from './svg.js';
import type { SeriesColor } from './theme.js';

/** estimate null or NaN: a gap. */
export interface PointRow {
  readonly label: string;
  readonly estimate: number | null;
  readonly low?: number | null;
  readonly high?: number | null;
  readonly n?: number | null;
  /** Rows of one group share a colour and marker and a legend entry. */
  readonly group?: string;
}

export interface PointRangeSpec {
  readonly id: string;
  readonly title: string;
  readonly rows: readonly PointRow[];
  readonly value: {
    readonly label: string;
    readonly min?: number;
    readonly max?: number;
    readonly format: ValueFormat;
  };
  /** Default: a line at 0 without a label; null: none. */
  readonly reference?: { readonly value: number; readonly label?: string } | null;
  readonly colors?: Readonly<Record<string, SeriesColor>>;
}

/** Markup of the chart: legend and drawings. */
export function pointRange(spec: PointRangeSpec): string {
  const groups = groupsOf(spec);
  return renderChart({
    id: spec.id,
    title: spec.title,
    legend: groups.map((name) => ({ name, color: spec.colors?.[name] })),
    draw: (canvas) => drawRows(spec, groups, canvas),
  });
}

function groupsOf(spec: PointRangeSpec): string[] {
  return [...new Set(spec.rows.map((row) => row.group ?? ''))];
}

/** Where a row lies below the top; `block`: middle of its run of equal labels, on the first row of the run only. */
interface RowPlace {
  readonly at: number;
  readonly height: number;
  readonly end: number;
  readonly block: number | null;
}

/** Neighbouring rows with the same label stand closer and share it. */
function layOut(rows: readonly PointRow[], alone: number): RowPlace[] {
  const out: RowPlace[] = [];
  let y = 0;
  for (let start = 0; start < rows.length; ) {
    let end = start + 1;
    while (end < rows.length && rows[end]!.label === rows[start]!.label) end++;
    const height = end - start > 1 ? 20 : alone;
    const blockHeight = (end - start) * height;
    for (let r = start; r < end; r++) {
      const at = y + (r - start + 0.5) * height;
      out.push({ at, height, end: y + blockHeight, block: r === start ? y + blockHeight / 2 : null });
    }
    y += blockHeight + (end - start > 1 ? 10 : 0);
    start = end;
  }
  return out;
}

function drawRows(spec: PointRangeSpec, groups: readonly string[], canvas: Canvas): { height: number; body: string } {
  const { width, narrow } = canvas;
  const { format } = spec.value;
  const reference = spec.reference === undefined ? { value: 0 } : spec.reference;
  const top = 12 + (reference && 'label' in reference ? 16 : 0);
  const labelRoom = Math.min(widest(spec.rows.map((row) => row.label)) + 4, width * (narrow ? 0.34 : 0.34));
  const wraps = spec.rows.some((row) => wrapText(row.label, fontSize, labelRoom, 2).length > 1);
  const places = layOut(spec.rows, wraps ? 32 : 26);
  const bottom = top + (places.at(-1)?.end ?? 0);
  const left = labelRoom + 14;
  const texts = spec.rows.map((row) => {
    const interval = narrow ? '' : formatInterval(row.low, row.high, format);
    return `${formatValue(row.estimate, format)} ${interval}`.trim();
  });
  const right = width - widest(texts) - 14;
  const x = makeScale({
    values: [...spec.rows.flatMap((row) => [row.estimate, row.low, row.high]), reference?.value],
    min: spec.value.min,
    max: spec.value.max,
    format,
    from: left,
    to: right,
    count: narrow ? 3 : 5,
  });
  const body: string[] = [];
  for (const tick of x.ticks) {
    const at = x.at(tick.value);
    body.push(tag('line', { class: 'grid', x1: at, x2: at, y1: top - 2, y2: bottom }));
    body.push(label(tick.label, { class: 'tick', x: at, y: bottom + 16, 'text-anchor': 'middle' }));
  }
  body.push(
    label(spec.value.label, { class: 'axis-label', x: (left + right) / 2, y: bottom + 34, 'text-anchor': 'middle' }),
  );
  if (reference) {
    const at = x.at(reference.value);
    body.push(tag('line', { class: 'reference zero', x1: at, x2: at, y1: top - 4, y2: bottom }));
    const text = 'label' in reference ? reference.label : undefined;
    if (text !== undefined)
      body.push(label(text, { class: 'reference-label', x: at, y: top - 9, 'text-anchor': 'middle' }));
  }
  const clamp = (value: number): number => Math.min(x.max, Math.max(x.min, value));
  spec.rows.forEach((row, r) => {
    const group = row.group ?? '';
    const index = groups.indexOf(group);
    const className = seriesClass(index, group === '' ? 'estimate' : group, spec.colors?.[group]);
    const { at: offset, height: rowHeight, block } = places[r]!;
    const y = top + offset;
    if (block !== null) {
      const lines = wrapText(row.label, fontSize, labelRoom, 2);
      lines.forEach((line, i) => {
        const at = top + block + 4 + (i - (lines.length - 1) / 2) * 12.5;
        const whole = lines.join(' ') === row.label ? '' : titleOf(row.label);
        const place = { class: 'category', x: left - 12, y: at, 'text-anchor': 'end' };
        body.push(tag('text', place, escapeHtml(line), whole));
      });
    }
    if (row.estimate === null || !Number.isFinite(row.estimate)) {
      body.push(label(gapText, { class: `gap value ${className}`, x: width - 2, y: y + 4, 'text-anchor': 'end' }));
      return;
    }
    if (row.low != null && row.high != null) {
      const [a, b] = [x.at(clamp(row.low)), x.at(clamp(row.high))];
      body.push(tag('path', { class: `whisker range ${className}`, d: `M${round(a)} ${round(y)}H${round(b)}` }));
    }
    const n = row.n == null ? '' : `, n = ${row.n}`;
    const value = `${formatValue(row.estimate, format)} ${formatInterval(row.low, row.high, format)}`.trim();
    const said = says(row.label, group, value + n);
    body.push(marker(index, x.at(clamp(row.estimate)), y, 4.2, `mark point ${className}`, said.data, said.title));
    // A strip of the whole row answers the pointer: the point alone is a small target.
    body.push(
      tag(
        'rect',
        { class: 'strip', x: 0, y: y - rowHeight / 2, width, height: rowHeight, ...said.data },
        titleOf(said.title),
      ),
    );
    body.push(label(texts[r]!, { class: `value ${className}`, x: width - 2, y: y + 4, 'text-anchor': 'end' }));
  });
  return { height: bottom + 40, body: body.join('') };
}
