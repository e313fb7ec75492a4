/** A conversation with images → ids, M-RoPE positions, pixels and named spans. */
import { GalvaniError } from '../errors.js';
import type { PixelPatches, Prompt, Range } from '../types.js';
import type { ChatMessage } from './chat-template.js';
import { type ImageOptions, type ImageSource, loadImage } from './image.js';
import { mropePositions } from './positions.js';
import type { Processor } from './processor.js';
import { answerRanges, type CharRange, renderWithRanges, systemRange } from './text-spans.js';

export type PromptPart =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'image'; readonly image: ImageSource };

export interface PromptMessage {
  readonly role: string;
  readonly content: string | readonly PromptPart[];
}

/** One user turn: the images, then the question. */
export interface Question {
  /** Default: the template's own system prompt, where it has one. */
  readonly system?: string;
  readonly question: string;
  readonly images?: readonly ImageSource[];
  /** Teacher-forced: appended after the generation prompt. */
  readonly answer?: string;
}

export interface PromptOptions extends Omit<ImageOptions, 'grid'> {
  /** Teacher-forced assistant text; a Question's own wins. */
  readonly answer?: string;
  /** Patches in (height, width) at which image i is rendered; null or absent: the processor decides. */
  readonly grids?: readonly (readonly [height: number, width: number] | null)[];
  /** Further template variables. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

function isQuestion(input: Question | readonly PromptMessage[]): input is Question {
  return !Array.isArray(input);
}

function toMessages({ system, question, images = [] }: Question): PromptMessage[] {
  const content: PromptPart[] = [
    ...images.map((image) => ({ type: 'image' as const, image })),
    { type: 'text', text: question },
  ];
  const user: PromptMessage = { role: 'user', content };
  return system === undefined ? [user] : [{ role: 'system', content: system }, user];
}

async function loadImages(
  processor: Processor,
  messages: readonly PromptMessage[],
  options: PromptOptions,
): Promise<PixelPatches[]> {
  const sources = messages.flatMap(({ content }) =>
    typeof content === 'string' ? [] : content.filter((part) => part.type === 'image').map((part) => part.image),
  );
  if (sources.length === 0) return [];
  const { images: settings } = processor;
  if (!settings) {
    throw new GalvaniError(
      'UNSUPPORTED',
      `${processor.dir}: the checkpoint has no image processor (preprocessor_config.json or processor_config.json), ` +
        `but the prompt has ${sources.length} images`,
    );
  }
  const { minPixels, maxPixels, grids } = options;
  if (grids && grids.length > sources.length) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `grids: expected at most one per image (${sources.length}), got ${grids.length}`,
    );
  }
  return Promise.all(
    sources.map((source, i) => {
      const grid = grids?.[i];
      return loadImage(source, settings, {
        ...(minPixels !== undefined && { minPixels }),
        ...(maxPixels !== undefined && { maxPixels }),
        ...(grid && { grid }),
      });
    }),
  );
}

/** What the template sees: an image is a bare part. */
function forTemplate(messages: readonly PromptMessage[]): ChatMessage[] {
  return messages.map(({ role, content }) => ({
    role,
    content:
      typeof content === 'string'
        ? content
        : content.map((part) => (part.type === 'image' ? { type: 'image' as const } : part)),
  }));
}

/** Rows of the expanded prompt: one per token, image tokens repeated. */
interface Expansion {
  readonly ids: Int32Array;
  /** First row of each token, and one past the last. */
  readonly rowOf: Int32Array;
  readonly images: Prompt['images'];
}

function expand(processor: Processor, tokens: Int32Array, images: readonly PixelPatches[]): Expansion {
  const pad = processor.imageTokenId;
  const pads = pad === undefined ? 0 : tokens.reduce((n, id) => n + (id === pad ? 1 : 0), 0);
  if (pads !== images.length) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `prompt: expected one ${processor.imageToken} in the rendered text per image: got ${pads} for ` +
        `${images.length} images`,
    );
  }
  const unit = (processor.images?.mergeSize ?? 1) ** 2;
  const counts = images.map(({ grid: [t, h, w] }) => (t * h * w) / unit);
  const total = tokens.length - pads + counts.reduce((a, b) => a + b, 0);
  const ids = new Int32Array(total);
  const rowOf = new Int32Array(tokens.length + 1);
  const placed: { image: PixelPatches; start: number; count: number }[] = [];
  let row = 0;
  for (const [i, id] of tokens.entries()) {
    rowOf[i] = row;
    const image = id === pad ? images[placed.length] : undefined;
    const count = image ? counts[placed.length]! : 1;
    if (image) placed.push({ image, start: row, count });
    ids.fill(id, row, row + count);
    row += count;
  }
  rowOf[tokens.length] = row;
  return { ids, rowOf, images: placed };
}

