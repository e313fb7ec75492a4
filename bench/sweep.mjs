/**
 * A whole layer sweep of visual token swapping (suffix mode, every layer) beside the published procedure, one
 * generate() per layer and sample, written with transformers. Same weights, prompts, threads; greedy; equal results.
 *
 *   node bench/sweep.mjs [--rounds 3] [--tiny]
 */
import { parseArgs } from 'node:util';
import { sweepShape, tinyShape } from './model.mjs';
import { interleave } from './peer.mjs';
import { speedTable, summarise } from './report.mjs';
import { assertSame, compare, decodeLogits, session } from './session.mjs';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '3' }, tiny: { type: 'boolean' } } });
const rounds = Number(values.rounds);
const shape = values.tiny ? tinyShape : sweepShape;
const tokens = 8;
const prompts = { target: { image: 'target image', seed: 1 }, source: { image: 'source image', seed: 1 } };
const pairs = [{ source: 'source', target: 'target' }];
const runs = shape.layers + 2;

await session('sweep', { shape, prompts, ours: './sweep_ours.mjs', theirs: './sweep_peer.py' }, async (sides) => {
  const [ours, float32] = sides;
  const checks = {};
  const mine = decodeLogits(await ours.ask({ op: 'check', pairs, tokens }));
  const distinct = new Set(mine.tokens.map(String)).size;
  if (float32) {
    const found = compare(mine, decodeLogits(await float32.ask({ op: 'check', pairs, tokens })));
    assertSame(found, float32.name);
    checks[float32.name] = found;
  }
  console.log(`${distinct} different texts in ${runs} runs`);
  let stats;
  const measure = async (side) => {
    const answer = await side.ask({ op: 'time', pairs, tokens });
    if (side === ours) stats = answer;
    return answer.ms;
  };
  // The check has warmed both sides up.
  const samples = await interleave(sides, rounds, measure, { warm: !float32 });
  const rows = [
    summarise({
      name: `sweep: ${shape.layers} layers, ${tokens} tokens a run`,
      samples,
      count: runs,
      unit: 'runs/s',
      target: 8,
    }),
  ];
  console.log(speedTable(rows));
  const { prefillLayerRows, naiveLayerRows, visionMs, prefillMs, decodeMs } = stats;
  const passes = (prefillLayerRows / (naiveLayerRows / runs)).toFixed(2);
  console.log(
    `galvani computed ${passes} forward passes for ${runs} runs (vision ${visionMs.toFixed(0)} ms, prefill ${prefillMs.toFixed(0)} ms, decode ${decodeMs.toFixed(0)} ms)`,
  );
  return { rounds, tokens, runs, distinct, checks, rows, stats };
});
