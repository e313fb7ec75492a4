/** Finding the parts of a conversation in the rendered text, as character ranges. */
import type { ChatMessage, ChatTemplate, RenderOptions } from './chat-template.js';

/** Characters [start, end) of a text, UTF-16 units. */
export type CharRange = readonly [start: number, end: number];

/** Where one text part of the messages stands in the rendered text. */
export interface PartRange {
  readonly message: number;
  readonly range: CharRange;
}

interface TextPart {
  readonly message: number;
  readonly text: string;
}

function textParts(messages: readonly ChatMessage[]): TextPart[] {
  return messages.flatMap(({ content }, message) =>
    typeof content === 'string'
      ? [{ message, text: content }]
      : content.filter((part) => part.type === 'text').map((part) => ({ message, text: part.text })),
  );
}

/** The same messages with text part i between the marks i. */
function marked(messages: readonly ChatMessage[], mark: string): ChatMessage[] {
  let index = 0;
  const wrap = (text: string) => {
    const id = `${mark}${index++}${mark}`;
    return id + text + id;
  };
  return messages.map(({ role, content }) => ({
    role,
    content:
      typeof content === 'string'
        ? wrap(content)
        : content.map((part) => (part.type === 'text' ? { type: 'text' as const, text: wrap(part.text) } : part)),
  }));
}

/** A private-use character that the text does not contain. */
function unusedCharacter(text: string): string {
  for (let code = 0xf8ff; code >= 0xe000; code--) {
    const character = String.fromCharCode(code);
    if (!text.includes(character)) return character;
  }
  return '\u{10ffff}';
}

/** Ranges read off a rendering with marks; undefined when taking the marks out does not give `text` back. */
function fromMarks(
  markedText: string,
  text: string,
  mark: string,
  parts: readonly TextPart[],
): PartRange[] | undefined {
  const ranges: PartRange[] = [];
  const open = new Map<number, number>();
  let plain = '';
  for (const [i, piece] of markedText.split(mark).entries()) {
    if (i % 2 === 0) {
      plain += piece;
      continue;
    }
    const part = Number(piece);
    const start = open.get(part);
    if (start === undefined) open.set(part, plain.length);
    else ranges.push({ message: parts[part]!.message, range: [start, plain.length] });
  }
  return plain === text ? ranges : undefined;
}

/** Ranges by looking for each part after the one before it: for templates that trim or rewrite. */
function bySearch(text: string, parts: readonly TextPart[]): PartRange[] {
  const ranges: PartRange[] = [];
  let from = 0;
  for (const { message, text: part } of parts) {
    const wanted = part.trim();
    const start = text.indexOf(wanted, from);
    if (start < 0) continue;
    from = start + wanted.length;
    ranges.push({ message, range: [start, from] });
  }
  return ranges;
}

/** Renders the messages and says where each of their text parts stands. `normalize` is the tokenizer's. */
export function renderWithRanges(
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  options: RenderOptions,
  normalize: (text: string) => string,
): { text: string; parts: PartRange[] } {
  const text = normalize(template.render(messages, options));
  const parts = textParts(messages).map((part) => ({ ...part, text: normalize(part.text) }));
  const mark = unusedCharacter(text + template.source);
  const markedText = normalize(template.render(marked(messages, mark), options));
  return { text, parts: fromMarks(markedText, text, mark, parts) ?? bySearch(text, parts) };
}

/** The system turn of a ChatML text, also one that the template put there by itself. */
export function systemRange(text: string): CharRange | undefined {
  const turn = /^(\s*<\|im_start\|>\s*system\s)([\s\S]*?)<\|im_end\|>/.exec(text);
  return turn ? [turn[1]!.length, turn[1]!.length + turn[2]!.length] : undefined;
}

function trimmed(text: string, [start, end]: CharRange): CharRange | undefined {
  const inside = text.slice(start, end);
  const first = start + inside.length - inside.trimStart().length;
  const last = start + inside.trimEnd().length;
  return first < last ? [first, last] : undefined;
}

/**
 * Reasoning and final answer inside an assistant's text, without their tags and outer white space.
 * think: <think>…</think>, to the end when it is not closed. final: <answer>…</answer>, else what follows </think>,
 * else, when neither tag is there, the whole text.
 */
export function answerRanges(answer: string): { think?: CharRange; final?: CharRange } {
  const after = (tag: string, from = 0) => {
    const at = answer.indexOf(tag, from);
    return at < 0 ? undefined : at + tag.length;
  };
  const open = after('<think>');
  const close = answer.indexOf('</think>', open ?? 0);
  const answerOpen = after('<answer>', Math.max(close, 0));
  // a template may open <think> itself, so that the text only closes it
  const thinks = open !== undefined || close >= 0;
  const untilAnswer = answerOpen === undefined ? answer.length : answerOpen - '<answer>'.length;
  const think = thinks ? trimmed(answer, [open ?? 0, close < 0 ? untilAnswer : close]) : undefined;
  let final: CharRange | undefined;
  if (answerOpen !== undefined) {
    const answerClose = answer.indexOf('</answer>', answerOpen);
    final = trimmed(answer, [answerOpen, answerClose < 0 ? answer.length : answerClose]);
  } else if (close >= 0) final = trimmed(answer, [close + '</think>'.length, answer.length]);
  else if (!thinks) final = trimmed(answer, [0, answer.length]);
  return { ...(think && { think }), ...(final && { final }) };
}
