/** LaTeX answers as text: one spelling for what is written in many, and the lists, intervals and equations they form. */
import { leadingUnit } from './units.js';

const unicode: readonly (readonly [RegExp, string])[] = [
  [/[−–]/g, '-'],
  [/π/g, '\\pi '],
  [/∞/g, '\\infty '],
  [/×/g, '\\times '],
  [/[·⋅]/g, '\\cdot '],
  [/÷/g, '/'],
  [/≤/g, '\\leq '],
  [/≥/g, '\\geq '],
  [/∪/g, '\\cup '],
  [/∈/g, '\\in '],
  [/±/g, '\\pm '],
  [/²/g, '^{2}'],
  [/³/g, '^{3}'],
  [/½/g, '\\frac{1}{2}'],
  [/√\s*\(([^()]*)\)/g, '\\sqrt{$1}'],
  [/√\s*(\d+|\p{L})/gu, '\\sqrt{$1}'],
];

/** Plain-text spellings that models use inside answers: sqrt(2), pi, x**2, <=, infinity. */
const plainText: readonly (readonly [RegExp, string])[] = [
  [/(?<![\\\p{L}])sqrt\s*\(([^()]*)\)/gu, '\\sqrt{$1}'],
  [/(?<![\\\p{L}])pi(?!\p{L})/gu, '\\pi '],
  [/(?<![\\\p{L}])(?:infinity|infty|inf)(?!\p{L})/gu, '\\infty '],
  [/\*\*/g, '^'],
  [/(?<!\\)\*/g, '\\cdot '],
  [/<=/g, '\\leq '],
  [/>=/g, '\\geq '],
  [/\\le(?![a-z])/g, '\\leq '],
  [/\\ge(?![a-z])/g, '\\geq '],
  [/\\lt(?![a-z])/g, '<'],
  [/\\gt(?![a-z])/g, '>'],
];

const spelling: readonly (readonly [RegExp, string])[] = [
  [/\\\$|\$/g, ''],
  [/\\(?:left|right|displaystyle|textstyle|bigl?|bigr?|Bigl?|Bigr?|limits)(?![a-z])/g, ''],
  [/\\(?:quad|qquad)(?![a-z])|(?<!\\)\\[!,;: ]|~/g, ' '],
  [/\\[dtc]frac/g, '\\frac'],
  [/\\frac\s*([^\s\\{}])\s*([^\s\\{}])/g, '\\frac{$1}{$2}'],
  [/\\frac\s*([^\s\\{}])\s*\{/g, '\\frac{$1}{'],
  [/(\\frac\s*\{[^{}]*\})\s*([^\s\\{}])/g, '$1{$2}'],
  [/\\sqrt\s*(\d|\p{L})/gu, '\\sqrt{$1}'],
  [/\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])|°/g, ''],
  [/\\?%/g, ''],
  [/([_^])\s*\{\s*(\w)\s*\}/g, '$1$2'],
  [/\\operatorname\s*\{([^{}]*)\}/g, '\\$1 '],
  [/\\(?:mathbf|mathit|mathsf|boldsymbol|mathbb)\s*\{([^{}]*)\}/g, '$1'],
  // A mixed number is a sum; a digit before a letter's fraction is a product.
  [/(?<![\d.)}\]a-zA-Z])(\d+)\s*\\frac\s*\{(\d+)\}\s*\{(\d+)\}/g, '($1+\\frac{$2}{$3})'],
];

/** One spelling, without dollar signs, sizes, spaces of typesetting, degree and percent signs, and units. */
export function spell(text: string): string {
  let out = text.trim();
  for (const [pattern, replacement] of [...unicode, ...spelling, ...plainText]) out = out.replace(pattern, replacement);
  return withoutUnits(out)
    .replace(/\s+/g, ' ')
    .replace(/[.\s]+$/, '')
    .trim();
}