/** Rows of the tokens that hold a byte of the character ranges; adjacent rows in one range. */
function rowsOfCharacters(
  text: string,
  ranges: readonly CharRange[],
  offsets: Int32Array,
  rowOf: Int32Array,
): readonly Range[] {
  const rows: [number, number][] = [];
  for (const [from, to] of ranges) {
    const start = Buffer.byteLength(text.slice(0, from));
    const end = start + Buffer.byteLength(text.slice(from, to));
    for (let token = 0; token < rowOf.length - 1; token++) {
      if (offsets[2 * token]! >= end || offsets[2 * token + 1]! <= start) continue;
      const last = rows.at(-1);
      if (last && last[1] >= rowOf[token]!) last[1] = Math.max(last[1], rowOf[token + 1]!);
      else rows.push([rowOf[token]!, rowOf[token + 1]!]);
    }
  }
  return rows;
}

function rowSpans(total: number, images: Prompt['images']): Record<string, readonly Range[]> {
  const spans: Record<string, readonly Range[]> = { all: [[0, total]], last: [[total - 1, total]] };
  const pictures = images.map(({ start, count }): Range => [start, start + count]);
  for (const [i, range] of pictures.entries()) spans[`image ${i}`] = [range];
  if (pictures.length > 0) spans.image = pictures;
  const edges = [0, ...pictures.flat(), total];
  const text: Range[] = [];
  for (let i = 0; i < edges.length; i += 2) if (edges[i]! < edges[i + 1]!) text.push([edges[i]!, edges[i + 1]!]);
  spans.text = text;
  return spans;
}

/**
 * Renders, tokenises, expands image tokens and places positions.
 *
 * Spans (absent when empty): `all`, `last` (last row), `text` (all rows that are no image), `image` (all images),
 * `image 0`, `image 1`, …, `system` (text of the system turn), `question` (text of the last user turn), `answer` (the
 * teacher-forced text), inside it `think` and `final` (see answerRanges). A token that straddles an edge belongs to
 * the span.
 *
 * @throws BAD_ARGUMENT (image count, aspect ratio, messages the template refuses), FILE_NOT_FOUND, BAD_FILE,
 * UNSUPPORTED (no image processor; text outside a word-level vocabulary)
 */
export async function buildPrompt(
  processor: Processor,
  input: Question | readonly PromptMessage[],
  options: PromptOptions = {},
): Promise<Prompt> {
  const messages = isQuestion(input) ? toMessages(input) : input;
  const answer = (isQuestion(input) ? input.answer : undefined) ?? options.answer;
  if (messages.length === 0) throw new GalvaniError('BAD_ARGUMENT', 'prompt: expected at least one message, got none');
  const images = await loadImages(processor, messages, options);
  const { tokenizer } = processor;
  const { text: head, parts } = renderWithRanges(
    processor.template,
    forTemplate(messages),
    { addGenerationPrompt: true, ...(options.variables && { variables: options.variables }) },
    (text) => tokenizer.normalize(text),
  );
  const forced = answer === undefined ? '' : tokenizer.normalize(answer);
  const text = head + forced;
  const tokens = tokenizer.encode(text);
  if (tokens.length === 0) throw new GalvaniError('BAD_ARGUMENT', 'prompt: the rendered text has no tokens');
  const { ids, rowOf, images: placed } = expand(processor, tokens, images);

  const merge = processor.images?.mergeSize ?? 1;
  const { positions, nextPosition } = mropePositions(
    ids.length,
    placed.map(({ image: { grid }, start, count }) => ({
      start,
      count,
      tokenGrid: [grid[0], grid[1] / merge, grid[2] / merge],
    })),
  );

  const lastUser = messages.findLastIndex(({ role }) => role === 'user');
  const system = systemRange(head);
  const { think, final } = answerRanges(forced);
  const shifted = (range: CharRange | undefined): CharRange[] =>
    range ? [[range[0] + head.length, range[1] + head.length]] : [];
  const wanted: Record<string, readonly CharRange[]> = {
    system: system ? [system] : parts.filter(({ message }) => messages[message]!.role === 'system').map((p) => p.range),
    question: parts.filter(({ message }) => message === lastUser).map(({ range }) => range),
    answer: forced === '' ? [] : [[head.length, text.length]],
    think: shifted(think),
    final: shifted(final),
  };
  const spans = rowSpans(ids.length, placed);
  const offsets = tokenizer.offsets(text, tokens);
  for (const [name, ranges] of Object.entries(wanted)) {
    const rows = rowsOfCharacters(text, ranges, offsets, rowOf);
    if (rows.length > 0) spans[name] = rows;
  }
  return { ids, positions, nextPosition, images: placed, spans, text };
}
