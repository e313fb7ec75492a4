// The checkpoint reader against hostile files, and against the writer. Every file is made here; none is committed.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { type ErrorCode, GalvaniError } from '../../lib/errors.js';
import type { DType, TensorBytes } from '../../lib/native.js';

let folder = '';
let serial = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galvani-safetensors-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** N, header, data; `size` overrides the stated header size. */
function file(header: string | Uint8Array, dataBytes: number | Uint8Array = 0, size?: bigint): string {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const data = typeof dataBytes === 'number' ? new Uint8Array(dataBytes) : dataBytes;
  const bytes = Buffer.alloc(8 + text.length + data.length);
  bytes.writeBigUInt64LE(size ?? BigInt(text.length), 0);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  const path = join(folder, `f${serial++}.safetensors`);
  writeFileSync(path, bytes);
  return path;
}
const tensor = (dtype: string, shape: unknown, offsets: unknown): string =>
  `{"dtype":"${dtype}","shape":${JSON.stringify(shape)},"data_offsets":${JSON.stringify(offsets)}}`;

function failure(run: () => unknown): GalvaniError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(GalvaniError);
    return error as GalvaniError;
  }
  throw new Error('expected a GalvaniError, got none');
}

describe('hostile headers', () => {
  const f32 = (shape: unknown, offsets: unknown) => tensor('F32', shape, offsets);
  const latin1 = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
  // [what, header, data bytes, message, code, stated header size]
  const cases: [string, string | Uint8Array, number, RegExp, ErrorCode?, bigint?][] = [
    ['header beyond the file', '{}', 0, /header ends at byte 1008.*truncated/, 'BAD_FILE', 1000n],
    ['header beyond 100 MB', '{}', 0, /header of 100000001 bytes/, 'BAD_FILE', 100_000_001n],
    ['header of 2^64 - 1 bytes', '{}', 0, /header of 18446744073709551615 bytes/, 'BAD_FILE', 0xffff_ffff_ffff_ffffn],
    ['header of 2^63 - 4 bytes', '{}', 0, /header of 9223372036854775804 bytes/, 'BAD_FILE', 0x7fff_ffff_ffff_fffcn],
    ['empty header', '', 4, /does not begin with '\{'/],
    ['array instead of object', '[]', 0, /does not begin with '\{'/],
    ['leading white space', ' {}', 0, /does not begin with '\{'/],
    ['not UTF-8', latin1('{"\xff\xfe":1}'), 0, /not valid UTF-8/],
    ['overlong UTF-8', latin1('{"\xc0\xaf":1}'), 0, /not valid UTF-8/],
    ['encoded surrogate', latin1('{"\xed\xa0\x80":1}'), 0, /not valid UTF-8/],
    ['lone surrogate escape', `{"\\ud800x":${f32([1], [0, 4])}}`, 4, /lone surrogate/],
    ['broken JSON', '{"a":', 0, /tensor "a".*expected an object, got the end/],
    ['text after the object', '{} x', 0, /text after the end/],
    ['second object', '{}{}', 0, /text after the end/],
    ['control character in a name', `{"a\nb":${f32([1], [0, 4])}}`, 4, /control character/],
    ['trailing comma', `{"a":${f32([1], [0, 4])},}`, 4, /expected a string/],
    ['duplicate tensor', `{"a":${f32([1], [0, 4])},"a":${f32([1], [0, 4])}}`, 4, /duplicate key "a"/],
    [
      'duplicate field',
      '{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}',
      4,
      /tensor "a".*duplicate key "dtype"/,
    ],
    ['duplicate by escape', `{"a":${f32([1], [0, 4])},"\\u0061":${f32([1], [4, 8])}}`, 8, /duplicate key "a"/],
    ['unknown dtype', `{"w":${tensor('F33', [1], [0, 4])}}`, 4, /tensor "w": unknown dtype "F33"/],
    ['sub-byte dtype', `{"w":${tensor('F4', [2], [0, 1])}}`, 1, /tensor "w".*F4 is not supported/, 'UNSUPPORTED'],
    ['6-bit dtype', `{"w":${tensor('F6_E2M3', [4], [0, 3])}}`, 3, /tensor "w".*F6_E2M3/, 'UNSUPPORTED'],
    ['complex dtype', `{"w":${tensor('C64', [1], [0, 8])}}`, 8, /tensor "w".*C64/, 'UNSUPPORTED'],
    ['tensor is a number', '{"w":3}', 0, /tensor "w".*expected an object/],
    ['no dtype', '{"w":{"shape":[1],"data_offsets":[0,4]}}', 4, /tensor "w": no dtype/],
    ['no shape', '{"w":{"dtype":"F32","data_offsets":[0,4]}}', 4, /tensor "w": no shape/],
    ['no offsets', '{"w":{"dtype":"F32","shape":[1]}}', 4, /tensor "w": no data_offsets/],
    ['dtype is null', '{"w":{"dtype":null,"shape":[1],"data_offsets":[0,4]}}', 4, /tensor "w".*expected a string/],
    ['negative dimension', `{"w":${f32([-1], [0, 4])}}`, 4, /tensor "w".*non-negative integer/],
    ['two negative dimensions', `{"w":${f32([-1, -1], [0, 4])}}`, 4, /tensor "w".*non-negative integer/],
    ['fractional dimension', `{"w":${f32([1.5], [0, 4])}}`, 4, /tensor "w".*non-negative integer/],
    ['dimension with exponent', '{"w":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', 4, /non-negative integer/],
    [
      'dimension with leading zero',
      '{"w":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}',
      4,
      /non-negative integer/,
    ],
    [
      'dimension beyond int64',
      '{"w":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}}',
      4,
      /beyond 2\^63/,
    ],
    [
      'shape × size wraps to 4',
      '{"w":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}}',
      4,
      /tensor "w".*overflows/,
    ],
    ['shape wraps to 0', '{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', 0, /overflows/],
    [
      'overflow before a zero',
      '{"w":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}',
      0,
      /overflows/,
    ],
    ['rank 65', `{"w":${f32(Array(65).fill(1), [0, 4])}}`, 4, /more than 64 entries/],
    ['begin after end', `{"w":${f32([1], [4, 0])}}`, 4, /tensor "w".*begin 4 is after end 0/],
    ['one offset', `{"w":${f32([1], [0])}}`, 4, /tensor "w".*\[begin, end\]/],
    ['three offsets', `{"w":${f32([1], [0, 4, 8])}}`, 8, /more than 2 entries/],
    ['size below shape', `{"w":${f32([2], [0, 4])}}`, 4, /tensor "w": F32\[2\] needs 8 bytes, data_offsets hold 4/],
    ['size above shape', `{"w":${f32([1], [0, 8])}}`, 8, /needs 4 bytes, data_offsets hold 8/],
    [
      'overlap',
      `{"a":${f32([2], [0, 8])},"b":${f32([2], [4, 12])}}`,
      12,
      /tensor "b": begins at 4, inside the tensor that ends at 8/,
    ],
    ['same bytes twice', `{"a":${f32([2], [0, 8])},"b":${f32([2], [0, 8])}}`, 8, /tensor "b": begins at 0, inside/],
    [
      'hole',
      `{"a":${f32([1], [0, 4])},"b":${f32([1], [8, 12])}}`,
      12,
      /tensor "b": begins at 8, leaving a hole from 4/,
    ],
    ['hole at the start', `{"a":${f32([1], [4, 8])}}`, 8, /leaving a hole from 0/],
    ['truncated data', `{"a":${f32([4], [0, 16])}}`, 12, /tensor "a": ends at 16, the file holds 12.*truncated/],
    [
      'offsets beyond int64 addition',
      '{"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}}',
      1,
      /truncated/,
    ],
    ['data of no tensor', `{"a":${f32([1], [0, 4])}}`, 5, /1 data bytes belong to no tensor/],
    ['data without tensors', '{}', 7, /7 data bytes belong to no tensor/],
    ['metadata value not a string', '{"__metadata__":{"n":1}}', 0, /expected a string/],
    ['metadata not an object', '{"__metadata__":[]}', 0, /expected an object/],
    ['nesting bomb', `{"a":{"x":${'['.repeat(100_000)}`, 0, /tensor "a".*nested deeper than 64/],
    ['string without end', '{"a', 0, /string without end/],
    ['bad escape', '{"\\q":1}', 0, /bad escape/],
  ];
  it.each(cases)('%s', (_, header, data, message, code = 'BAD_FILE', size) => {
    const path = file(header, data, size);
    const error = failure(() => openCheckpoint(path));
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
    expect(error.message).toContain(path);
  });

  it('files shorter than a header', () => {
    for (const bytes of [0, 1, 7]) {
      const path = join(folder, `short${bytes}.safetensors`);
      writeFileSync(path, new Uint8Array(bytes));
      expect(failure(() => openCheckpoint(path))).toMatchObject({
        code: 'BAD_FILE',
        message: expect.stringContaining('too short'),
      });
    }
  });

  it('a 100 MB header of one string fails fast and small', () => {
    const path = join(folder, 'long.safetensors');
    const bytes = Buffer.alloc(8 + 100_000_000, 'a');
    bytes.writeBigUInt64LE(100_000_000n, 0);
    bytes.write('{"', 8);
    writeFileSync(path, bytes);
    const error = failure(() => openCheckpoint(path));
    expect(error.code).toBe('BAD_FILE');
    expect(error.message.length).toBeLessThan(1000);
    rmSync(path);
  });

  it('long and strange names are shortened in messages', () => {
    const error = failure(() => openCheckpoint(file(`{"${'é'.repeat(5000)}\\u0007":3}`)));
    expect(error.code).toBe('BAD_FILE');
    expect(error.message.length).toBeLessThan(500);
    expect(error.message).toContain('(10001 bytes)');
  });

  it('things that are not files', () => {
    const empty = join(folder, 'empty-folder');
    mkdirSync(empty);
    expect(failure(() => openCheckpoint(join(folder, 'nothing'))).code).toBe('FILE_NOT_FOUND');
    expect(failure(() => openCheckpoint(empty)).code).toBe('FILE_NOT_FOUND');
    expect(failure(() => openCheckpoint(empty)).message).toContain('model.safetensors.index.json');
    expect(failure(() => openCheckpoint('/dev/null')).code).toBe('IO');
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    expect(failure(() => openCheckpoint(pipe)).code).toBe('IO'); // and does not wait for a writer
    expect(failure(() => openCheckpoint(7 as unknown as string)).code).toBe('BAD_ARGUMENT');
  });
});

