import { describe, expect, test } from 'vitest';
import { type AnswerSource, extract } from '../../lib/grading/extract.js';
import { grade, match, referenceSame, sameAnswer, type Verdict } from '../../lib/grading/match.js';
import { readNumber } from '../../lib/grading/number.js';
import { boxIou, readBox } from '../../lib/grading/read.js';
import type { MatchRule } from '../../lib/types.js';

const exact: MatchRule = { kind: 'exact' };
const number: MatchRule = { kind: 'number' };
const yesno: MatchRule = { kind: 'yesno' };
const box: MatchRule = { kind: 'box', iou: 0.5 };
const animals: MatchRule = { kind: 'option', choices: ['cat', 'dog', 'black cat', 'a horse'] };
const sevens: MatchRule = { kind: 'option', choices: ['6', '7', '7.5', '14'] };

/** text → answer and where it stood; no rule unless given. */
const extractions: [text: string, answer: string | null, how: AnswerSource | null, rule?: MatchRule][] = [
  // Tags.
  ['<answer>7</answer>', '7', 'answer-tag'],
  ['<think> 3 + 4 = 7 </think> <answer> 7 </answer>', '7', 'answer-tag'],
  ['<ANSWER> Yes </ANSWER>', 'Yes', 'answer-tag'],
  ['<answer>1</answer> no wait <answer>2</answer>', '2', 'answer-tag'],
  ['<answer>12', '12', 'answer-tag'],
  ['<answer>5</answer><answer>', '5', 'answer-tag'],
  ['<answer><answer>7</answer></answer>', '7', 'answer-tag'],
  ['<answer></answer>', null, null],
  ['<answer>\\boxed{42}</answer>', '42', 'answer-tag'],
  ['\\boxed{1} <answer>2</answer>', '2', 'answer-tag'],
  ['<answer>r2 c3</answer>', 'r2 c3', 'answer-tag'],
  ['<answer>"diffusion"</answer>', 'diffusion', 'answer-tag'],
  ['<answer>7</answer><|im_end|>', '7', 'answer-tag'],
  // The published grader's decimal mangling: "3.14" became "14", "1:2" became "2".
  ['<answer>3.14</answer>', '3.14', 'answer-tag'],
  ['<answer>0.5</answer>', '0.5', 'answer-tag'],
  ['<answer>1:2</answer>', '1:2', 'answer-tag'],
  ['<answer>5-2</answer>', '5-2', 'answer-tag'],
  ['<answer>B. 3</answer>', 'B. 3', 'answer-tag'],
  // Boxes with nested braces.
  ['so \\boxed{7}.', '7', 'boxed'],
  ['\\boxed{\\frac{1}{2}}', '\\frac{1}{2}', 'boxed'],
  ['\\boxed{\\{1, 2\\}}', '\\{1, 2\\}', 'boxed'],
  ['\\boxed{x^{2^{n}}} done', 'x^{2^{n}}', 'boxed'],
  ['first \\boxed{1} then \\boxed{2}', '2', 'boxed'],
  ['\\boxed{9} and cut \\boxed{1', '9', 'boxed'],
  ['\\boxed{\\text{B}}', 'B', 'boxed'],
  ['\\boxed{ \\boxed{3} }', '3', 'boxed'],
  ['\\boxed {4}', '4', 'boxed'],
  ['$\\boxed{3.14}$', '3.14', 'boxed'],
  ['\\boxed{}', null, null],
  ['\\boxed{5}\nThe final answer is 6', '5', 'boxed'],
  // Phrases.
  ['The final answer is 12.', '12', 'phrase'],
  ['Final answer: 12', '12', 'phrase'],
  ['**Answer:** 12', '12', 'phrase'],
  ['Answer:\n\n7', '7', 'phrase'],
  ['The answer is 3.14.', '3.14', 'phrase'],
  ['The answer is 3. Because there are three.', '3', 'phrase'],
  ['The answer is Dr. Smith.', 'Dr. Smith', 'phrase'],
  ['The answer to the question is yes.', 'yes', 'phrase'],
  ['The answer is 4. Hmm, the correct answer is 5.', '5', 'phrase'],
  ['The answer is: $7$', '7', 'phrase'],
  ['the answer is not 5', 'the answer is not 5', 'whole'],
  ['3 + 4 = 7\nSo the correct option is B.', 'B', 'phrase', sevens],
  ['The answer is obvious.\n12', '12', 'final-line', number],
  // Final line, whole text.
  ['Let me read it.\nbackpropagation', 'backpropagation', 'final-line'],
  ['backpropagation', 'backpropagation', 'whole'],
  ['  backpropagation.\n\n', 'backpropagation', 'whole'],
  ['`diffusion`', 'diffusion', 'whole'],
  ['**diffusion**', 'diffusion', 'whole'],
  ['“diffusion”.', 'diffusion', 'whole'],
  ['3 + 4 = 7\n(B) seven', 'B', 'option-letter', sevens],
  ['I see a dog.\nIt is outside.', 'B', 'option-letter', animals],
  ['Yes.\nThere it stands, left of the door.', 'Yes.\nThere it stands, left of the door.', 'whole', yesno],
  ['```json\n[{"bbox_2d": [1, 2, 3, 4]}]\n```', '```json\n[{"bbox_2d": [1, 2, 3, 4]}]\n```', 'whole', box],
  ['', null, null],
  [' \n ', null, null],
  // Thoughts are not answers.
  ['<think>\\boxed{1}</think>2', '2', 'whole'],
  ['<think>the answer is 5', null, null],
  ['<think>\\boxed{5} and', null, null],
  ['<think>so <answer>5</answer>', '5', 'answer-tag'],
  ['the answer is 5</think>', null, null],
];

