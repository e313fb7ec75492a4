/** A matrix of values as coloured cells. A gap is hatched, never the colour of zero. */

import { formatTick, formatValue, type ValueFormat } from './format.js';
import { thinned, wrapText } from './scale.js';
import { type Canvas, fontSize, hatch, label, renderChart, round, says, tag, titleOf, widest } from './svg.js';

export interface HeatMapSpec {
  readonly id: string;
  readonly title: string;
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  /** [row][column]; null and NaN are gaps. */
  readonly values: readonly (readonly (number | null)[])[];
  /** 'diverging' is centred on 0. */
  readonly scale: 'sequential' | 'diverging';
  readonly format: ValueFormat;
  /** What the values are; stands at the colour scale. */
  readonly valueLabel: string;
  readonly rowLabel?: string;
  readonly columnLabel?: string;
  /** Ends of the colour scale; default: of the data ('diverging': symmetric). Values beyond take the end's colour. */
  readonly min?: number;
  readonly max?: number;
}

/** Markup of the chart. */
export function heatMap(spec: HeatMapSpec): string {
  return renderChart({ id: spec.id, title: spec.title, draw: (canvas) => drawCells(spec, canvas) });
}

function drawCells(spec: HeatMapSpec, canvas: Canvas): { height: number; body: string } {
  const { width, key } = canvas;
  const { min, max } = extent(spec);
  const labelRoom = Math.min(widest(spec.rows) + 2, width * 0.36);
  const left = labelRoom + 8;
  const right = width - 4;
  const cellWidth = Math.min(
    (right - left) / Math.max(1, spec.columns.length),
    Math.max(72, widest(spec.columns) + 10),
  );
  const many = spec.rows.length > 16;
  const cellHeight = Math.max(many ? 11 : 20, Math.min(cellWidth, many ? 18 : 28));
  const texts = spec.values.flatMap((row) => row.map((v) => (isGap(v) ? '' : cellText(v!, spec.format))));
  const showText = cellHeight >= 16 && widest(texts, fontSize - 1.5) + 4 <= cellWidth;
  const top = 8 + (spec.rowLabel ? 18 : 0);
  const bottom = top + spec.rows.length * cellHeight;
  const body: string[] = [hatch(key)];
  if (spec.rowLabel) body.push(label(spec.rowLabel, { class: 'axis-label', x: 0, y: fontSize }));

  for (const r of thinned(spec.rows.length, cellHeight, fontSize + 1)) {
    const lines = wrapText(spec.rows[r]!, fontSize, labelRoom, cellHeight >= 26 ? 2 : 1);
    lines.forEach((line, i) => {
      const y = top + (r + 0.5) * cellHeight + 4 + (i - (lines.length - 1) / 2) * 12.5;
      body.push(label(line, { class: 'category', x: left - 8, y, 'text-anchor': 'end' }));
    });
  }
  spec.rows.forEach((row, r) => {
    spec.columns.forEach((column, c) => {
      const value = spec.values[r]?.[c] ?? null;
      const [x, y] = [left + c * cellWidth, top + r * cellHeight];
      const said = says(
        `${spec.columnLabel ?? ''} ${column}`.trim(),
        row,
        isGap(value) ? 'not measured' : formatValue(value, spec.format),
      );
      const place = { x: x + 0.5, y: y + 0.5, width: cellWidth - 1, height: cellHeight - 1, ...said.data };
      if (isGap(value)) {
        body.push(tag('rect', { class: 'mark cell gap', fill: `url(#hatch-${key})`, ...place }, titleOf(said.title)));
        return;
      }
      const color = cellColor(spec.scale, value!, min, max);
      body.push(
        tag('rect', { class: `mark cell ${color.className}`, style: color.style, ...place }, titleOf(said.title)),
      );
      if (showText) {
        const at = { x: x + cellWidth / 2, y: y + cellHeight / 2 + 4, 'text-anchor': 'middle' };
        body.push(
          label(cellText(value!, spec.format), { class: `cell-text ${color.strong ? 'strong' : 'weak'}`, ...at }),
        );
      }
    });
  });
  const columns = columnLabels(spec, left, bottom, cellWidth);
  body.push(...columns.body);
  const scaleTop = columns.bottom + 12;
  body.push(...colorScale(spec, min, max, left, scaleTop, Math.min(220, right - left - 90), key));
  return { height: scaleTop + 46, body: body.join('') };
}

