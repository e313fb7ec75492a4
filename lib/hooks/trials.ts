/** What a trial refers to, and whether its options can be run. */
import { GalvaniError } from '../errors.js';
import type { ModelConfig } from '../models/family.js';
import type { Trial } from '../types.js';

/** Ids of the trials that a trial reads from. */
export function sourcesOf(trial: Trial): string[] {
  const ids: string[] = [];
  for (const { value } of trial.interventions ?? []) {
    if (typeof value === 'object' && !(value instanceof Float32Array)) ids.push(value.trial);
  }
  if (trial.score?.klTo !== undefined) ids.push(trial.score.klTo);
  return ids;
}

/** @throws BAD_ARGUMENT for generation and score options outside their range */
export function checkTrial(trial: Trial, config: ModelConfig): void {
  checkGeneration(trial);
  checkScore(trial, config);
}

function checkScore({ id, score }: Trial, { decoder }: ModelConfig): void {
  const outside = score?.tokens?.find((token) => !Number.isInteger(token) || token < 0 || token >= decoder.vocab);
  if (outside === undefined) return;
  throw new GalvaniError(
    'BAD_ARGUMENT',
    `trial '${id}', score.tokens: expected ids from 0 to ${decoder.vocab - 1}, got ${outside}`,
  );
}

function checkGeneration({ id, generate = {} }: Trial): void {
  const fail = (field: string, expected: string, got: unknown): never => {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `trial '${id}', generate.${field}: expected ${expected}, got ${String(got)}`,
    );
  };
  const { maxTokens = 0, temperature = 0, topK = 0, topP = 1, seed = 0 } = generate;
  if (!Number.isInteger(maxTokens) || maxTokens < 0) fail('maxTokens', 'an integer ≥ 0', maxTokens);
  if (!(temperature >= 0) || !Number.isFinite(temperature)) fail('temperature', 'a number ≥ 0', temperature);
  if (!Number.isInteger(topK) || topK < 0) fail('topK', 'an integer ≥ 0', topK);
  if (!(topP > 0 && topP <= 1)) fail('topP', 'a number in (0, 1]', topP);
  if (!Number.isSafeInteger(seed) || seed < 0) fail('seed', 'an integer ≥ 0', seed);
}
