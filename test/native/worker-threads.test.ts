// The addon in worker threads: loaded, used and left many times, also left in the middle of a task.
import { rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { readFolder } from '../../lib/checkpoint/folder.js';
import { openCheckpoint } from '../../lib/checkpoint/safetensors.js';
import { familyByName } from '../../lib/models/registry.js';
import { imagePrompt, randomImage, writeRandomModel } from '../support/random-model.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const addon = process.env.GALVANI_ADDON ?? (createRequire(import.meta.url)('node-gyp-build').resolve(root) as string);
const files = ['base', 'rl'].map((name) => join(root, 'test', 'fixtures', 'weights', `${name}.safetensors`));

const script = `
  const { parentPort, workerData } = require('node:worker_threads');
  const addon = require(workerData.addon);
  const [before, after] = workerData.files.map((path) => addon.openCheckpoint(path));
  const names = before.names().filter((name) => name !== 'ids.i64');
  let code;
  try { addon.openCheckpoint('/no/such/file'); } catch (error) { code = error.code; }
  let reports = 0;
  const task = { cancel: new addon.CancelFlag(), onProgress: () => { reports++; } };
  const keys = names.map((name) => ({ name, names: [name, name] }));
  parentPort.postMessage({ started: true });
  addon.compareWeights([before, after], keys, { spectra: true, threads: 2 }, task).then(
    (deltas) => setImmediate(() => parentPort.postMessage({ code, reports, tensors: deltas.length })),
    (error) => parentPort.postMessage({ error: String(error) }),
  );`;

interface Message {
  readonly started?: boolean;
  readonly code?: string;
  readonly reports?: number;
  readonly tensors?: number;
  readonly error?: string;
}

/** Runs one worker; `leave` terminates it as soon as its task has begun. Resolves with its last message. */
function work(leave: boolean): Promise<{ readonly last: Message; readonly exit: number }> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(script, { eval: true, workerData: { addon, files } });
    let last: Message = {};
    worker.on('message', (message: Message) => {
      last = message;
      if (leave && message.started) void worker.terminate();
    });
    worker.on('error', reject);
    worker.on('exit', (exit) => resolve({ last, exit }));
  });
}

it('loads, runs and exits in 20 workers, four at a time', async () => {
  for (let round = 0; round < 5; round++) {
    for (const { last, exit } of await Promise.all([work(false), work(false), work(false), work(false)])) {
      expect(exit).toBe(0);
      expect(last.error).toBeUndefined();
      expect(last.code).toBe('FILE_NOT_FOUND');
      expect(last.tensors).toBe(16);
      expect(last.reports).toBeGreaterThan(0);
    }
  }
});

it('survives 8 workers terminated in the middle of a task', async () => {
  for (let round = 0; round < 4; round++) {
    for (const { exit } of await Promise.all([work(true), work(true)])) expect(exit).toBe(1); // terminated
  }
  expect((await work(false)).exit).toBe(0);
});

const engineScript = `
  const { parentPort, workerData } = require('node:worker_threads');
  const addon = require(workerData.addon);
  const { config, tensors, request } = workerData;
  const engine = new addon.NativeEngine(2);
  const checkpoint = addon.openCheckpoint(workerData.dir);
  engine.addModel('m', { config, checkpoints: [checkpoint], tensors });
  const onProgress = (done) => parentPort.postMessage({ decoding: done >= 2000 });
  for (let i = 0; i < 3; i++)
    engine.run(request, { onProgress }).then(
      () => parentPort.postMessage({ finished: true }),
      (error) => parentPort.postMessage({ error: String(error) }),
    );`;

it('survives workers terminated in the middle of engine.run, with two more requests waiting', async () => {
  const dir = writeRandomModel({ layers: 4, seed: 1 });
  const { config } = readFolder(dir);
  const names = familyByName(config.family).tensorNames(openCheckpoint(dir).names(), config, dir);
  const tensors = Object.fromEntries(Object.entries(names).map(([canonical, name]) => [canonical, [0, name]]));
  const { ids, positions, nextPosition, images } = imagePrompt(randomImage(1));
  const capture = { site: 'resid_post', op: 'capture', layers: [0, 1], rows: [[0, -1]], capture: 0 };
  const request = (maxTokens: number) => ({
    images: images.map(({ image }) => ({ pixels: image.pixels, grid: image.grid })),
    prompts: [
      { ids, positions, nextPosition, images: images.map(({ start, count }, image) => ({ image, start, count })) },
    ],
    trials: Array.from({ length: 4 }, () => ({ prompt: 0, model: 'm', edits: [capture], captures: 1, maxTokens })),
  });
  const start = (maxTokens: number, leave: boolean) =>
    new Promise<{ finished: number; decoding: boolean; exit: number }>((resolve, reject) => {
      const workerData = { addon, dir, config, tensors, request: request(maxTokens) };
      const worker = new Worker(engineScript, { eval: true, workerData });
      let finished = 0;
      let decoding = false;
      worker.on('message', (message: { finished?: boolean; decoding?: boolean; error?: string }) => {
        if (message.error) reject(new Error(message.error));
        if (message.finished) finished++;
        decoding ||= message.decoding === true;
        if (leave && decoding) void worker.terminate();
      });
      worker.on('error', reject);
      worker.on('exit', (exit) => resolve({ finished, decoding, exit }));
    });
  for (let round = 0; round < 3; round++) {
    for (const { decoding, exit } of await Promise.all([start(400, true), start(400, true)])) {
      expect(decoding).toBe(true);
      expect(exit).toBe(1);
    }
  }
  const { finished, exit } = await start(3, false);
  expect([finished, exit]).toEqual([3, 0]);
  rmSync(dir, { recursive: true });
});
