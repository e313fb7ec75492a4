// The native merge door against nonsense: every call is an error with a name, none writes a file or ends the process.
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { type Native, type NativeCheckpoint, native } from '../../lib/native.js';
import { f32 } from '../support/merge.js';

let root = '';
let checkpoint: NativeCheckpoint;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'galvani-merge-hostile-'));
  const path = join(root, 'in.safetensors');
  const ids = { name: 'ids', dtype: 'I32' as const, shape: [2], data: new Uint8Array(8) };
  writeSafetensors(path, [f32('w', [3, 2], [1, 2, 3, 4, 5, 6]), ids]);
  checkpoint = openCheckpoint(path);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const good = {
  name: 'w',
  dtype: 'F32',
  shape: [3, 2],
  method: 'passthrough',
  base: -1,
  shared: {},
  each: {},
  inputs: [{ tables: [{ checkpoint: 0, name: 'w' }] }],
};
const gathered = (rows: number[], more: object = {}) => ({
  ...good,
  shape: [rows.length, 2],
  inputs: [{ tables: [{ checkpoint: 0, name: 'w' }], rows: Int32Array.from(rows), blends: [], padding: 0, ...more }],
});
const table = (more: object) => ({ ...good, inputs: [{ tables: [{ checkpoint: 0, name: 'w', ...more }] }] });

it('the good one is good', async () => {
  const out = join(root, 'good.safetensors');
  await native().writeMerged(out, {}, [checkpoint], [good as never], {});
  expect([...openCheckpoint(out).read('w').data]).toEqual([1, 2, 3, 4, 5, 6]);
  await native().writeMerged(out, {}, [checkpoint], [gathered([2, -1, 0]) as never], {});
  expect([...openCheckpoint(out).read('w').data]).toEqual([5, 6, 0, 0, 1, 2]);
  rmSync(out);
});

const cases: [string, unknown, string, RegExp][] = [
  ['no tensor of that name', table({ name: 'x' }), 'TENSOR_MISSING', /no tensor "x"/],
  ['no such checkpoint', table({ checkpoint: 7 }), 'BAD_ARGUMENT', /no checkpoint 7/],
  ['a negative checkpoint', table({ checkpoint: -1 }), 'BAD_ARGUMENT', /no checkpoint/],
  ['another shape', { ...good, shape: [4, 2] }, 'SHAPE_MISMATCH', /expected \[4, 2\], got \[3, 2\]/],
  ['a negative shape', { ...good, shape: [-3, -2] }, 'BAD_ARGUMENT', /impossible shape/],
  ['a shape beyond memory', { ...good, shape: [2 ** 40, 2 ** 40] }, 'BAD_ARGUMENT', /impossible shape/],
  ['no input', { ...good, inputs: [] }, 'BAD_ARGUMENT', /no inputs/],
  ['an input without a table', { ...good, inputs: [{ tables: [] }] }, 'BAD_ARGUMENT', /without a table/],
  ['a base that is no input', { ...good, base: 3 }, 'BAD_ARGUMENT', /index of an input/],
  ['an unknown method', { ...good, method: 'x' }, 'BAD_ARGUMENT', /unknown method 'x'/],
  ['an unknown type', { ...good, dtype: 'F4' }, 'BAD_ARGUMENT', /safetensors dtype/],
  ['merging into integers', { ...good, dtype: 'I32' }, 'UNSUPPORTED', /not a float/],
  [
    'merging integers',
    { ...good, shape: [2], inputs: [{ tables: [{ checkpoint: 0, name: 'ids' }] }] },
    'UNSUPPORTED',
    /I32/,
  ],
  ['a copy of another type', { ...good, method: 'copy', dtype: 'F16' }, 'BAD_ARGUMENT', /copy: expected F16, got F32/],
  [
    'a copy of two',
    { ...good, method: 'copy', inputs: [...good.inputs, ...good.inputs] },
    'BAD_ARGUMENT',
    /one plain input/,
  ],
  ['a row beyond the table', gathered([0, 3, 1]), 'BAD_ARGUMENT', /row 3 of 3/],
  ['a blend that is not given', gathered([0, -2, 1]), 'BAD_ARGUMENT', /blend 0 is not given/],
  ['the lowest number there is', gathered([0, -(2 ** 31), 1]), 'BAD_ARGUMENT', /blend \d+ is not given/],
  ['a blend of rows that are not', gathered([0, -2, 1], { blends: [Int32Array.of(0, 9)] }), 'BAD_ARGUMENT', /row 9/],
  ['an empty blend', gathered([0, -2, 1], { blends: [new Int32Array(0)] }), 'BAD_ARGUMENT', /empty blend/],
  ['negative padding', gathered([0, 1, 2], { padding: -1 }), 'BAD_ARGUMENT', /non-negative/],
  ['more rows than the shape', { ...gathered([0, 1, 2]), shape: [2, 2] }, 'SHAPE_MISMATCH', /3 gathered rows/],
  [
    'an adapter that is not there',
    table({ adapter: { checkpoint: 0, a: 'a', b: 'b', scale: 1, transposed: false } }),
    'TENSOR_MISSING',
    /no tensor "[ab]"/,
  ],
  [
    'an adapter that does not fit',
    table({ adapter: { checkpoint: 0, a: 'w', b: 'w', scale: 1, transposed: false } }),
    'SHAPE_MISMATCH',
    /does not fit/,
  ],
  ['a tensor that is a number', 3, 'BAD_ARGUMENT', /expected an object/],
  ['parameters that are text', { ...good, shared: { t: 'x' } }, 'BAD_ARGUMENT', /shared\.t: expected a number/],
];
it.each(cases)('%s', async (_, tensor, code, message) => {
  const out = join(root, 'bad.safetensors');
  const call = async () => native().writeMerged(out, {}, [checkpoint], [tensor as never], {});
  await expect(call()).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  expect(existsSync(out)).toBe(false);
  expect(readdirSync(root)).toEqual(['in.safetensors']);
});

it('two tensors of one name, a checkpoint that is none, threads without end', async () => {
  const out = join(root, 'bad.safetensors');
  const write = native().writeMerged as unknown as (...args: unknown[]) => ReturnType<Native['writeMerged']>;
  const call = async (...args: unknown[]) => write(...args);
  await expect(call(out, {}, [checkpoint], [good, good], {})).rejects.toThrow(/declared twice/);
  await expect(call(out, {}, [{}], [good], {})).rejects.toThrow(/NativeCheckpoint/);
  await expect(call(out, {}, [checkpoint], [good], { threads: 1e6 })).rejects.toThrow(/0 to 1024/);
  await expect(call(out, { a: 1 }, [checkpoint], [good], {})).rejects.toThrow(/expected a string/);
  await expect(call(join(root, 'no', 'such', 'folder'), {}, [checkpoint], [good], {})).rejects.toMatchObject({
    code: 'FILE_NOT_FOUND',
  });
  expect(readdirSync(root)).toEqual(['in.safetensors']);
});
