import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { GalvaniError } from '../../lib/errors.js';
import { noiseImage } from '../../lib/processor/decode.js';
import { mropePositions } from '../../lib/processor/positions.js';
import { loadProcessor, type Processor } from '../../lib/processor/processor.js';
import { buildPrompt, type PromptMessage, type PromptOptions, type Question } from '../../lib/processor/prompt.js';
import { answerRanges } from '../../lib/processor/text-spans.js';
import type { Prompt, Range } from '../../lib/types.js';
import { fixturePath, type HookRecord, type ParityCase, readFixtureJson } from '../support/fixture.js';
import { parityMessages } from '../support/prompts.js';

interface TextRecord {
  readonly text: string;
  readonly ids: number[];
  readonly decoded: string;
  readonly skipped: string;
}
interface ChatRecord extends Omit<ParityCase, 'logitsRows' | 'greedy'> {
  readonly model: string;
  readonly answer?: string;
  readonly variables?: Record<string, unknown>;
}
const record = readFixtureJson<{ texts: TextRecord[]; chats: ChatRecord[] }>('processor/record.json');

const processors = new Map<string, Processor>();
function processorOf(model: string): Processor {
  const loaded = processors.get(model) ?? loadProcessor(fixturePath(`models/${model}`));
  processors.set(model, loaded);
  return loaded;
}
const image = (file: string) => fixturePath(`images/${file}`);

/** What the rows of a span say. */
function spanText(processor: Processor, prompt: Prompt, name: string): string | undefined {
  const ranges = prompt.spans[name];
  return ranges?.map(([start, end]) => processor.tokenizer.decode(prompt.ids.slice(start, end))).join('|');
}

async function failure(run: () => Promise<unknown>): Promise<GalvaniError> {
  return run().then(
    () => expect.fail('expected an error'),
    (error) => error,
  ) as Promise<GalvaniError>;
}

describe('tokenizer equals transformers', () => {
  const { tokenizer } = processorOf('tied-mha');
  it.each(record.texts)('$text', ({ text, ids, decoded, skipped }) => {
    expect([...tokenizer.encode(text)]).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(decoded);
    expect(tokenizer.decode(Int32Array.from(ids), { skipSpecial: true })).toBe(skipped);
  });

  it.each(record.texts)('offsets of $text tile the text', ({ text, ids }) => {
    const offsets = tokenizer.offsets(text, ids);
    const total = Buffer.byteLength(text.normalize('NFC'));
    let at = 0;
    for (let i = 0; i < ids.length; i++) {
      expect(offsets[2 * i]).toBe(at);
      at = offsets[2 * i + 1]!;
    }
    expect(at).toBe(total);
  });

  it('knows its tokens', () => {
    expect(tokenizer.tokenId('<|image_pad|>')).toBe(612);
    expect(tokenizer.tokenId('no such token')).toBeUndefined();
    expect(tokenizer.decode([])).toBe('');
  });

  it('says where ids and text part', () => {
    expect(() => tokenizer.offsets('abc', tokenizer.encode('xyz'))).toThrow(/token 0 .*at byte 0/);
  });
});

