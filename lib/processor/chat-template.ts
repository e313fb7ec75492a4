/** Messages → text, by the checkpoint's Jinja template. */
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { readOptionalJson, readOptionalText } from '../checkpoint/json-file.js';
import { GalvaniError } from '../errors.js';

export type MessagePart =
  | { readonly type: 'text'; readonly text: string }
  /** `image` may be left out of the template's view; the pixels travel separately. */
  | { readonly type: 'image' };

export interface ChatMessage {
  readonly role: string;
  readonly content: string | readonly MessagePart[];
}

export interface RenderOptions {
  /** Ends the text where the assistant begins to speak. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** Further template variables, e.g. { add_vision_id: true }. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

export interface ChatTemplate {
  readonly source: string;
  /** File the template came from. */
  readonly path: string;
  /** @throws BAD_ARGUMENT when the template refuses the messages */
  render(messages: readonly ChatMessage[], options?: RenderOptions): string;
}

/** Named tokens a template may print, e.g. eos_token. */
const tokenVariables = ['bos_token', 'eos_token', 'pad_token', 'unk_token'] as const;

/** tokenizer_config.json keeps one template or a list of named ones; 'default' is for chats. */
function templateOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const entries = value as { name?: unknown; template?: unknown }[];
  const entry = entries.find(({ name }) => name === 'default') ?? entries[0];
  return typeof entry?.template === 'string' ? entry.template : undefined;
}

function findTemplate(dir: string): { source: string; path: string } {
  const jinja = join(dir, 'chat_template.jinja');
  const source = readOptionalText(jinja);
  if (source !== undefined) return { source, path: jinja };
  for (const file of ['chat_template.json', 'tokenizer_config.json']) {
    const path = join(dir, file);
    const found = templateOf(readOptionalJson(path)?.chat_template);
    if (found !== undefined) return { source: found, path };
  }
  throw new GalvaniError(
    'FILE_NOT_FOUND',
    `${dir}: no chat template: expected chat_template.jinja, or "chat_template" in chat_template.json or ` +
      'tokenizer_config.json',
  );
}

function namedTokens(dir: string): Record<string, string> {
  const config = readOptionalJson(join(dir, 'tokenizer_config.json')) ?? {};
  const tokens: Record<string, string> = {};
  for (const name of tokenVariables) {
    const value = config[name] as string | { content?: unknown } | null | undefined;
    const text = typeof value === 'object' ? value?.content : value;
    if (typeof text === 'string') tokens[name] = text;
  }
  return tokens;
}

/**
 * The template of a folder: chat_template.jinja, else chat_template.json, else tokenizer_config.json.
 * @throws FILE_NOT_FOUND, BAD_CONFIG (unreadable or not Jinja)
 */
export function loadChatTemplate(dir: string): ChatTemplate {
  const { source, path } = findTemplate(dir);
  const tokens = namedTokens(dir);
  let template: Template;
  try {
    template = new Template(source);
  } catch (cause) {
    throw new GalvaniError('BAD_CONFIG', `${path}: not a Jinja template: ${(cause as Error).message}`, { cause });
  }
  return {
    source,
    path,
    render(messages, options = {}) {
      try {
        return template.render({
          ...tokens,
          ...options.variables,
          messages,
          add_generation_prompt: options.addGenerationPrompt ?? true,
        });
      } catch (cause) {
        throw new GalvaniError('BAD_ARGUMENT', `${path}: cannot render the messages: ${(cause as Error).message}`, {
          cause,
        });
      }
    },
  };
}
