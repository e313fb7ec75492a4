/** Data sets from Parquet, JSONL, folders of images and the Hub (a server of our own), by declared mappings. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type DatasetSpec, datasetsFrom, datasetsSchema, readDatasets } from '../../lib/data/dataset.js';
import { hubFile } from '../../lib/data/hub.js';
import { readParquet } from '../../lib/data/parquet.js';
import { grade } from '../../lib/grading/match.js';

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/data/${name}`, import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'galvani-datasets-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));
const options = { imageCache: join(work, 'images') };

test('MathVista: pictures become files, answer types become rules, choices are kept', async () => {
  const { items, sources } = await readDatasets(
    { preset: 'mathvista-testmini', path: fixture('mathvista.parquet') },
    options,
  );
  expect(items.map(({ id, task, answer, rule, choices }) => ({ id, task, answer, rule, choices }))).toEqual([
    { id: '1', task: 'math-targeted-vqa', answer: '1.2', rule: { kind: 'number', tolerance: 0.05, unit: 'cm' } },
    { id: '2', task: 'math-targeted-vqa', answer: '4', rule: { kind: 'number' } },
    {
      id: '3',
      task: 'math-targeted-vqa',
      answer: 'Blue',
      rule: { kind: 'option', choices: ['Red', 'Blue'] },
      choices: ['Red', 'Blue'],
    },
    { id: '4', task: 'general-vqa', answer: '[3, 5]', rule: { kind: 'latex' } },
  ]);
  const stats = await sharp(items[1]!.image!).stats();
  expect(stats.channels.map(({ mean }) => Math.round(mean))).toEqual([0, 128, 0]);
  expect(items[0]!.image).toBe(items[3]!.image); // the same bytes are one file
  expect(sources).toMatchObject([{ name: 'mathvista-testmini', rows: 4, kept: 4, hub: null }]);
  expect(sources[0]!.sha256).toMatch(/^[0-9a-f]{64}$/);
  const verdicts = [
    ['1.23', 0],
    ['12 mm', 0],
    ['1.3', 0],
    ['four', 1],
    ['B', 2],
    ['3, 5', 3],
  ] as const;
  expect(verdicts.map(([text, i]) => grade(text, items[i]!.answer, items[i]!.rule).verdict)).toEqual([
    'correct',
    'correct',
    'wrong',
    'correct',
    'correct',
    'correct',
  ]);
});

test('GSM8K and MATH-500: ids, what follows ####, LaTeX', async () => {
  const file = join(work, 'math.jsonl');
  const row = {
    problem: 'x?',
    solution: '…',
    answer: '\\frac{1}{2}',
    subject: 'Algebra',
    level: 1,
    unique_id: 'test/a/1.json',
  };
  writeFileSync(file, `${JSON.stringify(row)}\n`);
  const { items } = await readDatasets([
    { preset: 'gsm8k', path: fixture('gsm8k.parquet') },
    { preset: 'math-500', path: file },
  ]);
  expect(items.map(({ id, task, question, answer, rule }) => [id, task, question, answer, rule.kind])).toEqual([
    ['gsm8k-0', 'gsm8k', 'Two and two?', '4', 'number'],
    ['gsm8k-1', 'gsm8k', 'A thousand twice?', '2,000', 'number'],
    ['test/a/1.json', 'Algebra', 'x?', '\\frac{1}{2}', 'latex'],
  ]);
});

test('parquet: rows of several row groups, nested values, plain numbers', async () => {
  const rows = [];
  for await (const row of readParquet(fixture('mathvista.parquet'))) rows.push(row);
  expect(rows.map(({ line }) => line)).toEqual([1, 2, 3, 4]);
  expect(rows[3]!.value).toMatchObject({
    precision: null,
    metadata: { img_height: 6, skills: ['statistical reasoning'] },
  });
  writeFileSync(join(work, 'bad.parquet'), 'PAR1 and not much more');
  await expect(readDatasets(join(work, 'bad.parquet'))).rejects.toThrow(/bad\.parquet: not a readable Parquet file/);
  await expect(readDatasets(join(work, 'none.parquet'))).rejects.toThrow(/no such file/);
});

test('a folder of images: classes by sub-folder, metadata, templates, filters', async () => {
  const folder = join(work, 'pictures');
  for (const name of ['cat/a.png', 'cat/b.png', 'dog/c.png']) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), 'x');
  }
  writeFileSync(join(folder, 'notes.txt'), 'x');
  const map = {
    id: '{folder}-{stem}',
    question: 'Which animal?',
    answer: 'folder',
    images: 'image',
    task: '{folder}s',
  };
  const withTemplate = { ...map, question: 'Is there a {folder} here?' };
  const { items } = await readDatasets({ path: folder, map: withTemplate, where: { folder: ['cat'] } });
  expect(items).toMatchObject([
    { id: 'cat-a', task: 'cats', question: 'Is there a cat here?', answer: 'cat', image: join(folder, 'cat/a.png') },
    { id: 'cat-b', task: 'cats' },
  ]);
  const rows = [
    { file_name: 'dog/c.png', q: 'What?', a: 'dog', second: 'cat/a.png' },
    { file_name: 'cat/a.png', q: 'And?', a: 'cat', second: null },
  ];
  writeFileSync(join(folder, 'metadata.jsonl'), rows.map((row) => JSON.stringify(row)).join('\n'));
  const named = { id: 'stem', question: 'q', answer: 'a', images: 'image' };
  expect((await readDatasets({ path: folder, map: named })).items.map(({ id, task }) => [id, task])).toEqual([
    ['c', 'pictures'],
    ['a', 'pictures'],
  ]);
  await expect(readDatasets({ path: folder, map: { ...named, question: 'nothing' } })).rejects.toThrow(
    /metadata\.jsonl:1: question: expected a value at 'nothing', got undefined; the row has file_name, image, folder, stem, q/,
  );
  writeFileSync(join(folder, 'metadata.jsonl'), JSON.stringify({ file_name: 'no.png' }));
  await expect(readDatasets({ path: folder, map: named })).rejects.toThrow(
    /:1: file_name: expected an image of this folder/,
  );
});

test('own rows pass unmapped; several images; ids are unique over data sets; a filter may leave nothing', async () => {
  const file = join(work, 'own.jsonl');
  for (const name of ['1.png', '2.png']) writeFileSync(join(work, name), 'x');
  const row = { id: 'a', task: 'count', question: 'how many?', answer: '2', images: ['1.png', '2.png'], level: 3 };
  writeFileSync(file, `${JSON.stringify(row)}\n`);
  const { items } = await readDatasets({ path: file, where: { level: [2, 3] } });
  expect(items).toMatchObject([{ image: join(work, '1.png'), images: [join(work, '1.png'), join(work, '2.png')] }]);
  await expect(readDatasets([file, file])).rejects.toThrow(/id: "a" is already used at .*own\.jsonl:1/);
  await expect(readDatasets({ path: file, where: { level: 9 } })).rejects.toThrow(/at least one row/);
  await expect(readDatasets(fixture('../make_parquet.py'))).rejects.toThrow(/expected a \.jsonl or \.parquet file/);
});

test('what a study file may say', () => {
  const good: unknown[] = [
    'eval.jsonl',
    { preset: 'gsm8k' },
    ['a.jsonl', { path: 'b.parquet', map: { id: 'i', question: 'q', answer: 'a' } }],
  ];
  for (const spec of good) expect(datasetsSchema.safeParse(spec).success, JSON.stringify(spec)).toBe(true);
  const bad: unknown[] = [
    [],
    {},
    { preset: 'mmlu' },
    { path: 'a', hub: { repo: 'a/b', file: 'c' } },
    { hub: { repo: 'nope', file: 'c' } },
  ];
  for (const spec of bad) expect(datasetsSchema.safeParse(spec).success, JSON.stringify(spec)).toBe(false);
  const specs: DatasetSpec[] = ['a.jsonl', { path: '/abs/b.parquet' }, { preset: 'gsm8k' }];
  expect(datasetsFrom(specs, '/study')).toEqual(['/study/a.jsonl', { path: '/abs/b.parquet' }, { preset: 'gsm8k' }]);
});

const commit = 'c'.repeat(40);
const bytes = readFileSync(fixture('gsm8k.parquet'));
const repo = { repo: 'openai/gsm8k', file: 'main/test-00000-of-00001.parquet' };
let server: Server;
let hubUrl: string;
let asked: string[] = [];
let answer: 'well' | 'short' | 'missing' = 'well';

beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers.authorization ?? ''}`.trim());
    if (request.method === 'POST') {
      response.setHeader('Content-Type', 'application/json');
      const info = {
        path: repo.file,
        type: 'file',
        oid: 'b'.repeat(40),
        size: bytes.length,
        lastCommit: { id: commit, date: '2026-01-01', title: '' },
      };
      response.end(JSON.stringify(answer === 'missing' ? [] : [info]));
      return;
    }
    const content = answer === 'short' ? bytes.subarray(0, 100) : bytes;
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
    const [start, end] = range
      ? [Number(range[1]), Math.min(Number(range[2]), content.length - 1)]
      : [0, content.length - 1];
    response.writeHead(range ? 206 : 200, { ETag: '"e"', 'Content-Range': `bytes ${start}-${end}/${content.length}` });
    response.end(content.subarray(start, end + 1));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  hubUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());

test('the Hub: downloaded once, read from the cache, told apart by commit', async () => {
  const cacheDir = join(work, 'hub');
  const first = await hubFile(repo, { hubUrl, cacheDir, token: 'hf_test' });
  expect(first).toMatchObject({ commit, checked: true });
  expect(readFileSync(first.path)).toEqual(bytes);
  expect(first.path).toBe(join(cacheDir, 'datasets--openai--gsm8k', 'snapshots', commit, repo.file));
  expect(asked[0]).toBe('POST /api/datasets/openai/gsm8k/paths-info/main Bearer hf_test');
  expect(asked.some((line) => line.startsWith(`GET /datasets/openai/gsm8k/resolve/main/${repo.file}`))).toBe(true);

  asked = [];
  expect(await hubFile(repo, { hubUrl, cacheDir })).toEqual(first);
  expect(asked.filter((line) => line.startsWith('GET'))).toEqual([]);
  asked = [];
  const cached = { ...first, checked: false };
  expect(await hubFile(repo, { hubUrl, cacheDir, offline: true })).toEqual(cached);
  expect(await hubFile({ ...repo, revision: commit }, { hubUrl, cacheDir })).toEqual(cached);
  expect(asked).toEqual([]);
  const closed = createServer();
  await new Promise<void>((done) => closed.listen(0, '127.0.0.1', done));
  const closedPort = (closed.address() as AddressInfo).port;
  await new Promise((done) => closed.close(done));
  // Nobody listens there any more: what is cached is used, and what is not is named.
  expect(await hubFile(repo, { hubUrl: `http://127.0.0.1:${closedPort}`, cacheDir })).toEqual(cached);
  await expect(
    hubFile(repo, { hubUrl: `http://127.0.0.1:${closedPort}`, cacheDir: join(work, 'empty') }),
  ).rejects.toThrow(/openai\/gsm8k: main\/test.* at main: cannot be downloaded: .*ECONNREFUSED/);
  await expect(hubFile(repo, { cacheDir: join(work, 'empty'), offline: true })).rejects.toThrow(
    /HF_HUB_OFFLINE forbids/,
  );
});

test('the Hub: a file that is not there, a download that breaks off, a data set read from it', async () => {
  const cacheDir = join(work, 'hub2');
  answer = 'missing';
  await expect(hubFile(repo, { hubUrl, cacheDir })).rejects.toThrow(/the data set has no such file/);
  answer = 'short';
  await expect(hubFile(repo, { hubUrl, cacheDir })).rejects.toThrow(/expected \d+ bytes, got 100/);
  answer = 'well';
  const { items, sources } = await readDatasets({ preset: 'gsm8k' }, { hub: { hubUrl, cacheDir } });
  expect(items).toHaveLength(2);
  expect(sources[0]!.hub).toEqual({ ...repo, commit });
});
