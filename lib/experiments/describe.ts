/**
 * Texts that take an image's place (METHODS §1d, §3): read from a file, written by a model of the study, or by an
 * OpenAI-compatible endpoint. What was written is kept in one file and never asked for again. A description that could
 * not be had stops the study: leaving its item out would change n in silence.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { z } from 'zod';
import type { QuestionItem } from '../data/items.js';
import { readJsonl } from '../data/jsonl.js';
import type { TrialRunner } from '../engine.js';
import { fromNative, GalvaniError } from '../errors.js';
import { askAll, type ChatEndpoint, chat, hopeless } from '../remote/chat.js';
import { JsonLines } from '../run/json-lines.js';
import { contentKey } from '../run/key.js';
import type { Asker } from './prompter.js';

interface Writer {
  /** What is asked about the image. */
  readonly prompt?: string | undefined;
  readonly maxTokens?: number | undefined;
  /** Tasks whose images are described. Default: those of the group visualReasoning. */
  readonly tasks?: readonly string[] | undefined;
}
export type DescriptionSource =
  /** JSON lines with id and description. */
  | { readonly file: string }
  /** A model of the study. */
  | (Writer & { readonly model: string })
  | (Writer & { readonly endpoint: ChatEndpoint });

const writer = {
  prompt: z.string().min(1).optional(),
  maxTokens: z.int().positive().optional(),
  tasks: z.array(z.string().min(1)).min(1).optional(),
};
export const descriptionSchema: z.ZodType<DescriptionSource> = z.union([
  z.strictObject({ file: z.string().min(1) }),
  z.strictObject({ model: z.string().min(1), ...writer }),
  z.strictObject({
    endpoint: z.strictObject({ url: z.url(), model: z.string().min(1), keyEnv: z.string().min(1).optional() }),
    ...writer,
  }),
]);

const defaultPrompt =
  'Describe this image so that someone who cannot see it can answer questions about it: every text, number, label, ' +
  'shape, colour and position. Say only what is there; do not solve anything.';
const defaultMaxTokens = 512;
const parallelRequests = 8;
const trialsPerRequest = 16;

/** A line of the file that keeps them. */
interface DescriptionRow {
  readonly key: string;
  readonly id: string;
  readonly description: string;
}

