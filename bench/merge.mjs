/**
 * Merging beside mergekit: the same recipes on the same checkpoints.
 *
 *   node bench/merge.mjs [--rounds 2] [--on DIR] [--only parity|speed] [--width 2048 --layers 22 --vocab 65536]
 *
 * 1. Parity: four random float32 checkpoints, every method both have; mergekit computes in float64, both store bf16; of the
 *    methods that draw at random both store float32.
 * 2. Speed: a sharded bf16 pair of more than 4 GB together; wall time of the whole process, and its peak resident memory.
 *
 * GALVANI_PYTHON names a Python with mergekit. --on chooses the file system (default: the temporary folder); files are
 * deleted at the end. galvani waits until its output is on the disk (fsync), mergekit does not.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { compareBf16, compareRandom, mergeOurs } from './merge-parity.mjs';
import { interleave, median, threads } from './peer.mjs';
import { circumstances, save, table } from './report.mjs';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '2' },
    on: { type: 'string', default: tmpdir() },
    only: { type: 'string' },
    width: { type: 'string', default: '2048' },
    layers: { type: 'string', default: '22' },
    vocab: { type: 'string', default: '65536' },
  },
});
const here = fileURLToPath(new URL('.', import.meta.url));
const python = process.env.GALVANI_PYTHON ?? 'python3';
const count = String(threads);
const env = { ...process.env, OMP_NUM_THREADS: count, MKL_NUM_THREADS: count, HF_HUB_OFFLINE: '1', PYTHONPATH: here };
const run = (command, args) => promisify(execFile)(command, args, { env, cwd: here, maxBuffer: 1 << 28 });
const askPython = async (code) => JSON.parse((await run(python, ['-c', code])).stdout);
const stochastic = new Set(['dare_linear', 'dare_ties', 'della', 'della_linear']);
/** Two independent draws differ by more than this many standard errors once in two million. */
const byChance = 5;

async function parity(dir) {
  await run(python, ['merge_recipes.py', 'models', dir, '256', '4', '2000']);
  const recipes = await askPython(
    `import json\nfrom merge_recipes import *\nprint(json.dumps({c: recipe(c, ${JSON.stringify(dir)}, "float64") for c in METHODS}))`,
  );
  await run(python, ['merge_peer.py', 'parity', dir, 'float64', ...Object.keys(recipes)]);
  const cases = {};
  for (const [name, recipe] of Object.entries(recipes)) {
    const [ours, theirs] = [join(dir, `ours-${name}`), join(dir, `theirs-${name}`)];
    await mergeOurs(recipe, ours);
    cases[name] = stochastic.has(name) ? compareRandom(ours, theirs, join(dir, 'base')) : compareBf16(ours, theirs);
    for (const path of [ours, theirs]) rmSync(path, { recursive: true });
  }
  const exact = Object.entries(cases).filter(([name]) => !stochastic.has(name));
  console.log(
    table(
      ['method', 'entries', 'equal', 'beyond 1 ulp', 'largest, ulps'],
      exact.map(([name, { entries, equal, beyondOneUlp, largestUlps }]) => [
        name,
        entries,
        equal,
        beyondOneUlp,
        largestUlps,
      ]),
    ),
  );
  const random = Object.entries(cases).filter(([name]) => stochastic.has(name));
  console.log(
    table(
      ['at random', 'moved', "mergekit's", 'errors apart', 'RMS of the moves, ratio', 'errors apart'],
      random.map(([name, one]) => [
        name,
        ...one.shares.map((share) => share.toFixed(4)),
        one.shareErrors.toFixed(1),
        one.rmsRatio.toFixed(4),
        one.rmsErrors.toFixed(1),
      ]),
    ),
  );
  const within = exact.every(([, one]) => one.beyondOneUlp === 0);
  const alike = random.every(([, one]) => one.shareErrors < byChance && one.rmsErrors < byChance);
  console.log(`within one bf16 ulp: ${within ? 'met' : 'MISSED'}`);
  console.log(`at random, alike within ${byChance} standard errors: ${alike ? 'met' : 'MISSED'}`);
  return { cases, byChance, within, alike, met: within && alike };
}

