/**
 * The engine beside transformers on the CPU: prefill, batched prefill, decode, peak memory. Same random bf16 weights,
 * same prompts, greedy, same number of threads, each side a process of its own, repeats interleaved.
 *
 *   node bench/engine.mjs [--rounds 5] [--tiny]
 *
 * torch float32 (weights upcast on load, float32 activations: our arithmetic) is the comparison; torch bfloat16
 * (weights and activations) is shown beside it.
 */
import { parseArgs } from 'node:util';
import { engineShape, tinyShape } from './model.mjs';
import { interleave } from './peer.mjs';
import { speedTable, summarise } from './report.mjs';
import { assertSame, compare, decodeLogits, session } from './session.mjs';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '5' }, tiny: { type: 'boolean' } } });
const rounds = Number(values.rounds);
const shape = values.tiny ? tinyShape : engineShape;

const batch = 8;
const wide = 16;
const decoded = 64;
const ragged = [40, 75, 110, 160, 210, 260, 310, 380];
const numbered = (count, make) => Object.fromEntries(Array.from({ length: count }, (_, i) => make(i)));
const prompts = {
  ...numbered(batch, (i) => [`image ${i}`, { image: `image ${i}` }]),
  'text 1024': { text: 1024 },
  ...numbered(ragged.length, (i) => [`text ${i}`, { text: ragged[i] }]),
  ...numbered(wide, (i) => [`short ${i}`, { text: 64 }]),
};
const names = (prefix) => Object.keys(prompts).filter((name) => name.startsWith(prefix));
const rows = (group) => group.reduce((sum, name) => sum + (prompts[name].text ?? 350), 0);

/** `count`: prompt rows of a prefill, generated tokens of a decode. */
const prefillCase = (name, group) => ({
  name,
  group,
  tokens: 1,
  time: 'ms',
  count: rows(group),
  unit: 'rows/s',
  target: 0.9,
});
const decodeCase = (name, group, target) => ({
  name,
  group,
  tokens: decoded + 1,
  time: 'decodeMs',
  count: decoded * group.length,
  unit: 'tokens/s',
  target,
});
const cases = [
  prefillCase('prefill, image 320 + text 30', ['image 0']),
  prefillCase('prefill, text 1024', ['text 1024']),
  prefillCase(`batched prefill, ${batch} × (image 320 + text 30)`, names('image ')),
  prefillCase(`ragged prefill, ${ragged.length} texts of ${ragged[0]}–${ragged.at(-1)}`, names('text ').slice(1)),
  decodeCase(`decode ${decoded}, 1 row, after 350`, ['image 0'], 1),
  decodeCase(`decode ${decoded}, 1 row, after 1024`, ['text 1024'], 1),
  decodeCase(`decode ${decoded}, ${wide} rows, after 64`, names('short ')),
];

await session('engine', { shape, prompts, ours: './engine_ours.mjs', theirs: './engine_peer.py' }, async (sides) => {
  const [ours, ...peers] = sides;
  const checks = {};
  for (const peer of peers) {
    const found = [];
    for (const group of [['image 0'], ['text 1024'], names('text ').slice(1)]) {
      const request = { op: 'check', prompts: group, tokens: 16 };
      found.push(compare(decodeLogits(await ours.ask(request)), decodeLogits(await peer.ask(request))));
    }
    const sum = (key) => found.reduce((total, one) => total + one[key], 0);
    checks[peer.name] = {
      runs: sum('runs'),
      logitsError: Math.max(...found.map(({ logitsError }) => logitsError)),
      runsEqual: sum('runsEqual'),
      nearTies: sum('nearTies'),
      wrong: found.flatMap(({ wrong }) => wrong),
    };
    if (peer.name === 'torch float32') assertSame(checks[peer.name], peer.name);
    else console.log(`beside ${peer.name}: logits within ${checks[peer.name].logitsError.toExponential(1)}`);
  }
  const rows = [];
  for (const { name, group, tokens, time, ...rest } of cases) {
    const request = { op: 'time', prompts: group, tokens };
    const samples = await interleave(sides, rounds, async (side) => (await side.ask(request))[time]);
    rows.push(summarise({ name, samples, ...rest }));
    console.log(`  ${rows.length} of ${cases.length}: ${name}`);
  }
  console.log(speedTable(rows));
  return { rounds, checks, rows };
});
