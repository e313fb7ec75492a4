/** The public table of hand-written cases (docs/grading-cases.jsonl): what a model wrote, gold, rule → verdict. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ruleSchema } from '../../lib/data/rules.js';
import { latexEqual } from '../../lib/grading/latex.js';
import { grade, match, sameAnswer, type Verdict } from '../../lib/grading/match.js';
import { TimedWorker } from '../../lib/grading/timed-worker.js';
import type { MatchRule } from '../../lib/types.js';

interface Case {
  readonly group: string;
  readonly text: string;
  readonly gold: string;
  readonly rule: MatchRule;
  readonly verdict: Verdict;
  /** What must have been read; absent where that is no part of the case. */
  readonly answer?: string;
  readonly why?: string;
}

const lines = readFileSync(new URL('../../docs/grading-cases.jsonl', import.meta.url), 'utf8')
  .trim()
  .split('\n');
const cases = lines.map((line) => JSON.parse(line) as Case);
const groups = [...new Set(cases.map(({ group }) => group))];

test('the table holds at least 300 cases, each once, each with a rule that a data file may hold', () => {
  expect(cases.length).toBeGreaterThanOrEqual(300);
  expect(new Set(cases.map(({ text, gold, rule }) => JSON.stringify([text, gold, rule]))).size).toBe(cases.length);
  for (const { rule } of cases) expect(ruleSchema.parse(rule)).toEqual(rule);
  expect(groups).toContain('published failures');
  // Every kind of rule has right, wrong and unreadable answers; LaTeX can read all but nothing at all.
  const kinds = ['exact', 'number', 'yesno', 'option', 'latex', 'box'];
  for (const kind of kinds) {
    const own = new Set(cases.filter(({ rule }) => rule.kind === kind).map(({ verdict }) => verdict));
    expect([...own].sort(), kind).toEqual(['correct', 'unparsed', 'wrong']);
  }
});

describe.each(groups)('%s', (group) => {
  test.each(cases.filter((one) => one.group === group))('$text | $gold → $verdict', (one) => {
    const { verdict, answer } = grade(one.text, one.gold, one.rule);
    expect(verdict).toBe(one.verdict);
    if (one.answer !== undefined) expect(answer).toBe(one.answer);
  });
});

test('a gold answer is equal to itself under its rule, and equality of two answers has no direction', () => {
  for (const { gold, rule, verdict, answer } of cases) {
    expect(match(gold, gold, rule), `${gold} by ${rule.kind}`).toBe('correct');
    // A relative tolerance is a share of gold: it has a direction.
    if (answer === undefined || verdict === 'unparsed' || (rule.kind === 'number' && rule.unit !== undefined)) continue;
    expect(sameAnswer(answer, gold, rule), `${answer} = ${gold}`).toBe(verdict === 'correct');
    expect(sameAnswer(gold, answer, rule), `${gold} = ${answer}`).toBe(verdict === 'correct');
  }
});

test('an expression that takes too long is undecided, and the next one is answered again', () => {
  // A limit no thread can keep: any expression that needs the engine runs into it.
  expect(latexEqual('\\sin(x)+y', 'y+\\cos(x)', { limitMs: 0 })).toBeNull();
  expect(latexEqual('\\sin(x)+y', 'y+\\sin(x)')).toBe(true);
  expect(latexEqual('(1,\\sin(u)+v)', '(1,v+\\cos(u))', { limitMs: 0 })).toBeNull();
  expect(latexEqual('(2,\\sin(u)+v)', '(1,v+\\cos(u))', { limitMs: 0 }), 'one wrong element decides').toBe(false);
});

test('a worker that cannot start, throws or hangs says so', () => {
  const missing = new TimedWorker<number, number>(new URL('./no-such-worker.js', import.meta.url));
  expect(() => missing.call(1, 1000)).toThrow(/no-such-worker.js: the worker's file is missing/);
  const broken = new TimedWorker<number, number>(new URL('data:text/javascript,throw 1'), { startLimitMs: 200 });
  expect(() => broken.call(1, 1000)).toThrow(/did not start within 200 ms/);
  const source = `
    import { workerData } from 'node:worker_threads';
    const { port, signal } = workerData;
    const reply = (message) => { port.postMessage(message); Atomics.store(signal, 0, 1); Atomics.notify(signal, 0); };
    port.on('message', (n) => {
      if (n === 0) reply({ error: 'zero' });
      else if (n < 0) for (;;);
      else reply({ value: n + 1 });
    });
    reply({ value: true });`;
  const worker = new TimedWorker<number, number>(new URL(`data:text/javascript,${encodeURIComponent(source)}`));
  expect(worker.call(1, 60_000)).toBe(2);
  expect(() => worker.call(0, 60_000)).toThrow('zero');
  expect(worker.call(-1, 20)).toBeUndefined();
  expect(worker.call(4, 60_000)).toBe(5);
  worker.close();
});
