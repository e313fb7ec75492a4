// The addon in worker threads: loaded, used and left many times, also left in the middle of a task.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';

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
      expect(last.tensors).toBe(11);
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
