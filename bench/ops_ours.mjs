/** galvani's side of matmul.mjs and attention.mjs: one op per request, through the addon's NativeOps. */
import { createInterface } from 'node:readline';
import { native } from '../dist/native.js';
import { encodeFloats } from './peer.mjs';

const [threads] = process.argv.slice(2).map(Number);
const ops = new (native().NativeOps)(threads);

/** The same cheap numbers as ops_peer.py makes: 128 values of 7 bits, exact in every float type. */
function values(count, seed, scale) {
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++)
    out[i] = ((((i % 1048573) * 8121 + seed * 28411) % 134456) % 128) * scale - 64 * scale;
  return out;
}

/** The top halves of float32 values: their bf16. */
function bf16(floats) {
  const words = new Uint32Array(floats.buffer);
  const out = new Uint16Array(words.length);
  for (let i = 0; i < words.length; i++) out[i] = words[i] >>> 16;
  return new Uint8Array(out.buffer);
}

const clocks = {
  wall: () => performance.now(),
  /** Of all threads of this process. */
  cpu() {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  },
};

/** Milliseconds per call, the first of a case after one to warm up; repeats until a sample is long enough to time. */
function time(call, leastMs, fresh, clock = 'wall') {
  if (fresh) call();
  const now = clocks[clock];
  let calls = 0;
  const start = now();
  do {
    call();
    calls++;
  } while (now() - start < leastMs);
  return (now() - start) / calls;
}

let made = { key: '' };
function once(key, make) {
  const fresh = made.key !== key;
  if (fresh) made = { key: '' }; // frees the last case first
  if (fresh) made = { key, ...make() };
  return { ...made, fresh };
}

const segments = 4;

/** Masses of the segments, entropy and logsumexp of every row and head; on top of them eight keys and column sums. */
function readOuts(rows, heads, keys, more) {
  const pairs = rows * heads;
  const statistics = {
    ...{ segments, mass: new Float32Array(pairs * segments) },
    ...{ entropy: new Float32Array(pairs), lse: new Float32Array(pairs) },
  };
  if (!more) return statistics;
  const topK = 8;
  return {
    ...{ ...statistics, keyMass: new Float32Array(heads * keys) },
    ...{ topK, topIndex: new Int32Array(pairs * topK), topWeight: new Float32Array(pairs * topK) },
  };
}

/**
 * Second half of the rows, even heads: one segment knocked out, another's scores scaled and biased, a third's
 * probabilities halved. One head zeroed, one replaced by a mean.
 */
function edited(rows, heads, headDim, runs, segmentOf) {
  const pages = runs.length / 3;
  const cells = 2 * 2 * pages;
  const edits = {
    ...{ headClasses: 2, rowClasses: 2 },
    headClass: Uint8Array.from({ length: heads }, (_, h) => Number(h % 2 === 0)),
    rowClass: Uint8Array.from({ length: rows }, (_, r) => Number(2 * r >= rows)),
    gamma: new Float32Array(cells).fill(1),
    beta: new Float32Array(cells),
    blocked: new Uint8Array(cells),
    post: new Float32Array(cells).fill(1),
  };
  for (let p = 0; p < pages; p++) {
    const cell = 3 * pages + p; // head class 1, row class 1
    if (segmentOf(p) === 1) edits.blocked[cell] = 1;
    if (segmentOf(p) === 2) {
      edits.gamma[cell] = 0.5;
      edits.beta[cell] = -1;
    }
    if (segmentOf(p) === 3) edits.post[cell] = 0.5;
  }
  const headScale = new Float32Array(heads).fill(1).fill(0, 1, 3);
  const headAdd = new Float32Array(heads * headDim).fill(0.1, 2 * headDim, 3 * headDim);
  return { edits, headScale, headAdd };
}

const handlers = {
  matmul({ m, n, k, dtype, leastMs, check }) {
    const { request, fresh } = once(`${m} ${n} ${k} ${dtype}`, () => {
      const w = values(n * k, 2, 2 ** -9);
      const weights = dtype === 'BF16' ? bf16(w) : new Uint8Array(w.buffer);
      return { request: { m, n, k, dtype, w: weights, x: values(m * k, 1, 2 ** -6), y: new Float32Array(m * n) } };
    });
    if (check) {
      ops.matmul(request);
      return { y: encodeFloats(request.y.slice(0, 64)) };
    }
    return { ms: time(() => ops.matmul(request), leastMs, fresh) };
  },

  attention({ heads, kvHeads, headDim, rows, keys, hooks, leastMs, clock, check }) {
    const { levels } = once(JSON.stringify([heads, kvHeads, headDim, rows, keys]), () => {
      const scale = 2 ** -5;
      const limit = Int32Array.from({ length: rows }, (_, i) => keys - rows + i);
      const pages = Math.ceil(keys / 64); // as the engine's cache hands keys over
      const segmentOf = (page) => Math.floor((page * segments) / pages);
      const runs = Int32Array.from(
        Array.from({ length: pages }, (_, p) => [64 * p, Math.min(64, keys - 64 * p), segmentOf(p)]).flat(),
      );
      const base = {
        ...{ heads, kvHeads, headDim, rows, keys, limit, runs, scale: headDim ** -0.5 },
        q: values(rows * heads * headDim, 1, scale),
        k: values(kvHeads * keys * headDim, 2, scale),
        v: values(kvHeads * keys * headDim, 3, scale),
        out: new Float32Array(rows * heads * headDim),
      };
      const edits = edited(rows, heads, headDim, runs, segmentOf);
      const requests = {
        off: base,
        read: { ...base, ...readOuts(rows, heads, keys, false) },
        edit: { ...base, ...edits },
        all: { ...base, ...edits, ...readOuts(rows, heads, keys, true) },
      };
      return { levels: new Map(Object.entries(requests).map(([level, request]) => [level, { request, fresh: true }])) };
    });
    const level = levels.get(hooks);
    const { request, fresh } = level;
    level.fresh = false;
    if (check) {
      ops.attention(request);
      return { y: encodeFloats(request.out.slice(-heads * headDim)) };
    }
    return { ms: time(() => ops.attention(request), leastMs, fresh, clock) };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const request = JSON.parse(line);
    answer = handlers[request.op](request);
  } catch (error) {
    answer = { error: error.stack };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
