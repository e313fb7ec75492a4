/** The thread in which latex.ts has expressions compared; see timed-worker.ts. */
import { workerData } from 'node:worker_threads';
import type { Question } from './latex-engine.js';
import type { Reply, TimedWorkerData } from './timed-worker.js';

const { port, signal } = workerData as TimedWorkerData;

function reply(message: Reply<boolean>): void {
  port.postMessage(message);
  Atomics.store(signal, 0, 1);
  Atomics.notify(signal, 0);
}

const message = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause));

try {
  const { decide } = await import('./latex-engine.js');
  port.on('message', (question: Question) => {
    try {
      reply({ value: decide(question) });
    } catch (cause) {
      reply({ error: message(cause) });
    }
  });
  reply({ value: true });
} catch (cause) {
  reply({ error: message(cause) });
}
