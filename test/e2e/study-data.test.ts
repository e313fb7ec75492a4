/** A study whose data are declared: filtered rows, conditions of sight, descriptions written by a model of the study. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { runStudy } from '../../lib/experiments/study.js';
import { readStudy, withPathsFrom } from '../../lib/experiments/study-file.js';
import { describeStudy } from '../../lib/experiments/study-prepare.js';
import { summarize } from '../../lib/experiments/summary.js';
import type { PolicyResult } from '../../lib/experiments/transfer-analyze.js';
import { silent } from '../../lib/run/progress.js';

const lab = (name: string): string => fileURLToPath(new URL(`../../lab/${name}`, import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'galvani-study-data-'));
afterAll(() => rmSync(work, { recursive: true }));

const text = `
name: Declared data
models: { in: ${lab('checkpoints/in')}, rl: ${lab('checkpoints/rl')} }
data:
  items: { path: ${lab('data/eval.jsonl')}, where: { task: [count, chain] } }
  groups: { vision: [count], textReasoning: [chain] }
  descriptions: { model: rl, prompt: 'describe ?', maxTokens: 60, tasks: [count] }
protocol: { maxTokens: 40 }
experiments:
  transfer: { in: in, rl: rl, itemsPerTask: 3, conditions: [noise, none, description] }
`;

test('what was read, drawn, described and asked is on record', async () => {
  const file = join(work, 'study.yaml');
  writeFileSync(file, text);
  const study = withPathsFrom(readStudy(file), work);
  const out = join(work, 'run');
  const run = await runStudy(study, { out });
  expect(run).toMatchObject({ failed: 0, finished: true });

  const { facts, data } = JSON.parse(readFileSync(join(out, 'run.json'), 'utf8'));
  expect(facts.sources).toMatchObject([{ name: 'eval', rows: 800, kept: 200 }]);
  expect(facts.subsets.transfer).toMatchObject({ seed: 1, of: 200 });
  expect(facts.subsets.transfer.ids).toHaveLength(6);
  expect(data.items).toBeTruthy();

  const [{ conditions }] = summarize(out).transfer!.policies as [PolicyResult];
  const sights = (group: string) => [
    ...new Set(conditions.filter((cell) => cell.group === group).map(({ sight }) => sight)),
  ];
  expect(sights('vision').sort()).toEqual(['black', 'description', 'image', 'noise', 'none']);
  expect(sights('textReasoning')).toEqual(['none']);
  for (const { accuracy } of conditions) expect(accuracy.n + accuracy.truncated).toBe(3);

  // Every counting picture is described once, by the model that was named; a second run asks nothing.
  const rows = readFileSync(join(out, 'descriptions.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(rows).toHaveLength(new Set(rows.map(({ key }) => key)).size);
  expect(rows[0].description.length).toBeGreaterThan(5);
  expect(await runStudy(study, { out })).toMatchObject({ computed: 0, failed: 0 });

  const described = join(work, 'd.jsonl');
  expect(await describeStudy(study, { file: described, progress: silent })).toBe(100);
  const fromFile = { ...study, data: { ...study.data, descriptions: { file: described } } };
  // The same texts from a file are the same prompts: nothing is computed again.
  expect(await runStudy(fromFile, { out: join(work, 'second') })).toMatchObject({ failed: 0 });
  await expect(runStudy(study, { out: join(work, 'shards'), shard: { index: 0, count: 2 } })).rejects.toThrow(
    /galvani describe/,
  );
});

test('gold that its rule cannot read stops a study before it computes', async () => {
  const items = join(work, 'items.jsonl');
  writeFileSync(items, JSON.stringify({ id: 'x', task: 'math', question: 'q', answer: 'many' }));
  const study = withPathsFrom(readStudy(join(work, 'study.yaml')), work);
  const wrong = { ...study, data: { rules: {}, items } };
  await expect(runStudy(wrong, { out: join(work, 'wrong') })).rejects.toThrow(
    /'number' cannot read the gold answer "many" of x/,
  );
});
