/**
 * Whether two answers in LaTeX (or plain mathematical text) say the same. Structure (lists, sets, intervals, tuples,
 * matrices, equations, texts) is compared here; what remains is an expression, and whether two expressions are equal
 * is asked of a computer algebra engine in a worker thread, inside a time limit.
 */
import type { Question } from './latex-engine.js';
import { enclosed, matrixCells, spell, splitTop } from './latex-text.js';
import { type ReadNumber, readNumber, sameNumber } from './number.js';
import { TimedWorker } from './timed-worker.js';

/** The answers of one study compare in milliseconds; what takes longer than this is given up and counted as failed. */
export const latexLimitMs = 5_000;

/** A longer answer is equal to another only letter by letter. */
const longest = 1_000;

/** true, false, or null: not decided within the time limit. */
export type Decision = boolean | null;

export interface LatexOptions {
  /** Default `latexLimitMs`. */
  readonly limitMs?: number;
}

export function latexEqual(a: string, b: string, options: LatexOptions = {}): Decision {
  if (a.trim() === b.trim()) return true;
  if (a.length > longest || b.length > longest) return false;
  return equal(a, b, options.limitMs ?? latexLimitMs);
}

function equal(a: string, b: string, limitMs: number): Decision {
  const [x, y] = [loneNumber(a), loneNumber(b)];
  if (x !== null && y !== null) return sameNumber(x, y, {});
  const isAngle = [a, b].some((text) => degreeSign.test(text)) && [a, b].some((text) => /\\pi(?![a-z])|π/.test(text));
  const [left, right] = (isAngle ? [inRadians(a), inRadians(b)] : [a, b]).map(spell) as [string, string];
  if (tight(left) === tight(right)) return true;
  if (left === '' || right === '') return false;
  return compareSpelled(left, right, limitMs);
}

function compareSpelled(a: string, b: string, limitMs: number): Decision {
  const [left, right] = [shapeOf(a), shapeOf(b)];
  if (left !== null || right !== null) {
    const [x, y] = [left ?? shapeOf(rightSide(a)), right ?? shapeOf(rightSide(b))];
    return compareShapes(x ?? single(a), y ?? single(b), limitMs);
  }
  const equations = compareEquations(a, b, limitMs);
  if (equations !== undefined) return equations;
  const [x, y] = [bare(a), bare(b)];
  if (x !== a || y !== b) return equal(x, y, limitMs);
  const [words, others] = [wordsOf(a), wordsOf(b)];
  if (words !== null && others !== null) return words === others;
  const [digits, otherDigits] = [inBase(a), inBase(b)];
  if ((digits === null) !== (otherDigits === null)) return equal(digits ?? a, otherDigits ?? b, limitMs);
  if (digits !== null) return false; // both name their base, and not the same digits in the same base
  return ask({ kind: 'expressions', a, b }, limitMs);
}

const degreeSign = /\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-z])|°/;

/** 135^\circ → (135\pi/180). Only where the other answer is in radians; otherwise a degree sign is decoration. */
function inRadians(text: string): string {
  return degreeSign.test(text) ? `(${text.replace(degreeSign, '')})\\pi/180` : text;
}

const tight = (text: string): string => text.replace(/\s+/g, '');

/** A number with nothing but a unit or words beside it: "18", "1,234.5 km", "There are 18 apples". Not "2x". */
function loneNumber(text: string): ReadNumber | null {
  const functionName = String.raw`(?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi)\b)`;
  const shape = new RegExp(
    String.raw`^\s*(?:${functionName}\p{L}{2,}[\p{L}\s,']*\s)?[+-]?\s?\$?[\d][\d,.]*(?:\s*\/\s*\d+|\s+\d+\s*\/\s*\d+)?\s*(?:\\?%|percent)?(?:\s+[\p{L}°][\p{L}\s.°/]*|°[CF]?)?\.?$`,
    'u',
  );
  const plain = text
    .replace(/\\[dtc]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}/g, ' $1/$2')
    .replace(/\\[dtc]?frac\s*(\d)\s*(\d)/g, ' $1/$2')
    .replace(/\{,\}/g, ',')
    .replace(/[−–]/g, '-')
    .replace(/\^\s*\{?\\circ\}?/g, '°')
    .replace(/\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}/g, ' $1')
    .replace(/\\?\$/g, '')
    .trim();
  return shape.test(plain) ? readNumber(plain) : null;
}

