/**
 * Random requests: every trial must equal, bit for bit, the same trial run with nothing but what it reads from, in any
 * order of trials, with any number of threads; the instruction sets must agree to rounding.
 *
 * GALVANI_RANDOM_SEEDS=5000 runs that many seeds (default 300), GALVANI_RANDOM_FROM=n starts at another seed.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deserialize, serialize } from 'node:v8';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Engine, type RunResult } from '../../lib/engine.js';
import {
  type NativeCheckpoint,
  type NativeEngine,
  type NativeRequest,
  type NativeTrialResult,
  native,
} from '../../lib/native.js';
import type { Trial, TrialResult } from '../../lib/types.js';
import { availableIsas } from '../support/native-executable.js';
import { writeRandomModel } from '../support/random-model.js';
import { neededBy, randomRequest } from '../support/random-request.js';

const layers = 4;
const seeds = Number(process.env.GALVANI_RANDOM_SEEDS ?? 300);
const from = Number(process.env.GALVANI_RANDOM_FROM ?? 1);
/** Seeds that once failed, with what they found. */
const regressions: readonly (readonly [seed: number, found: string])[] = [
  [9, 'a patch at logits whose source rows nobody computed'],
  [15, "a mean over own rows that read a base's rows, already averaged there"],
  [19, 'the same before the first token'],
  [25, 'a mean over all patches of the vision tower, refused as if patches were generated'],
  [52, 'a mean at logits whose rows nobody computed'],
  [214, 'a resample of all patches of the vision tower, refused alike'],
];

const dirs = [1, 2, 3].map((seed) => writeRandomModel({ layers, seed }));
const models = ['a', 'b', 'c', 'graft 1', 'graft 2', 'graft 3'];

async function openEngine(threads: number): Promise<Engine> {
  const engine = await Engine.open({ threads });
  await engine.addModel('a', dirs[0]!);
  await engine.addModel('b', dirs[1]!);
  await engine.addModel('c', dirs[2]!);
  const graft = (blocks: string, embed: string, vision: string, projector: string, norm: string, head: string) => ({
    layers: [...blocks],
    embed,
    vision,
    projector,
    norm,
    head,
  });
  engine.addGraft('graft 1', graft('aabb', 'a', 'a', 'a', 'b', 'b'));
  engine.addGraft('graft 2', graft('abcb', 'b', 'a', 'c', 'a', 'c'));
  engine.addGraft('graft 3', graft('aaac', 'a', 'a', 'a', 'a', 'a'));
  return engine;
}

let engine: Engine;
let threaded: Engine;
beforeAll(async () => {
  engine = await openEngine(1);
  threaded = await openEngine(3);
});
afterAll(async () => {
  await engine.close();
  await threaded.close();
  for (const dir of dirs) rmSync(dir, { recursive: true });
});

function result(run: RunResult, id: string): TrialResult {
  const outcome = run.outcomes.find((o) => o.id === id)!;
  if (!outcome.ok) throw outcome.error;
  return outcome.result;
}

const bytes = (array: Float32Array | Int32Array): Buffer =>
  Buffer.from(array.buffer, array.byteOffset, array.byteLength);
const sameBits = (a: Float32Array | Int32Array, b: Float32Array | Int32Array): boolean => bytes(a).equals(bytes(b));

/** What differs; nothing when all is as it must be. */
function differences(trial: Trial, a: TrialResult, b: TrialResult): string[] {
  const found: string[] = [];
  if (!sameBits(a.tokens, b.tokens)) found.push(`tokens ${a.tokens} ≠ ${b.tokens}`);
  if (!sameBits(a.logprobs, b.logprobs)) found.push('logprobs');
  if (a.truncated !== b.truncated) found.push('truncated');
  if (a.score && !sameBits(a.score.logprobs, b.score!.logprobs)) found.push('score');
  if (!Object.is(a.score?.kl, b.score?.kl)) found.push(`kl ${a.score?.kl} ≠ ${b.score?.kl}`);
  for (const { op, name, measure, site } of trial.interventions ?? []) {
    if (op !== 'capture') continue;
    const x = a.captures[name!]!;
    const y = b.captures[name!]!;
    if (x.shape.join() !== y.shape.join()) found.push(`${site} ${measure ?? ''}: shape ${x.shape} ≠ ${y.shape}`);
    // Trials of one node share a partition of the keys, so a span's mass is a sum in another order.
    else if (measure === 'mass') {
      if (x.data.some((m, i) => !(Math.abs(m - y.data[i]!) <= 1e-6))) found.push(`${site} mass`);
    } else if (!sameBits(x.data, y.data)) found.push(`${site} ${measure ?? ''}`);
    if (x.keys && !sameBits(x.keys, y.keys!)) found.push(`${site} ${measure}: keys`);
    const numbers = x.shape.reduce((product, size) => product * size, 1);
    if (numbers !== x.data.length)
      found.push(`${site} ${measure ?? ''}: shape ${x.shape} has ${x.data.length} numbers`);
  }
  return found;
}

/** Runs a request whole, then each trial with only what it needs; returns what differed. */
async function check(seed: number, size: 'small' | 'large' = 'small', patterns = true): Promise<string[]> {
  const trials = randomRequest(seed, models, layers, size, patterns);
  const found: string[] = [];
  const compare = (trial: Trial, what: string, a: RunResult, b: RunResult): void => {
    for (const difference of differences(trial, result(a, trial.id), result(b, trial.id)))
      found.push(`seed ${seed}, ${trial.id}, ${what}: ${difference}`);
  };
  try {
    const together = await engine.run(trials);
    const others = await threaded.run([...trials].reverse());
    for (const trial of trials) {
      compare(trial, 'order and threads', together, others);
      compare(trial, 'alone', together, await engine.run(neededBy(trial, trials)));
    }
  } catch (error) {
    found.push(`seed ${seed}: ${error}`);
  }
  return found;
}

