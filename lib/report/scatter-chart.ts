/** Points over two continuous axes. */

import { formatValue, type ValueFormat } from './format.js';
import { yAxis } from './line-chart.js';
import { makeScale, wrapText } from './scale.js';
import { type Canvas, fontSize, label, marker, renderChart, says, seriesClass, tag, widest } from './svg.js';
import type { SeriesColor } from './theme.js';

export interface ScatterAxis {
  readonly label: string;
  readonly min?: number;
  readonly max?: number;
  readonly format: ValueFormat;
  readonly scale?: 'linear' | 'log';
}

export interface ScatterSeries {
  readonly name: string;
  readonly color?: SeriesColor;
  /** Points with a null are left out. `label` names the point to the reader. */
  readonly points: readonly { readonly x: number | null; readonly y: number | null; readonly label?: string }[];
}

export interface ScatterChartSpec {
  readonly id: string;
  readonly title: string;
  readonly x: ScatterAxis;
  readonly y: ScatterAxis;
  readonly series: readonly ScatterSeries[];
  /** The line y = x. */
  readonly diagonal?: boolean;
}

/** Markup of the chart: legend and drawings. */
export function scatterChart(spec: ScatterChartSpec): string {
  return renderChart({
    id: spec.id,
    title: spec.title,
    legend: spec.series.map(({ name, color }) => ({ name, color })),
    draw: (canvas) => drawPoints(spec, canvas),
  });
}

function drawPoints(spec: ScatterChartSpec, { width, narrow }: Canvas): { height: number; body: string } {
  const height = narrow ? 270 : 340;
  const axisLines = wrapText(spec.y.label, fontSize, width - 12, 2);
  const [top, bottom] = [8 + 16 * axisLines.length, height - 42];
  const points = spec.series.flatMap((s) => s.points);
  const axis = (which: 'x' | 'y', from: number, to: number) =>
    makeScale({
      values: points.map((p) => p[which]),
      min: spec[which].min,
      max: spec[which].max,
      format: spec[which].format,
      kind: spec[which].scale,
      from,
      to,
      count: narrow ? 4 : 6,
    });
  const y = axis('y', bottom, top);
  const left = Math.max(28, widest(y.ticks.map((t) => t.label)) + 10);
  const right = width - 18;
  const x = axis('x', left, right);
  const body = yAxis(y, left, right, axisLines);
  for (const tick of x.ticks) {
    body.push(tag('line', { class: 'grid', x1: x.at(tick.value), x2: x.at(tick.value), y1: top, y2: bottom }));
    body.push(label(tick.label, { class: 'tick', x: x.at(tick.value), y: bottom + 17, 'text-anchor': 'middle' }));
  }
  body.push(
    label(spec.x.label, { class: 'axis-label', x: (left + right) / 2, y: bottom + 36, 'text-anchor': 'middle' }),
  );
  if (spec.diagonal) {
    const [a, b] = [Math.max(x.min, y.min), Math.min(x.max, y.max)];
    if (b > a) body.push(tag('line', { class: 'reference', x1: x.at(a), y1: y.at(a), x2: x.at(b), y2: y.at(b) }));
  }
  spec.series.forEach((series, index) => {
    const className = seriesClass(index, series.name, series.color);
    for (const p of series.points) {
      if (p.x === null || p.y === null || !Number.isFinite(p.x) || !Number.isFinite(p.y)) continue;
      const value = `${formatValue(p.x, spec.x.format)}, ${formatValue(p.y, spec.y.format)}`;
      const said = says(p.label ?? '', series.name, value);
      body.push(marker(index, x.at(p.x), y.at(p.y), 3.6, `mark point ${className}`, said.data, said.title));
    }
  });
  return { height, body: body.join('') };
}
