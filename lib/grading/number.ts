/** Reads the one number of a short answer, with its percent sign and unit. */
import { leadingUnit, type Unit } from './units.js';

export interface ReadNumber {
  readonly value: number;
  /** A % sign or the word followed it. */
  readonly percent: boolean;
  /** null: none, or a word that is no unit ("apples"). */
  readonly unit: Unit | null;
}

const unsigned = String.raw`(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+`;
const exponent = String.raw`[eE][+-]?\d+|\s*(?:×|\*|\\times|\\cdot)\s*10\s*\^\s*\{?\s*([+-]?\d+)\s*\}?`;
const magnitudes: Readonly<Record<string, number>> = {
  hundred: 1e2,
  thousand: 1e3,
  million: 1e6,
  billion: 1e9,
  trillion: 1e12,
};
const magnitude = String.raw`\s+(${Object.keys(magnitudes).join('|')})\b`;
const numberPattern = new RegExp(
  // A sign belongs to the number only where no number, letter or closing bracket stands before it: "5-2" is two numbers.
  String.raw`(?<![\p{L}\p{N}_.,)\]])(?<!\^\s?\{?)(?:(?<![\p{N})\]]\s*)([+-])\s?)?` +
    String.raw`(${unsigned})(?:(${exponent})|\s*\^\s*\{?(\d{1,3})\}?|\s*/\s*(\d+(?:\.\d+)?)(?!\s*/\s*\d)|\s+(\d+)\s*/\s*(\d+)(?!\s*/\s*\d))?` +
    String.raw`(?![\d_]|\.\d|,\d)(?:${magnitude})?(\s*\\?%|\s+percent\b)?`,
  'giu',
);

/**
 * The one number of an answer: 1,234.5 · -3 · 50 % · 2.5e-3 · 2.5×10^-3 · 3/4 · 2 1/2 · \frac{3}{4} · 10^4 · $12 ·
 * "12 cm" · "1.5 million" · "twenty-one". After "=" or "≈" only the right side counts. Several different numbers, a
 * ratio "1:2" or a date are none. Roots, π and variables are no numbers: the rule `latex` knows them.
 */
export function readNumber(text: string): ReadNumber | null {
  const cleaned = plainNumbers(text);
  const side = cleaned.slice(Math.max(cleaned.lastIndexOf('='), cleaned.lastIndexOf('≈')) + 1);
  // Digits joined to letters or dots ("r2", "1.2.3") are not numbers, but they are digits: no number word beside them.
  if (!/\d/.test(side)) return readNumberWords(side);
  if (/\\(?:sqrt|pi\b)|[√π]/.test(side)) return null;
  const found = [...side.matchAll(numberPattern)].map((hit) => toNumber(hit, side));
  const first = found[0];
  if (first === undefined || !Number.isFinite(first.value) || hasStrayDigits(side)) return null;
  return found.every((x) => x.value === first.value && x.percent === first.percent) ? first : null;
}

