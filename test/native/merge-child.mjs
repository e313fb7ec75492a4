// Merges one tensor by every method and prints the digest of each result. Usage: node merge-child.mjs DIR
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { openCheckpoint, writeSafetensors } from '../../dist/checkpoint/safetensors.js';
import { mergeMethods } from '../../dist/merge/methods.js';
import { native } from '../../dist/native.js';

const [dir] = process.argv.slice(2);
const n = 20_011;
const checkpoints = [1, 2, 3].map((m) => {
  const data = Uint16Array.from({ length: n }, (_, i) => (Math.imul(i + 1, 2654435761 * m) >>> 16) & 0xbf7f);
  const path = join(dir, `m${m}.safetensors`);
  writeSafetensors(path, [{ name: 'w', dtype: 'BF16', shape: [n], data: new Uint8Array(data.buffer) }]);
  return openCheckpoint(path);
});
const numbers = {
  weight: [0.2, 0.5, 0.4],
  density: [1, 0.4, 0.6],
  gamma: [0, 0.05, 0.1],
  epsilon: [0, 0.1, 0.2],
  scale: [0.5],
};
for (const { name, base, others, parameters } of mergeMethods) {
  const models = name === 'nuslerp' ? 3 : Math.min(3, others[1] + (base === 'none' ? 0 : 1));
  const shared = Object.fromEntries(
    parameters.filter(({ scope }) => scope === 'shared').map((one) => [one.name, Number(one.default ?? 0.3)]),
  );
  const each = Object.fromEntries(Object.entries(numbers).map(([key, list]) => [key, list.slice(0, models)]));
  const out = join(dir, 'out.safetensors');
  const inputs = checkpoints.slice(0, models).map((_, checkpoint) => ({ tables: [{ checkpoint, name: 'w' }] }));
  const tensor = {
    name: 'w',
    dtype: 'F32',
    shape: [n],
    method: name,
    inputs,
    base: base === 'none' ? -1 : 0,
    shared,
    each,
  };
  await native().writeMerged(out, {}, checkpoints, [tensor], { seed: 4 });
  console.log(name, createHash('sha256').update(openCheckpoint(out).raw('w')).digest('hex'));
}
