/**
 * Questions and swap pairs from JSONL.
 *
 * Questions: {"id","task","image"? | "images"?,"question","answer","description"?,"choices"?,"rule"?}
 * Pairs:     {"id","task","target_image","source_image","prompt","target_answer","source_answer","rule"?}
 * Pairs of the published swapping set: the answers stand in "meta" (target_answer | target_text | target_bbox_xyxy).
 *
 * Image paths are relative to the file's folder. Boxes are [x1, y1, x2, y2] in pixels of the image file.
 */

import { createHash } from 'node:crypto';
import { access, readdir, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { GalvaniError } from '../errors.js';
import type { MatchRule } from '../types.js';
import { fileError, type JsonLine, lineError, readJsonl } from './jsonl.js';
import { choiceList, defaultIou, defaultRule, ownRule } from './rules.js';

/** One question with its gold answer. */
export interface QuestionItem {
  readonly id: string;
  readonly task: string;
  /** Absolute path; absent for text-only questions. */
  readonly image?: string;
  /** All images in order, where there are several; the first is `image`. */
  readonly images?: readonly string[];
  readonly question: string;
  readonly answer: string;
  /** Answers to choose from; the prompt lists them with letters. */
  readonly choices?: readonly string[];
  /** A text that says what the image shows (METHODS §1d, §3). */
  readonly description?: string;
  readonly rule: MatchRule;
}

/** Two images, one question, two gold answers. */
export interface SwapPair {
  readonly id: string;
  readonly task: string;
  readonly targetImage: string;
  readonly sourceImage: string;
  /** Without a literal `<image>`: where the image goes is the prompt builder's business. */
  readonly question: string;
  readonly targetAnswer: string;
  readonly sourceAnswer: string;
  readonly rule: MatchRule;
  /** The row's prompt carried a literal `<image>` that was taken out. */
  readonly placeholderRemoved: boolean;
}

export interface ReadOptions {
  /** Rules by task; they override the row's own rule and the default. */
  readonly rules?: Readonly<Record<string, MatchRule>>;
  /** Look whether every image exists. Default true. */
  readonly checkImages?: boolean;
}

/** Reads questions from a file, or from `eval.jsonl` of a folder. Ids are unique. */
export async function readItems(path: string, options: ReadOptions = {}): Promise<QuestionItem[]> {
  const file = (await isFolder(path)) ? join(path, 'eval.jsonl') : path;
  return itemsOf(readJsonl(resolve(file)), file, options, new Map());
}

/** Checked questions of rows in our own fields. `seen`: the ids so far, which are added to. */
export async function itemsOf(
  rows: AsyncIterable<JsonLine>,
  file: string,
  options: ReadOptions,
  seen: Map<string, JsonLine>,
): Promise<QuestionItem[]> {
  const items: QuestionItem[] = [];
  for await (const at of rows) {
    const id = uniqueId(at, seen);
    const task = text(at, 'task');
    const images = await imagePaths(at, options);
    const description = at.value.description == null ? undefined : text(at, 'description');
    const choices = at.value.choices == null ? undefined : choiceList(at, 'choices', at.value.choices);
    const answer = goldAnswer(at, 'answer', at.value.answer);
    items.push({
      id,
      task,
      question: withoutPlaceholder(text(at, 'question')),
      answer: answer.text,
      rule: ruleOf(at, task, answer.isBox, undefined, options),
      ...(images.length === 0 ? {} : { image: images[0]! }),
      ...(images.length > 1 ? { images } : {}),
      ...(choices === undefined ? {} : { choices }),
      ...(description === undefined ? {} : { description }),
    });
  }
  return requireSome(items, file);
}

/**
 * Reads swap pairs from a file; from `pairs.jsonl` or `data.jsonl` of a folder; or from every sub-folder that has one
 * (the published set: counting, grounding, ocr, recognition), in name order. Ids are unique over all of them.
 */
export async function readPairs(path: string, options: ReadOptions = {}): Promise<SwapPair[]> {
  const pairs: SwapPair[] = [];
  const seen = new Map<string, JsonLine>();
  for (const file of await pairFiles(path)) {
    for await (const at of readJsonl(resolve(file))) pairs.push(await toPair(at, seen, options));
  }
  return requireSome(pairs, path);
}

async function toPair(at: JsonLine, seen: Map<string, JsonLine>, options: ReadOptions): Promise<SwapPair> {
  const id = uniqueId(at, seen);
  const task = text(at, 'task');
  const meta = at.value.meta;
  const isPublished = typeof meta === 'object' && meta !== null && at.value.target_answer === undefined;
  const fields = isPublished ? (meta as Readonly<Record<string, unknown>>) : at.value;
  const gold = (side: 'target' | 'source') => {
    const names = isPublished ? [`${side}_answer`, `${side}_text`, `${side}_bbox_xyxy`] : [`${side}_answer`];
    const name = names.find((candidate) => fields[candidate] !== undefined) ?? names[0]!;
    return goldAnswer(at, isPublished ? `meta.${name}` : name, fields[name]);
  };
  const [target, source] = [gold('target'), gold('source')];
  const prompt = text(at, 'prompt');
  return {
    id,
    task,
    targetImage: await imagePath(at, 'target_image', options),
    sourceImage: await imagePath(at, 'source_image', options),
    question: withoutPlaceholder(prompt),
    targetAnswer: target.text,
    sourceAnswer: source.text,
    rule: ruleOf(at, task, target.isBox, fields.iou_threshold, options),
    placeholderRemoved: prompt.includes(placeholder),
  };
}

/** A property of a set of pairs that limits what swapping can show; to be reported beside its results. */
export interface PairFlaw {
  readonly task: string;
  /**
   * 'same-answer': both images have the same answer, so no swap can change it. 'constant-answers': every pair goes from
   * one same answer to one other, so a bias towards the latter looks like an effect. 'placeholder': the prompt carried
   * a literal `<image>`, removed here.
   */
  readonly kind: 'same-answer' | 'constant-answers' | 'placeholder';
  /** The pairs concerned. */
  readonly ids: readonly string[];
  /** Pairs of the task. */
  readonly of: number;
}

/**
 * Finds the flaws of a set of pairs, task by task. `same` says whether two gold answers are one: pass grading's
 * `sameAnswer`, which knows overlapping boxes; without it texts are compared, lower-cased.
 */
export function pairFlaws(
  pairs: readonly SwapPair[],
  same: (a: string, b: string, rule: MatchRule) => boolean = (a, b) => plain(a) === plain(b),
): PairFlaw[] {
  const flaws: PairFlaw[] = [];
  for (const task of new Set(pairs.map((pair) => pair.task))) {
    const own = pairs.filter((pair) => pair.task === task);
    const report = (kind: PairFlaw['kind'], concerned: readonly SwapPair[]): void => {
      if (concerned.length > 0) flaws.push({ task, kind, ids: concerned.map((pair) => pair.id), of: own.length });
    };
    const directions = new Set(own.map((pair) => JSON.stringify([plain(pair.targetAnswer), plain(pair.sourceAnswer)])));
    report(
      'same-answer',
      own.filter((pair) => same(pair.targetAnswer, pair.sourceAnswer, pair.rule)),
    );
    if (own.length > 1 && directions.size === 1) report('constant-answers', own);
    report(
      'placeholder',
      own.filter((pair) => pair.placeholderRemoved),
    );
  }
  return flaws;
}

function plain(answer: string): string {
  return answer.trim().toLowerCase();
}

/** A drawn subset with what is needed to draw it again. */
export interface Subset<T> {
  readonly items: readonly T[];
  readonly ids: readonly string[];
  readonly seed: number;
  /** Size of the set drawn from. */
  readonly of: number;
}

/**
 * Draws n items without replacement, in their original order: those whose SHA-256 of "seed, NUL, id" is smallest. An
 * item's place in the draw depends on its id alone, so a larger n only adds items, and so does a longer file.
 */
export function subset<T extends { readonly id: string }>(items: readonly T[], n: number, seed: number): Subset<T> {
  if (!Number.isInteger(n) || n < 0) {
    throw new GalvaniError('BAD_ARGUMENT', `subset: n must be a whole number of at least 0, got ${n}`);
  }
  if (!Number.isInteger(seed)) {
    throw new GalvaniError('BAD_ARGUMENT', `subset: seed must be a whole number, got ${seed}`);
  }
  const ranked = items
    .map((item, index) => ({ index, key: createHash('sha256').update(`${seed}\u0000${item.id}`).digest('hex') }))
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.index - b.index))
    .slice(0, n)
    .sort((a, b) => a.index - b.index);
  const drawn = ranked.map(({ index }) => items[index]!);
  return { items: drawn, ids: drawn.map((item) => item.id), seed, of: items.length };
}