/** undefined: at most one of the two is an equation whose left side is more than a name. */
function compareEquations(a: string, b: string, limitMs: number): Decision | undefined {
  const [left, right] = [splitTop(a, equationSign), splitTop(b, equationSign)];
  if (left.length === 1 && right.length === 1) return undefined;
  if (left.length === 2 && right.length === 2) {
    if (tight(left[0]!) === tight(right[0]!)) return equal(left[1]!, right[1]!, limitMs);
    return ask({ kind: 'equations', a: left as [string, string], b: right as [string, string] }, limitMs);
  }
  // "x = 5" answers "5"; "2 + 3 = 5" does as well.
  return equal(left.at(-1)!, right.at(-1)!, limitMs);
}

/** "P = (1, 2)" and "x \in [1, 2]" → what stands on the right. */
function rightSide(text: string): string {
  return splitTop(text, equationSign).at(-1)!;
}

const equationSign = /=|\\in(?![a-z])/;

/** Several values: ordered between round or angled brackets and as a matrix, unordered otherwise. */
interface Shape {
  readonly kind: 'set' | 'list' | 'tuple' | 'interval' | 'matrix' | 'single';
  /** Brackets of an interval, which are part of its meaning. */
  readonly ends: string;
  readonly parts: readonly string[];
}

const single = (text: string): Shape => ({ kind: 'single', ends: '', parts: [text] });

function shapeOf(text: string): Shape | null {
  const cells = matrixCells(text);
  if (cells !== null) return { kind: 'matrix', ends: cells.map((row) => row.length).join(), parts: cells.flat() };
  const range = inequalityAsInterval(text);
  if (range !== null) return shapeOf(range);
  const unions = splitTop(text, /\\cup(?![a-z])|(?<=[)\]])\s*U\s*(?=[([])/);
  if (unions.length > 1) return { kind: 'set', ends: '', parts: unions };
  const box = enclosed(text);
  if (box !== null) {
    const parts = splitTop(box.inner, /[,;]/);
    if (box.open === '\\{') return { kind: 'set', ends: '', parts: box.inner === '' ? [] : parts };
    if (parts.length < 2) return null;
    const isInterval = parts.length === 2 && '(['.includes(box.open) && ')]'.includes(box.close);
    if (isInterval && box.open + box.close !== '()') return { kind: 'interval', ends: box.open + box.close, parts };
    return { kind: 'tuple', ends: '', parts };
  }
  const both = plusMinus(text);
  if (both !== null) return { kind: 'list', ends: '', parts: both };
  const parts = splitTop(withoutThousands(text), /[,;]\s*(?:and|or)\s|[,;]|\s(?:and|or)\s/);
  return parts.length > 1 ? { kind: 'list', ends: '', parts } : null;
}

function compareShapes(a: Shape, b: Shape, limitMs: number): Decision {
  if (a.parts.length !== b.parts.length) return false;
  const kinds = new Set([a.kind, b.kind]);
  // [1, 2] may be written for the list 1, 2 and for the point (1, 2), never for the open interval's end points.
  if (a.kind === 'interval' && b.kind === 'interval' && a.ends !== b.ends) return false;
  if (kinds.has('interval') && kinds.has('tuple')) return false;
  if (kinds.has('matrix') && a.kind === b.kind && a.ends !== b.ends) return false;
  const isOrdered =
    ['tuple', 'interval', 'matrix'].some((kind) => kinds.has(kind as Shape['kind'])) && !kinds.has('set');
  return isOrdered
    ? all(a.parts.map((part, i) => () => equal(part, b.parts[i]!, limitMs)))
    : matchUp(a.parts, b.parts, limitMs);
}

/** false as soon as one is false; null when one is not decided. */
function all(decisions: readonly (() => Decision)[]): Decision {
  let result: Decision = true;
  for (const decide of decisions) {
    const one = decide();
    if (one === false) return false;
    result = one === null ? null : result;
  }
  return result;
}

