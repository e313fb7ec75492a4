/** One side in this process: {"indices": [...]} per line in, {"ms", "verdicts"} out. Arguments: cases file, galvani | published. */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { publishedCorrect } from '../dist/experiments/reference-grading.js';
import { grade } from '../dist/index.js';

const [, , file, who] = process.argv;
const cases = readFileSync(file, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));
const right =
  who === 'galvani'
    ? ({ text, gold, rule }) => grade(text, gold, rule).verdict === 'correct'
    : ({ text, gold }) => publishedCorrect(text, gold, { mangle: true, onePercent: true });

for await (const line of createInterface({ input: process.stdin })) {
  const { indices } = JSON.parse(line);
  const start = performance.now();
  const verdicts = indices.map((i) => right(cases[i]));
  process.stdout.write(`${JSON.stringify({ ms: performance.now() - start, verdicts })}\n`);
}
// LaTeX equality keeps a worker thread for its time limit.
process.exit(0);