test.each(extractions)('extract %j', (text, answer, how, rule) => {
  expect(extract(text, rule === undefined ? {} : { rule })).toEqual(answer === null ? null : { answer, how });
});

/** prediction, gold, rule → verdict. */
const verdicts: [prediction: string | null, gold: string, rule: MatchRule, verdict: Verdict][] = [
  // exact
  ['Backpropagation', 'backpropagation', exact, 'correct'],
  ['  the   cat.\n', 'The cat', exact, 'correct'],
  ['cat!?;:.,', 'cat', exact, 'correct'],
  ['cats', 'cat', exact, 'wrong'],
  ['the cat', 'cat', exact, 'wrong'],
  ['r2 c3', 'r2 c3', exact, 'correct'],
  ['r2 c3', 'r3 c2', exact, 'wrong'],
  ['', 'cat', exact, 'unparsed'],
  ['.', 'cat', exact, 'unparsed'],
  [null, 'cat', exact, 'unparsed'],
  ['1:2', '1:2', exact, 'correct'],
  ['1:2', '2', exact, 'wrong'],
  ['3.14', '14', exact, 'wrong'],
  // number
  ['7', '7', number, 'correct'],
  ['7.0', '7', number, 'correct'],
  ['3.14', '3.14', number, 'correct'],
  ['3.14', '14', number, 'wrong'],
  ['0.5', '5', number, 'wrong'],
  ['2005', '2004', number, 'wrong'],
  ['2005', '2004', { kind: 'number', tolerance: 1 }, 'correct'],
  ['3.15', '3.14', { kind: 'number', tolerance: 0.01 }, 'correct'],
  ['3.16', '3.14', { kind: 'number', tolerance: 0.01 }, 'wrong'],
  ['1.1', '1.0', { kind: 'number', tolerance: 0.1 }, 'correct'],
  ['1,234', '1234', number, 'correct'],
  ['1,234,567.5', '1234567.5', number, 'correct'],
  ['1{,}234', '1234', number, 'correct'],
  ['12,34', '1234', number, 'unparsed'],
  ['3, 4', '4', number, 'unparsed'],
  ['-3', '3', number, 'wrong'],
  ['−3', '-3', number, 'correct'],
  ['.5', '0.5', number, 'correct'],
  ['5.', '5', number, 'correct'],
  ['50%', '50', number, 'correct'],
  ['50 %', '0.5', number, 'correct'],
  ['0.5', '50%', number, 'correct'],
  ['50\\%', '50%', number, 'correct'],
  ['50 percent', '0.5', number, 'correct'],
  ['5%', '50%', number, 'wrong'],
  ['0.5', '50', number, 'wrong'],
  ['2.5e-3', '0.0025', number, 'correct'],
  ['2.5×10^-3', '0.0025', number, 'correct'],
  ['2.5 \\times 10^{-3}', '0.0025', number, 'correct'],
  ['3/4', '0.75', number, 'correct'],
  ['1/3', '0.333', { kind: 'number', tolerance: 0.001 }, 'correct'],
  ['1/0', '5', number, 'unparsed'],
  ['1e999', '5', number, 'unparsed'],
  ['12/25/2020', '12', number, 'unparsed'],
  ['1:2', '2', number, 'unparsed'],
  ['5-2', '2', number, 'unparsed'],
  ['5 - 2', '3', number, 'unparsed'],
  ['3 + 4 = 7', '7', number, 'correct'],
  ['x = -2', '-2', number, 'correct'],
  ['12 cm', '12', number, 'correct'],
  ['12cm', '12', number, 'correct'],
  ['$12', '12', number, 'correct'],
  ['There are 3 items', '3', number, 'correct'],
  ['3 red and 4 blue', '4', number, 'unparsed'],
  ['3 items, yes 3', '3', number, 'correct'],
  ['seven', '7', number, 'correct'],
  ['There are twenty-one.', '21', number, 'correct'],
  ['Three or four', '3', number, 'unparsed'],
  ['zero', '0', number, 'correct'],
  ['r2', '2', number, 'unparsed'],
  ['1.2.3', '1.2', number, 'unparsed'],
  ['10^4', '10', number, 'wrong'],
  ['many', '3', number, 'unparsed'],
  ['07', '7', number, 'correct'],
  ['someone', '1', number, 'unparsed'],
  ['9007199254740993', '9007199254740993', number, 'correct'],
  // yesno
  ['Yes', 'Yes', yesno, 'correct'],
  ['yes.', 'No', yesno, 'wrong'],
  ['No, there is none.', 'no', yesno, 'correct'],
  ['Yes, there is no doubt.', 'yes', yesno, 'correct'],
  ['There is no toaster.', 'No', yesno, 'correct'],
  ['I know it.', 'No', yesno, 'unparsed'],
  ['yes or no', 'yes', yesno, 'unparsed'],
  ['yes/no', 'yes', yesno, 'unparsed'],
  ['Maybe', 'No', yesno, 'unparsed'],
  ['"Yes"', 'yes', yesno, 'correct'],
  ['Yesterday', 'yes', yesno, 'unparsed'],
  // option
  ['B', 'B', animals, 'correct'],
  ['b', 'B', animals, 'correct'],
  ['(B)', 'B', animals, 'correct'],
  ['B.', 'dog', animals, 'correct'],
  ['B. dog', 'B', animals, 'correct'],
  ['(b) dog', 'B', animals, 'correct'],
  ['B: dog', 'B', animals, 'correct'],
  ['B - dog', 'B', animals, 'correct'],
  ['option B', 'B', animals, 'correct'],
  ['The answer is (C).', 'C', animals, 'correct'],
  ['dog', 'B', animals, 'correct'],
  ['It is a dog', 'B', animals, 'correct'],
  ['a black cat', 'C', animals, 'correct'],
  ['cat', 'C', animals, 'wrong'],
  ['A horse', 'D', animals, 'correct'],
  ['A dog', 'B', animals, 'correct'],
  ['not a dog', 'B', animals, 'unparsed'],
  ['a cat and a dog', 'A', animals, 'unparsed'],
  ['A. or B.', 'A', animals, 'unparsed'],
  ['E', 'A', animals, 'unparsed'],
  ['In Washington D.C. it is a dog', 'B', animals, 'correct'],
  ['bird', 'A', animals, 'unparsed'],
  ['7', 'B', sevens, 'correct'],
  ['7.5', 'B', sevens, 'wrong'],
  ['7.5', 'C', sevens, 'correct'],
  ['C. 7.5', '7.5', sevens, 'correct'],
  ['14', 'B', sevens, 'wrong'],
  ['dog', 'B', { kind: 'option', choices: ['A. cat', 'B. dog'] }, 'correct'],
  // box
  ['283,278,368,348', '[283, 278, 368, 348]', box, 'correct'],
  ['[283, 278, 368, 348]', '283,278,368,348', box, 'correct'],
  ['(283,278),(368,348)', '283,278,368,348', box, 'correct'],
  ['<box>(283,278),(368,348)</box>', '283,278,368,348', box, 'correct'],
  ['{"bbox_2d": [283, 278, 368, 348], "label": "red circle"}', '283,278,368,348', box, 'correct'],
  ['The box is x1=283, y1=278, x2=368, y2=348.', '283,278,368,348', box, 'correct'],
  ['368,348,283,278', '283,278,368,348', box, 'correct'],
  ['Object 1: [283, 278, 368, 348]', '283,278,368,348', box, 'correct'],
  ['290 285 370 350', '283,278,368,348', box, 'correct'],
  ['0,0,10,10', '283,278,368,348', box, 'wrong'],
  ['0,0,10,10', '0,0,10,20', box, 'correct'],
  ['0,0,10,10', '0,0,10,21', box, 'wrong'],
  ['0,0,10,10', '0,0,10,20', { kind: 'box', iou: 0.51 }, 'wrong'],
  ['[1,2,3,4] or [5,6,7,8]', '1,2,3,4', box, 'unparsed'],
  ['283,278,368', '283,278,368,348', box, 'unparsed'],
  ['the red circle', '283,278,368,348', box, 'unparsed'],
];