/** n of every task, tasks in order of first appearance. */
export function subsetPerTask<T extends { readonly id: string; readonly task: string }>(
  items: readonly T[],
  n: number,
  seed: number,
): Subset<T> {
  const tasks = [...new Set(items.map((item) => item.task))];
  const drawn = tasks.flatMap((task) => [
    ...subset(
      items.filter((item) => item.task === task),
      n,
      seed,
    ).items,
  ]);
  return { items: drawn, ids: drawn.map((item) => item.id), seed, of: items.length };
}

const placeholder = '<image>';

function withoutPlaceholder(prompt: string): string {
  return prompt.replaceAll(placeholder, '').trim();
}

function text(at: JsonLine, name: string): string {
  const value = at.value[name];
  if (typeof value === 'string' && value.trim() !== '') return value;
  throw lineError(at, `${name}: expected a non-empty string, got ${JSON.stringify(value)}`);
}

function uniqueId(at: JsonLine, seen: Map<string, JsonLine>): string {
  const id = text(at, 'id');
  const first = seen.get(id);
  if (first !== undefined) {
    throw lineError(at, `id: ${JSON.stringify(id)} is already used at ${first.file}:${first.line}`);
  }
  seen.set(id, at);
  return id;
}

/** A string, a number, or a box of four numbers; kept as text. */
function goldAnswer(at: JsonLine, name: string, value: unknown): { text: string; isBox: boolean } {
  if (typeof value === 'string' && value.trim() !== '') return { text: value, isBox: false };
  if (typeof value === 'number') return { text: String(value), isBox: false };
  if (Array.isArray(value) && value.length === 4 && value.every((x) => typeof x === 'number')) {
    return { text: value.join(','), isBox: true };
  }
  throw lineError(
    at,
    `${name}: expected a non-empty string, a number or four box corners, got ${JSON.stringify(value)}`,
  );
}

