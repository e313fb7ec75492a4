/** galvani's side of sweep.mjs: the whole sweep of a pair is one request. */
import { swapImage } from '../dist/hooks/interventions.js';
import { run, serve } from './ours.mjs';
import { encodeFloats } from './peer.mjs';

function sweep(engine, prompts, { pairs, tokens }, interventions = []) {
  const totalLayers = engine.model('model').layers;
  return pairs.flatMap(({ source, target }) => {
    const trial = (id, prompt, edits = []) => ({
      id: `${target} ${id}`,
      prompt: prompts.get(prompt),
      model: 'model',
      interventions: [...edits, ...interventions],
      generate: { maxTokens: tokens, stopTokens: [] },
    });
    const swap = (layer) => swapImage({ source: `${target} source`, mode: 'suffix', layer, totalLayers });
    const swaps = Array.from({ length: totalLayers }, (_, layer) => trial(`swap ${layer}`, target, swap(layer)));
    return [trial('source', source), trial('target', target), ...swaps];
  });
}

await serve({
  async check(engine, prompts, request) {
    const capture = { site: 'logits', op: 'capture', layers: [], rows: 'last', phase: 'prefill', name: 'logits' };
    const { results } = await run(engine, sweep(engine, prompts, request, [capture]));
    return {
      logits: results.map(({ captures }) => encodeFloats(captures.logits.data)),
      tokens: results.map(({ tokens }) => [...tokens]),
    };
  },
  async time(engine, prompts, request) {
    const trials = sweep(engine, prompts, request);
    const start = performance.now();
    const { stats } = await run(engine, trials);
    return { ms: performance.now() - start, ...stats };
  },
});
