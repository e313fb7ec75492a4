/** Compares an answer with gold, or two answers with each other, by a declared rule. */

import { GalvaniError } from '../errors.js';
import type { MatchRule } from '../types.js';
import { type AnswerSource, canRead, extract } from './extract.js';
import { latexEqual } from './latex.js';
import { readNumber, sameNumber } from './number.js';
import { boxIou, normalise, readBox, readOption, readYesNo } from './read.js';
import { unitNamed } from './units.js';

/**
 * 'unparsed': there is no answer, or none of the rule's kind. 'undecided': comparing took longer than its limit; missing
 * data, never a wrong answer.
 */
export type Verdict = 'correct' | 'wrong' | 'unparsed' | 'undecided';

/**
 * - exact: equal after lower-casing, trimming, collapsing whitespace and dropping trailing ".,!?;:".
 * - option: the same choice, named by letter or by text.
 * - number: |prediction − gold| ≤ max(tolerance, relative · |gold|), both 0 by default. A percentage equals its number
 *   and its hundredth; two units of one quantity are converted.
 * - latex: the same value, list, set, interval, matrix, equation or text, however it is written.
 * - yesno: the same word.
 * - box: IoU with gold ≥ iou.
 *
 * Throws BAD_ARGUMENT when gold itself is not of the rule's kind: the data are wrong, not the model.
 */
export function match(prediction: string | null, gold: string, rule: MatchRule): Verdict {
  if (!canRead(gold, rule)) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `match: gold answer ${JSON.stringify(gold)} cannot be read by the rule '${rule.kind}'${
        rule.kind === 'option' ? ` with choices ${JSON.stringify(rule.choices)}` : ''
      }`,
    );
  }
  if (prediction === null) return 'unparsed';
  const same = compare(prediction, gold, rule);
  if (same === null) return 'unparsed';
  if (same === 'undecided') return same;
  return same ? 'correct' : 'wrong';
}

/** Extract, then match. `answer` and `how` are null when nothing was found. */
export function grade(
  text: string,
  gold: string,
  rule: MatchRule,
): { verdict: Verdict; answer: string | null; how: AnswerSource | null } {
  const found = extract(text, { rule });
  return { verdict: match(found?.answer ?? null, gold, rule), answer: found?.answer ?? null, how: found?.how ?? null };
}

/**
 * Whether two predictions (extracted answers) say the same under the rule. Where neither can be read their normalised
 * texts are compared; where only one can, they differ. Two missing answers are the same. Expressions that could not be
 * compared within the time limit differ.
 */
export function sameAnswer(a: string | null, b: string | null, rule: MatchRule): boolean {
  if (a === null || b === null) return a === b;
  const same = compare(a, b, rule);
  if (same === 'undecided') return false;
  if (same !== null) return same;
  if (canRead(a, rule) !== canRead(b, rule)) return false;
  return normalise(a) === normalise(b);
}

/**
 * The published script's comparison (METHODS §1a, `reference`): both lower-cased, stripped, trailing ".,!?;:" dropped;
 * both under 20 characters: equal; otherwise one inside the other also counts as the same. Whole texts, not extracted.
 */
export function referenceSame(a: string, b: string): boolean {
  const [x, y] = [a, b].map((text) =>
    text
      .toLowerCase()
      .trim()
      .replace(/[.,!?;:]+$/, ''),
  ) as [string, string];
  if ([...x].length < 20 && [...y].length < 20) return x === y;
  return x.includes(y) || y.includes(x);
}

/** null: at least one of the two is not of the rule's kind. */
function compare(a: string, b: string, rule: MatchRule): boolean | null | 'undecided' {
  switch (rule.kind) {
    case 'exact': {
      const [x, y] = [normalise(a), normalise(b)];
      return x === '' || y === '' ? null : x === y;
    }
    case 'number':
      return both(readNumber(a), readNumber(b), (x, y) =>
        sameNumber(x, y.unit === null && rule.unit !== undefined ? { ...y, unit: unitNamed(rule.unit) } : y, rule),
      );
    case 'latex':
      return a.trim() === '' || b.trim() === '' ? null : (latexEqual(a, b) ?? 'undecided');
    case 'yesno':
      return both(readYesNo(a), readYesNo(b), (x, y) => x === y);
    case 'option':
      return both(readOption(a, rule.choices), readOption(b, rule.choices), (x, y) => x === y);
    case 'box':
      return both(readBox(a), readBox(b), (x, y) => boxIou(x, y) >= rule.iou);
    default:
      return rule satisfies never;
  }
}

function both<T>(a: T | null, b: T | null, same: (a: T, b: T) => boolean): boolean | null {
  return a === null || b === null ? null : same(a, b);
}