/** \text{…} that is the whole answer is its content; beside a value it is kept only when it is no unit. */
function withoutUnits(text: string): string {
  const pattern =
    /\\(?:text|mathrm|textbf|textit|textrm|mbox|rm)\s*\{\s*([^{}]*?)\s*\}(?:\s*\^\s*\{?\s*([23])\s*\}?)?/g;
  const out = text.replace(pattern, (all: string, inner: string, power: string | undefined, at: number) => {
    if (at === 0 && all.length === text.length) return inner;
    const isUnit = inner === '' || isWholeUnit(power === undefined ? inner : `${inner}^${power}`);
    // A leading text ("\text{Area} = …") is a name, a trailing one that is no unit a word such as "and".
    return isUnit && at > 0 ? ' ' : ` ${inner} `;
  });
  return out.replace(/(?<=[\d}])\s+([\p{L}µμ]+(?:\/[\p{L}]+)?(?:\s*\^\s*\{?[23]\}?)?)\s*$/u, (all, unit: string) =>
    isWholeUnit(unit.replace(/[\s{}]/g, '')) ? '' : all,
  );
}

function isWholeUnit(text: string): boolean {
  return (
    /^(?:square|sq\.?|cubic)?\s*(?:units?|[\p{L}µμΩ]+(?:\/\p{L}+)?(?:\^[23])?)$/iu.test(text) &&
    (/units?$/i.test(text) || leadingUnit(text) !== null)
  );
}

/** Splits at a separator outside all brackets. The separator is matched at each position of the text. */
export function splitTop(text: string, separator: RegExp): string[] {
  const at = new RegExp(separator.source, 'y');
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i < text.length; ) {
    at.lastIndex = i;
    const hit = depth === 0 ? at.exec(text) : null;
    if (hit !== null && hit[0] !== '') {
      parts.push(text.slice(start, i));
      i += hit[0].length;
      start = i;
      continue;
    }
    const two = text.slice(i, i + 2);
    if (two === '\\{' || two === '\\}') {
      depth += two === '\\{' ? 1 : -1;
      i += 2;
      continue;
    }
    if (text[i] === '\\') {
      i += /^\\(?:[a-zA-Z]+|.)/.exec(text.slice(i, i + 24))?.[0].length ?? 1;
      continue;
    }
    if ('([{'.includes(text[i]!)) depth++;
    if (')]}'.includes(text[i]!)) depth--;
    i++;
  }
  parts.push(text.slice(start));
  return parts.map((part) => part.trim());
}

/** The brackets around a whole text and what stands between; null when none encloses it all. */
export function enclosed(
  text: string,
): { readonly open: string; readonly close: string; readonly inner: string } | null {
  const hit = /^(\\\{|\\langle\b|[([])([\s\S]*?)(\\\}|\\rangle\b|[)\]])$/.exec(text);
  if (hit === null) return null;
  const [, open, inner, close] = hit as unknown as [string, string, string, string];
  let depth = 0;
  for (const [token] of inner.matchAll(/\\\{|\\\}|\\[a-zA-Z]+|[()[\]{}]/g)) {
    if (['\\{', '\\langle', '(', '[', '{'].includes(token)) depth++;
    if (['\\}', '\\rangle', ')', ']', '}'].includes(token) && --depth < 0) return null;
  }
  return depth === 0 ? { open, close, inner: inner.trim() } : null;
}

/** Rows and cells of \begin{pmatrix}…\end{pmatrix}; null for anything else. Determinants (vmatrix) are expressions. */
export function matrixCells(text: string): string[][] | null {
  const hit = /^\\begin\{([pbB]?matrix|array)\}(?:\{[lcr|]*\})?([\s\S]*)\\end\{\1\}$/.exec(text);
  if (hit === null) return null;
  return hit[2]!
    .split(/\\\\/)
    .filter((row) => row.trim() !== '')
    .map((row) => row.split('&').map((cell) => cell.trim()));
}