test.each(verdicts)('match %j with gold %j by %j is %s', (prediction, gold, rule, verdict) => {
  expect(match(prediction, gold, rule)).toBe(verdict);
});

test('the tables hold at least 120 cases', () => {
  expect(extractions.length + verdicts.length).toBeGreaterThanOrEqual(120);
});

test('a gold answer that its rule cannot read is an error of the data', () => {
  expect(() => match('3', 'many', number)).toThrow(/gold answer "many" cannot be read by the rule 'number'/);
  expect(() => match('B', 'E', animals)).toThrow(/choices/);
  expect(() => match(null, 'perhaps', yesno)).toThrow(/gold/);
});

test('grade joins both steps', () => {
  expect(grade('<think>2 + 5</think>\n<answer>7</answer>', '7', number)).toEqual({
    verdict: 'correct',
    answer: '7',
    how: 'answer-tag',
  });
  expect(grade('3 + 4 = 7\nSo the correct option is B.', 'B', sevens).verdict).toBe('correct');
  expect(grade('<think> still', '7', number)).toEqual({ verdict: 'unparsed', answer: null, how: null });
  // A marked answer binds: the 7 outside it does not count.
  expect(grade('7 <answer>none</answer>', '7', number).verdict).toBe('unparsed');
});

describe('comparing two predictions', () => {
  const cases: [string | null, string | null, MatchRule, boolean][] = [
    ['Seven', '7.', number, true],
    ['7', '8', number, false],
    ['many', 'Many.', number, true],
    ['many', '7', number, false],
    ['Yes.', 'yes, there is', yesno, true],
    ['[0,0,10,10]', '0 0 10 12', box, true],
    ['[0,0,10,10]', '[0,0,10,30]', box, false],
    ['0,0,10,10', 'nowhere', box, false],
    ['B', 'dog', animals, true],
    [null, null, exact, true],
    [null, 'cat', exact, false],
    ['Cat', 'cat ', exact, true],
  ];
  test.each(cases)('%j and %j by %j: %s', (a, b, rule, same) => {
    expect(sameAnswer(a, b, rule)).toBe(same);
    expect(sameAnswer(b, a, rule)).toBe(same);
  });
});

