/**
 * What one instruction of the device layer must answer, from the PTX ISA's own words (9.7.14.5.1 and .8 fragments of
 * mma.m8n8k4 and mma.m16n8k16, 9.7.14.5.15 ldmatrix, 9.7.15.5.1 register fragments and shared memory of wgmma, 5.5 tensor maps),
 * written without a look at the emulator or at tile.h. Inputs are those of native/ops/gpu/conformance.
 */

type Words = Uint32Array;

const scratch = new DataView(new ArrayBuffer(4));
export function floatOf(bits: number): number {
  scratch.setUint32(0, bits);
  return scratch.getFloat32(0);
}
export function bitsOf(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}
const bf16 = (half: number): number => floatOf((half << 16) >>> 0);
const half = (word: number, i: number): number => (i === 0 ? word & 0xffff : word >>> 16);
const halfAt = (words: Words, byte: number): number => half(words[byte >>> 2]!, (byte >>> 1) & 1);

/** Words of an answer, and for sums of products the size of what was added: Σ|a·b| + |c|. */
export interface Expected {
  words: Words;
  sizes?: Float64Array;
}

/** Figures of "Matrix fragments for mma.m16n8k16": groupID = lane / 4, threadID_in_group = lane % 4. */
const fragment = {
  a: (lane: number, i: number) => ({
    row: (lane >> 2) + ((i >= 0 && i < 2) || (i >= 4 && i < 6) ? 0 : 8),
    column: (lane % 4) * 2 + (i & 1) + (i >= 4 ? 8 : 0),
  }),
  b: (lane: number, i: number) => ({ row: (lane % 4) * 2 + (i & 1) + (i >= 2 ? 8 : 0), column: lane >> 2 }),
  c: (lane: number, i: number) => ({ row: (lane >> 2) + (i >= 2 ? 8 : 0), column: (lane % 4) * 2 + (i & 1) }),
  /** wgmma accumulator: warp w of the warpgroup holds rows 16w …; every 4 registers the next 8 columns. */
  d: (thread: number, i: number) => ({
    row: 16 * (thread >> 5) + ((thread % 32) >> 2) + (i % 4 >= 2 ? 8 : 0),
    column: 8 * (i >> 2) + (thread % 4) * 2 + (i & 1),
  }),
};

const matrix = (rows: number, columns: number) => Array.from({ length: rows }, () => new Float64Array(columns));

/** ldmatrix x4: the row addresses of matrix m come from lanes 8m … 8m + 7. */
function ldmatrix(input: Words, transposed: boolean): Expected {
  const rows = input.subarray(32);
  const words = new Uint32Array(128);
  for (let lane = 0; lane < 32; lane++)
    for (let m = 0; m < 4; m++) {
      const element = (i: number) => {
        const [row, column] = transposed ? [2 * (lane % 4) + i, lane >> 2] : [lane >> 2, 2 * (lane % 4) + i];
        return halfAt(rows, input[8 * m + row]! + 2 * column);
      };
      words[4 * lane + m] = (element(0) | (element(1) << 16)) >>> 0;
    }
  return { words };
}

function mma(input: Words): Expected {
  const a = matrix(16, 16);
  const b = matrix(16, 8);
  for (let lane = 0; lane < 32; lane++) {
    for (let i = 0; i < 8; i++) {
      const { row, column } = fragment.a(lane, i);
      a[row]![column] = bf16(half(input[4 * lane + (i >> 1)]!, i & 1));
    }
    for (let i = 0; i < 4; i++) {
      const { row, column } = fragment.b(lane, i);
      b[row]![column] = bf16(half(input[128 + 2 * lane + (i >> 1)]!, i & 1));
    }
  }
  const words = new Uint32Array(128);
  const sizes = new Float64Array(128);
  for (let lane = 0; lane < 32; lane++)
    for (let i = 0; i < 4; i++) {
      const { row, column } = fragment.c(lane, i);
      const c = floatOf(input[192 + 4 * lane + i]!);
      let [sum, size] = [c, Math.abs(c)];
      for (let k = 0; k < 16; k++) {
        sum += a[row]![k]! * b[k]![column]!;
        size += Math.abs(a[row]![k]! * b[k]![column]!);
      }
      words[4 * lane + i] = bitsOf(sum);
      sizes[4 * lane + i] = size;
    }
  return { words, sizes };
}