function matchUp(a: readonly string[], b: readonly string[], limitMs: number): Decision {
  const left = [...b];
  let result: Decision = true;
  for (const part of a) {
    const decisions: Decision[] = [];
    const at = left.findIndex((other) => {
      decisions.push(equal(part, other, limitMs));
      return decisions.at(-1) === true;
    });
    if (at >= 0) left.splice(at, 1);
    else if (decisions.includes(null)) result = null;
    else return false;
  }
  return result;
}

/** "a \pm b" → both values. */
function plusMinus(text: string): [string, string] | null {
  const parts = splitTop(text, /\\pm(?![a-z])/);
  if (parts.length !== 2) return null;
  return [`${parts[0]}+${parts[1]}`, `${parts[0]}-(${parts[1]})`];
}

const variable = String.raw`[a-zA-Z](?:_\{?\w+\}?)?|\\[a-z]+`;

/** "x > 3" → (3, ∞), "-1 ≤ x < 2" → [-1, 2); null for anything else. */
function inequalityAsInterval(text: string): string | null {
  const twoSided = new RegExp(String.raw`^(.+?)(<|\\leq)\s*(?:${variable})\s*(<|\\leq)(.+)$`).exec(text);
  if (twoSided !== null) {
    const [, low, first, second, high] = twoSided;
    return `${first === '<' ? '(' : '['}${low!.trim()},${high!.trim()}${second === '<' ? ')' : ']'}`;
  }
  const oneSided = new RegExp(String.raw`^(?:${variable})\s*(<|>|\\leq|\\geq)([^<>]+)$`).exec(text);
  if (oneSided === null || /\\[lg]eq/.test(oneSided[2]!)) return null;
  const [, sign, bound] = oneSided;
  const value = bound!.trim();
  switch (sign) {
    case '<':
      return `(-\\infty,${value})`;
    case '>':
      return `(${value},\\infty)`;
    case '\\leq':
      return `(-\\infty,${value}]`;
    default:
      return `[${value},\\infty)`;
  }
}

/** 10,080\pi → 10080\pi; "1, 200" and "1,20" stay lists. */
function withoutThousands(text: string): string {
  return text
    .replace(/\{,\}/g, '')
    .replace(/(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])/g, (digits) => digits.replaceAll(',', ''));
}

/** Without brackets around all of it, thousands separators, and the spelling of a lone option "(C)". */
function bare(text: string): string {
  const box = enclosed(text);
  return withoutThousands(box !== null && box.open === '(' && box.close === ')' ? box.inner : text);
}

/** A text in words, lower-case; null for mathematics: one or two letters and letters without a vowel are variables. */
function wordsOf(text: string): string | null {
  if (!/^[\p{L}\s.,'’-]+$/u.test(text) || !/\p{L}{3}/u.test(text) || /^[^aeiou]+$/i.test(text)) return null;
  return text
    .toLowerCase()
    .replace(/[^\p{L}]+/gu, ' ')
    .trim();
}

/** "2516_8" → 2516 */
function inBase(text: string): string | null {
  return /^(\d+)\s*_\s*\{?\d+\}?$/.exec(text)?.[1] ?? null;
}

const workerFile = new URL(
  // Under the tests' runner this file is TypeScript, which a worker cannot load: the compiled twin is used.
  import.meta.url.endsWith('.ts') ? '../../dist/grading/latex-worker.js' : './latex-worker.js',
  import.meta.url,
);
let worker: TimedWorker<Question, boolean> | undefined;
const decided = new Map<string, boolean>();
const keptDecisions = 20_000;

function ask(question: Question, limitMs: number): Decision {
  const key = JSON.stringify(question);
  const known = decided.get(key);
  if (known !== undefined) return known;
  worker ??= new TimedWorker(workerFile);
  const answer = worker.call(question, limitMs);
  if (answer === undefined) return null;
  decided.set(key, answer);
  if (decided.size > keptDecisions) decided.delete(decided.keys().next().value!);
  return answer;
}
