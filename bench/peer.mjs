/**
 * The other side of a bench: finds a Python with torch and transformers, runs each side as a process of its own that
 * answers one JSON request per line, and interleaves their repeats so that a busy machine slows all sides alike.
 */
import { execFile, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Threads of every side, unless GALVANI_BENCH_THREADS says otherwise. */
export const threads = Number(process.env.GALVANI_BENCH_THREADS ?? 2);

const probe = `
import json, platform, torch, transformers
print(json.dumps(dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__)))
`;

/**
 * @returns {Promise<{ python: string, versions: Record<string, string> } | { missing: string }>}
 * GALVANI_PYTHON, else python3; `missing` says in one line why there is no peer.
 */
export async function findPeer() {
  const python = process.env.GALVANI_PYTHON ?? 'python3';
  try {
    const { stdout } = await promisify(execFile)(python, ['-c', probe], { env: peerEnvironment() });
    return { python, versions: JSON.parse(stdout) };
  } catch (error) {
    const reason = String(error.stderr || error.message)
      .trim()
      .split('\n')
      .at(-1);
    return { missing: `${python}: ${reason} (GALVANI_PYTHON names a Python with torch and transformers)` };
  }
}

function peerEnvironment() {
  const count = String(threads);
  const quiet = { TRANSFORMERS_VERBOSITY: 'error', HF_HUB_OFFLINE: '1', PYTHONUNBUFFERED: '1' };
  return { ...process.env, ...quiet, OMP_NUM_THREADS: count, MKL_NUM_THREADS: count };
}

/** A process that reads {op, …} and writes one JSON line: the answer, or {error}. */
export class Worker {
  #child;
  #lines;
  #stderr = '';

  constructor(name, command, args, env = {}) {
    this.name = name;
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...peerEnvironment(), ...env } });
    this.#child.stderr.on('data', (chunk) => {
      this.#stderr = (this.#stderr + chunk).slice(-4000);
    });
    this.#child.stdin.on('error', () => undefined); // the missing answer says it
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** `script` is a file of this folder: *.py runs under the peer's Python, *.mjs under this Node. */
  static start(name, python, script, args, env) {
    const file = fileURLToPath(new URL(script, import.meta.url));
    return new Worker(name, script.endsWith('.py') ? python : process.execPath, [file, ...args], env);
  }

  async ask(request) {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.name} ended at ${JSON.stringify(request)}: ${this.#stderr.trim()}`);
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(`${this.name}, ${JSON.stringify(request)}: ${answer.error}`);
    return answer;
  }

  /** Ends the process and waits for it. */
  async close() {
    const ended = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.stdin.end();
    await ended;
  }
}

/**
 * A B C A B C …: `measure(side)` once per side to warm up (unless `warm` is false), then `rounds` times each.
 * @returns {Promise<Map<string, number[]>>} samples by side name
 */
export async function interleave(sides, rounds, measure, { warm = true } = {}) {
  const samples = new Map(sides.map(({ name }) => [name, []]));
  for (let round = warm ? -1 : 0; round < rounds; round++) {
    for (const side of sides) {
      const value = await measure(side);
      if (round >= 0) samples.get(side.name).push(value);
    }
  }
  return samples;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Float32Array ↔ the base64 in which workers send tensors. */
export const decodeFloats = (text) => {
  const bytes = Buffer.from(text, 'base64');
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
};
export const encodeFloats = (values) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');

/** max |a − b| / max |b| */
export function relativeError(a, b) {
  if (a.length !== b.length) throw new Error(`expected ${b.length} values, got ${a.length}`);
  let error = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    error = Math.max(error, Math.abs(a[i] - b[i]));
    size = Math.max(size, Math.abs(b[i]));
    if (!Number.isFinite(a[i]) || !Number.isFinite(b[i])) return Number.POSITIVE_INFINITY;
  }
  return error / size;
}
