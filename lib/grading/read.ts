/** Reads a value of a declared kind out of a short answer; null when there is none or more than one. */
import { readNumber, sameNumber } from './number.js';

/** lower-case, trimmed, inner whitespace collapsed, trailing ".,!?;:" dropped. */
export function normalise(text: string): string {
  return text
    .toLowerCase()
    .replace(/\s+/g, ' ')
    .trim()
    .replace(/[.,!?;:\s]+$/, '');
}

/**
 * "Yes." · "No, there is none." · an answer with exactly one of the words yes and no; where there is neither, the same
 * for true and false.
 */
export function readYesNo(text: string): boolean | null {
  const lead = /^[\s"'“‘(*]*(yes|no|true|false)\b\s*(?:$|[.,;:!)"'”’*\n])/i.exec(text);
  if (lead) return /^(?:yes|true)$/i.test(lead[1]!);
  for (const [yes, no] of [
    [/\byes\b/i, /\bno\b/i],
    [/\btrue\b/i, /\bfalse\b/i],
  ] as const) {
    if (yes.test(text) !== no.test(text)) return yes.test(text);
    if (yes.test(text)) return null;
  }
  return null;
}

/** Corners in pixels of the image, x1 ≤ x2 and y1 ≤ y2. */
export type Box = readonly [x1: number, y1: number, x2: number, y2: number];

const coordinate = String.raw`[+-]?(?:\d+(?:\.\d+)?|\.\d+)`;
const gap = String.raw`\s*(?:[,;\s]|\)\s*,?\s*\(|\]\s*,?\s*\[)\s*`;
const bracketedBox = new RegExp(
  String.raw`[[({]\s*[[(]?\s*(${coordinate})${gap}(${coordinate})${gap}(${coordinate})${gap}(${coordinate})\s*[\])}]`,
  'g',
);
const looseCoordinate = new RegExp(String.raw`(?<![\p{L}\p{N}_.])${coordinate}(?![\p{L}\p{N}_]|\.\d)`, 'gu');

/**
 * The one box of a text: four numbers in brackets, [x1, y1, x2, y2] or (x1,y1),(x2,y2), wherever they stand (a JSON
 * "bbox_2d" too), else exactly four numbers. Several different boxes are none. Coordinates are taken as they are.
 */
export function readBox(text: string): Box | null {
  const cleaned = text.replace(/\u2212/g, '-');
  const bracketed = [...cleaned.matchAll(bracketedBox)].map((hit) => toBox(hit.slice(1, 5)));
  if (bracketed.length > 0) {
    const first = bracketed[0]!;
    return bracketed.every((box) => box.every((x, i) => x === first[i])) ? first : null;
  }
  const loose = [...cleaned.matchAll(looseCoordinate)].map((hit) => hit[0]);
  return loose.length === 4 ? toBox(loose) : null;
}

function toBox(corners: readonly string[]): Box {
  const [a, b, c, d] = corners.map(Number) as [number, number, number, number];
  return [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
}

/** Area of the intersection over area of the union; 0 when both boxes are empty. */
export function boxIou(a: Box, b: Box): number {
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const shared = width * height;
  const union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared;
  return union > 0 ? shared / union : 0;
}

const labelPattern = /(?<![\p{L}\p{N}'’.])(?:[([]?([A-Z])(?:[)\]]|[.:](?=\s|$)|\s+[-–—]\s)|[([]([a-z])[)\]])/gu;
const optionLabel = /^\s*[([]?([A-Za-z])[)\].:]\s+/;

/**
 * The index of the option that an answer names: "B" · "(b)" · "B. cat" · "B: cat" · "option B" · "cat". A letter rules
 * over the text beside it. Two letters, two choices, or a choice beside a negation name none.
 */
export function readOption(text: string, choices: readonly string[]): number | null {
  const inRange = (letter: string): number | null => {
    const index = letter.toUpperCase().charCodeAt(0) - 65;
    return index >= 0 && index < choices.length ? index : null;
  };
  const answer = text.trim();
  const alone = /^[([]?\s*([A-Za-z])\s*[)\]]?[.,:;!?]*$/.exec(answer);
  if (alone) return inRange(alone[1]!);
  const labels = [...answer.matchAll(labelPattern)].map((hit) => inRange((hit[1] ?? hit[2])!));
  const named = [...answer.matchAll(/\b(?:options?|choices?|answers?)\s*(?:is\s*)?:?\s*[([]?([A-Z])\b(?!['’])/gi)].map(
    (hit) =>
      /[A-Z]/.test(hit[1]!) || !/\s[a-z]/.test(answer.slice(hit.index + hit[0].length)) ? inRange(hit[1]!) : null,
  );
  // "A. or B": the last letter of an enumeration carries no label of its own.
  const others = [...answer.matchAll(/(?:\b(?:or|and)\b|[,/&])\s*[([]?([A-Z])[)\]]?(?=\s*(?:$|[.,;]))/g)].map((hit) =>
    inRange(hit[1]!),
  );
  const letters = new Set(
    [...labels, ...named, ...(labels.length > 0 ? others : [])].filter((index) => index !== null),
  );
  if (letters.size === 1) return [...letters][0]!;
  if (letters.size > 1) return null;
  return readOptionText(answer, choices);
}

function readOptionText(answer: string, choices: readonly string[]): number | null {
  const texts = bareChoices(choices).map(normalise);
  const said = normalise(answer);
  const equal = texts.flatMap((text, index) => (text === said ? [index] : []));
  if (equal.length > 0) return equal.length === 1 ? equal[0]! : null;
  const number = readNumber(answer);
  if (number !== null) {
    // "145" names the choice "145°"; a number that is nobody's names none, though its digits may stand in a text.
    const values = bareChoices(choices).map((text) => readNumber(text));
    const same = values.flatMap((value, index) => (value !== null && sameNumber(number, value, {}) ? [index] : []));
    if (same.length === 1) return same[0]!;
    if (values.every((value) => value !== null)) return null;
  }
  if (/\b(?:not|neither|nor|no|none)\b|n['’]t\b/.test(said)) return null;
  // Longer choices first, each blanked once found: "cat" inside "black cat" is not a second choice.
  let rest = said;
  const hits: number[] = [];
  const order = texts.map((_, index) => index).sort((a, b) => texts[b]!.length - texts[a]!.length);
  for (const index of order) {
    const escaped = texts[index]!.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    if (escaped === '') continue;
    const whole = new RegExp(String.raw`(?<![\p{L}\p{N}.])${escaped}(?![\p{L}\p{N}]|\.\d)`, 'gu');
    const blanked = rest.replace(whole, '\u0000');
    if (blanked !== rest) hits.push(index);
    rest = blanked;
  }
  return hits.length === 1 ? hits[0]! : null;
}

/** Choices without their own labels, when every one carries the label of its place ("A. cat", "B. dog"). */
function bareChoices(choices: readonly string[]): readonly string[] {
  const labelled = choices.every((choice, index) => {
    const label = optionLabel.exec(choice);
    return label !== null && label[1]!.toUpperCase().charCodeAt(0) - 65 === index;
  });
  return labelled ? choices.map((choice) => choice.replace(optionLabel, '')) : choices;
}
