/**
 * The published swapping script appends the whole source image to the caches again at every decode step. We say the same
 * by one number: k copies of a key weigh k times in the softmax, so ln k is added to its score. Here the copies are made
 * for real, as rows of the prompt whose keys and values are the source's, and both must agree.
 */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { Engine } from '../../lib/engine.js';
import { appendedCopies } from '../../lib/experiments/reference.js';
import { knockout, layerRange, patch, swapImage } from '../../lib/hooks/interventions.js';
import { buildPrompt } from '../../lib/processor/prompt.js';
import type { Intervention, Prompt, Trial } from '../../lib/types.js';

const lab = (path: string): string => fileURLToPath(new URL(`../../lab/${path}`, import.meta.url));
const layers = 9;

/** The target's prompt with, for every decoded token, N rows that stand for copies of the image, and the token. */
function withCopies(
  prompt: Prompt,
  tokens: readonly number[],
): { prompt: Prompt; copies: [number, number][]; rows: number[] } {
  const { count } = prompt.images[0]!;
  const ids = [...prompt.ids];
  const positions = [0, 1, 2].map((axis) => [...prompt.positions.subarray(axis * ids.length, (axis + 1) * ids.length)]);
  const copies: [number, number][] = [];
  const rows: number[] = [];
  tokens.forEach((token, step) => {
    copies.push([ids.length, ids.length + count]);
    for (let i = 0; i < count; i++) {
      ids.push(token);
      for (const axis of positions) axis.push(prompt.nextPosition + step);
    }
    rows.push(ids.length);
    ids.push(token);
    for (const axis of positions) axis.push(prompt.nextPosition + step);
  });
  const nextPosition = prompt.nextPosition + tokens.length;
  const longer = { ...prompt, ids: Int32Array.from(ids), positions: Int32Array.from(positions.flat()), nextPosition };
  return { prompt: longer, copies, rows };
}

test.each([0, 3, 5])('ln(copies) on the image’s scores is the appended cache, swapped from layer %d', async (layer) => {
  await using engine = await Engine.open();
  await engine.addModel('rl', lab('checkpoints/rl'));
  const ask = (image: string) =>
    buildPrompt(engine.processor('rl'), { images: [lab(`data/images/${image}`)], question: 'sum of digits ?' });
  const [target, source] = await Promise.all([ask('digits-000.png'), ask('digits-001.png')]);
  const swap = swapImage({ source: 'source', mode: 'suffix', layer, totalLayers: layers });
  const generate = { maxTokens: 6 };
  const append = appendedCopies(target, layerRange(layer, layers), generate.maxTokens);
  const runs: Trial[] = [
    { id: 'source', model: 'rl', prompt: source },
    { id: 'appended', model: 'rl', prompt: target, interventions: [...swap, ...append], generate },
    { id: 'once', model: 'rl', prompt: target, interventions: swap, generate },
  ];
  const first = (await engine.run(runs)).outcomes;
  const appended = first[1]!.ok ? first[1]!.result : undefined;
  const once = first[2]!.ok ? first[2]!.result : undefined;
  let moved = 0;
  // Step 0 is the prefill: the same. From step 1 on the image is there step + 1 times.
  for (let step = 1; step < appended!.tokens.length; step++) {
    const explicit = withCopies(target, [...appended!.tokens].slice(0, step));
    const edits: Intervention[] = explicit.copies.flatMap((rows, at) => [
      ...(['k', 'v'] as const).map((site) =>
        patch(site, { source: 'source', span: 'image', layers: layerRange(layer, layers), rows: [rows] }),
      ),
      // Below the swapped layers the caches hold no copies.
      ...(layer > 0
        ? explicit.rows
            .slice(at)
            .map((row) => knockout({ layers: layerRange(0, layer), queries: [[row, row + 1]], keys: [rows] }))
        : []),
    ]);
    const score = { tokens: [...appended!.tokens].slice(step, step + 1) };
    const { outcomes } = await engine.run([
      { id: 'source', model: 'rl', prompt: source },
      { id: 'explicit', model: 'rl', prompt: explicit.prompt, interventions: [...swap, ...edits], score },
    ]);
    const outcome = outcomes[1]!;
    if (!outcome.ok) throw outcome.error;
    expect(Math.abs(outcome.result.score!.logprobs[0]! - appended!.logprobs[step]!), `step ${step}`).toBeLessThan(2e-4);
    if (
      once!.tokens[step] !== appended!.tokens[step] ||
      Math.abs(once!.logprobs[step]! - appended!.logprobs[step]!) > 1e-3
    )
      moved++;
  }
  expect(appended!.logprobs[0]).toBe(once!.logprobs[0]); // the first token is right in the published script too
  expect(moved).toBeGreaterThan(0); // and the rest is not
});
