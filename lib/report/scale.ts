/** From data to positions: extents, ticks, linear and logarithmic scales, widths of text. */

import { formatTick, powerOfTen, type ValueFormat } from './format.js';

export interface Tick {
  readonly value: number;
  readonly label: string;
}

/** A continuous axis mapped on pixels. */
export interface Scale {
  readonly min: number;
  readonly max: number;
  readonly ticks: readonly Tick[];
  readonly at: (value: number) => number;
}

export interface ScaleOptions {
  readonly values: readonly (number | null | undefined)[];
  readonly min?: number | undefined;
  readonly max?: number | undefined;
  readonly format: ValueFormat;
  readonly kind?: 'linear' | 'log' | undefined;
  /** Pixels of `min` and `max`. */
  readonly from: number;
  readonly to: number;
  /** About how many ticks. */
  readonly count: number;
}

/** A scale over the finite values; both ends on ticks unless they are given. */
export function makeScale(options: ScaleOptions): Scale {
  const { from, to, count, format, kind = 'linear' } = options;
  const finite = options.values.filter((v): v is number => v != null && Number.isFinite(v));
  if (kind === 'log') {
    const positive = finite.filter((v) => v > 0);
    if (positive.length > 0) return logScale(options, positive);
  }
  let low = options.min ?? Math.min(...(finite.length > 0 ? finite : [0]));
  let high = options.max ?? Math.max(...(finite.length > 0 ? finite : [1]));
  // Zero belongs to the picture where it is near: otherwise small differences look large.
  if (options.min === undefined && low > 0 && low < 0.6 * high) low = 0;
  if (options.max === undefined && high < 0 && high > 0.6 * low) high = 0;
  if (!(high > low)) {
    const pad = Math.abs(low) > 0 ? 0.1 * Math.abs(low) : 1;
    high = options.max ?? low + pad;
    low = options.min ?? (high > low ? low : high - pad);
    if (!(high > low)) low = high - pad;
  }
  const step = niceStep((high - low) / count);
  const min = options.min ?? Math.floor(low / step + 1e-9) * step;
  let max = options.max ?? Math.ceil(high / step - 1e-9) * step;
  if (format === 'percent' && options.max === undefined && high <= 1) max = Math.min(1, max);
  const ticks: Tick[] = [];
  for (let k = Math.ceil(min / step - 1e-9); k * step <= max + 1e-9 * step; k++) {
    const value = k === 0 ? 0 : k * step; // never −0
    ticks.push({ value, label: formatTick(value, step, format) });
  }
  return { min, max, ticks, at: (value) => from + ((value - min) / (max - min)) * (to - from) };
}

function logScale(options: ScaleOptions, positive: readonly number[]): Scale {
  const { from, to, count } = options;
  const low = options.min !== undefined && options.min > 0 ? options.min : Math.min(...positive);
  const high = Math.max(options.max ?? Math.max(...positive), low * 1.01);
  const decades = Math.log10(high / low);
  const factors = decades > count ? [1] : decades > 1.5 ? [1, 10] : [1, 2, 5, 10];
  const stops: number[] = [];
  const every = Math.max(1, Math.ceil(decades / count));
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += every) {
    for (const factor of factors) if (factor < 10) stops.push(factor * 10 ** e);
  }
  const min =
    options.min !== undefined && options.min > 0 ? low : (stops.filter((s) => s <= low * 1.0001).at(-1) ?? low);
  const max = options.max ?? stops.find((s) => s >= high / 1.0001) ?? high;
  const shown = stops.filter((s) => s >= min / 1.0001 && s <= max * 1.0001);
  const plain = shown.every((value) => value >= 0.99e-3 && value < 1e5);
  const ticks = shown.map((value) => ({
    value,
    label: plain || Math.abs(Math.log10(value)) < 1e-9 ? String(Number(value.toPrecision(6))) : powerOfTen(value, 1),
  }));
  const span = Math.log(max / min);
  return { min, max, ticks, at: (value) => from + (Math.log(Math.max(value, min) / min) / span) * (to - from) };
}

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `raw`. */
export function niceStep(raw: number): number {
  const power = 10 ** Math.floor(Math.log10(raw));
  const factor = [1, 2, 2.5, 5, 10].find((f) => f * power >= raw * (1 - 1e-9)) ?? 10;
  return factor * power;
}

/** Indices of labels to draw so that each has `room` pixels; the first is always drawn, steps are 1, 2, 5, 10, …. */
export function thinned(count: number, pixelsEach: number, room: number): number[] {
  const needed = room / Math.max(pixelsEach, 1e-6);
  const step = [1, 2, 4, 5, 10, 20, 50, 100].find((s) => s >= needed) ?? Math.ceil(needed);
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
}

/** Width of sans-serif text in pixels, a little generous: no font can be measured here. */
export function textWidth(text: string, size: number): number {
  let em = 0;
  for (const c of text) {
    if ("iljI.,:;|!'() \u2009".includes(c)) em += 0.36;
    else if ('mwMW%@—'.includes(c)) em += 0.92;
    else if (/[A-Z]/.test(c)) em += 0.7;
    else em += 0.6;
  }
  return em * size;
}

/** Cuts text to `width` pixels with an ellipsis. */
export function fitText(text: string, size: number, width: number): string {
  if (textWidth(text, size) <= width) return text;
  const letters = [...text];
  while (letters.length > 1 && textWidth(`${letters.join('')}…`, size) > width) letters.pop();
  return `${letters.join('').trimEnd()}…`;
}

/** Breaks text into at most `lines` lines of `width` pixels after spaces, slashes, colons and inner dots; the last is cut. */
export function wrapText(text: string, size: number, width: number, lines: number): string[] {
  const words = text.split(/(?<=[\s:/])|(?<=\.)(?=[A-Za-z])/);
  const out: string[] = [''];
  for (const word of words) {
    const joined = out.at(-1)! + word;
    if (out.at(-1) === '' || out.length === lines || textWidth(joined.trimEnd(), size) <= width)
      out[out.length - 1] = joined;
    else out.push(word);
  }
  return out.map((line) => fitText(line.trim(), size, width));
}
