/** A chat endpoint that speaks OpenAI's protocol (any local or remote server of it). Nothing in galvani needs one. */
import { setTimeout as pause } from 'node:timers/promises';
import { GalvaniError } from '../errors.js';

export interface ChatEndpoint {
  /** Base, such as http://localhost:8000/v1; "/chat/completions" is added. */
  readonly url: string;
  readonly model: string;
  /** Name of the environment variable that holds the key. Default: OPENAI_API_KEY, which may be unset. */
  readonly keyEnv?: string | undefined;
}

export interface ChatMessage {
  readonly role: 'system' | 'user';
  readonly content:
    | string
    | readonly (
        | { readonly type: 'text'; readonly text: string }
        | { readonly type: 'image_url'; readonly image_url: { readonly url: string } }
      )[];
}

export interface ChatOptions {
  readonly maxTokens: number;
  /** Default 60 000. */
  readonly timeoutMs?: number;
  /** Tries after the first that failed for a passing reason (429, 5xx, no connection). Default 4. */
  readonly retries?: number;
  /** Wait before the first retry, doubled each time; a Retry-After header wins. Default 500. */
  readonly waitMs?: number;
  readonly signal?: AbortSignal;
}

/** The answer's text, at temperature 0. @throws NETWORK naming the endpoint and what it said; ABORTED */
export async function chat(
  endpoint: ChatEndpoint,
  messages: readonly ChatMessage[],
  options: ChatOptions,
): Promise<string> {
  const { retries = 4, waitMs = 500, signal } = options;
  for (let attempt = 0; ; attempt++) {
    const outcome = await once(endpoint, messages, options);
    if ('text' in outcome) return outcome.text;
    if (signal?.aborted) throw new GalvaniError('ABORTED', `${endpoint.url}: stopped`);
    if (!outcome.passing || attempt >= retries) {
      throw new GalvaniError('NETWORK', `${endpoint.url}: ${endpoint.model}: ${outcome.failure}`);
    }
    await pause(outcome.retryAfterMs ?? waitMs * 2 ** attempt, undefined, signal ? { signal } : {}).catch(() => {}); // the next try says ABORTED
  }
}

type Outcome =
  | { readonly text: string }
  | { readonly failure: string; readonly passing: boolean; readonly retryAfterMs?: number };

async function once(
  { url, model, keyEnv = 'OPENAI_API_KEY' }: ChatEndpoint,
  messages: readonly ChatMessage[],
  { maxTokens, timeoutMs = 60_000, signal }: ChatOptions,
): Promise<Outcome> {
  const key = process.env[keyEnv];
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(`${url.replace(/\/+$/, '')}/chat/completions`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...(key ? { Authorization: `Bearer ${key}` } : {}) },
      body: JSON.stringify({ model, messages, temperature: 0, max_tokens: maxTokens }),
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
    const body = await response.text();
    if (!response.ok) {
      const seconds = Number(response.headers.get('retry-after'));
      return {
        failure: `${response.status} ${response.statusText}: ${body.slice(0, 200)}`,
        passing: response.status === 429 || response.status >= 500,
        ...(seconds > 0 ? { retryAfterMs: 1000 * Math.min(seconds, 60) } : {}),
      };
    }
    const text = contentOf(body);
    return text === undefined ? { failure: `no answer in ${body.slice(0, 200)}`, passing: false } : { text };
  } catch (cause) {
    if (timeout.aborted) return { failure: `no answer within ${timeoutMs} ms`, passing: true };
    const { message, cause: inner } = cause as Error;
    return { failure: inner instanceof Error ? `${message}: ${inner.message}` : message, passing: true };
  }
}

function contentOf(body: string): string | undefined {
  try {
    const { choices } = JSON.parse(body) as { choices?: { message?: { content?: unknown } }[] };
    const content = choices?.[0]?.message?.content;
    return typeof content === 'string' && content.trim() !== '' ? content.trim() : undefined;
  } catch {
    return undefined;
  }
}

/** So many failures in a row, each after its retries, and nothing answers there. */
export const hopeless = 16;

/**
 * Asks about every item, `limit` at a time, until all are asked or `hopeless` failures followed each other: a wrong
 * address then costs seconds, not a retry per item. What was not asked counts as failed.
 */
export async function askAll<T>(
  items: readonly T[],
  limit: number,
  ask: (item: T) => Promise<void>,
  onFailure: (item: T, cause: unknown) => void,
): Promise<{ readonly failed: number; readonly gaveUp: boolean }> {
  let inARow = 0;
  let failed = 0;
  await inParallel(items, limit, async (item) => {
    if (inARow >= hopeless) return void failed++;
    try {
      await ask(item);
      inARow = 0;
    } catch (cause) {
      inARow += 1;
      failed += 1;
      onFailure(item, cause);
    }
  });
  return { failed, gaveUp: inARow >= hopeless };
}

/** Runs `work` over all items, `limit` at a time, in order of start. */
export async function inParallel<T>(
  items: readonly T[],
  limit: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < items.length) await work(items[next++]!);
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker));
}
