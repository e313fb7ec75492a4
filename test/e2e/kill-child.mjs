// One writer of the kill test: runs a plan of slow fake trials against a ledger. Usage: node kill-child.mjs DIR DELAY_MS
import { createHash } from 'node:crypto';
import { RunDir } from '../../dist/run/run-dir.js';
import { emptyStats, execute } from '../../dist/run/runner.js';

const [dir, delay] = process.argv.slice(2);
const prompt = (pair, name) => ({
  ids: Int32Array.from([1, 2, pair, name === 'source' ? 8 : 9]),
  positions: new Int32Array(12),
  nextPosition: 4,
  images: [],
  spans: { image: [[1, 3]] },
  text: name,
});
const plan = {
  experiment: 'kill',
  trials: 160,
  bundles: () =>
    Array.from({ length: 40 }, (_, pair) => ({
      group: `pair ${pair}`,
      trials: ['source', 'target', 'swap 0', 'swap 1'].map((id, layer) => ({
        label: `pair ${pair} ${id}`,
        meta: { pair, id },
        trial: {
          id,
          model: 'm',
          prompt: prompt(pair, id === 'source' ? 'source' : 'target'),
          generate: { maxTokens: 3 },
          interventions: id.startsWith('swap')
            ? [{ site: 'k', op: 'patch', layers: [layer], rows: 'image', value: { trial: 'source' } }]
            : [],
        },
      })),
    })),
};
const engine = {
  async run(trials) {
    const outcomes = [];
    for (const trial of trials) {
      await new Promise((resolve) => setTimeout(resolve, Number(delay)));
      const digest = createHash('sha256').update(trial.id).digest('hex');
      const result = {
        id: trial.id,
        tokens: new Int32Array(3),
        logprobs: new Float32Array(3),
        text: digest.repeat(40), // long rows: a kill can tear them
        truncated: false,
        captures: {},
      };
      outcomes.push({ ok: true, id: trial.id, result });
    }
    return { outcomes, stats: emptyStats };
  },
};

const record = { format: 1, galvani: '0', node: '0', definition: {}, models: [], data: {}, facts: {} };
const run = new RunDir(dir, record);
await execute({
  engine,
  ledger: run.ledger,
  planLog: run.planLog,
  plan,
  fingerprint: (model) => model,
  limits: { trials: 8, promptRows: 1000 },
});
run.close();