/** 9.7.14.5.1, fragments of mma.m8n8k4 with .f64: row = lane / 4 of a and of c, column = lane / 4 of b. */
function mmaF64(input: Words): Expected {
  const given = new Float64Array(input.slice().buffer);
  const out = new Float64Array(64);
  for (let lane = 0; lane < 32; lane++)
    for (let i = 0; i < 2; i++) {
      const [row, column] = [lane >> 2, (lane % 4) * 2 + i];
      let sum = given[64 + 2 * lane + i]!;
      for (let k = 0; k < 4; k++) sum += given[4 * row + k]! * given[32 + 4 * column + k]!;
      out[2 * lane + i] = sum;
    }
  return { words: new Uint32Array(out.buffer) };
}

/** 128-byte swizzle: bits 4–6 of a shared-memory byte address are XORed with its bits 7–9. */
const swizzle = (byte: number): number => byte ^ (((byte >> 7) & 7) << 4);

/** Head: byte offset of A and of B, leading and stride offsets, slices, byte step of A and B, accumulate. */
function wgmma(input: Words, registers: boolean): Expected {
  const [startA, startB, leading, stride, slices, stepA, stepB, accumulate] = input as unknown as number[];
  const shared = input.subarray(registers ? 8 + 512 : 8);
  const baseB = registers ? 0 : 64 * 128; // where B's image begins
  const d = matrix(64, 128);
  for (let thread = 0; thread < 128; thread++)
    for (let i = 0; i < 64; i++) {
      const { row, column } = fragment.d(thread, i);
      d[row]![column] = accumulate! ? (7 * thread + i) % 5 : 0;
    }
  for (let s = 0; s < slices!; s++) {
    const a = matrix(64, 16);
    if (registers) {
      for (let thread = 0; thread < 128; thread++)
        for (let i = 0; i < 8; i++) {
          const { row, column } = fragment.a(thread % 32, i);
          a[16 * (thread >> 5) + row]![column] = bf16(half(input[8 + 4 * thread + (i >> 1)]!, i & 1));
        }
    } else {
      // K-major: 8 rows of 128 bytes make a block, blocks follow each other at the stride offset.
      for (let row = 0; row < 64; row++)
        for (let k = 0; k < 16; k++)
          a[row]![k] = bf16(
            halfAt(shared, swizzle(startA! + s * stepA! + (row >> 3) * stride! + (row & 7) * 128 + 2 * k)),
          );
    }
    const at = baseB + startB! + s * stepB!;
    for (let n = 0; n < 128; n++)
      for (let k = 0; k < 16; k++) {
        // MN-major: a block is 64 of n by 8 of k, the next 8 of k at the stride, the next 64 of n at the leading offset.
        const byte = registers
          ? (n >> 6) * leading! + (k >> 3) * stride! + (k & 7) * 128 + (n & 63) * 2
          : (n >> 3) * stride! + (n & 7) * 128 + 2 * k;
        const b = bf16(halfAt(shared, swizzle(at + byte)));
        for (let row = 0; row < 64; row++) d[row]![n]! += a[row]![k]! * b;
      }
  }
  const words = new Uint32Array(128 * 64);
  for (let thread = 0; thread < 128; thread++)
    for (let i = 0; i < 64; i++) {
      const { row, column } = fragment.d(thread, i);
      words[64 * thread + i] = bitsOf(d[row]![column]!);
    }
  return { words };
}

/** A box of 2 × 4 × 64 elements of a 3 × 5 × 128 tensor, x fastest, zeros outside, 128-byte swizzle. */
function tma(input: Words): Expected {
  const [x0, y0, z0] = [input[0]! | 0, input[1]! | 0, input[2]! | 0];
  const tensor = input.subarray(4);
  const halves = new Uint16Array(64 * 4 * 2);
  for (let z = 0; z < 2; z++)
    for (let y = 0; y < 4; y++)
      for (let x = 0; x < 64; x++) {
        const [tx, ty, tz] = [x0 + x, y0 + y, z0 + z];
        const inside = tx >= 0 && tx < 128 && ty >= 0 && ty < 5 && tz >= 0 && tz < 3;
        const to = swizzle(2 * ((z * 4 + y) * 64 + x));
        halves[to / 2] = inside ? halfAt(tensor, 2 * ((tz * 5 + ty) * 128 + tx)) : 0;
      }
  return { words: new Uint32Array(halves.buffer) };
}

