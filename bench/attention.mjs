/**
 * Causal attention beside torch on the CPU, 28 query and 4 KV heads of 128, at four levels of hooks.
 *
 *   npm run bench:attention [-- --rounds 5 --clock wall|cpu --tiny]
 *
 * off    plain attention
 * read   masses of four segments, entropy and logsumexp of every row and head
 * edit   for half the rows and heads a segment knocked out, one scaled and biased, one's probabilities halved; a head
 *        zeroed, one replaced by a mean
 * all    both, and the eight largest keys of every row and head, and what every key receives
 *
 * torch has no such call: "eager" is what transformers runs when attention weights are wanted, probabilities only and
 * none of the rest; "sdpa" is the fused call, which cannot give them.
 *
 * On a machine that is busy with other work wall time tells how the scheduler felt. `--clock cpu` counts what the process
 * spent instead; with GALVANI_BENCH_THREADS=1, since a thread that spins while it waits for another spends too.
 */
import { parseArgs } from 'node:util';
import { decodeFloats, findPeer, interleave, threads, Worker } from './peer.mjs';
import { circumstances, save, speedTable, summarise } from './report.mjs';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    clock: { type: 'string', default: 'wall' },
    tiny: { type: 'boolean' },
  },
});
const rounds = Number(values.rounds);
const { clock } = values;
if (!['wall', 'cpu'].includes(clock)) throw new Error(`--clock: expected wall or cpu, got '${clock}'`);

const model = { heads: 28, kvHeads: 4, headDim: 128 };
const prefill = values.tiny ? [64] : [512, 1024, 2048, 4096];
const cases = [
  ...prefill.map((keys) => ({ name: `prefill ${keys}`, ...model, rows: keys, keys })),
  ...(values.tiny ? [256] : [2048, 16384]).map((keys) => ({
    name: `one row after ${keys - 1}`,
    ...model,
    rows: 1,
    keys,
  })),
];
if (!values.tiny) {
  const vision = { heads: 16, kvHeads: 16, headDim: 80, rows: 1024, keys: 1024 };
  cases.push({ name: 'vision, 1024 patches, 16 heads of 80', ...vision });
}

const peer = await findPeer();
const record = circumstances(peer);
if (peer.missing) console.log(`no peer, galvani alone: ${peer.missing}`);
const ours = Worker.start('galvani', null, './ops_ours.mjs', [threads]);
const sides = [
  { name: 'galvani', worker: ours, hooks: 'off' },
  ...['read', 'edit', 'all'].map((hooks) => ({ name: `galvani, ${hooks}`, worker: ours, hooks })),
];
if (!peer.missing) {
  for (const how of ['sdpa', 'eager'])
    sides.push({
      name: `torch ${how}`,
      worker: Worker.start(`torch ${how}`, peer.python, './ops_peer.py', [threads]),
      how,
    });
}

const rows = [];
for (const { name, ...shape } of cases) {
  const ask = ({ worker, how, hooks }, more) =>
    worker.ask({ op: 'attention', ...shape, how, hooks, clock, leastMs: 20, ...more });
  const last = [];
  for (const side of sides)
    if (side.how || side.hooks === 'off') last.push(decodeFloats((await ask(side, { check: true })).y));
  for (const theirs of last.slice(1)) {
    const off = Math.max(...theirs.map((y, i) => Math.abs(y - last[0][i])));
    if (!(off < 1e-4)) throw new Error(`${name}: differs from torch by ${off}`);
  }
  // The first answer of a side follows a call that warms up, so no round is spent on it.
  const samples = await interleave(sides, rounds, async (side) => (await ask(side)).ms, { warm: false });
  // Multiply-adds of the visible (row, key) pairs, two per element of the head.
  const pairs = shape.rows * (shape.keys - shape.rows) + (shape.rows * (shape.rows + 1)) / 2;
  const count = (4 * pairs * shape.heads * shape.headDim) / 1e9;
  rows.push(summarise({ name, samples, count, unit: 'GFLOP/s', target: 1, against: 'torch sdpa' }));
  console.log(`  ${rows.length} of ${cases.length}: ${name}`);
}
for (const worker of new Set(sides.map((side) => side.worker))) await worker.close();
console.log(`\n${threads} threads, ${clock} time\n${speedTable(rows)}`);
if (!values.tiny) save('attention', { ...record, clock, rounds, rows });
