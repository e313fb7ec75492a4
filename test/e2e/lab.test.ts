/** The lab family: our engine gives the replies that the training model gave, and so re-measures lab/results.json. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readItems } from '../../lib/data/items.js';
import { Engine } from '../../lib/engine.js';
import { grade } from '../../lib/grading/match.js';
import { buildPrompt } from '../../lib/processor/prompt.js';
import type { Trial } from '../../lib/types.js';

const lab = fileURLToPath(new URL('../../lab', import.meta.url));
const readLab = (path: string): string => readFileSync(join(lab, path), 'utf8');
interface Count {
  readonly correct: number;
  readonly n: number;
}
interface Results {
  readonly weights_sha256: Record<string, string>;
  readonly fresh: {
    readonly differences: { before: string; after: string; tasks: Record<string, { interval: [number, number] }> }[];
  };
  readonly eval: { readonly max_new_tokens: number; readonly counts: Record<string, Record<string, Count>> };
}
interface Prediction {
  readonly id: string;
  readonly text: Record<string, string>;
  readonly close?: Record<string, number>;
}
const results = JSON.parse(readLab('results.json')) as Results;
const predictions = readLab('data/predictions.jsonl')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Prediction);
const family = ['base', 'in', 'in-more', 'rl', 'rl-frozen-early', 'rl-frozen-mid', 'rl-frozen-late'];

test('the family is complete, and its figures belong to these weights', () => {
  expect(Object.keys(results.eval.counts).sort()).toEqual([...family].sort());
  for (const name of family) {
    const weights = readFileSync(join(lab, 'checkpoints', name, 'model.safetensors'));
    expect(weights.length).toBeLessThanOrEqual(4 << 20);
    expect(createHash('sha256').update(weights).digest('hex')).toBe(results.weights_sha256[name]);
  }
});

test('RL has something to find: visual reasoning gains over IN and over the control, beyond its 95 % interval', () => {
  for (const before of ['in', 'in-more']) {
    const row = results.fresh.differences.find((d) => d.before === before && d.after === 'rl')!;
    expect(row.tasks.v2r!.interval[0]).toBeGreaterThan(0);
  }
});

describe.each(family)('%s', (name) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await Engine.open();
    await engine.addModel(name, join(lab, 'checkpoints', name));
  });
  afterAll(() => engine.close());

  test('replies and accuracies on lab/data/eval.jsonl', async () => {
    const items = await readItems(join(lab, 'data', 'eval.jsonl'));
    expect(items.map(({ id }) => id)).toEqual(predictions.map(({ id }) => id));
    const trials = await Promise.all(
      items.map(async ({ id, image, question }): Promise<Trial> => {
        const prompt = await buildPrompt(engine.processor(name), { question, ...(image && { images: [image] }) });
        return { id, prompt, model: name, generate: { maxTokens: results.eval.max_new_tokens } };
      }),
    );
    const { outcomes } = await engine.run(trials);
    const counts: Record<string, { correct: number; n: number }> = {};
    const different: string[] = [];
    let close = 0;
    outcomes.forEach((outcome, i) => {
      if (!outcome.ok) throw outcome.error;
      const item = items[i]!;
      const prediction = predictions[i]!;
      const { text, truncated } = outcome.result;
      counts[item.task] ??= { correct: 0, n: 0 };
      const count = counts[item.task]!;
      count.n += 1;
      if (!truncated && grade(text, item.answer, { kind: 'exact' }).verdict === 'correct') count.correct += 1;
      if (text === prediction.text[name]) return;
      // Where two tokens lie within rounding, another order of summation may choose the other.
      if (prediction.close?.[name] === undefined)
        different.push(`${item.id}: '${text}' for '${prediction.text[name]}'`);
      else close += 1;
    });
    expect(different).toEqual([]);
    expect(close).toBeLessThanOrEqual(items.length / 100);
    for (const [task, { correct, n }] of Object.entries(results.eval.counts[name]!)) {
      expect(counts[task]!.n).toBe(n);
      expect(Math.abs(counts[task]!.correct - correct)).toBeLessThanOrEqual(close);
    }
  });
});