describe('unusual but valid files', () => {
  it('no tensors, scalars, empty tensors, padding, unknown fields, metadata', () => {
    expect(openCheckpoint(file('{}')).names()).toEqual([]);
    const header = `{"__metadata__":{"format":"pt"},"s":${tensor('F32', [], [0, 4])},"e":${tensor('F32', [0, 9], [4, 4])},"x":{"dtype":"U8","shape":[1],"data_offsets":[4,5],"extra":{"deep":[1,-2.5e3,null,true]}}}   \n`;
    const checkpoint = openCheckpoint(file(header, 5));
    expect(checkpoint.names()).toEqual(['e', 's', 'x']);
    expect(checkpoint.info('s')).toMatchObject({ dtype: 'F32', shape: [], bytes: 4 });
    expect(checkpoint.read('e')).toMatchObject({ shape: [0, 9], data: new Float32Array(0) });
    expect(checkpoint.metadata()).toEqual({ format: 'pt' });
    expect(failure(() => checkpoint.read('x')).code).toBe('UNSUPPORTED');
  });

  it('misaligned data (writers before 0.3 did not pad) reads correctly', () => {
    for (let pad = 0; pad < 8; pad++) {
      const header = `{"w":${tensor('F32', [3], [0, 12])}}${' '.repeat(pad)}`;
      const checkpoint = openCheckpoint(file(header, new Uint8Array(new Float32Array([1, -2.5, 3e-20]).buffer)));
      expect(checkpoint.read('w').data).toEqual(new Float32Array([1, -2.5, 3e-20]));
      expect(checkpoint.read('w').data).toEqual(new Float32Array([1, -2.5, 3e-20]));
    }
  });

  it('names a missing tensor and the closest one', () => {
    const checkpoint = openCheckpoint(file(`{"model.q_proj.weight":${tensor('F32', [1], [0, 4])}}`, 4));
    const error = failure(() => checkpoint.read('model.q_prj.weight'));
    expect(error.code).toBe('TENSOR_MISSING');
    expect(error.message).toMatch(/no tensor "model.q_prj.weight", closest is "model.q_proj.weight"/);
  });
});