function columnLabels(
  spec: HeatMapSpec,
  left: number,
  bottom: number,
  cellWidth: number,
): { body: string[]; bottom: number } {
  const room = widest(spec.columns);
  const numeric = spec.columns.every((c) => /^[\d.+-]+$/.test(c));
  const slanted = !numeric && room + 4 > cellWidth;
  const shown = thinned(spec.columns.length, cellWidth, slanted ? fontSize + 3 : room + 4);
  const body = shown.map((c) => {
    const x = left + (c + 0.5) * cellWidth;
    if (!slanted) return label(spec.columns[c]!, { class: 'tick', x, y: bottom + 16, 'text-anchor': 'middle' });
    const y = bottom + 12;
    return label(spec.columns[c]!, {
      class: 'tick',
      x,
      y,
      'text-anchor': 'end',
      transform: `rotate(-40 ${round(x)} ${y})`,
    });
  });
  let end = bottom + (slanted ? 14 + 0.65 * room : 20);
  if (spec.columnLabel) {
    const centre = left + (spec.columns.length * cellWidth) / 2;
    body.push(label(spec.columnLabel, { class: 'axis-label', x: centre, y: end + 14, 'text-anchor': 'middle' }));
    end += 18;
  }
  return { body, bottom: end };
}

function colorScale(
  spec: HeatMapSpec,
  min: number,
  max: number,
  left: number,
  top: number,
  length: number,
  key: string,
): string[] {
  const steps = 40;
  const out = Array.from({ length: steps }, (_, i) => {
    const color = cellColor(spec.scale, min + ((i + 0.5) / steps) * (max - min), min, max);
    const x = left + (i / steps) * length;
    return tag('rect', {
      class: color.className,
      style: color.style,
      x,
      y: top,
      width: length / steps + 0.5,
      height: 10,
    });
  });
  const stops = spec.scale === 'diverging' ? [min, 0, max] : [min, max];
  stops.forEach((stop, i) => {
    const anchor = i === 0 ? 'start' : i === stops.length - 1 ? 'end' : 'middle';
    const x = left + ((stop - min) / (max - min)) * length;
    const text =
      spec.format === 'number' ? formatValue(stop, 'number') : formatTick(stop, (max - min) / 20, spec.format);
    out.push(label(text, { class: 'tick', x, y: top + 24, 'text-anchor': anchor }));
  });
  out.push(label(spec.valueLabel, { class: 'axis-label', x: left, y: top + 41 }));
  const hasGap = spec.rows.some((_, r) => spec.columns.some((_, c) => isGap(spec.values[r]?.[c])));
  if (hasGap) {
    const x = left + length + 16;
    out.push(tag('rect', { class: 'gap-sample', x, y: top, width: 14, height: 10, fill: `url(#hatch-${key})` }));
    out.push(label('no data', { class: 'tick', x: x + 19, y: top + 9.5 }));
  }
  return out;
}

function isGap(value: number | null | undefined): boolean {
  return value == null || !Number.isFinite(value);
}

function cellText(value: number, format: ValueFormat): string {
  return format === 'number' ? formatValue(value, format) : formatValue(value, format, 0).replace('%', '');
}

function extent(spec: HeatMapSpec): { min: number; max: number } {
  const finite = spec.values.flat().filter((v): v is number => !isGap(v));
  let min = spec.min ?? (finite.length > 0 ? Math.min(...finite) : 0);
  let max = spec.max ?? (finite.length > 0 ? Math.max(...finite) : 1);
  if (spec.scale === 'diverging') {
    const reach = Math.max(Math.abs(min), Math.abs(max)) || 1;
    [min, max] = [-reach, reach];
  } else if (spec.min === undefined && min > 0 && min < 0.6 * max) min = 0;
  return max > min ? { min, max } : { min, max: min + (Math.abs(min) || 1) };
}

/** A mix of two neighbouring theme colours: cells change with the theme. `strong`: text on it needs the other ink. */
function cellColor(
  scale: HeatMapSpec['scale'],
  value: number,
  min: number,
  max: number,
): { className: string; style: string; strong: boolean } {
  const share = Math.min(1, Math.max(0, (value - min) / (max - min)));
  const mix = (part: number): string => `--m:${round(100 * part)}%`;
  if (scale === 'diverging') {
    const reach = 2 * share - 1;
    return { className: reach < 0 ? 'dn' : 'dp', style: mix(Math.abs(reach)), strong: Math.abs(reach) > 0.62 };
  }
  const upper = share >= 0.5;
  return { className: upper ? 'qb' : 'qa', style: mix(upper ? 2 * share - 1 : 2 * share), strong: share > 0.62 };
}
