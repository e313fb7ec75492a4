/**
 * What a study of the lab family pays: tens of thousands of tiny trials, so the cost of a trial beside its arithmetic.
 * The real plans through the real runner into a ledger, then single calls by benchmark.js. galvani alone.
 *
 *   node bench/lab.mjs [--pairs 8] [--rounds 5]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import Benchmark from 'benchmark';
import { readItems, readPairs } from '../dist/data/items.js';
import { Engine } from '../dist/engine.js';
import { planLocalizeReasoning } from '../dist/experiments/localize-reasoning.js';
import { planLocalizeVision } from '../dist/experiments/localize-vision.js';
import { Prompter } from '../dist/experiments/prompter.js';
import { swapModes } from '../dist/hooks/interventions.js';
import { Ledger } from '../dist/run/ledger.js';
import { execute } from '../dist/run/runner.js';
import { median, threads } from './peer.mjs';
import { circumstances, save, table } from './report.mjs';

const { values } = parseArgs({
  options: { pairs: { type: 'string', default: '8' }, rounds: { type: 'string', default: '5' } },
});
const rounds = Number(values.rounds);
const lab = (path) => fileURLToPath(new URL(`../lab/${path}`, import.meta.url));
const record = circumstances();
const engine = await Engine.open({ threads });
const models = [];
for (const name of ['base', 'in']) {
  const { layers, config } = await engine.addModel(name, lab(`checkpoints/${name}`));
  models.push({ name, layers, heads: config.decoder.heads });
}
const count = Number(values.pairs);
const pairs = spread(await readPairs(lab('data/pairs.jsonl')), count);
const items = spread(
  (await readItems(lab('data/eval.jsonl'))).filter(({ task }) => task === 'dsum' || task === 'diff'),
  2 * count,
);

/** `n` entries from end to end of a list. */
function spread(list, n) {
  return Array.from({ length: n }, (_, i) => list[Math.floor((i * list.length) / n)]);
}

const plans = {
  [`localize-vision: ${count} pairs, 2 models, every mode and layer`]: (context) =>
    planLocalizeVision(context, { models, pairs, modes: swapModes, width: 3, resize: 'refuse' }),
  [`localize-reasoning: ${items.length} items, 2 models, every layer`]: (context) =>
    planLocalizeReasoning(context, { models, items, parts: ['layer'], width: 1 }),
};

async function once(makePlan) {
  const dir = mkdtempSync(join(tmpdir(), 'galvani-bench-'));
  const ledger = new Ledger(join(dir, 'ledger.jsonl'));
  const spent = { engineMs: 0, tokens: 0, trials: 0 };
  const timed = {
    async run(trials, options) {
      const start = performance.now();
      const result = await engine.run(trials, options);
      spent.engineMs += performance.now() - start;
      spent.trials += trials.length;
      for (const { result: one } of result.outcomes) spent.tokens += one.tokens.length;
      return result;
    },
  };
  const start = performance.now();
  const context = { prompter: new Prompter(engine.processor('in'), { maxTokens: 40 }), seed: 0 };
  const { stats, failed } = await execute({
    engine: timed,
    ledger,
    plan: makePlan(context),
    fingerprint: (model) => model,
  });
  const wallMs = performance.now() - start;
  ledger.close();
  rmSync(dir, { recursive: true });
  if (failed) throw new Error(`${failed} trials failed`);
  const nativeMs = stats.visionMs + stats.prefillMs + stats.decodeMs;
  return { wallMs, ...spent, nativeMs, ...stats };
}

const measured = [];
for (const [name, makePlan] of Object.entries(plans)) {
  const runs = [];
  for (let i = -1; i < rounds; i++) {
    const run = await once(makePlan);
    if (i >= 0) runs.push(run);
  }
  const middle = (key) => median(runs.map((run) => run[key]));
  const keys = [
    'wallMs',
    'engineMs',
    'nativeMs',
    'visionMs',
    'prefillMs',
    'decodeMs',
    'prefillLayerRows',
    'naiveLayerRows',
  ];
  const medians = Object.fromEntries(keys.map((key) => [key, middle(key)]));
  const { trials, tokens } = runs[0];
  measured.push({
    name,
    trials,
    tokens,
    trialsPerSecond: (1000 * trials) / medians.wallMs,
    medians,
    samplesMs: runs.map((run) => run.wallMs),
  });
}

const whole = (x) => x.toFixed(0);
console.log(`lab family (9 layers, width 96), ${threads} threads, medians of ${rounds}, ms`);
console.log(
  table(
    ['', 'trials', 'tokens', 'trials/s', 'wall', 'engine', 'native', 'vision', 'prefill', 'decode', 'rows shared'],
    measured.map(({ name, trials, tokens, trialsPerSecond, medians: m }) => [
      name,
      trials,
      tokens,
      ...[trialsPerSecond, m.wallMs, m.engineMs, m.nativeMs, m.visionMs, m.prefillMs, m.decodeMs].map(whole),
      `${((100 * (m.naiveLayerRows - m.prefillLayerRows)) / m.naiveLayerRows).toFixed(0)} %`,
    ]),
  ),
);

const prompter = () => new Prompter(engine.processor('in'), { maxTokens: 20 });
const item = items[0];
const prompt = await prompter().ask(item);
const textPrompt = await prompter().ask({ question: item.question });
const trial = (which, maxTokens) => [{ id: 't', prompt: which, model: 'in', generate: { maxTokens, stopTokens: [] } }];
const calls = {
  'question and image file → prompt': () => prompter().ask(item),
  'question → prompt': () => prompter().ask({ question: item.question }),
  'engine.run: 1 text trial, 1 token': () => engine.run(trial(textPrompt, 1)),
  'engine.run: 1 image trial, 1 token': () => engine.run(trial(prompt, 1)),
  'engine.run: 1 image trial, 21 tokens': () => engine.run(trial(prompt, 21)),
};
const suite = new Benchmark.Suite();
for (const [name, call] of Object.entries(calls)) {
  const fn = (deferred) => {
    call().then(
      () => deferred.resolve(),
      (error) => {
        throw error;
      },
    );
  };
  suite.add(name, { defer: true, fn, maxTime: 1 });
}
await new Promise((resolve) => suite.on('complete', resolve).run({ async: true }));
const single = Array.from(suite).map(({ name, stats, hz }) => {
  return { name, perSecond: hz, microseconds: 1e6 * stats.mean, marginPercent: stats.rme, runs: stats.sample.length };
});
console.log('\nsingle calls (benchmark.js)');
console.log(
  table(
    ['', 'µs', '±'],
    single.map((s) => [s.name, whole(s.microseconds), `${s.marginPercent.toFixed(1)} %`]),
  ),
);
await engine.close();
save('lab', { ...record, rounds, experiments: measured, calls: single });
