/**
 * Grading: answers per second and agreement with the hand-written table, beside Math-Verify and the published rules.
 *
 *   npm run bench:grading [-- --rounds 5]
 *
 * GALVANI_PYTHON names a Python with math-verify. Every side grades docs/grading-cases.jsonl: what a model wrote and the
 * gold answer in, right or wrong out. Math-Verify reads numbers and LaTeX only, so speed is compared on those cases; it has
 * no rules by task, and gets gold in dollar signs, the way its documentation asks for. `published rules` is our rendering of
 * the paper's extraction and comparison without its option lists and judge. The table was written with galvani:
 * its own agreement says that it does what the table says, not that the table is fair to others.
 */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { interleave, Worker } from './peer.mjs';
import { circumstances, save, speedTable, summarise, table } from './report.mjs';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' } } });
const rounds = Number(values.rounds);
const file = fileURLToPath(new URL('../docs/grading-cases.jsonl', import.meta.url));
const cases = readFileSync(file, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));
const mathematical = cases.flatMap(({ rule }, i) => (rule.kind === 'number' || rule.kind === 'latex' ? [i] : []));

const python = process.env.GALVANI_PYTHON ?? 'python3';
const probe =
  'import json, platform; from importlib.metadata import version as v; import math_verify; ' +
  'print(json.dumps({"python": platform.python_version(), "math-verify": v("math-verify"), "sympy": v("sympy")}))';
let peer;
try {
  peer = { versions: JSON.parse((await promisify(execFile)(python, ['-c', probe])).stdout) };
} catch (error) {
  peer = {
    missing: `${python}: ${String(error.stderr || error.message)
      .trim()
      .split('\n')
      .at(-1)}`,
  };
  console.log(`no peer, galvani alone: ${peer.missing}`);
}

// Both remember what they decided, so that every pass is the first of a fresh process; starting it is
// not counted, starting galvani's thread for LaTeX and loading its engine is.
const pass = async ({ name, script, who }, indices) => {
  const worker = Worker.start(name, python, script, [file, who]);
  try {
    return await worker.ask({ indices });
  } finally {
    await worker.close();
  }
};
const sides = [
  { name: 'galvani', script: 'grading_ours.mjs', who: 'galvani' },
  { name: 'published rules', script: 'grading_ours.mjs', who: 'published' },
];
if (!peer.missing) sides.push({ name: 'Math-Verify', script: 'grading_peer.py', who: '' });
const kinds = ['number', 'latex', 'option', 'yesno', 'exact', 'box'];

const record = circumstances(peer);
// Verdicts first; right or not is all that is compared, an unreadable answer is not right.
const everything = cases.map((_, i) => i);
const agreement = [];
for (const side of sides) {
  const { verdicts } = await pass(side, everything);
  const agree = verdicts.map((right, i) => right === (cases[i].verdict === 'correct'));
  // The other rules are none of Math-Verify's business.
  for (const kind of side.name === 'Math-Verify' ? ['number', 'latex'] : kinds) {
    const own = everything.filter((i) => cases[i].rule.kind === kind);
    const falseRight = own.filter((i) => verdicts[i] && !agree[i]).length;
    const falseWrong = own.filter((i) => !verdicts[i] && !agree[i]).length;
    agreement.push({
      side: side.name,
      kind,
      n: own.length,
      agree: own.length - falseRight - falseWrong,
      falseRight,
      falseWrong,
    });
  }
}
const samples = await interleave(sides, rounds, async (side) => (await pass(side, mathematical)).ms, { warm: false });
const speed = summarise({ name: 'number and LaTeX cases', samples, count: mathematical.length, unit: 'answers/s' });
console.log(speedTable([speed]));
console.log();
const cells = agreement.map((a) => [a.side, a.kind, a.n, a.agree, a.falseRight, a.falseWrong]);
console.log(table(['', 'rule', 'cases', 'as the table', 'wrongly right', 'wrongly wrong'], cells));
if (!peer.missing) save('grading', { ...record, cases: cases.length, rounds, speed, agreement });