describe('sharded checkpoints', () => {
  const one = (name: string, value: number): TensorBytes => ({
    name,
    dtype: 'F32',
    shape: [1],
    data: new Uint8Array(new Float32Array([value]).buffer),
  });
  function shards(parts: Record<string, TensorBytes[]>, weightMap: Record<string, unknown> | string): string {
    const path = join(folder, `sharded${serial++}`);
    mkdirSync(path);
    for (const [name, tensors] of Object.entries(parts)) writeSafetensors(join(path, name), tensors);
    const index =
      typeof weightMap === 'string'
        ? weightMap
        : JSON.stringify({ metadata: { total_size: 8 }, weight_map: weightMap });
    writeFileSync(join(path, 'model.safetensors.index.json'), index);
    return path;
  }

  it('opens as one checkpoint', () => {
    const path = shards(
      { 'm-1.safetensors': [one('a', 1)], 'm-2.safetensors': [one('b', 2)] },
      { a: 'm-1.safetensors', b: 'm-2.safetensors' },
    );
    const checkpoint = openCheckpoint(path);
    expect(checkpoint.names()).toEqual(['a', 'b']);
    expect(checkpoint.read('b').data[0]).toBe(2);
    expect(checkpoint.info('b').file).toBe(join(path, 'm-2.safetensors'));
    expect(checkpoint.files()).toEqual([join(path, 'm-1.safetensors'), join(path, 'm-2.safetensors')]);
    expect(openCheckpoint(join(path, 'model.safetensors.index.json')).names()).toEqual(['a', 'b']);
  });

  it('refuses an index that its shards contradict', () => {
    const parts = { 'm-1.safetensors': [one('a', 1)], 'm-2.safetensors': [one('b', 2)] };
    const missing = failure(() => openCheckpoint(shards(parts, { a: 'm-1.safetensors', b: 'm-3.safetensors' })));
    expect(missing.code).toBe('FILE_NOT_FOUND');
    expect(missing.message).toMatch(/m-3\.safetensors: missing shard, named by .*model\.safetensors\.index\.json/);

    const bad: [Record<string, TensorBytes[]>, Record<string, unknown> | string, RegExp][] = [
      [parts, { a: 'm-1.safetensors', b: 'm-1.safetensors' }, /tensor "b" is not in shard .*m-1/],
      [parts, { a: 'm-1.safetensors', c: 'm-2.safetensors' }, /tensor "c" is not in shard/],
      [
        { 'm-1.safetensors': [one('a', 1)], 'm-2.safetensors': [one('a', 2), one('b', 2)] },
        { a: 'm-1.safetensors', b: 'm-2.safetensors' },
        /m-2\.safetensors: tensor "a" is also in .*m-1/,
      ],
      [parts, { a: '../m-1.safetensors' }, /not a plain file name/],
      [parts, { a: '/etc/passwd' }, /not a plain file name/],
      [parts, { a: 'm-1.safetensors\u0000.txt' }, /not a plain file name/],
      [parts, { a: '' }, /not a plain file name/],
      [parts, { a: 5 }, /expected a string/],
      [parts, '{"weight_map":{"a":"m-1.safetensors","a":"m-2.safetensors"}}', /duplicate key "a"/],
      [parts, '{"metadata":{}}', /no weight_map/],
      [parts, 'not json', /expected an object/],
      [parts, '', /expected an object, got the end/],
    ];
    for (const [files, map, message] of bad) {
      const error = failure(() => openCheckpoint(shards(files, map)));
      expect(error.message).toMatch(message);
      expect(error.code).toBe('BAD_FILE');
    }
  });
});

