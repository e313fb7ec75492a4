/** Grouped horizontal bars with whiskers: a group a row block, a series a bar. A gap is hatched, never a bar of zero. */

import type { Rate } from '../types.js';
import { escapeHtml, formatInterval, formatValue, gapText, type ValueFormat } from './format.js';
import { makeScale, textWidth, wrapText } from './scale.js';
import {
  type Canvas,
  fontSize,
  hatch,
  label,
  renderChart,
  round,
  says,
  seriesClass,
  tag,
  titleOf,
  widest,
} from './svg.js';
import type { SeriesColor } from './theme.js';

/** value null or NaN: a gap. */
export interface BarValue {
  readonly value: number | null;
  readonly low?: number | null;
  readonly high?: number | null;
  readonly n?: number | null;
}

export interface BarSeries {
  readonly name: string;
  readonly color?: SeriesColor;
  /** One per group, in their order. */
  readonly values: readonly BarValue[];
}

export interface BarChartSpec {
  readonly id: string;
  readonly title: string;
  readonly groups: readonly string[];
  readonly series: readonly BarSeries[];
  readonly value: {
    readonly label: string;
    readonly min?: number;
    readonly max?: number;
    readonly format: ValueFormat;
  };
  /** A line across all bars, such as chance. */
  readonly reference?: { readonly value: number; readonly label: string };
}

/** A rate as a bar; without data a gap. */
export function rateBar(rate: Rate): BarValue {
  if (rate.n === 0 || !Number.isFinite(rate.rate)) return { value: null, n: 0 };
  return { value: rate.rate, low: rate.low, high: rate.high, n: rate.n };
}

/** Markup of the chart: legend and drawings. */
export function barChart(spec: BarChartSpec): string {
  return renderChart({
    id: spec.id,
    title: spec.title,
    legend: spec.series.map(({ name, color }) => ({ name, color })),
    draw: (canvas) => drawBars(spec, canvas),
  });
}

function drawBars(spec: BarChartSpec, canvas: Canvas): { height: number; body: string } {
  const { width, narrow, key } = canvas;
  const { format } = spec.value;
  const many = spec.series.length > 1;
  const thick = many ? 13 : 18;
  const groupGap = many ? 14 : 10;
  const groupHeight = spec.series.length * thick + groupGap;
  const top = 10 + (spec.reference ? 16 : 0);
  const bottom = top + spec.groups.length * groupHeight;
  const labelRoom = Math.min(widest(spec.groups) + 4, width * (narrow ? 0.36 : 0.3));
  const left = Math.max(40, labelRoom + 8);
  const texts = spec.series.flatMap((s) => s.values.map((v) => formatValue(v.value, format)));
  const valueRoom = widest(texts, fontSize - 1) + 10;
  const right = width - valueRoom;
  const all = spec.series.flatMap((s) => s.values.flatMap((v) => [v.value, v.low, v.high]));
  const x = makeScale({
    values: [...all, 0, spec.reference?.value],
    min: spec.value.min,
    max: spec.value.max,
    format,
    from: left,
    to: right,
    count: narrow ? 3 : 5,
  });
  const leftwards = all.some((v) => v != null && v < 0);
  const base = x.at(Math.min(Math.max(0, x.min), x.max));

  const body: string[] = [hatch(key)];
  for (const tick of x.ticks) {
    const at = x.at(tick.value);
    body.push(tag('line', { class: 'grid', x1: at, x2: at, y1: top - 2, y2: bottom }));
    body.push(label(tick.label, { class: 'tick', x: at, y: bottom + 16, 'text-anchor': 'middle' }));
  }
  body.push(
    label(spec.value.label, { class: 'axis-label', x: (left + right) / 2, y: bottom + 34, 'text-anchor': 'middle' }),
  );
  spec.groups.forEach((group, g) => {
    const start = top + g * groupHeight + groupGap / 2;
    const middle = start + (spec.series.length * thick) / 2;
    const lines = wrapText(group, fontSize, labelRoom, 2);
    lines.forEach((line, i) => {
      const y = middle + 4 + (i - (lines.length - 1) / 2) * 14;
      body.push(
        tag(
          'text',
          { class: 'category', x: left - 8, y, 'text-anchor': 'end' },
          escapeHtml(line),
          lines.join(' ') === group ? '' : titleOf(group),
        ),
      );
    });
    spec.series.forEach((series, s) => {
      const entry = series.values[g] ?? { value: null };
      const className = seriesClass(s, series.name, series.color);
      const y = start + s * thick;
      const [from, barHeight] = [y + 1, thick - 2];
      const interval = formatInterval(entry.low, entry.high, format);
      const n = entry.n == null ? '' : `, n = ${entry.n}`;
      if (entry.value === null || !Number.isFinite(entry.value)) {
        const said = says(group, many ? series.name : '', `not measured${n}`);
        body.push(
          tag(
            'rect',
            {
              class: `mark gap ${className}`,
              x: left,
              y: from,
              width: 22,
              height: barHeight,
              fill: `url(#hatch-${key})`,
              ...said.data,
            },
            titleOf(said.title),
          ),
          label(gapText, { class: `value ${className}`, x: left + 28, y: middleOf(y, thick) }),
        );
        return;
      }
      const said = says(group, many ? series.name : '', `${formatValue(entry.value, format)} ${interval}${n}`.trim());
      const end = x.at(clamp(entry.value, x.min, x.max));
      const tip = Math.max(end, base, entry.high == null ? 0 : x.at(clamp(entry.high, x.min, x.max)));
      body.push(
        tag(
          'rect',
          {
            class: `mark bar ${className}`,
            x: Math.min(base, end),
            y: from,
            width: Math.abs(end - base),
            height: barHeight,
            ...said.data,
          },
          titleOf(said.title),
        ),
      );
      if (entry.low != null && entry.high != null) {
        const [a, b] = [x.at(clamp(entry.low, x.min, x.max)), x.at(clamp(entry.high, x.min, x.max))];
        const d = `M${round(a)} ${round(y + thick / 2)}H${round(b)}M${round(a)} ${round(y + thick / 2 - 3)}v6M${round(b)} ${round(y + thick / 2 - 3)}v6`;
        body.push(tag('path', { class: `whisker on-bar ${className}`, d }));
      }
      // Beside a bar that grows leftwards there is no sure room: then all values stand in a column at the right.
      const place = leftwards ? { x: width - 2, 'text-anchor': 'end' } : { x: tip + 6 };
      const shown = formatValue(entry.value, format);
      body.push(label(shown, { class: `value ${className}`, ...place, y: middleOf(y, thick) }));
    });
  });
  body.push(tag('line', { class: 'axis', x1: base, x2: base, y1: top - 2, y2: bottom }));
  if (spec.reference) {
    const at = x.at(spec.reference.value);
    const anchor = at + textWidth(spec.reference.label, fontSize) / 2 > width ? 'end' : 'middle';
    body.push(tag('line', { class: 'reference', x1: at, x2: at, y1: top - 4, y2: bottom }));
    body.push(label(spec.reference.label, { class: 'reference-label', x: at, y: top - 9, 'text-anchor': anchor }));
  }
  return { height: bottom + 40, body: body.join('') };
}

function middleOf(y: number, thick: number): number {
  return y + thick / 2 + 4;
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(max, Math.max(min, value));
}