/** Recipes of the timed pair: base and one other. */
const timed = {
  linear: { merge_method: 'linear', models: ['base', 'a'], each: { weight: 0.5 } },
  slerp: { merge_method: 'slerp', base_model: 'base', models: ['a'], parameters: { t: 0.4 } },
  task_arithmetic: { merge_method: 'task_arithmetic', base_model: 'base', models: ['a'], each: { weight: 0.7 } },
  ties: { merge_method: 'ties', base_model: 'base', models: ['a'], each: { weight: 1, density: 0.5 } },
  dare_ties: { merge_method: 'dare_ties', base_model: 'base', models: ['a'], each: { weight: 1, density: 0.5 } },
};

async function speed(dir, rounds) {
  const { width, layers, vocab } = values;
  const { bytes } = JSON.parse((await run(python, ['merge_recipes.py', 'pair', dir, width, layers, vocab])).stdout);
  console.log(`pair of ${(bytes / 1e9).toFixed(2)} GB in bf16, ${threads} threads, on ${values.on}`);
  const rows = {};
  let versions = {};
  for (const [name, { models, each, ...rest }] of Object.entries(timed)) {
    const folder = (model) => join(dir, model);
    const recipe = {
      ...rest,
      models: models.map((model) => ({ model: folder(model), ...(each ? { parameters: each } : {}) })),
      ...(rest.base_model ? { base_model: folder(rest.base_model) } : {}),
      dtype: 'bfloat16',
    };
    const path = join(dir, `${name}.yaml`);
    const out = join(dir, 'out');
    const sides = [
      { name: 'galvani', command: [process.execPath, ['merge_ours.mjs', path, out, count]] },
      { name: 'mergekit', command: [python, ['merge_peer.py', 'one', path, out]] },
    ];
    writeFileSync(path, JSON.stringify(recipe));
    const details = { galvani: [], mergekit: [] };
    const samples = await interleave(
      sides,
      rounds,
      async (side) => {
        const start = performance.now();
        const { stdout } = await run(...side.command);
        const wall = (performance.now() - start) / 1000;
        const answer = JSON.parse(stdout.trim().split('\n').at(-1));
        details[side.name].push({ wall, ...answer });
        versions = { ...versions, ...answer.versions };
        rmSync(out, { recursive: true, force: true });
        return wall;
      },
      { warm: false },
    );
    const [ours, theirs] = ['galvani', 'mergekit'].map((side) => median(samples.get(side)));
    const peak = Object.fromEntries(
      Object.entries(details).map(([side, list]) => [side, Math.max(...list.map((one) => one.peakMiB))]),
    );
    rows[name] = {
      wallSeconds: Object.fromEntries(samples),
      peakMiB: peak,
      faster: theirs / ours,
      memoryShare: peak.galvani / peak.mergekit,
      met: theirs / ours >= 3 && peak.galvani / peak.mergekit <= 0.25,
      details,
    };
    const row = rows[name];
    console.log(
      `${name.padEnd(16)} ${ours.toFixed(1)} s beside ${theirs.toFixed(1)} s: ${row.faster.toFixed(2)}× faster; ` +
        `${peak.galvani.toFixed(0)} MiB beside ${peak.mergekit.toFixed(0)}: ${row.memoryShare.toFixed(3)} of the memory ${row.met ? 'met' : 'MISSED'}`,
    );
  }
  return { bytes, on: values.on, rounds, rows, versions };
}

const needs = 14e9;
const { bavail, bsize } = statfsSync(values.on);
if (values.only !== 'parity' && bavail * bsize < needs) {
  console.error(`${values.on}: ${(bavail * bsize) / 1e9} GB free, ${needs / 1e9} needed`);
  process.exit(1);
}
const dir = mkdtempSync(join(values.on, 'galvani-merge-bench-'));
const clean = () => rmSync(dir, { recursive: true, force: true });
process.once('SIGINT', () => {
  clean();
  process.exit(1);
});
try {
  const record = circumstances();
  if (values.only !== 'speed') save('merge-parity', { ...record, ...(await parity(join(dir, 'parity'))) });
  if (values.only !== 'parity') {
    const { versions, ...measured } = await speed(join(dir, 'pair'), Number(values.rounds));
    save('merge', { ...record, versions: { ...record.versions, ...versions }, ...measured });
  }
} finally {
  clean();
}
