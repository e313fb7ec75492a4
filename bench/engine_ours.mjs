/** galvani's side of engine.mjs. */
import { run, serve } from './ours.mjs';
import { encodeFloats } from './peer.mjs';

const trialsOf = (prompts, { prompts: names, tokens }, interventions = []) =>
  names.map((name) => ({
    id: name,
    prompt: prompts.get(name),
    model: 'model',
    interventions,
    generate: { maxTokens: tokens, stopTokens: [] },
  }));

await serve({
  /** Logits after each prompt and the greedy tokens. */
  async check(engine, prompts, request) {
    const capture = { site: 'logits', op: 'capture', layers: [], rows: 'last', phase: 'prefill', name: 'logits' };
    const { results } = await run(engine, trialsOf(prompts, request, [capture]));
    return {
      logits: results.map(({ captures }) => encodeFloats(captures.logits.data)),
      tokens: results.map(({ tokens }) => [...tokens]),
    };
  },
  /** The request as a caller sees it; decodeMs: its steps after the prefill. */
  async time(engine, prompts, request) {
    const trials = trialsOf(prompts, request);
    const start = performance.now();
    const { stats } = await run(engine, trials);
    return { ms: performance.now() - start, ...stats };
  },
});