describe('every trial of a random request equals the trial alone', () => {
  test.each(regressions.map(([seed, found]) => [found, seed] as const))('%s (seed %i)', async (_, seed) => {
    expect(await check(seed, 'small', false)).toEqual([]);
  });

  // Enough rows that matmuls and attention are cut into tiles and shared out to threads.
  test('with large images', { timeout: 60_000 + seeds * 500 }, async () => {
    const failures: string[] = [];
    for (let seed = from; seed < from + Math.ceil(seeds / 15); seed++) failures.push(...(await check(seed, 'large')));
    expect(failures).toEqual([]);
  });

  test(`${seeds} seeds from ${from}`, { timeout: 60_000 + seeds * 500 }, async () => {
    const failures: string[] = [];
    for (let seed = from; seed < from + seeds && failures.length < 40; seed++) failures.push(...(await check(seed)));
    expect(failures).toEqual([]);
  });
});

describe('instruction sets', () => {
  interface Recorded {
    readonly models: { name: string; config: object; files: string[]; tensors: object }[];
    readonly requests: NativeRequest[];
  }

  /** What an engine sends to the addon for these seeds, as data for another process. */
  async function record(first: number, count: number): Promise<Recorded> {
    const prototype = native().NativeEngine.prototype as NativeEngine;
    const { addModel, run } = prototype;
    const recorded: Recorded = { models: [], requests: [] };
    prototype.addModel = function (name, spec) {
      const files = spec.checkpoints.map((checkpoint: NativeCheckpoint) => checkpoint.path);
      recorded.models.push({ name, config: spec.config, files, tensors: spec.tensors });
      return addModel.call(this, name, spec);
    };
    prototype.run = function (request, options) {
      recorded.requests.push(request);
      return run.call(this, request, options);
    };
    try {
      const recorder = await openEngine(1);
      for (let seed = first; seed < first + count; seed++) await recorder.run(randomRequest(seed, models, layers));
      await recorder.close();
    } finally {
      Object.assign(prototype, { addModel, run });
    }
    return recorded;
  }

  const script = `
    const { readFileSync, writeFileSync } = require('node:fs');
    const { deserialize, serialize } = require('node:v8');
    const [addonPath, from, to] = process.argv.slice(2);
    const addon = require(addonPath);
    const { models, requests } = deserialize(readFileSync(from));
    const engine = new addon.NativeEngine(2);
    for (const { name, config, files, tensors } of models)
      engine.addModel(name, { config, checkpoints: files.map((file) => addon.openCheckpoint(file)), tensors });
    (async () => {
      const responses = [];
      for (const request of requests) responses.push((await engine.run(request)).trials);
      writeFileSync(to, serialize({ isa: addon.cpuInfo().isa, responses }));
    })();`;

  /** Largest difference over the largest value of the array (at least 1); infinities must be the same. */
  function difference(a: Float32Array, b: Float32Array): number {
    expect(a.length).toBe(b.length);
    let most = 0;
    let largest = 1;
    a.forEach((x, i) => {
      if (Object.is(x, b[i])) return;
      most = Math.max(most, Math.abs(x - b[i]!));
      largest = Math.max(largest, Math.abs(x));
    });
    return most / largest;
  }

  test('agree on 60 requests', { timeout: 120_000 }, async () => {
    const dir = mkdtempSync(join(tmpdir(), 'galvani-isa-'));
    const root = fileURLToPath(new URL('../..', import.meta.url));
    const addon =
      process.env.GALVANI_ADDON ?? (createRequire(import.meta.url)('node-gyp-build').resolve(root) as string);
    writeFileSync(join(dir, 'run.cjs'), script);
    writeFileSync(join(dir, 'requests'), serialize(await record(7001, 60)));
    const byIsa = availableIsas().map((isa) => {
      const to = join(dir, isa);
      const child = spawnSync(process.execPath, [join(dir, 'run.cjs'), addon, join(dir, 'requests'), to], {
        env: { ...process.env, GALVANI_ISA: isa },
        encoding: 'utf8',
      });
      expect(child.stderr).toBe('');
      const { isa: used, responses } = deserialize(readFileSync(to)) as {
        isa: string;
        responses: NativeTrialResult[][];
      };
      expect(used).toBe(isa);
      return responses.flat();
    });
    rmSync(dir, { recursive: true });
    const [reference, ...rest] = byIsa;
    let worst = 0;
    for (const results of rest) {
      results.forEach((result, i) => {
        const expected = reference![i]!;
        expect([...result.tokens]).toEqual([...expected.tokens]);
        const pairs: [Float32Array, Float32Array][] = [
          [result.logprobs, expected.logprobs],
          [result.scoreLogprobs, expected.scoreLogprobs],
          [Float32Array.of(result.kl), Float32Array.of(expected.kl)],
          ...result.captures.map(({ data }, c): [Float32Array, Float32Array] => [data, expected.captures[c]!.data]),
        ];
        for (const [a, b] of pairs) worst = Math.max(worst, difference(a, b));
      });
    }
    console.log(`instruction sets: ${byIsa.length}, largest relative difference ${worst.toExponential(1)}`);
    // Each row is the end of layers · (q, o, up, down) sums; edits and norms amplify their rounding a few times.
    expect(worst).toBeLessThan(8 * 2 ** -23 * Math.sqrt(layers * (3 * 32 + 48)));
  });
});