/** Small deterministic generator (mulberry32). */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
const sizes: Record<DType, number> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E4M3FNUZ: 1,
  F8_E5M2FNUZ: 1,
  F8_E8M0: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
};
function randomTensors(next: () => number): TensorBytes[] {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)]!;
  const pieces = ['model', '.', 'layers', '7', 'é', '漢', '😀', '"', '\\', ' ', '\u0001', 'weight'];
  const names = new Set<string>();
  const count = Math.floor(next() * 12);
  while (names.size < count) names.add(Array.from({ length: 1 + Math.floor(next() * 5) }, () => pick(pieces)).join(''));
  return [...names].map((name) => {
    const dtype = pick(Object.keys(sizes) as DType[]);
    const shape = Array.from({ length: Math.floor(next() * 4) }, () => Math.floor(next() * 6));
    const bytes = shape.reduce((a, b) => a * b, 1) * sizes[dtype];
    return { name, dtype, shape, data: Uint8Array.from({ length: bytes }, () => Math.floor(next() * 256)) };
  });
}

describe('the writer', () => {
  it('round-trips 200 random files, and equal input gives equal bytes', () => {
    for (let seed = 0; seed < 200; seed++) {
      const next = random(seed);
      const tensors = randomTensors(next);
      const path = join(folder, 'round.safetensors');
      const metadata: Record<string, string> = next() < 0.5 ? {} : { format: 'pt', 'note "é"': 'a\nb' };
      writeSafetensors(path, tensors, metadata);
      const checkpoint = openCheckpoint(path);
      expect(checkpoint.names().length).toBe(tensors.length);
      expect(checkpoint.metadata()).toEqual(metadata);
      for (const { name, dtype, shape, data } of tensors) {
        expect(checkpoint.info(name)).toEqual({ dtype, shape, bytes: data.length, file: path });
        expect(checkpoint.raw(name)).toEqual(data);
      }
      const first = readFileSync(path);
      writeSafetensors(path, [...tensors].reverse(), metadata);
      expect(readFileSync(path).equals(first)).toBe(true);
      expect(first.readUInt32LE(0) % 8).toBe(0);
    }
  });

  it('replaces a file without touching maps of the old one, and leaves nothing behind on failure', () => {
    const path = join(folder, 'replace.safetensors');
    const value = (n: number): TensorBytes[] => [{ name: 'a', dtype: 'U8', shape: [1], data: Uint8Array.of(n) }];
    writeSafetensors(path, value(1));
    const old = openCheckpoint(path);
    writeSafetensors(path, value(2));
    expect(old.raw('a')[0]).toBe(1);
    expect(openCheckpoint(path).raw('a')[0]).toBe(2);

    const short: TensorBytes[] = [{ name: 'b', dtype: 'F32', shape: [2], data: new Uint8Array(4) }];
    expect(failure(() => writeSafetensors(path, short)).message).toMatch(/tensor "b": expected 8 bytes, got 4/);
    const long: TensorBytes[] = [{ name: 'b', dtype: 'F32', shape: [2], data: new Uint8Array(12) }];
    expect(failure(() => writeSafetensors(path, long)).code).toBe('BAD_ARGUMENT');
    expect(failure(() => writeSafetensors(path, [...value(1), ...value(2)])).message).toMatch(/declared twice/);
    expect(failure(() => writeSafetensors(join(folder, 'no', 'such', 'x'), value(1))).code).toBe('FILE_NOT_FOUND');
    expect(openCheckpoint(path).raw('a')[0]).toBe(2);
    expect(readdirSync(folder).filter((name) => name.includes('.tmp-'))).toEqual([]);
  });

  it('widens every float type as IEEE says', () => {
    const path = join(folder, 'widen.safetensors');
    writeSafetensors(path, [
      { name: 'f64', dtype: 'F64', shape: [2], data: new Uint8Array(new Float64Array([Math.PI, -1e-300]).buffer) },
      {
        name: 'bf16',
        dtype: 'BF16',
        shape: [4],
        data: new Uint8Array(new Uint16Array([0x3f80, 0xc2f7, 0x0001, 0x7f80]).buffer),
      },
      {
        name: 'f16',
        dtype: 'F16',
        shape: [4],
        data: new Uint8Array(new Uint16Array([0x3c00, 0x0001, 0xfbff, 0xfc00]).buffer),
      },
      { name: 'e4m3', dtype: 'F8_E4M3', shape: [4], data: Uint8Array.of(0x38, 0x01, 0x7e, 0xfe) },
      { name: 'e5m2', dtype: 'F8_E5M2', shape: [4], data: Uint8Array.of(0x3c, 0x01, 0x7b, 0xfc) },
      { name: 'e4m3fnuz', dtype: 'F8_E4M3FNUZ', shape: [5], data: Uint8Array.of(0x40, 0x01, 0x7f, 0xff, 0x80) },
      { name: 'e5m2fnuz', dtype: 'F8_E5M2FNUZ', shape: [5], data: Uint8Array.of(0x40, 0x01, 0x7f, 0xff, 0x80) },
      { name: 'e8m0', dtype: 'F8_E8M0', shape: [4], data: Uint8Array.of(0x7f, 0x00, 0xfe, 0xff) },
    ]);
    const checkpoint = openCheckpoint(path);
    const read = (name: string) => [...checkpoint.read(name).data];
    expect(read('f64')).toEqual([Math.fround(Math.PI), -0]);
    expect(read('bf16')).toEqual([1, -123.5, 2 ** -133, Infinity]);
    expect(read('f16')).toEqual([1, 2 ** -24, -65504, -Infinity]);
    expect(read('e4m3')).toEqual([1, 2 ** -9, 448, -448]);
    expect(read('e5m2')).toEqual([1, 2 ** -16, 57344, -Infinity]);
    expect(read('e4m3fnuz')).toEqual([1, 2 ** -10, 240, -240, NaN]);
    expect(read('e5m2fnuz')).toEqual([1, 2 ** -17, 57344, -57344, NaN]);
    expect(read('e8m0')).toEqual([1, 2 ** -127, 2 ** 127, NaN]);
  });
});

