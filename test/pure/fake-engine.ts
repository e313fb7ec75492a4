/** A stand-in for the engine: results are a pure function of the trial, so that two runs can be compared byte by byte. */
import { createHash } from 'node:crypto';
import type { TrialOutcome, TrialRunner } from '../../lib/engine.js';
import { GalvaniError } from '../../lib/errors.js';
import { references } from '../../lib/run/key.js';
import { emptyStats } from '../../lib/run/runner.js';
import type { Prompt, Trial, TrialResult } from '../../lib/types.js';

export interface FakeOptions {
  /** What a trial generates. Default: a hash of its content. */
  readonly answer?: (trial: Trial) => string;
  readonly captures?: (trial: Trial) => TrialResult['captures'];
  /** True: the generation hits the token limit. */
  readonly cutOff?: (trial: Trial) => boolean;
  /** Undefined: the trial succeeds. */
  readonly fail?: (trial: Trial) => GalvaniError | undefined;
  /** Throws for the request as a whole. */
  readonly refuse?: (trials: readonly Trial[]) => GalvaniError | undefined;
}

export class FakeEngine implements TrialRunner {
  readonly requests: (readonly Trial[])[] = [];
  readonly #options: FakeOptions;

  constructor(options: FakeOptions = {}) {
    this.#options = options;
  }

  get trialsRun(): number {
    return this.requests.reduce((sum, request) => sum + request.length, 0);
  }

  async run(trials: readonly Trial[], { signal }: { signal?: AbortSignal } = {}): ReturnType<TrialRunner['run']> {
    if (signal?.aborted) throw new GalvaniError('ABORTED', 'aborted');
    const refusal = this.#options.refuse?.(trials);
    if (refusal) throw refusal;
    const ids = new Set(trials.map(({ id }) => id));
    if (ids.size !== trials.length) throw new GalvaniError('BAD_ARGUMENT', 'request: repeated id');
    for (const trial of trials) {
      for (const reference of references(trial)) {
        if (!ids.has(reference))
          throw new GalvaniError('BAD_ARGUMENT', `trial ${trial.id} refers to a missing ${reference}`);
      }
    }
    this.requests.push(trials);
    return { outcomes: trials.map((trial) => this.#one(trial)), stats: emptyStats };
  }

  #one(trial: Trial): TrialOutcome {
    const error = this.#options.fail?.(trial);
    if (error) return { ok: false, id: trial.id, error };
    const digest = createHash('sha256')
      .update(trial.model)
      .update(Buffer.from(trial.prompt.ids.buffer))
      .update(JSON.stringify(trial.interventions ?? []))
      .digest('hex');
    const text = this.#options.answer?.(trial) ?? digest.slice(0, 8);
    const tokens = Math.min(trial.generate?.maxTokens ?? 0, text.length);
    return {
      ok: true,
      id: trial.id,
      result: {
        id: trial.id,
        tokens: new Int32Array(tokens),
        logprobs: new Float32Array(tokens).fill(-0.5),
        text: tokens > 0 ? text : '',
        truncated: this.#options.cutOff?.(trial) ?? false,
        ...(trial.score
          ? {
              score: {
                logprobs: Float32Array.from(trial.score.tokens ?? [], (_, i) => -1 - i),
                ...(trial.score.klTo === undefined ? {} : { kl: 0.25 }),
              },
            }
          : {}),
        captures: this.#options.captures?.(trial) ?? {},
      },
    };
  }
}

/** A prompt of `ids`, with spans given by name as [start, end). */
export function fakePrompt(
  ids: readonly number[],
  spans: Record<string, [number, number]> = {},
  image?: string,
): Prompt {
  const [start, end] = spans.image ?? [0, 0];
  return {
    ids: Int32Array.from(ids),
    positions: Int32Array.from({ length: ids.length * 3 }, (_, i) => i % ids.length),
    nextPosition: ids.length,
    images:
      image === undefined
        ? []
        : [{ image: { pixels: new Float32Array(4), grid: [1, 2, 2], hash: image }, start, count: end - start }],
    spans: Object.fromEntries(Object.entries(spans).map(([name, range]) => [name, [range]])),
    text: ids.join(' '),
  };
}
