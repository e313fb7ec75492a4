import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { pairFlaws, readItems, readPairs, subset, subsetPerTask } from '../../lib/data/items.js';
import { readJsonl } from '../../lib/data/jsonl.js';
import { GalvaniError } from '../../lib/errors.js';
import { sameAnswer } from '../../lib/grading/match.js';

let folder: string;
let count = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galvani-data-'));
  mkdirSync(join(folder, 'images'));
  for (const name of ['a.png', 'b.png']) writeFileSync(join(folder, 'images', name), 'x');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const write = (rows: readonly (object | string)[]): string => {
  const file = join(folder, `rows${count++}.jsonl`);
  writeFileSync(file, rows.map((row) => (typeof row === 'string' ? row : JSON.stringify(row))).join('\n'));
  return file;
};
const failure = async (work: Promise<unknown>): Promise<GalvaniError> => {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(GalvaniError);
  return error as GalvaniError;
};
const item = { id: 'i0', task: 'count', image: 'images/a.png', question: 'how many red ?', answer: '3' };
const pair = {
  id: 'p0',
  task: 'count',
  target_image: 'images/a.png',
  source_image: 'images/b.png',
  prompt: 'how many red ?',
  target_answer: '3',
  source_answer: '5',
};

test('questions: paths, optional fields, default rules', async () => {
  const items = await readItems(
    write([
      item,
      '',
      { id: 'i1', task: 'dsum', question: 'sum of digits ?', answer: 12, description: 'digits 3 4 5' },
      { id: 'i2', task: 'ground', image: 'images/b.png', question: 'where ?', answer: 'r2 c3' },
      { id: 'i3', task: 'recog', question: 'is there a red circle ?', answer: 'yes', image: null },
      { id: 'i4', task: 'vqa', question: 'which ?', answer: 'B', choices: ['cat', 'dog'] },
      { id: 'i5', task: 'grounding', question: 'box ?', answer: [1, 2, 3, 4] },
      { id: 'i6', task: 'count', question: 'about how many ?', answer: '30', rule: { kind: 'number', tolerance: 2 } },
      { id: 'i7', task: 'constructor', question: 'q', answer: 'a' },
    ]),
  );
  expect(items[0]).toEqual({
    id: 'i0',
    task: 'count',
    image: join(folder, 'images', 'a.png'),
    question: 'how many red ?',
    answer: '3',
    rule: { kind: 'number' },
  });
  expect(items[1]).toMatchObject({ answer: '12', description: 'digits 3 4 5', rule: { kind: 'number' } });
  expect(items[1]).not.toHaveProperty('image');
  expect(items[3]).not.toHaveProperty('image');
  expect(items.slice(2).map((x) => x.rule)).toEqual([
    { kind: 'exact' },
    { kind: 'yesno' },
    { kind: 'option', choices: ['cat', 'dog'] },
    { kind: 'box', iou: 0.5 },
    { kind: 'number', tolerance: 2 },
    { kind: 'exact' },
  ]);
  expect(items[5]!.answer).toBe('1,2,3,4');
});

test('rules given by the caller override row and default', async () => {
  const rules = { count: { kind: 'exact' } } as const;
  const items = await readItems(write([{ ...item, rule: { kind: 'number' } }]), { rules });
  expect(items[0]!.rule).toEqual({ kind: 'exact' });
});

test('pairs of the lab format', async () => {
  const [read] = await readPairs(write([pair]));
  expect(read).toEqual({
    id: 'p0',
    task: 'count',
    targetImage: join(folder, 'images', 'a.png'),
    sourceImage: join(folder, 'images', 'b.png'),
    question: 'how many red ?',
    targetAnswer: '3',
    sourceAnswer: '5',
    rule: { kind: 'number' },
    placeholderRemoved: false,
  });
});