describe('random damage', () => {
  it('gives a typed error or a readable checkpoint, 3000 times', () => {
    const next = random(42);
    const path = join(folder, 'mutant.safetensors');
    writeSafetensors(path, randomTensors(random(7)), { format: 'pt' });
    const original = readFileSync(path);
    const outcomes = { opened: 0, refused: 0 };
    const interesting = [0, 1, 0x22, 0x2c, 0x30, 0x39, 0x3a, 0x5b, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xff];
    for (let round = 0; round < 3000; round++) {
      let bytes = Buffer.from(original);
      const edits = 1 + Math.floor(next() * 4);
      for (let edit = 0; edit < edits; edit++) {
        const at = Math.floor(next() * bytes.length);
        const kind = next();
        if (kind < 0.5) bytes[at] = interesting[Math.floor(next() * interesting.length)]!;
        else if (kind < 0.7) bytes[at] = bytes[at]! ^ (1 << Math.floor(next() * 8));
        else if (kind < 0.85) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]);
        else
          bytes = Buffer.concat([
            bytes.subarray(0, at),
            bytes.subarray(Math.floor(next() * at), at),
            bytes.subarray(at),
          ]);
      }
      const mutant = join(folder, `mutant${round % 2}.safetensors`);
      rmSync(mutant, { force: true }); // a new inode: the previous one may still be mapped
      writeFileSync(mutant, bytes);
      try {
        const checkpoint = openCheckpoint(mutant);
        for (const name of checkpoint.names()) expect(checkpoint.raw(name).length).toBe(checkpoint.info(name).bytes);
        outcomes.opened++;
      } catch (error) {
        expect(error).toBeInstanceOf(GalvaniError);
        expect(['BAD_FILE', 'UNSUPPORTED']).toContain((error as GalvaniError).code);
        outcomes.refused++;
      }
    }
    expect(outcomes.opened).toBeGreaterThan(50); // both outcomes must occur, or this tests nothing
    expect(outcomes.refused).toBeGreaterThan(1000);
  });
});
