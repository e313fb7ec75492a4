/**
 * The linear layer beside torch.nn.functional.linear, at the shapes of a 7B Qwen2.5-VL and of the lab family.
 *
 *   node bench/matmul.mjs [--rounds 5]
 *
 * galvani multiplies float32 activations by bf16 weights as they are stored. torch float32 has the same weights widened
 * (twice the bytes); torch bfloat16 rounds the activations too. Each side is a process of its own, repeats interleaved.
 */
import { parseArgs } from 'node:util';
import { decodeFloats, findPeer, interleave, threads, Worker } from './peer.mjs';
import { circumstances, save, speedTable, summarise } from './report.mjs';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' } } });
const rounds = Number(values.rounds);

const big = [
  [3584, 3584],
  [18944, 3584],
  [3584, 18944],
];
const target = (m) => (m === 1 ? 1 : m >= 64 ? 0.9 : undefined);
const shapes = [
  ...big.flatMap(([n, k]) => [1, 64, 512].map((m) => [m, n, k])),
  [8, 3584, 3584],
  [2048, 3584, 3584],
  [1, 256, 256],
  [64, 256, 256],
  [2000, 64, 64],
  [2000, 256, 128],
];

const peer = await findPeer();
const record = circumstances(peer);
if (peer.missing) console.log(`no peer, galvani alone: ${peer.missing}`);
const sides = [{ name: 'galvani', worker: Worker.start('galvani', null, './ops_ours.mjs', [threads]), dtype: 'BF16' }];
if (!peer.missing) {
  for (const [name, dtype] of [
    ['torch float32', 'F32'],
    ['torch bfloat16', 'BF16'],
  ]) {
    sides.push({ name, worker: Worker.start(name, peer.python, './ops_peer.py', [threads]), dtype });
  }
}

const rows = [];
for (const [m, n, k] of shapes) {
  const request = { op: 'matmul', m, n, k, leastMs: 20 };
  const [ours, exact] = await Promise.all(
    sides
      .slice(0, 2)
      .map(async ({ worker, dtype }) => decodeFloats((await worker.ask({ ...request, dtype, check: true })).y)),
  );
  const off = exact ? Math.max(...ours.map((y, i) => Math.abs(y - exact[i]) / (1 + Math.abs(exact[i])))) : 0;
  if (!(off < 1e-4)) throw new Error(`${m}×${n}×${k}: differs from torch float32 by ${off}`);
  const samples = await interleave(
    sides,
    rounds,
    async ({ worker, dtype }) => (await worker.ask({ ...request, dtype })).ms,
  );
  const count = (2 * m * n * k) / 1e9;
  rows.push(summarise({ name: `${m} × ${n} × ${k}`, samples, count, unit: 'GFLOP/s', target: target(m) }));
  console.log(`  ${rows.length} of ${shapes.length}: ${rows.at(-1).name}`);
}
for (const { worker } of sides) await worker.close();
console.log(`\nM × N × K, ${threads} threads\n${speedTable(rows)}`);
save('matmul', { ...record, rounds, rows });