test('the published set: a folder of folders, answers in meta, flaws named', async () => {
  const root = join(folder, 'published');
  const images = { target_image: '../../images/a.png', source_image: '../../images/b.png' };
  const sets: Record<string, object[]> = {
    counting: [
      { prompt: '<image>How many items?', meta: { target_answer: '3', source_answer: '10' } },
      { prompt: '<image>How many items?', meta: { target_answer: '4', source_answer: '6' } },
    ],
    grounding: [
      {
        prompt: 'Locate.',
        meta: { target_bbox_xyxy: [283, 278, 368, 348], source_bbox_xyxy: [15, 320, 81, 382], iou_threshold: 0.6 },
      },
    ],
    ocr: [
      { prompt: 'Read.', meta: { target_text: 'spectrum', source_text: 'Spectrum' } },
      { prompt: 'Read.', meta: { target_text: 'spectrum', source_text: 'manifold' } },
    ],
    recognition: [
      { prompt: 'Is there?', meta: { target_answer: 'Yes', source_answer: 'No' } },
      { prompt: 'Is there?', meta: { target_answer: 'Yes', source_answer: 'No' } },
    ],
  };
  for (const [task, rows] of Object.entries(sets)) {
    mkdirSync(join(root, task), { recursive: true });
    const lines = rows.map((row, i) => JSON.stringify({ id: `${task}_${i}`, task, ...images, ...row }));
    writeFileSync(join(root, task, 'data.jsonl'), lines.join('\n'));
  }
  const pairs = await readPairs(root);
  expect(pairs.map((p) => p.id)).toEqual([
    'counting_0',
    'counting_1',
    'grounding_0',
    'ocr_0',
    'ocr_1',
    'recognition_0',
    'recognition_1',
  ]);
  expect(pairs[0]).toMatchObject({ question: 'How many items?', placeholderRemoved: true, rule: { kind: 'number' } });
  expect(pairs[2]).toMatchObject({
    targetAnswer: '283,278,368,348',
    sourceAnswer: '15,320,81,382',
    rule: { kind: 'box', iou: 0.6 },
  });
  expect(pairs[3]).toMatchObject({ targetAnswer: 'spectrum', rule: { kind: 'exact' } });
  expect(pairs[5]).toMatchObject({ targetAnswer: 'Yes', sourceAnswer: 'No', rule: { kind: 'yesno' } });
  expect(pairFlaws(pairs)).toEqual([
    { task: 'counting', kind: 'placeholder', ids: ['counting_0', 'counting_1'], of: 2 },
    { task: 'ocr', kind: 'same-answer', ids: ['ocr_0'], of: 2 },
    { task: 'recognition', kind: 'constant-answers', ids: ['recognition_0', 'recognition_1'], of: 2 },
  ]);
  const near = [{ ...pairs[2]!, sourceAnswer: '284,278,368,348' }];
  expect(pairFlaws(near)).toEqual([]);
  expect(pairFlaws(near, sameAnswer)).toEqual([
    { task: 'grounding', kind: 'same-answer', ids: ['grounding_0'], of: 1 },
  ]);
});