function ruleOf(at: JsonLine, task: string, isBox: boolean, iou: unknown, options: ReadOptions): MatchRule {
  const { rules = {} } = options;
  if (Object.hasOwn(rules, task)) return rules[task]!;
  const own = ownRule(at);
  if (own !== undefined) return own;
  if (isBox) {
    if (iou === undefined) return { kind: 'box', iou: defaultIou };
    if (typeof iou === 'number' && iou > 0 && iou <= 1) return { kind: 'box', iou };
    throw lineError(at, `iou_threshold: expected a number in (0, 1], got ${JSON.stringify(iou)}`);
  }
  const { choices } = at.value;
  if (choices != null) return { kind: 'option', choices: choiceList(at, 'choices', choices) };
  return defaultRule(task);
}

/** `image`, or the list `images`. */
async function imagePaths(at: JsonLine, options: ReadOptions): Promise<string[]> {
  const { image, images } = at.value;
  if (images == null) return image == null ? [] : [await imagePath(at, 'image', options)];
  if (!Array.isArray(images) || images.length === 0) {
    throw lineError(at, `images: expected a list of paths, got ${JSON.stringify(images)}`);
  }
  return Promise.all(images.map((_, i) => imagePath(at, 'images', options, i)));
}

async function imagePath(at: JsonLine, name: string, options: ReadOptions, index?: number): Promise<string> {
  const value = index === undefined ? text(at, name) : (at.value[name] as readonly unknown[])[index];
  if (typeof value !== 'string' || value === '') {
    throw lineError(at, `${name}: expected paths, got ${JSON.stringify(value)}`);
  }
  const path = resolve(dirname(at.file), value);
  if (options.checkImages ?? true) {
    try {
      await access(path);
    } catch (cause) {
      throw new GalvaniError('FILE_NOT_FOUND', `${at.file}:${at.line}: ${name}: no such image: ${path}`, {
        cause,
        details: { file: at.file, line: at.line, path },
      });
    }
  }
  return path;
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    throw fileError(path, cause);
  }
}

async function pairFiles(path: string): Promise<string[]> {
  if (!(await isFolder(path))) return [path];
  const names = ['pairs.jsonl', 'data.jsonl'];
  const entries = (await readdir(path, { withFileTypes: true })).sort((a, b) => (a.name < b.name ? -1 : 1));
  const own = names.find((name) => entries.some((entry) => entry.name === name));
  if (own !== undefined) return [join(path, own)];
  const nested = await Promise.all(
    entries
      .filter((entry) => entry.isDirectory())
      .map(async (entry) => {
        const inside = await readdir(join(path, entry.name));
        const name = names.find((candidate) => inside.includes(candidate));
        return name === undefined ? [] : [join(path, entry.name, name)];
      }),
  );
  const files = nested.flat();
  if (files.length === 0) {
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: neither this folder nor one in it has ${names.join(' or ')}`, {
      details: { file: path },
    });
  }
  return files;
}

function requireSome<T>(rows: T[], path: string): T[] {
  if (rows.length > 0) return rows;
  throw new GalvaniError('BAD_FILE', `${path}: expected at least one row, got none`, { details: { file: path } });
}