describe('a word-level vocabulary', () => {
  const words = ['<unk>', '<|image_pad|>', '<|im_start|>', '<|im_end|>', 'user', 'assistant', 'how', 'many', '?', '2'];
  const added = words.slice(1, 4).map((content, i) => ({
    id: i + 1,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  const dir = mkdtempSync(join(tmpdir(), 'galvani-words-'));
  const json = {
    version: '1.0',
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: null,
    decoder: null,
    model: { type: 'WordLevel', vocab: Object.fromEntries(words.map((word, i) => [word, i])), unk_token: '<unk>' },
  };
  writeFileSync(join(dir, 'tokenizer.json'), JSON.stringify(json));
  writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify({ clean_up_tokenization_spaces: false }));
  writeFileSync(
    join(dir, 'chat_template.jinja'),
    '{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}{% if p.type == "image" %}<|image_pad|>' +
      '{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant{{ " " }}',
  );
  writeFileSync(join(dir, 'preprocessor_config.json'), '{"patch_size": 4, "min_pixels": 64, "max_pixels": 4096}');
  const processor = loadProcessor(dir);

  it('has spans though white space is no token', async () => {
    const prompt = await buildPrompt(processor, {
      question: 'how many  ?',
      images: [noiseImage(16, 8, 1)],
      answer: '2',
    });
    expect([...prompt.ids]).toEqual([2, 4, 1, 1, 6, 7, 8, 3, 2, 5, 9]);
    expect(prompt.spans.image).toEqual([[2, 4]]);
    expect(prompt.spans.question).toEqual([[4, 7]]);
    expect(prompt.spans.answer).toEqual([[10, 11]]);
    expect(prompt.spans.system).toBeUndefined();
    expect(processor.tokenizer.decode(prompt.ids, { skipSpecial: true })).toBe('user how many ? assistant 2');
  });

  it('names a word it does not know', async () => {
    const error = await failure(() => buildPrompt(processor, { question: 'how many apples ?' }));
    expect(error.code).toBe('BAD_ARGUMENT');
    expect(error.message).toContain('"apples"');
  });
});

describe('conversations equal transformers', () => {
  it.each(record.chats)('$model: $name', async (chat) => {
    const options: PromptOptions = {
      ...(chat.answer !== undefined && { answer: chat.answer }),
      ...(chat.variables && { variables: chat.variables }),
    };
    const prompt = await buildPrompt(processorOf(chat.model), parityMessages(chat), options);
    expect(prompt.text).toBe(chat.text.normalize('NFC'));
    expect([...prompt.ids]).toEqual(chat.ids);
    const n = chat.ids.length;
    expect([0, 1, 2].map((axis) => [...prompt.positions.subarray(axis * n, (axis + 1) * n)])).toEqual(chat.positions);
    expect(prompt.nextPosition).toBe(Math.max(...chat.positions.flat()) + 1);
    expect(prompt.images.map((placed) => placed.image.grid)).toEqual(chat.grids);
    for (const { start, count } of prompt.images) {
      expect([...prompt.ids.subarray(start, start + count)]).toEqual(Array(count).fill(612));
    }
  });
});

describe('named spans', () => {
  const processor = processorOf('tied-mha');
  const question: Question = {
    system: 'Answer with one number.',
    question: 'How many red circles?',
    images: [image('rgb-32x24.png'), image('rgb-16x40.png')],
    answer: '<think> 3 red, 1 blue. </think>\n<answer> 2 </answer>',
  };

  it('name the parts of a question', async () => {
    const prompt = await buildPrompt(processor, question);
    const said = (name: string) => spanText(processor, prompt, name);
    expect(said('system')).toBe('Answer with one number.');
    expect(said('question')).toBe('How many red circles?');
    expect(said('answer')).toBe(question.answer);
    expect(said('think')!.trim()).toBe('3 red, 1 blue.');
    expect(said('final')!.trim()).toBe('2');
    const n = prompt.ids.length;
    expect(prompt.spans.all).toEqual([[0, n]]);
    expect(prompt.spans.last).toEqual([[n - 1, n]]);
    const [first, second] = prompt.images;
    expect(prompt.spans['image 0']).toEqual([[first!.start, first!.start + first!.count]]);
    expect(prompt.spans['image 1']).toEqual([[second!.start, second!.start + second!.count]]);
    expect(prompt.spans.image).toEqual([...prompt.spans['image 0']!, ...prompt.spans['image 1']!]);
    expect(first!.count).toBe(12);
    expect(second!.count).toBe(10);
  });

  it('image and text are a partition of all rows', async () => {
    const prompt = await buildPrompt(processor, question);
    const rows = (ranges: readonly Range[]) =>
      ranges.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
    const both = [...rows(prompt.spans.image!), ...rows(prompt.spans.text!)].sort((a, b) => a - b);
    expect(both).toEqual(rows(prompt.spans.all!));
  });

  it('take the template’s own system prompt, and the last user turn', async () => {
    const chat: PromptMessage[] = [
      { role: 'user', content: 'First question.' },
      { role: 'assistant', content: 'First question.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Second ' },
          { type: 'image', image: image('rgb-32x24.png') },
          { type: 'text', text: ' question.' },
        ],
      },
    ];
    const prompt = await buildPrompt(processor, chat);
    expect(spanText(processor, prompt, 'system')).toBe('You are a helpful assistant.');
    expect(spanText(processor, prompt, 'question')).toBe('Second | question.');
    expect(Object.keys(prompt.spans).sort()).toEqual(['all', 'image', 'image 0', 'last', 'question', 'system', 'text']);
  });

  it('hold under every template', async () => {
    for (const model of ['untied-gqa', 'untied-gqa-sharded-bf16', 'tied-mqa-bf16']) {
      const prompt = await buildPrompt(processorOf(model), { ...question, images: [image('rgb-84x56.png')] });
      expect(spanText(processorOf(model), prompt, 'system')).toBe('Answer with one number.');
      expect(spanText(processorOf(model), prompt, 'question')).toBe('How many red circles?');
    }
  });

  it('survive a template that trims', async () => {
    const { template } = processor;
    const trimming: Processor = {
      ...processor,
      template: {
        ...template,
        render: (messages, options) =>
          template
            .render(messages, options)
            .replace(/user\n\s+/, 'user\n')
            .replace('  <|im_end|>', '<|im_end|>'),
      },
    };
    const prompt = await buildPrompt(trimming, { question: '   How many?  ' });
    expect(spanText(processor, prompt, 'question')).toBe('How many?');
  });

  it('equal those the hook fixtures were made with', async () => {
    const hooks = readFixtureJson<HookRecord>('hooks/untied-gqa.json');
    const prompt = await buildPrompt(processorOf(hooks.model), parityMessages({ messages: hooks.messages }));
    expect(prompt.ids.length).toBe(hooks.rows);
    expect(prompt.nextPosition).toBe(hooks.nextPosition);
    expect(prompt.spans.image).toEqual(hooks.spans.image);
    expect(prompt.spans.question).toEqual(hooks.spans.question);
  });

  it('do not care which characters the text holds', async () => {
    const odd = 'cafe\u0301 \uf8ff\ue000 0\uf8ff1 👍🏽';
    const prompt = await buildPrompt(processor, { question: odd });
    expect(spanText(processor, prompt, 'question')).toBe(odd.normalize('NFC'));
  });
});

