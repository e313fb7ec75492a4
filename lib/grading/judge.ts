/**
 * An optional second grader: a language model that compares an answer with gold. It never replaces the rules unless a
 * person says so, and what it could not say is missing data, not a wrong answer.
 */
import { GalvaniError } from '../errors.js';
import type { MatchRule } from '../types.js';

/** Raised when the prompt changes: what was said to another prompt is not an answer to this one. */
export const judgePromptVersion = 1;

/** Only the end is shown: a judge that reads the reasoning grades the reasoning. */
const shownCharacters = 2_000;

export interface Judged {
  /** What the model wrote. */
  readonly text: string;
  readonly gold: string;
  readonly rule: MatchRule;
}

/** System and user text. The judge sees what stands after the thoughts. */
export function judgePrompt({ text, gold, rule }: Judged): { readonly system: string; readonly user: string } {
  const said = afterThoughts(text).slice(-shownCharacters);
  const choices =
    rule.kind === 'option'
      ? `\nChoices: ${rule.choices.map((choice, i) => `${String.fromCharCode(65 + i)}. ${choice}`).join('; ')}`
      : '';
  return {
    system:
      'You compare a response with the correct answer to a question you do not see. Say whether the final answer of the ' +
      'response means the same as the correct answer: other notation, units written out, or a letter for the text of its ' +
      'choice are the same; another value, another choice, several answers or none are not. ' +
      'Reply with one word: CORRECT or WRONG.',
    user: `Correct answer: ${gold}${choices}\n\nResponse:\n${said}`,
  };
}

/** @throws NETWORK when the reply is no verdict: that is missing data. */
export function readJudgement(reply: string): 'correct' | 'wrong' {
  const words = new Set(
    [...afterThoughts(reply).matchAll(/\b(correct|wrong|incorrect)\b/gi)].map(([word]) =>
      word.toLowerCase() === 'correct' ? 'correct' : 'wrong',
    ),
  );
  if (words.size === 1) return [...words][0] as 'correct' | 'wrong';
  throw new GalvaniError('NETWORK', `judge: expected CORRECT or WRONG, got ${JSON.stringify(reply.slice(0, 100))}`);
}

function afterThoughts(text: string): string {
  const close = text.lastIndexOf('</think>');
  return close < 0 ? text : text.slice(close + '</think>'.length);
}

/** Agreement of two raters beyond chance (Cohen 1960); null where chance alone agrees. Counts: [both, first, second, neither]. */
export function cohenKappa(both: number, first: number, second: number, neither: number): number | null {
  const n = both + first + second + neither;
  if (n === 0) return null;
  const observed = (both + neither) / n;
  const chance = ((both + first) * (both + second) + (neither + first) * (neither + second)) / (n * n);
  return chance === 1 ? null : (observed - chance) / (1 - chance);
}
