/** One protocol per study, and the texts that take an image's place. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { QuestionItem } from '../../lib/data/items.js';
import { GalvaniError } from '../../lib/errors.js';
import { type DescribeOptions, describeItems } from '../../lib/experiments/describe.js';
import { protocolPresets, questionText, resolveProtocol } from '../../lib/experiments/protocol.js';
import { parseStudy } from '../../lib/experiments/study-file.js';
import { chat } from '../../lib/remote/chat.js';
import { FakeEngine } from './fake-engine.js';
import { asker } from './fake-study.js';

const work = mkdtempSync(join(tmpdir(), 'galvani-protocol-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

describe('the text of a question', () => {
  const maxTokens = 8;
  test('prefix, choices, description, suffix', () => {
    expect(questionText({ question: 'Q?' }, { maxTokens, prefix: 'P', suffix: 'S' })).toBe('P\nQ?\nS');
    expect(questionText({ question: 'Q?', description: 'a $& cat' }, { maxTokens })).toBe('a $& cat\nQ?');
    const described = 'Image:\n{description}\n\nQuestion:\n{question}';
    expect(questionText({ question: 'Q $1?', description: 'a $& cat' }, { maxTokens, described })).toBe(
      'Image:\na $& cat\n\nQuestion:\nQ $1?',
    );
    const choices = ['cat', 'dog'];
    expect(questionText({ question: 'Q?', choices }, { maxTokens })).toBe('Q?\n\nChoices:\nA. cat\nB. dog');
    expect(questionText({ question: 'Q?', choices: ['A. cat', '(B) dog'] }, { maxTokens })).toBe(
      'Q?\n\nChoices:\nA. cat\nB. dog',
    );
    expect(questionText({ question: 'Q?', choices }, { maxTokens, choices: 'none' })).toBe('Q?');
  });

  test('the published prompts, and no model name that decides one', () => {
    const of = (protocol: object) =>
      parseStudy(
        {
          name: 'n',
          models: { 'rl early world': 'a', 'Revisual-R1': 'b' },
          protocol,
          experiments: { characterize: { models: ['rl early world', 'Revisual-R1'] } },
        },
        'test',
      ).protocol;
    expect(of({})).toEqual({ maxTokens: 256 });
    const revisual = of({ preset: 'revisual-r1', maxTokens: 2048 });
    expect(revisual).toMatchObject({ preset: 'revisual-r1', maxTokens: 2048 });
    expect(revisual.system).toContain('The final answer MUST BE put in \\boxed{}.');
    // "…put your answer in one \boxed{}." and an empty line, as the scripts have it.
    expect(questionText({ question: 'Q?' }, revisual)).toBe(
      'Please solve the problem step by step and put your answer in one "\\boxed{}".\n\nQ?',
    );
    expect(of({ preset: 'openmmreasoner' }).prefix).toBeUndefined();
    expect(of({ preset: 'openmmreasoner', system: 'mine' }).system).toBe('mine');
    expect(Object.keys(protocolPresets)).toEqual(expect.arrayContaining(['openmmreasoner', 'revisual-r1', 'mmr1']));
    expect(() => of({ preset: 'gpt' })).toThrow(/preset/);
    expect(() => of({ described: 'only {question}' })).toThrow(/expected \{description\} and \{question\}/);
    expect(resolveProtocol(revisual)).toEqual(revisual);
  });
});

type Answer = { status?: number; text?: string; retryAfter?: string; body?: string };
let server: Server;
let url: string;
let requests: {
  url: string;
  body: { model: string; temperature: number; messages: { content: unknown }[] };
  key: string;
}[] = [];
let answers: (index: number) => Answer = () => ({ text: 'fine' });
beforeAll(async () => {
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      requests.push({ url: request.url!, body: JSON.parse(body), key: request.headers.authorization ?? '' });
      const { status = 200, text = 'fine', retryAfter, body: raw } = answers(requests.length - 1);
      if (retryAfter) response.setHeader('Retry-After', retryAfter);
      response.writeHead(status, { 'Content-Type': 'application/json' });
      response.end(raw ?? JSON.stringify({ choices: [{ message: { role: 'assistant', content: text } }] }));
    });
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
afterAll(() => server.close());
beforeEach(() => {
  requests = [];
  answers = () => ({ text: 'fine' });
});

describe('an OpenAI-compatible endpoint', () => {
  const ask = (options = {}) =>
    chat({ url, model: 'm', keyEnv: 'GALVANI_TEST_KEY' }, [{ role: 'user', content: 'hello' }], {
      maxTokens: 9,
      waitMs: 1,
      ...options,
    });

  test('asks at temperature 0, with the key of the environment', async () => {
    process.env.GALVANI_TEST_KEY = 'k';
    expect(await ask()).toBe('fine');
    delete process.env.GALVANI_TEST_KEY;
    expect(requests).toMatchObject([
      { url: '/v1/chat/completions', key: 'Bearer k', body: { model: 'm', temperature: 0, max_tokens: 9 } },
    ]);
  });

  test('tries again what passes, and only that', async () => {
    answers = (i) => (i < 2 ? { status: i === 0 ? 429 : 503 } : { text: 'at last' });
    expect(await ask()).toBe('at last');
    expect(requests).toHaveLength(3);
    requests = [];
    answers = () => ({ status: 401, body: 'bad key' });
    await expect(ask()).rejects.toThrow(/127\.0\.0\.1.*m: 401 .*bad key/);
    expect(requests).toHaveLength(1);
    requests = [];
    answers = () => ({ status: 500 });
    await expect(ask({ retries: 2 })).rejects.toMatchObject({ code: 'NETWORK' });
    expect(requests).toHaveLength(3);
    answers = () => ({ body: '{"choices": []}' });
    await expect(ask()).rejects.toThrow(/no answer in/);
  });

  test('an endpoint that is not there, and a stop', async () => {
    await expect(
      chat({ url: 'http://127.0.0.1:1/v1', model: 'm' }, [], { maxTokens: 1, retries: 0 }),
    ).rejects.toMatchObject({
      code: 'NETWORK',
    });
    await expect(ask({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe('descriptions', () => {
  const items: QuestionItem[] = ['a', 'b', 'c', 'd'].map((id) => {
    const image = join(work, `${id === 'd' ? 'a' : id}.png`);
    writeFileSync(image, `picture ${id === 'd' ? 'a' : id}`);
    return {
      id,
      task: id === 'c' ? 'other' : 'math',
      question: `${id}?`,
      answer: '1',
      image,
      rule: { kind: 'number' },
    };
  });
  const wanted = ({ task }: QuestionItem): boolean => task === 'math';
  const described = async (options: DescribeOptions, of = items) =>
    (await describeItems(of, wanted, options)).map(({ description }) => description);

  test('from a file, which must have them all', async () => {
    const file = join(work, 'd.jsonl');
    writeFileSync(file, ['a', 'b', 'd'].map((id) => JSON.stringify({ id, description: `text ${id}` })).join('\n'));
    const options = { source: { file }, cache: join(work, 'unused') };
    expect(await described(options)).toEqual(['text a', 'text b', undefined, 'text d']);
    expect(await described(options, [{ ...items[0]!, description: 'its own' }])).toEqual(['its own']);
    writeFileSync(file, JSON.stringify({ id: 'a', description: 'x' }));
    await expect(described(options)).rejects.toThrow(/no description of 2 of 3 items: b, d/);
    writeFileSync(file, JSON.stringify({ id: 'a' }));
    await expect(described(options)).rejects.toThrow(/:1: expected an id and a description/);
  });

  test('from a model: once per image, kept, and not asked again', async () => {
    const engine = new FakeEngine({ answer: (trial) => `seen by ${trial.model}: ${trial.prompt.ids.length}` });
    const options = {
      source: { model: 'rl', prompt: 'Describe.', maxTokens: 80 },
      cache: join(work, 'model.jsonl'),
      engine,
      asker,
      fingerprint: () => 'f1',
    };
    const first = await described(options);
    expect(first[0]).toMatch(/^seen by rl/);
    expect(first[3]).toBe(first[0]);
    expect(first[2]).toBeUndefined();
    expect(engine.trialsRun).toBe(2);
    expect(await described(options)).toEqual(first);
    expect(engine.trialsRun).toBe(2);
    await described({ ...options, fingerprint: () => 'other weights' });
    expect(engine.trialsRun).toBe(4);
    const broken = new FakeEngine({ fail: () => new GalvaniError('OUT_OF_MEMORY', 'too large') });
    await expect(described({ ...options, engine: broken, fingerprint: () => 'f3' })).rejects.toThrow(
      /2 of 2 images could not be described[\s\S]*too large/,
    );
  });

  test('from an endpoint: pictures are sent, what failed is asked again, what succeeded is not', async () => {
    const options = {
      source: { endpoint: { url, model: 'vlm' }, prompt: 'Describe.' },
      cache: join(work, 'endpoint.jsonl'),
    };
    answers = (i) => (i === 0 ? { status: 400, body: 'filtered' } : { text: 'a picture' });
    await expect(described(options)).rejects.toThrow(/1 of 2 images could not be described; the others are kept/);
    expect(readFileSync(options.cache, 'utf8').trim().split('\n')).toHaveLength(1);
    const [, picture] = [requests[0]!.body.messages[0]!.content as { type: string; image_url?: { url: string } }[]]
      .flat()
      .reverse();
    expect(picture!.image_url!.url).toMatch(/^data:image\/png;base64,/);
    requests = [];
    answers = () => ({ text: 'the other' });
    const texts = await described(options);
    expect(requests).toHaveLength(1);
    expect(texts[3]).toBe(texts[0]);
    expect([texts[0], texts[1]].sort()).toEqual(['a picture', 'the other']);
  });

  test('a study says where they come from', () => {
    const study = (descriptions: unknown, groups?: object) =>
      parseStudy(
        {
          name: 'n',
          models: { in: 'a', rl: 'b' },
          data: { items: { preset: 'mathvista-testmini' }, descriptions, ...(groups ? { groups } : {}) },
          experiments: { transfer: { in: 'in', rl: 'rl', conditions: ['noise', 'shuffled'] } },
        },
        'test',
      );
    expect(study({ model: 'rl', tasks: ['math-targeted-vqa'] }).data.descriptions).toEqual({
      model: 'rl',
      tasks: ['math-targeted-vqa'],
    });
    expect(study({ file: 'd.jsonl' }).experiments.transfer!.conditions).toEqual(['noise', 'shuffled']);
    expect(() => study({ model: 'gpt', tasks: ['a'] })).toThrow(
      /'gpt' is not one of models: in, rl[\s\S]*data\.descriptions\.model/,
    );
    expect(() => study({ model: 'rl' })).toThrow(/need their tasks, or data\.groups/);
    expect(() => study({ endpoint: { url: 'nowhere', model: 'm' } })).toThrow(/not a study/);
  });
});