describe('think and final of an answer', () => {
  const parts = (answer: string) => {
    const { think, final } = answerRanges(answer);
    return [think && answer.slice(...think), final && answer.slice(...final)];
  };
  it.each([
    ['2', undefined, '2'],
    ['<think> a </think> b ', 'a', 'b'],
    ['<think>a</think><answer> b </answer> c', 'a', 'b'],
    ['<answer>b</answer>', undefined, 'b'],
    ['a </think> b', 'a', 'b'], // the template opened it
    ['<think> a', 'a', undefined], // truncated
    ['<think> a <answer> b', 'a', 'b'],
    ['<think></think>', undefined, undefined],
    ['', undefined, undefined],
  ])('%j', (answer, think, final) => {
    expect(parts(answer)).toEqual([think, final]);
  });
});

describe('M-RoPE positions', () => {
  it('of a clip of two times count time, height and width', () => {
    const { positions, nextPosition } = mropePositions(10, [{ start: 1, count: 8, tokenGrid: [2, 1, 4] }]);
    expect([...positions]).toEqual([
      ...[0, 1, 1, 1, 1, 2, 2, 2, 2, 5],
      ...[0, 1, 1, 1, 1, 1, 1, 1, 1, 5],
      ...[0, 1, 2, 3, 4, 1, 2, 3, 4, 5],
    ]);
    expect(nextPosition).toBe(6);
  });
});

describe('image options', () => {
  it('bound the pixels, or set the grid of one image', async () => {
    const processor = processorOf('tied-mha');
    const ask = (options: PromptOptions) =>
      buildPrompt(processor, { question: 'x', images: [noiseImage(40, 32, 1), noiseImage(40, 32, 1)] }, options);
    const grids = async (options: PromptOptions) => (await ask(options)).images.map(({ image: { grid } }) => grid);
    expect(await grids({})).toEqual([
      [1, 8, 10],
      [1, 8, 10],
    ]);
    expect(await grids({ maxPixels: 400 })).toEqual([
      [1, 4, 4],
      [1, 4, 4],
    ]);
    expect(await grids({ grids: [null, [4, 6]] })).toEqual([
      [1, 8, 10],
      [1, 4, 6],
    ]);
    expect((await failure(() => ask({ grids: [null, null, null] }))).code).toBe('BAD_ARGUMENT');
  });
});