/** LaTeX and typography of numbers as plain text. */
function plainNumbers(text: string): string {
  return text
    .replace(/[\u2212\u2013]/g, '-')
    .replace(/\\approx|\\simeq/g, '≈')
    .replace(/\\(?:left|right|displaystyle)\b/g, '')
    .replace(/(?<=\d)(?:\{,\}|\\,|[\u00a0\u2009\u202f'’])(?=\d{3}(?!\d))/g, ',')
    .replace(
      /(?<![\d.,])(\d{1,3})((?: \d{3}){2,})(?![\d.,])/g,
      (_, lead: string, rest: string) => lead + rest.replaceAll(' ', ','),
    )
    .replace(/\\[dtc]?frac\s*(\d)\s*(\d)/g, '\\frac{$1}{$2}')
    .replace(/\\[dtc]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*(\d[\d.,]*)\s*\}/g, ' $1/$2')
    .replace(/\^\s*\{?\s*\\circ\s*\}?|\\degree\b/g, '°')
    .replace(/\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{\s*([^{}]*)\}/g, ' $1')
    .replace(/\\([,;! ])/g, ' ')
    .replace(/\\?[$€£¥]/g, ' ');
}

function toNumber(hit: RegExpMatchArray, text: string): ReadNumber {
  const [all, sign, digits, power, powerOfTen, plainPower, divisor, mixedTop, mixedBottom, word, percent] = hit;
  let value = Number(digits!.replaceAll(',', ''));
  if (powerOfTen !== undefined) value = Number(`${value}e${Number(powerOfTen)}`);
  else if (power !== undefined) value = Number(`${value}${power}`);
  else if (plainPower !== undefined) value **= Number(plainPower);
  else if (divisor !== undefined) value /= Number(divisor);
  else if (mixedTop !== undefined) value += Number(mixedTop) / Number(mixedBottom);
  if (word !== undefined) value *= magnitudes[word.toLowerCase()]!;
  const unit = percent === undefined ? leadingUnit(text.slice(hit.index! + all.length)) : null;
  return { value: sign === '-' ? -value : value, percent: percent !== undefined, unit };
}

/** True when digits remain that no number covered, other than inside words such as "r2" or units such as "cm^2". */
function hasStrayDigits(text: string): boolean {
  const rest = text.replace(numberPattern, ' ').replace(/[\p{L}_][\p{L}\p{N}_]*(?:\^\{?[23]\}?)?/gu, ' ');
  return /\d/.test(rest);
}

const small =
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen'.split(
    ' ',
  );
const tens = 'twenty thirty forty fifty sixty seventy eighty ninety'.split(' ');
const word = [...tens, ...small, ...Object.keys(magnitudes)].sort((a, b) => b.length - a.length).join('|');
const wordPattern = new RegExp(String.raw`\b(?:${word})(?:(?:[- ]|\s+and\s+)(?:${word}))*\b`, 'gi');

function readNumberWords(text: string): ReadNumber | null {
  const hits = [...text.matchAll(wordPattern)];
  const values = hits.map(([phrase]) => phraseValue(phrase.toLowerCase().split(/[\s-]+/)));
  const first = values[0];
  if (first == null || !values.every((value) => value === first)) return null;
  const after = text.slice(hits[0]!.index + hits[0]![0].length);
  const percent = /^\s*(?:%|percent\b)/i.test(after);
  return { value: first, percent, unit: percent ? null : leadingUnit(after) };
}

/** "two thousand and five" → 2005; null when the words are no one number ("three four"). */
function phraseValue(words: readonly string[]): number | null {
  let total = 0;
  let group = 0;
  let last: 'none' | 'small' | 'tens' | 'hundred' | 'and' = 'none';
  for (const name of words) {
    if (name === 'and') {
      // "three and four" is two numbers, "one hundred and four" is one.
      if (last !== 'hundred' && !(last === 'none' && total > 0)) return null;
      last = 'and';
    } else if (small.includes(name)) {
      const value = small.indexOf(name);
      if (last === 'small' || (last === 'tens' && (value === 0 || value > 9))) return null;
      group += value;
      last = 'small';
    } else if (tens.includes(name)) {
      if (last === 'small' || last === 'tens') return null;
      group += 20 + 10 * tens.indexOf(name);
      last = 'tens';
    } else if (name === 'hundred') {
      if (last === 'and' || last === 'hundred') return null;
      group = (group || 1) * 100;
      last = 'hundred';
    } else {
      total += (group || 1) * magnitudes[name]!;
      group = 0;
      last = 'none';
    }
  }
  return total + group;
}

/** 1e-12 relative covers the rounding of decimal text to doubles, nothing more. */
function within(a: number, b: number, tolerance: number): boolean {
  return Math.abs(a - b) <= tolerance + 1e-12 * Math.max(Math.abs(a), Math.abs(b));
}

export interface Tolerance {
  /** Absolute, in the unit of gold. Default 0. */
  readonly tolerance?: number;
  /** Share of |gold|. Default 0. The larger of the two allowances counts. */
  readonly relative?: number;
}

/**
 * Two units of one quantity are converted, units of different quantities differ; a missing unit is taken to be the
 * other's. A percentage equals its number and its hundredth.
 */
export function sameNumber(a: ReadNumber, gold: ReadNumber, { tolerance = 0, relative = 0 }: Tolerance): boolean {
  const near = (x: number, y: number): boolean => within(x, y, Math.max(tolerance, relative * Math.abs(y)));
  if (a.unit !== null && gold.unit !== null) {
    if (a.unit.quantity !== gold.unit.quantity) return false;
    return near((a.value * a.unit.factor) / gold.unit.factor, gold.value);
  }
  if (near(a.value, gold.value)) return true;
  if (a.percent === gold.percent) return false;
  return a.percent ? near(a.value / 100, gold.value) : near(a.value, gold.value / 100);
}
