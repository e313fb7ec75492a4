/** Grading a finished run anew: other rules, a judge (a stub that speaks OpenAI's protocol), no model. */
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { run as runCommand } from '../../lib/cli/program.js';
import { runStudy } from '../../lib/experiments/study.js';
import { parseStudy } from '../../lib/experiments/study-file.js';
import { summarize } from '../../lib/experiments/summary.js';
import { cohenKappa, judgePrompt, readJudgement } from '../../lib/grading/judge.js';

const lab = (name: string): string => fileURLToPath(new URL(`../../lab/${name}`, import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'galvani-regrade-'));
const out = join(work, 'run');

/** Says CORRECT when the response holds gold as a word, fails or mumbles where it is told to. */
let server: Server;
let url: string;
const asked: string[] = [];
let mood: 'well' | 'down' | 'mumbling' = 'well';

beforeAll(async () => {
  const study = parseStudy(
    {
      name: 'Regrade',
      models: { in: lab('checkpoints/in'), rl: lab('checkpoints/rl') },
      data: { items: lab('data/eval.jsonl') },
      protocol: { maxTokens: 40 },
      experiments: { transfer: { in: 'in', rl: 'rl', tasks: ['count'], itemsPerTask: 4 } },
    },
    'test',
  );
  await runStudy(study, { out });
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      const user = JSON.parse(body).messages[1].content as string;
      asked.push(user);
      const [, gold, said] = /^Correct answer: (.*)\n\nResponse:\n([\s\S]*)$/.exec(user)!;
      const right = new RegExp(`\\b${gold}\\b`).test(said!);
      response.writeHead(mood === 'down' && right ? 400 : 200, { 'Content-Type': 'application/json' });
      const content = mood === 'mumbling' ? 'hard to say' : right ? 'CORRECT' : 'Verdict: WRONG.';
      response.end(JSON.stringify({ choices: [{ message: { content } }] }));
    });
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
afterAll(() => {
  server.close();
  rmSync(work, { recursive: true });
});

