/** Reads the answer out of what a model wrote. Nothing of the answer is rewritten: "3.14" stays "3.14". */

import type { MatchRule } from '../types.js';
import { readNumber } from './number.js';
import { normalise, readBox, readOption, readYesNo } from './read.js';

/** Where the answer stood. */
export type AnswerSource =
  | 'answer-tag'
  | 'boxed'
  | 'hashes'
  | 'phrase'
  | 'option-letter'
  | 'formula'
  | 'final-line'
  | 'whole';

export interface Extracted {
  readonly answer: string;
  readonly how: AnswerSource;
}

export interface ExtractOptions {
  /** With a rule, an unmarked answer is looked for where this kind can be read. */
  readonly rule?: MatchRule;
}

/**
 * In this order: `<answer>…</answer>` (the last; it may be unclosed at the end of the text), `\boxed{…}` (the last
 * complete one, braces may nest), `#### …` (GSM8K's marker, the last), "the (final) answer is …" (the last), the final
 * line, the whole text. A marked answer binds: if it does not fit the rule nothing else is tried. For the rule `latex`
 * the last formula of the final line stands for it. Thoughts (`<think>…</think>`) are not answers; a text that ends
 * inside a thought has an answer only if it is tagged. null: no answer.
 */
export function extract(text: string, options: ExtractOptions = {}): Extracted | null {
  const { rule } = options;
  const { said, thinking } = afterThought(dropControlTokens(text));
  const tagged = lastTagged(said);
  if (tagged !== null) return marked(lastBoxed(tagged) ?? tagged, 'answer-tag');
  if (thinking) return null;
  const boxed = lastBoxed(said);
  if (boxed !== null) return marked(boxed, 'boxed');

  const hashes = [...said.matchAll(/^\s*####\s*(\S.*)$/gm)].at(-1);
  if (hashes !== undefined) return marked(hashes[1]!, 'hashes');

  const plain = said.replaceAll('**', '').trim();
  const lines = plain.split('\n').filter((line) => line.trim() !== '');
  const final = tidy(lines.at(-1) ?? '');
  if (final === '') return null;
  const phrase = lastPhrase(plain);
  if (phrase !== null && (rule === undefined || canRead(phrase, rule))) {
    return { answer: (rule?.kind === 'latex' && formulas(phrase)[0]) || phrase, how: 'phrase' };
  }
  const formula = rule?.kind === 'latex' ? formulas(final).at(-1) : undefined;
  if (formula !== undefined) return { answer: formula, how: 'formula' };
  if (rule?.kind === 'option') {
    const index = readOption(final, rule.choices) ?? readOption(plain, rule.choices);
    if (index !== null) return { answer: String.fromCharCode(65 + index), how: 'option-letter' };
  }
  if (lines.length > 1 && rule !== undefined && !canRead(final, rule) && canRead(plain, rule)) {
    return { answer: plain, how: 'whole' };
  }
  return lines.length === 1 ? { answer: final, how: 'whole' } : { answer: final, how: 'final-line' };
}

/** True when `answer` holds a value of the rule's kind. */
export function canRead(answer: string, rule: MatchRule): boolean {
  switch (rule.kind) {
    case 'exact':
      return normalise(answer) !== '';
    case 'number':
      return readNumber(answer) !== null;
    case 'yesno':
      return readYesNo(answer) !== null;
    case 'option':
      return readOption(answer, rule.choices) !== null;
    case 'box':
      return readBox(answer) !== null;
    case 'latex':
      return answer.trim() !== '';
    default:
      return rule satisfies never;
  }
}

function marked(inner: string, how: AnswerSource): Extracted | null {
  const answer = tidy(inner);
  return answer === '' ? null : { answer, how };
}

/** What stands between math signs, tidied. */
function formulas(text: string): string[] {
  return [...text.matchAll(/\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]/g)].map((hit) =>
    tidy(hit[1] ?? hit[2] ?? hit[3]!),
  );
}

/** Chat control tokens such as <|im_end|> are no part of an answer. */
function dropControlTokens(text: string): string {
  return text.replace(/<\|[a-z_]+\|>/g, '');
}

function afterThought(text: string): { said: string; thinking: boolean } {
  const close = text.lastIndexOf('</think>');
  const open = text.lastIndexOf('<think>');
  if (open > close) return { said: text.slice(open), thinking: true };
  return { said: close < 0 ? text : text.slice(close + '</think>'.length), thinking: false };
}

function lastTagged(text: string): string | null {
  const lower = text.toLowerCase();
  const open = lower.lastIndexOf('<answer>');
  if (open < 0) return null;
  const start = open + '<answer>'.length;
  const close = lower.indexOf('</answer>', start);
  if (close >= 0) return text.slice(start, close);
  // Unclosed at the end: a stop token may have eaten the tag. Empty after it: an earlier, closed one counts.
  const rest = text.slice(start);
  return rest.trim() === '' ? (lastTagged(text.slice(0, open)) ?? rest) : rest;
}

/** Content of the last \boxed{…} whose braces balance; escaped braces do not count. */
function lastBoxed(text: string): string | null {
  const opening = /\\(?:boxed|fbox)\s*\{/g;
  let found: string | null = null;
  for (let hit = opening.exec(text); hit !== null; hit = opening.exec(text)) {
    const start = hit.index + hit[0].length;
    const end = closingBrace(text, start);
    if (end === null) continue;
    found = text.slice(start, end);
    opening.lastIndex = end;
  }
  if (found === null) return null;
  return lastBoxed(found) ?? found;
}

function closingBrace(text: string, start: number): number | null {
  let depth = 1;
  for (let i = start; i < text.length; i++) {
    if (text[i] === '\\') i++;
    else if (text[i] === '{') depth++;
    else if (text[i] === '}' && --depth === 0) return i;
  }
  return null;
}

const phraseStart =
  /\b(?:answer|option|choice)\b(?:\s+to\s+[^.\n]{1,80}?)?(?:\s+(?:is|should be|must be|would be|was)\b(?!\s+not\b)\s*:?|\s*[:=])\s*/gi;

/** What follows the last "(final) answer is", "answer:", "correct option is", up to the end of its sentence or line. */
function lastPhrase(text: string): string | null {
  const hit = [...text.matchAll(phraseStart)].at(-1);
  if (hit === undefined) return null;
  const line = text.slice(hit.index + hit[0].length).split('\n', 1)[0]!;
  // "3.14" has no sentence end; "3. Because" has one; "B. The cat" reads as B either way.
  const sentence = line.split(/(?<!\b(?:dr|mr|mrs|ms|st|no|vs))[.!?](?=\s+["'“(]?\p{Lu})/iu, 1)[0]!;
  const answer = tidy(sentence);
  return answer === '' ? null : answer;
}

const wrappers: readonly RegExp[] = [
  /^\$\$([^$]+)\$\$$/,
  /^\$([^$]+)\$$/,
  /^\\\(([\s\S]+)\\\)$/,
  /^\\\[([\s\S]+)\\\]$/,
  /^\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}$/,
  /^\*\*([\s\S]+)\*\*$/,
  /^`([^`]+)`$/,
  /^"([^"]+)"$/,
  /^“([^”]+)”$/,
  /^'([^']+)'$/,
];

/** Trims, and takes off what wraps the whole answer: quotes, emphasis, math signs, \text{}, a sentence's full stop. */
function tidy(text: string): string {
  let answer = text.trim();
  for (;;) {
    const bare = answer.replace(/(?<=[^.\s])\.$/, '');
    const inside = wrappers.map((wrapper) => wrapper.exec(bare)?.[1]?.trim()).find((inner) => inner !== undefined);
    if (inside === undefined || inside === '') return bare;
    answer = inside;
  }
}