test('referenceSame follows the published script, its looseness included', () => {
  expect(referenceSame('Yes.', 'yes')).toBe(true);
  expect(referenceSame('yes', 'yes, it is')).toBe(false);
  expect(referenceSame('4', '5')).toBe(false);
  expect(referenceSame('a  b', 'a b')).toBe(false);
  expect(referenceSame('there are 3', 'there are 3 items in the image')).toBe(true);
  expect(referenceSame('there are 4 items in the image', 'there are 3 items in the image')).toBe(false);
  expect(referenceSame('', 'a text of more than twenty characters')).toBe(true);
  // Under 20 both: 19 characters are compared exactly; a 20-character side switches to substrings.
  expect(referenceSame('a'.repeat(19), 'a'.repeat(18))).toBe(false);
  expect(referenceSame('a'.repeat(20), 'a'.repeat(18))).toBe(true);
});

test('intersection over union', () => {
  expect(boxIou([0, 0, 2, 2], [1, 1, 3, 3])).toBeCloseTo(1 / 7, 15);
  expect(boxIou([0, 0, 1, 1], [2, 2, 3, 3])).toBe(0);
  expect(boxIou([1, 1, 1, 1], [1, 1, 1, 1])).toBe(0);
  expect(readBox('-1.5, .5, 2, 3')).toEqual([-1.5, 0.5, 2, 3]);
});

test('reading is linear enough for hostile text', () => {
  const started = performance.now();
  for (const text of ['1,'.repeat(20_000), '(('.repeat(20_000), '\\boxed{'.repeat(5_000), '<answer>'.repeat(5_000)]) {
    extract(text);
    readNumber(text);
    readBox(text);
  }
  expect(performance.now() - started).toBeLessThan(5_000);
});