export interface DescribeOptions {
  readonly source: DescriptionSource;
  /** JSON lines that keep what was written. */
  readonly cache: string;
  /** Needed by the source `model`. */
  readonly engine?: TrialRunner;
  /** Puts the description question, without the study's own prefix and suffix. */
  readonly asker?: Asker;
  readonly fingerprint?: (model: string) => string;
  readonly onProgress?: (done: number, of: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * The items with descriptions where `wanted` asks for one and it has none.
 * @throws BAD_FILE when a file lacks one; NETWORK or what the engine says, after everything that could be had is kept
 */
export async function describeItems(
  items: readonly QuestionItem[],
  wanted: (item: QuestionItem) => boolean,
  options: DescribeOptions,
): Promise<QuestionItem[]> {
  const lacking = items.filter((item) => item.description === undefined && item.image !== undefined && wanted(item));
  const { source } = options;
  const texts = 'file' in source ? await fromFile(source.file, lacking) : await written(lacking, source, options);
  return items.map((item) => {
    const description = texts.get(item.id);
    return description === undefined || item.description !== undefined ? item : { ...item, description };
  });
}

async function fromFile(file: string, lacking: readonly QuestionItem[]): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  for await (const { value, line } of readJsonl(file)) {
    const { id, description } = value;
    if (typeof id !== 'string' || typeof description !== 'string' || description.trim() === '') {
      throw new GalvaniError('BAD_FILE', `${file}:${line}: expected an id and a description, two non-empty strings`);
    }
    texts.set(id, description);
  }
  const missing = lacking.filter(({ id }) => !texts.has(id)).map(({ id }) => id);
  if (missing.length > 0) {
    throw new GalvaniError(
      'BAD_FILE',
      `${file}: no description of ${missing.length} of ${lacking.length} items: ${missing.slice(0, 5).join(', ')}${missing.length > 5 ? ', …' : ''}`,
    );
  }
  return texts;
}

async function written(
  lacking: readonly QuestionItem[],
  source: Exclude<DescriptionSource, { readonly file: string }>,
  options: DescribeOptions,
): Promise<Map<string, string>> {
  const { prompt = defaultPrompt, maxTokens = defaultMaxTokens } = source;
  const who = 'model' in source ? options.fingerprint!(source.model) : [source.endpoint.url, source.endpoint.model];
  const keyed = lacking.map((item) => ({
    item,
    key: contentKey({ who, prompt, maxTokens, image: imageHash(item.image!) }),
  }));
  using file = new JsonLines<DescriptionRow>(options.cache);
  const known = new Map(file.loaded.map((row) => [row.key, row.description]));
  // Items that share an image share its description.
  const open = [...new Map(keyed.filter(({ key }) => !known.has(key)).map((one) => [one.key, one])).values()];
  const failures: string[] = [];
  let done = 0;
  const keep = (rows: readonly DescriptionRow[]): void => {
    file.append(rows);
    for (const { key, description } of rows) known.set(key, description);
  };
  const step = (count: number): void => {
    done += count;
    options.onProgress?.(done, open.length);
  };
  const stopped = (): boolean => options.signal?.aborted ?? false;
  const request = { prompt, maxTokens };
  if ('model' in source) {
    for (let i = 0; i < open.length && !stopped(); i += trialsPerRequest) {
      const part = open.slice(i, i + trialsPerRequest);
      for (const outcome of await askModel(part, source.model, request, options)) {
        if ('error' in outcome) failures.push(outcome.error);
        else keep([outcome]);
      }
      step(part.length);
    }
  } else {
    const ask = async ({ item, key }: Keyed): Promise<void> => {
      if (stopped()) return;
      const description = await askEndpoint(item, source.endpoint, request, options.signal);
      keep([{ key, id: item.id, description }]);
      step(1);
    };
    const { gaveUp } = await askAll(open, parallelRequests, ask, ({ item }, cause) => {
      failures.push(`${item.id}: ${fromNative(cause).message}`);
      step(1);
    });
    if (gaveUp) failures.unshift(`gave up after ${hopeless} failures in a row`);
  }
  if (stopped()) throw new GalvaniError('ABORTED', 'stopped while images were described');
  const missing = open.filter(({ key }) => !known.has(key)).length;
  if (missing > 0) {
    throw new GalvaniError(
      'NETWORK',
      `${missing} of ${open.length} images could not be described; the others are kept in ${options.cache}, run it again\n${failures.slice(0, 5).join('\n')}`,
    );
  }
  return new Map(keyed.map(({ item, key }) => [item.id, known.get(key)!]));
}

interface Keyed {
  readonly item: QuestionItem;
  readonly key: string;
}
interface Request {
  readonly prompt: string;
  readonly maxTokens: number;
}

async function askModel(
  part: readonly Keyed[],
  model: string,
  { prompt, maxTokens }: Request,
  { engine, asker, signal }: DescribeOptions,
): Promise<(DescriptionRow | { readonly error: string })[]> {
  const trials = await Promise.all(
    part.map(async ({ item: { image, images }, key }) => ({
      id: key,
      model,
      prompt: await asker!.ask({ question: prompt, image: image!, ...(images ? { images } : {}) }),
      generate: { maxTokens },
    })),
  );
  const { outcomes } = await engine!.run(trials, signal ? { signal } : {});
  return outcomes.map((outcome, i) => {
    const { item, key } = part[i]!;
    if (!outcome.ok) return { error: `${item.id}: ${outcome.error.message}` };
    const description = outcome.result.text.trim();
    return description === '' ? { error: `${item.id}: ${model} wrote nothing` } : { key, id: item.id, description };
  });
}

async function askEndpoint(
  { image, images }: QuestionItem,
  endpoint: ChatEndpoint,
  { prompt, maxTokens }: Request,
  signal: AbortSignal | undefined,
): Promise<string> {
  const pictures = (images ?? [image!]).map((path) => ({
    type: 'image_url' as const,
    image_url: { url: dataUrl(path) },
  }));
  const content = [...pictures, { type: 'text' as const, text: prompt }];
  return chat(endpoint, [{ role: 'user', content }], { maxTokens, ...(signal ? { signal } : {}) });
}

const mediaTypes: Readonly<Record<string, string>> = { '.png': 'png', '.webp': 'webp', '.gif': 'gif' };

function dataUrl(path: string): string {
  const type = mediaTypes[extname(path).toLowerCase()] ?? 'jpeg';
  return `data:image/${type};base64,${readFileSync(path).toString('base64')}`;
}

/** SHA-256 of an image file. @throws FILE_NOT_FOUND */
export function imageHash(path: string): string {
  try {
    return createHash('sha256').update(readFileSync(path)).digest('hex');
  } catch (cause) {
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: no such image`, { cause });
  }
}