describe('hostile prompts', () => {
  const processor = processorOf('tied-mha');

  it('a placeholder typed by the user', async () => {
    const error = await failure(() => buildPrompt(processor, { question: 'What is <|image_pad|>?' }));
    expect(error.code).toBe('BAD_ARGUMENT');
    expect(error.message).toContain('got 1 for 0 images');
  });

  it('no messages', async () => {
    expect((await failure(() => buildPrompt(processor, []))).code).toBe('BAD_ARGUMENT');
  });

  it('a missing image', async () => {
    const error = await failure(() => buildPrompt(processor, { question: 'x', images: ['/nowhere.png'] }));
    expect(error.code).toBe('FILE_NOT_FOUND');
  });

  it('an image for a checkpoint without image processor', async () => {
    const { images: _, ...rest } = processor;
    const error = await failure(() =>
      buildPrompt({ ...rest, images: undefined }, { question: 'x', images: [noiseImage(8, 8, 1)] }),
    );
    expect(error.code).toBe('UNSUPPORTED');
    expect(error.message).toContain('no image processor');
  });
});

describe('hostile folders', () => {
  const spoiled = (change: (dir: string) => void): GalvaniError => {
    const dir = mkdtempSync(join(tmpdir(), 'galvani-processor-'));
    for (const file of ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja', 'preprocessor_config.json']) {
      cpSync(fixturePath(`models/tied-mha/${file}`), join(dir, file));
    }
    change(dir);
    try {
      loadProcessor(dir);
    } catch (error) {
      return error as GalvaniError;
    } finally {
      rmSync(dir, { recursive: true });
    }
    return expect.fail('expected an error');
  };
  const write = (file: string, text: string) => (dir: string) => writeFileSync(join(dir, file), text);

  it.each([
    ['no tokenizer', (dir: string) => rmSync(join(dir, 'tokenizer.json')), 'FILE_NOT_FOUND', 'tokenizer.json'],
    ['half a tokenizer', write('tokenizer.json', '{"model": {'), 'BAD_CONFIG', 'tokenizer.json'],
    ['no tokenizer inside', write('tokenizer.json', '{"model": null}'), 'BAD_CONFIG', 'tokenizer.json'],
    ['a list', write('tokenizer_config.json', '[1]'), 'BAD_CONFIG', 'tokenizer_config.json'],
    ['no template', (dir: string) => rmSync(join(dir, 'chat_template.jinja')), 'FILE_NOT_FOUND', 'chat_template.jinja'],
    ['a broken template', write('chat_template.jinja', '{% for m in %}'), 'BAD_CONFIG', 'chat_template.jinja'],
    ['odd image settings', write('preprocessor_config.json', '{"patch_size": "big"}'), 'BAD_CONFIG', 'patch_size'],
    [
      'bounds upside down',
      write('preprocessor_config.json', '{"min_pixels": 9, "max_pixels": 4}'),
      'BAD_CONFIG',
      'max_pixels 4',
    ],
    ['another kernel', write('preprocessor_config.json', '{"resample": 0}'), 'UNSUPPORTED', 'resample 0'],
  ])('%s', (_, change, code, mention) => {
    const error = spoiled(change);
    expect(error.code).toBe(code);
    expect(error.message).toContain(mention);
  });

  it('a template that refuses', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'galvani-processor-'));
    cpSync(fixturePath('models/tied-mha'), dir, { recursive: true });
    writeFileSync(join(dir, 'chat_template.jinja'), "{{ raise_exception('roles must alternate') }}");
    const error = await failure(() => buildPrompt(loadProcessor(dir), { question: 'x' }));
    rmSync(dir, { recursive: true });
    expect(error.code).toBe('BAD_ARGUMENT');
    expect(error.message).toMatch(/chat_template.jinja.*roles must alternate/);
  });
});
