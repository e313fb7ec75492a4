/** Numbers as a reader sees them, and text as markup needs it. */

import type { Rate } from '../types.js';

/** 'percent' takes shares: 0.5 is shown as 50%. */
export type ValueFormat = 'percent' | 'number' | 'difference';

/** Stands for a gap. */
export const gapText = '–';

const minus = '\u2212';

/** & < > " ' as entities: safe in element text and in quoted attributes. */
export function escapeHtml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
}

/** Letters, digits and dashes only: usable in class names and ids. */
export function slug(name: string): string {
  const words = name
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-+|-+$/g, '');
  return words === '' ? 'x' : words;
}

/**
 * 'percent' 53.2% · 'difference' of shares, in points: +4.1 · 'number' with four significant digits, powers of ten
 * outside [0.001, 10^6). A gap is a dash.
 */
export function formatValue(value: number | null | undefined, format: ValueFormat, digits?: number): string {
  if (value == null || !Number.isFinite(value)) return gapText;
  switch (format) {
    case 'percent':
      return `${fixed(100 * value, digits ?? 1)}%`;
    case 'difference':
      return signed(fixed(100 * value, digits ?? 1));
    case 'number':
      return formatNumber(value, digits);
    default:
      return format satisfies never;
  }
}

/** Four significant digits, or a given number of decimals; thousands parted by a thin space. */
export function formatNumber(value: number, digits?: number): string {
  if (!Number.isFinite(value)) return gapText;
  if (digits !== undefined) return fixed(value, digits);
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return powerOfTen(value, 2);
  if (Number.isInteger(value)) return fixed(value, 0);
  return fixed(value, Math.max(0, 3 - Math.floor(Math.log10(size)))).replace(/(\.\d*?)0+$/, (_, kept: string) =>
    kept === '.' ? '' : kept,
  );
}

/** A p-value: three decimals, "< 0.001" below. */
export function formatP(p: number | null | undefined): string {
  if (p == null || Number.isNaN(p)) return gapText;
  if (p < 0.001) return '< 0.001';
  return p.toFixed(3);
}

/** 53.2% (48.1–58.2), with what was left out of n. */
export function formatRate(rate: Rate): string {
  if (rate.n === 0 || !Number.isFinite(rate.rate)) return [gapText, ...leftOut(rate)].join(', ');
  const interval = formatInterval(rate.low, rate.high, 'percent');
  return [`${formatValue(rate.rate, 'percent')} ${interval}`, `n = ${rate.n}`, ...leftOut(rate)].join(', ');
}

/** "2 failed", "1 truncated", where there are any. */
export function leftOut(rate: Rate): string[] {
  return [
    ...(rate.failed > 0 ? [`${rate.failed} failed`] : []),
    ...(rate.truncated > 0 ? [`${rate.truncated} truncated`] : []),
  ];
}

/** (48.1–58.2) in the unit of the estimate; a comma where a sign could be misread; '' without both ends. */
export function formatInterval(
  low: number | null | undefined,
  high: number | null | undefined,
  format: ValueFormat,
): string {
  if (low == null || high == null || !Number.isFinite(low) || !Number.isFinite(high)) return '';
  const [a, b] = [low, high].map((x) => formatValue(x, format).replace('%', '')) as [string, string];
  return format === 'difference' || low < 0 ? `(${a}, ${b})` : `(${a}–${b})`;
}

/** An axis tick: as many decimals as the step needs. */
export function formatTick(value: number, step: number, format: ValueFormat): string {
  const scale = format === 'number' ? 1 : 100;
  const shown = value * scale;
  const suffix = format === 'percent' ? '%' : '';
  const sign = format === 'difference' && value > step * 1e-6 ? '+' : '';
  if (Math.abs(shown) < scale * step * 1e-6) return `0${suffix}`;
  if (format === 'number' && (step < 1e-4 || Math.abs(value) >= 1e6)) return powerOfTen(value, 2);
  const digits = Math.max(0, -Math.floor(Math.log10(step * scale) + 1e-9));
  const needed =
    Math.abs(step * scale * 10 ** digits - Math.round(step * scale * 10 ** digits)) > 1e-6 ? digits + 1 : digits;
  return `${sign}${fixed(shown, needed)}${suffix}`;
}

/** 2.5×10⁻⁴; a mantissa of 1 is left out. */
export function powerOfTen(value: number, significant: number): string {
  const [mantissa, exponent] = value.toExponential(significant - 1).split('e') as [string, string];
  const plain = mantissa.replace(/\.?0+$/, '').replace('-', minus);
  const raised = [...String(Number(exponent))].map((c) => (c === '-' ? '⁻' : '⁰¹²³⁴⁵⁶⁷⁸⁹'[Number(c)]!)).join('');
  return plain === '1' ? `10${raised}` : plain === `${minus}1` ? `${minus}10${raised}` : `${plain}×10${raised}`;
}

/** A plus before what is neither negative nor rounds to zero. */
function signed(text: string): string {
  return text.startsWith(minus) || !/[1-9]/.test(text) ? text : `+${text}`;
}

function fixed(value: number, digits: number): string {
  const text = value.toFixed(digits);
  const [whole, part] = text.replace('-', '').split('.') as [string, string | undefined];
  const grouped = whole.length > 4 ? whole.replace(/\B(?=(\d{3})+$)/g, '\u2009') : whole;
  const negative = text.startsWith('-') && /[1-9]/.test(text);
  return `${negative ? minus : ''}${grouped}${part === undefined ? '' : `.${part}`}`;
}
