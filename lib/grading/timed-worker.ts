/**
 * Calls a function of a worker thread and waits for it, up to a limit: grading is synchronous, and a computation that
 * runs away can be stopped in another thread only. A worker over its limit is ended, and the next call starts another.
 */
import { existsSync } from 'node:fs';
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { GalvaniError } from '../errors.js';

/** What the worker gets at its start; it answers each message on `port` with a Reply and then wakes `signal`. */
export interface TimedWorkerData {
  readonly signal: Int32Array;
  readonly port: MessagePort;
}

export type Reply<T> = { readonly value: T } | { readonly error: string };

interface Running {
  readonly worker: Worker;
  readonly port: MessagePort;
  readonly signal: Int32Array;
}

export class TimedWorker<Question, Answer> {
  readonly #file: URL;
  readonly #startLimitMs: number;
  #running: Running | undefined;

  constructor(file: URL, { startLimitMs = 60_000 }: { readonly startLimitMs?: number } = {}) {
    this.#file = file;
    this.#startLimitMs = startLimitMs;
  }

  /** undefined: not answered within the limit. @throws INTERNAL when the worker cannot start or its function throws */
  call(question: Question, limitMs: number): Answer | undefined {
    const { port, signal } = this.#running ?? this.#start();
    Atomics.store(signal, 0, 0);
    port.postMessage(question);
    return this.#wait<Answer>(limitMs);
  }

  /** Ends the thread. A later call starts another. */
  close(): void {
    this.#running?.port.close();
    void this.#running?.worker.terminate();
    this.#running = undefined;
  }

  #start(): Running {
    if (this.#file.protocol === 'file:' && !existsSync(this.#file)) {
      throw new GalvaniError(
        'INTERNAL',
        `${this.#file.pathname}: the worker's file is missing; is TypeScript compiled?`,
      );
    }
    const signal = new Int32Array(new SharedArrayBuffer(4));
    const { port1, port2 } = new MessageChannel();
    const workerData: TimedWorkerData = { signal, port: port2 };
    const worker = new Worker(this.#file, { workerData, transferList: [port2] });
    worker.on('error', () => undefined); // told by the reply, or by the silence that #wait names
    worker.unref();
    port1.unref();
    this.#running = { worker, port: port1, signal };
    // Loading the worker's modules is not the question's time. Its failure cannot be heard here: this thread waits.
    if (this.#wait<true>(this.#startLimitMs) === undefined) {
      const within = `${this.#startLimitMs} ms`;
      throw new GalvaniError('INTERNAL', `${this.#file.pathname}: the worker did not start within ${within}`);
    }
    return this.#running;
  }

  #wait<T>(limitMs: number): T | undefined {
    const { port, signal } = this.#running!;
    // No time is no time, also where this thread slept so long before it waits that the answer is there.
    if (limitMs <= 0 || Atomics.wait(signal, 0, 0, limitMs) === 'timed-out') {
      this.close();
      return undefined;
    }
    const reply = receiveMessageOnPort(port)?.message as Reply<T> | undefined;
    if (reply !== undefined && 'value' in reply) return reply.value;
    this.close();
    throw new GalvaniError('INTERNAL', `${this.#file.pathname}: ${reply?.error ?? 'the worker sent no reply'}`);
  }
}