function cp16(input: Words): Expected {
  const words = new Uint32Array(512);
  for (let thread = 0; thread < 128; thread++)
    for (let i = 0; i < 4; i++) {
      const from = thread ^ 1;
      words[4 * thread + i] = input[from] ? input[128 + 4 * from + i]! : 0;
    }
  return { words };
}

function shuffle(input: Words): Expected {
  const words = new Uint32Array(256);
  const odd = input.subarray(0, 32).some((value) => value & 1);
  for (let lane = 0; lane < 32; lane++) {
    for (let i = 0; i < 5; i++) words[32 * i + lane] = input[lane ^ (1 << i)]!;
    words[160 + lane] = input[input[32 + lane]!]!;
    words[192 + lane] = Number(odd);
    words[224 + lane] = 0; // lanes are 0 … 31, none negative
  }
  return { words };
}

const least = 2 ** -126;
/** .ftz: subnormal operands and results are zeros of the same sign. */
const flush = (x: number): number => (Math.abs(x) < least ? x * 0 : x);
const each = (input: Words, f: (x: number) => number): Expected => ({
  words: Uint32Array.from(input, (bits) => bitsOf(f(floatOf(bits)))),
});

/** To bfloat16, round to nearest, ties to even; NaN becomes 0x7fff. */
function toBf16(bits: number): number {
  if (Number.isNaN(floatOf(bits))) return 0x7fff;
  const [kept, rest] = [bits >>> 16, bits & 0xffff];
  return rest > 0x8000 || (rest === 0x8000 && (kept & 1) === 1) ? kept + 1 : kept;
}
function pack(input: Words): Expected {
  const words = new Uint32Array(512);
  for (let i = 0; i < 256; i++) {
    words[i] = (toBf16(input[i]!) | (toBf16(input[255 - i]!) << 16)) >>> 0;
    words[256 + i] = toBf16(input[i]!);
  }
  return { words };
}
function unpack(input: Words): Expected {
  const words = new Uint32Array(512);
  for (let i = 0; i < 256; i++) {
    words[i] = (input[i]! << 16) >>> 0;
    words[256 + i] = (input[i]! & 0xffff0000) >>> 0;
  }
  return { words };
}

export const answers: Readonly<Record<string, (input: Words) => Expected>> = {
  ldsm4: (input) => ldmatrix(input, false),
  ldsm4t: (input) => ldmatrix(input, true),
  mma,
  mma_wide: mma,
  mma_f64: mmaF64,
  cp16,
  shuffle,
  ex2: (input) => each(input, (x) => flush(2 ** flush(x))),
  lg2: (input) => each(input, (x) => Math.log2(flush(x))),
  rcp: (input) => each(input, (x) => 1 / x),
  pack,
  unpack,
  wgmma_ss_slice: (input) => wgmma(input, false),
  wgmma_ss_chain: (input) => wgmma(input, false),
  wgmma_rs_slice: (input) => wgmma(input, true),
  wgmma_rs_chain: (input) => wgmma(input, true),
  tma_inside: tma,
  tma_beyond: tma,
  tma_before: tma,
};

/** How far `got` may be from `wanted` under the case's rule: "bits", "relative …", "absolute …", "sum …". */
function agrees(rule: string, got: number, wanted: number, size: number): boolean {
  if (got === wanted) return true;
  const [kind, bound] = rule.split(' ');
  if (kind === 'bits') return false;
  const [y, x] = [floatOf(got), floatOf(wanted)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) && Number.isNaN(y);
  if (!Number.isFinite(x) || !Number.isFinite(y)) return x === y;
  const tolerance = 2 ** Number(bound!.slice(2));
  const error = Math.abs(y - x);
  if (kind === 'relative') return error <= tolerance * Math.abs(x);
  if (kind === 'absolute') return error <= tolerance * Math.max(1, Math.abs(x));
  if (kind === 'sum') return error <= tolerance * size;
  throw new Error(`no such rule: ${rule}`);
}

/** The first few words that differ, in words. */
export function differences(rule: string, got: Words, wanted: Words, sizes?: Float64Array): string[] {
  if (got.length !== wanted.length) return [`expected ${wanted.length} words, got ${got.length}`];
  const out: string[] = [];
  for (let i = 0; i < got.length; i++)
    if (!agrees(rule, got[i]!, wanted[i]!, sizes?.[i] ?? 0))
      out.push(
        `word ${i}: expected ${wanted[i]!.toString(16)} (${floatOf(wanted[i]!)}), got ${got[i]!.toString(16)} (${floatOf(got[i]!)})`,
      );
  return out.slice(0, 8);
}