async function regrade(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const texts = { out: '', err: '' };
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      texts[name === 'stdout' ? 'out' : 'err'] += String(text);
      return true;
    }),
  );
  try {
    const code = await runCommand(['node', 'galvani', 'regrade', out, '--quiet', ...args]);
    return { code, ...texts };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

const countRate = () =>
  summarize(out).transfer!.policies[0]!.accuracy.find(({ model, group }) => model === 'IN' && group === 'vision')!
    .accuracy;

test('regrade needs no model, keeps the ledger, and says what changed', async () => {
  const ledger = readFileSync(join(out, 'ledger.jsonl'), 'utf8');
  const before = summarize(out);
  const first = await regrade();
  expect(first).toMatchObject({ code: 0, err: '' });
  expect(first.out).toMatch(/^64 answers: \d+ correct, \d+ wrong, \d+ unparsed, 0 undecided\nno verdict changed\n/);

  const loose = JSON.parse((await regrade('--rule', 'count={"kind":"number","tolerance":9}', '--json')).out);
  expect(loose.changes.length).toBeGreaterThan(0);
  expect(
    loose.changes.every(
      ({ before: was, after }: { before: string; after: string }) => was === 'wrong' && after === 'correct',
    ),
  ).toBe(true);
  expect(countRate()).toMatchObject({ rate: 1, n: 4 });
  expect(loose.grading.replaced).toEqual(['count']);

  // The choice stays until it is taken back, and then everything is as it was.
  expect((await regrade()).out).toContain('no verdict changed');
  expect(countRate().rate).toBe(1);
  expect((await regrade('--reset')).out).toContain(`${loose.changes.length} verdicts changed`);
  expect(summarize(out)).toEqual(before);
  expect(readFileSync(join(out, 'ledger.jsonl'), 'utf8')).toBe(ledger);
});

test('models may be gone: only the run directory is read', async () => {
  const moved = join(work, 'elsewhere');
  const record = join(out, 'run.json');
  const text = readFileSync(record, 'utf8');
  writeFileSync(record, text.replaceAll(lab('checkpoints'), '/gone'));
  renameSync(out, moved);
  renameSync(moved, out);
  expect((await regrade()).code).toBe(0);
  writeFileSync(record, text);
});

test('a judge beside the rules: agreement, cache by prediction, failures as missing data', async () => {
  const judge = ['--judge', url, '--judge-model', 'stub'];
  mood = 'down';
  const down = await regrade(...judge, '--json');
  expect(down.err).toMatch(/the judge did not grade \d+ of \d+ answers, now missing data: .*400/);
  const partly = JSON.parse(down.out).grading.judge;
  expect(partly.agreement.failed).toBeGreaterThan(0);
  expect(partly.agreement.n + partly.agreement.failed).toBe(64);

  mood = 'well';
  const open = asked.length;
  const told = JSON.parse((await regrade(...judge, '--json')).out).grading.judge;
  expect(told.agreement).toMatchObject({ rate: 1, n: 64, failed: 0 });
  expect(told.kappa).toBe(1);
  // Only what failed was asked again; equal answers to equal gold are one question.
  expect(asked.length - open).toBeLessThan(open);
  const now = asked.length;
  await regrade(...judge);
  expect(asked.length).toBe(now);
  expect(new Set(asked.slice(open)).size).toBe(asked.length - open);
  // With another rule the question to the judge is another one: nothing stale is taken.
  await regrade(...judge, '--rule', 'count={"kind":"number","tolerance":9}');
  expect(asked.length).toBeGreaterThan(now);
  const loose = summarize(out).grading.judge!;
  expect(loose.onlyRules).toBeGreaterThan(0);
  expect(loose.onlyJudge).toBe(0);
  expect(loose.agreement.rate!).toBeLessThan(1);
  expect(loose.disagreements[0]).toMatchObject({ verdict: 'correct', judge: 'wrong' });
  expect(countRate().rate).toBe(1);

  // The judge decides: its verdicts count, and what it did not say is no number.
  await regrade('--decide', 'judge');
  expect(countRate().rate).toBeLessThan(1);
  rmSync(join(out, 'judge.jsonl'));
  expect(countRate()).toMatchObject({ rate: null, n: 0, failed: 4 });
  mood = 'mumbling';
  expect((await regrade(...judge, '--decide', 'judge')).err).toMatch(/expected CORRECT or WRONG, got "hard to say"/);
  expect(countRate()).toMatchObject({ rate: null, failed: 4 });
  await regrade('--reset');
  expect(summarize(out).grading.judge).toBeNull();
});

test('wrong input is named', async () => {
  const said = async (...args: string[]) => (await regrade(...args)).err;
  expect(await said('--rule', 'magic=latex')).toMatch(/the run has no task 'magic'; it has count/);
  expect(await said('--rule', 'count=fuzzy')).toMatch(/no rule: fuzzy/);
  expect(await said('--rule', 'count')).toMatch(/expected task=rule/);
  expect(await said('--rule', 'count=yesno')).toMatch(
    /the rule 'yesno' cannot read the gold answer "\d+" of count-\d+/,
  );
  expect(await said('--judge', url)).toMatch(/--judge needs --judge-model/);
  expect(await said('--decide', 'judge')).toMatch(/--decide judge needs a --judge/);
});

test('what a judge sees and says', () => {
  const { system, user } = judgePrompt({
    text: '<think>A? no</think>It is B.',
    gold: 'dog',
    rule: { kind: 'option', choices: ['cat', 'dog'] },
  });
  expect(system).toContain('CORRECT or WRONG');
  expect(user).toBe('Correct answer: dog\nChoices: A. cat; B. dog\n\nResponse:\nIt is B.');
  expect(judgePrompt({ text: 'x'.repeat(9000), gold: '1', rule: { kind: 'exact' } }).user.length).toBeLessThan(2100);
  expect(['CORRECT', 'correct.', '<think>wrong?</think> Correct', 'WRONG', 'Incorrect'].map(readJudgement)).toEqual([
    'correct',
    'correct',
    'correct',
    'wrong',
    'wrong',
  ]);
  for (const reply of ['', 'maybe', 'CORRECT or WRONG'])
    expect(() => readJudgement(reply)).toThrow(/expected CORRECT or WRONG/);
  // Cohen's own table has no simpler check: perfect, none beyond chance, and 20/5/10/15 by hand (0.4).
  expect([cohenKappa(5, 0, 0, 5), cohenKappa(1, 1, 1, 1), cohenKappa(5, 0, 0, 0), cohenKappa(0, 0, 0, 0)]).toEqual([
    1,
    0,
    null,
    null,
  ]);
  expect(cohenKappa(20, 5, 10, 15)).toBeCloseTo(0.4, 12);
});
