/**
 * IN against itself with fresh noise: the real engine samples answers of one checkpoint with different seeds, and the
 * analysis of grafts is asked what differs. Nothing does, so a family of seven tests may find something in 5 % of studies.
 */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { readItems } from '../../lib/data/items.js';
import { Engine } from '../../lib/engine.js';
import { AnswerTable, accuracies } from '../../lib/experiments/answers.js';
import { goldMeta } from '../../lib/experiments/context.js';
import { isSignificant } from '../../lib/experiments/measure.js';
import { Prompter } from '../../lib/experiments/prompter.js';
import type { Observation } from '../../lib/run/rows.js';
import type { Trial } from '../../lib/types.js';

const lab = (path: string): string => fileURLToPath(new URL(`../../lab/${path}`, import.meta.url));
const models = 8;
const groups = 4;
const block = 25;

test('studies of one model against itself with fresh sampling noise find something in at most 5 %', async () => {
  await using engine = await Engine.open();
  await engine.addModel('in', lab('checkpoints/in'));
  const prompter = new Prompter(engine.processor('in'), { maxTokens: 6 });
  const items = (await readItems(lab('data/eval.jsonl'))).filter(({ task }) => task === 'count' || task === 'ground');
  const trials: Trial[] = [];
  for (const item of items) {
    const prompt = await prompter.ask(item);
    for (let seed = 0; seed < models * groups; seed++) {
      trials.push({
        id: `${item.id} ${seed}`,
        model: 'in',
        prompt,
        generate: { maxTokens: 6, temperature: 1.5, seed: 1000 * seed + trials.length },
      });
    }
  }
  const texts = new Map<string, string>();
  for (let at = 0; at < trials.length; at += 1024) {
    const { outcomes } = await engine.run(trials.slice(at, at + 1024));
    for (const outcome of outcomes)
      if (outcome.ok && !outcome.result.truncated) texts.set(outcome.id, outcome.result.text);
  }
  let studies = 0;
  let found = 0;
  let differing = 0;
  for (let start = 0; start + block <= items.length; start += block) {
    for (let group = 0; group < groups; group++) {
      const rows = items.slice(start, start + block).flatMap((item) =>
        Array.from({ length: models }, (_, m): Observation => {
          const text = texts.get(`${item.id} ${group * models + m}`);
          const meta = {
            ...goldMeta(m === 0 ? 'IN' : `again ${m}`, item),
            task: 'all',
            group: 'vision',
            sight: 'image',
          };
          const base = { kind: 'trial', key: '', label: '', tokens: 1, truncated: text === undefined } as const;
          return { key: '', meta, row: { ...base, text: text ?? '' } };
        }),
      );
      const cells = accuracies(new AnswerTable(rows), 'null', 'IN');
      studies += 1;
      if (cells.some(({ test: paired }) => isSignificant(paired))) found += 1;
      if (cells.some(({ test: paired }) => paired && paired.lost + paired.gained > 3)) differing += 1;
    }
  }
  expect(studies).toBe(32);
  expect(differing).toBe(studies); // the noise is real: every study has models that disagree on items
  // Binomial(32, 0.05): more than five would happen once in 500 runs.
  expect(found).toBeLessThanOrEqual(5);
}, 120_000);