test('complaints name file, line, what was expected and what came', async () => {
  const cases: [rows: (object | string)[], code: string, message: RegExp][] = [
    [[item, '{"id": '], 'BAD_FILE', /rows\d+\.jsonl:2: not JSON/],
    [['[1]'], 'BAD_FILE', /:1: expected a JSON object, got an array/],
    [['', 'null'], 'BAD_FILE', /:2: expected a JSON object, got null/],
    [[item, item], 'BAD_FILE', /:2: id: "i0" is already used at .*:1/],
    [[{ ...item, question: 7 }], 'BAD_FILE', /:1: question: expected a non-empty string, got 7/],
    [[{ ...item, answer: true }], 'BAD_FILE', /:1: answer: .* got true/],
    [[{ ...item, answer: undefined }], 'BAD_FILE', /:1: answer: .* got undefined/],
    [[{ ...item, answer: [1, 2, 3] }], 'BAD_FILE', /:1: answer: .* got \[1,2,3\]/],
    [[{ ...item, image: 'images/none.png' }], 'FILE_NOT_FOUND', /:1: image: no such image: .*none\.png/],
    [[{ ...item, rule: { kind: 'fuzzy' } }], 'BAD_FILE', /:1: rule\.kind: .*Expected 'exact' .* got {"kind":"fuzzy"}/],
    [[{ ...item, rule: { kind: 'box', iou: 2 } }], 'BAD_FILE', /:1: rule\.iou/],
    [[{ ...item, rule: { kind: 'number', tolerance: -1 } }], 'BAD_FILE', /:1: rule\.tolerance/],
    [[{ ...item, choices: ['one'] }], 'BAD_FILE', /:1: choices: expected a list of at least two strings/],
    [[], 'BAD_FILE', /at least one row/],
  ];
  for (const [rows, code, message] of cases) {
    const error = await failure(readItems(write(rows)));
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
  }
  expect((await failure(readItems(join(folder, 'absent.jsonl')))).code).toBe('FILE_NOT_FOUND');
  expect((await failure(readPairs(join(folder, 'images')))).message).toMatch(/pairs\.jsonl or data\.jsonl/);
  expect((await failure(readPairs(write([{ ...pair, source_answer: '' }])))).message).toMatch(/:1: source_answer/);
  expect((await failure(readPairs(write([{ ...pair, target_answer: undefined, meta: {} }])))).message).toMatch(
    /:1: meta\.target_answer/,
  );
  await expect(readItems(write([{ ...item, image: 'no.png' }]), { checkImages: false })).resolves.toHaveLength(1);
});

test('jsonl: byte-order mark, CRLF, early leaving', async () => {
  const file = join(folder, 'crlf.jsonl');
  writeFileSync(file, '\uFEFF{"a":1}\r\n\r\n{"a":2}\r\n');
  const got: [number, unknown][] = [];
  for await (const { line, value } of readJsonl(file)) got.push([line, value.a]);
  expect(got).toEqual([
    [1, 1],
    [3, 2],
  ]);
  for await (const { value } of readJsonl(file)) {
    expect(value.a).toBe(1);
    break;
  }
  const inFolder = async (): Promise<void> => {
    for await (const row of readJsonl(folder)) expect(row).toBeUndefined();
  };
  expect((await failure(inFolder())).code).toBe('IO');
});

test('subset: seeded, nested, in order, recorded', () => {
  const items = Array.from({ length: 200 }, (_, i) => ({ id: `x${i}`, task: i % 2 ? 'odd' : 'even' }));
  const drawn = subset(items, 20, 5);
  expect(drawn.items).toHaveLength(20);
  expect(drawn).toMatchObject({ seed: 5, of: 200, ids: drawn.items.map((x) => x.id) });
  expect(subset(items, 20, 5)).toEqual(drawn);
  expect(subset(items, 20, 6).ids).not.toEqual(drawn.ids);
  expect(subset(items, 50, 5).ids).toEqual(expect.arrayContaining([...drawn.ids]));
  expect(subset([...items].reverse(), 20, 5).ids).toEqual([...drawn.ids].reverse());
  const places = drawn.items.map((x) => items.indexOf(x));
  expect(places).toEqual([...places].sort((a, b) => a - b));
  expect(subset(items, 500, 5).items).toHaveLength(200);
  // Every item is about equally likely: 200 seeds × 20 draws = 20 expected each, ± 6 standard deviations.
  const hits = new Map(items.map((x) => [x.id, 0]));
  for (let seed = 0; seed < 200; seed++) for (const id of subset(items, 20, seed).ids) hits.set(id, hits.get(id)! + 1);
  for (const n of hits.values()) expect(Math.abs(n - 20)).toBeLessThan(6 * Math.sqrt(18));
  const perTask = subsetPerTask(items, 7, 1);
  expect(perTask.items.filter((x) => x.task === 'odd')).toHaveLength(7);
  expect(perTask.items).toHaveLength(14);
  expect(() => subset(items, -1, 0)).toThrow(/n must be/);
});
