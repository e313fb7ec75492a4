/** What all charts share: elements, markers, legend, and the pair of a wide and a narrow drawing. */

import { escapeHtml, slug } from './format.js';
import { textWidth } from './scale.js';
import { colorClass, type SeriesColor } from './theme.js';

type Attributes = Readonly<Record<string, string | number | undefined>>;

/** One element; numbers are rounded to 0.01. Children are markup already. */
export function tag(name: string, attributes: Attributes, ...children: readonly string[]): string {
  const written = Object.entries(attributes)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ` ${key}="${typeof value === 'number' ? round(value) : escapeHtml(value!)}"`)
    .join('');
  return children.length === 0 ? `<${name}${written}/>` : `<${name}${written}>${children.join('')}</${name}>`;
}

/** Text is escaped here. */
export function label(text: string, attributes: Attributes): string {
  return tag('text', attributes, escapeHtml(text));
}

/** 0.01 px is finer than any screen. */
export function round(value: number): string {
  return String(Math.round(value * 100) / 100);
}

const wideWidth = 760;
const narrowWidth = 340;

/** Size of text in charts, in units of the drawing. */
export const fontSize = 12;

/** One drawing of a chart. */
export interface Canvas {
  readonly width: number;
  readonly narrow: boolean;
  /** Unique suffix for ids inside the drawing. */
  readonly key: string;
}

export interface LegendEntry {
  readonly name: string;
  readonly color?: SeriesColor | undefined;
}

export interface ChartFrame {
  readonly id: string;
  readonly title: string;
  /** Buttons that hide and show a series; left out for fewer than two. */
  readonly legend?: readonly LegendEntry[];
  /** Draws the inside and says how tall it is. */
  readonly draw: (canvas: Canvas) => { readonly height: number; readonly body: string };
}

/**
 * The chart twice, 760 and 340 units wide; a container query shows the one that fits, so that text keeps its size.
 * Marks have the classes `mark series-<slug>` and a title each.
 */
export function renderChart(frame: ChartFrame): string {
  const drawings = [wideWidth, narrowWidth].map((width) => {
    const narrow = width === narrowWidth;
    const key = `${slug(frame.id)}-${narrow ? 'n' : 'w'}`;
    const { height, body } = frame.draw({ width, narrow, key });
    return tag(
      'svg',
      {
        class: narrow ? 'narrow' : 'wide',
        viewBox: `0 0 ${width} ${round(height)}`,
        role: 'img',
        'aria-label': frame.title,
        'font-size': fontSize,
      },
      body,
    );
  });
  return `<div class="chart">${legendMarkup(frame.legend ?? [])}${drawings.join('')}</div>`;
}

function legendMarkup(entries: readonly LegendEntry[]): string {
  if (entries.length < 2) return '';
  const buttons = entries.map((entry, index) => {
    const swatch = tag(
      'svg',
      { viewBox: '0 0 26 12', 'aria-hidden': 'true', class: colorClass(index, entry.color) },
      tag('line', { class: 'line', x1: 1, x2: 25, y1: 6, y2: 6, 'stroke-dasharray': dashes(index) }),
      marker(index, 13, 6, 3.4, 'swatch'),
    );
    return `<button type="button" aria-pressed="true" data-series="${slug(entry.name)}">${swatch}<span>${escapeHtml(entry.name)}</span></button>`;
  });
  return `${legendStart}${buttons.join('')}</div>`;
}

const legendStart = '<div class="legend" role="group" aria-label="Series">';

/** A chart's markup without its legend, and the legend ('' for none). */
export function splitLegend(chart: string): { readonly legend: string; readonly rest: string } {
  const start = chart.indexOf(legendStart);
  if (start < 0) return { legend: '', rest: chart };
  const end = chart.indexOf('</div>', start) + '</div>'.length;
  return { legend: chart.slice(start, end), rest: chart.slice(0, start) + chart.slice(end) };
}

/** Dash pattern of a series: the first four are solid, told apart by their markers. */
export function dashes(index: number): string | undefined {
  return index < 4 ? undefined : ['6 3', '2 3', '8 3 2 3', '4 2'][index % 4];
}

/** Circle, square, triangle, diamond, in turn. */
export function marker(
  index: number,
  x: number,
  y: number,
  radius: number,
  className: string,
  data: Attributes = {},
  title?: string,
): string {
  const r = radius;
  const shapes = [
    `M${round(x - r)} ${round(y)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    `M${round(x - 0.9 * r)} ${round(y - 0.9 * r)}h${round(1.8 * r)}v${round(1.8 * r)}h${round(-1.8 * r)}Z`,
    `M${round(x)} ${round(y - 1.2 * r)}L${round(x + 1.1 * r)} ${round(y + 0.8 * r)}H${round(x - 1.1 * r)}Z`,
    `M${round(x)} ${round(y - 1.25 * r)}L${round(x + 1.25 * r)} ${round(y)}L${round(x)} ${round(y + 1.25 * r)}L${round(x - 1.25 * r)} ${round(y)}Z`,
  ];
  const attributes = { class: className, d: shapes[index % shapes.length]!, ...data };
  return title === undefined ? tag('path', attributes) : tag('path', attributes, titleOf(title));
}

export function titleOf(text: string): string {
  return tag('title', {}, escapeHtml(text));
}

/** What a mark says: to the pointer (data-k key, data-s series, data-v value) and to everyone else (title). */
export function says(key: string, series: string, value: string): { data: Attributes; title: string } {
  return {
    data: { 'data-k': key, 'data-s': series, 'data-v': value },
    title: `${[series, key].filter((part) => part !== '').join(', ')}: ${value}`,
  };
}

/** Series classes of a mark: colour and name. */
export function seriesClass(index: number, name: string, color?: SeriesColor): string {
  return `series-${slug(name)} ${colorClass(index, color)}`;
}

/** The hatch that means "not measured". */
export function hatch(key: string): string {
  return tag(
    'defs',
    {},
    tag(
      'pattern',
      { id: `hatch-${key}`, width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
      tag('rect', { class: 'hatch-ground', width: 6, height: 6 }),
      tag('line', { class: 'hatch-line', x1: 0, x2: 0, y1: 0, y2: 6 }),
    ),
  );
}

/** Widest of some labels. */
export function widest(labels: readonly string[], size: number = fontSize): number {
  return Math.max(0, ...labels.map((text) => textWidth(text, size)));
}
