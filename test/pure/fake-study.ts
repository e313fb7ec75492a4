/** What the tests of the experiments share: prompts that say what was asked, and running a plan on the fake engine. */
import { expect } from 'vitest';
import { GalvaniError } from '../../lib/errors.js';
import type { Asker } from '../../lib/experiments/prompter.js';
import type { Ledger } from '../../lib/run/ledger.js';
import type { Plan } from '../../lib/run/plan.js';
import type { LedgerRow, Observation } from '../../lib/run/rows.js';
import { execute } from '../../lib/run/runner.js';
import type { Prompt, Trial } from '../../lib/types.js';
import { FakeEngine, type FakeOptions, fakePrompt } from './fake-engine.js';

/** Prompts whose text says what was asked, so that the fake model can answer. */
export const asker: Asker = {
  protocol: { maxTokens: 8 },
  tokens: (text) => Int32Array.from([...text], (letter) => letter.codePointAt(0)!),
  ask: async ({ question, image }, { sight = 'image', answer, grid } = {}) => {
    if (image === 'broken.png') throw new GalvaniError('BAD_FILE', 'broken.png: cannot be decoded as an image');
    const text = JSON.stringify({ question, image, sight, answer, grid });
    const ids = [1, 9, 9, 9, 9, ...Buffer.from(text)];
    const start = ids.length - (answer?.length ?? 0);
    const spans: Record<string, [number, number]> = { image: [1, 5], question: [5, start] };
    if (answer !== undefined)
      Object.assign(spans, { answer: [start, ids.length], think: [start, start + 2], final: [start + 2, ids.length] });
    return { ...fakePrompt(ids, spans, `${image} ${sight}`), text } as Prompt;
  },
};
export const asked = (trial: Trial): { question: string; image?: string; sight: string } =>
  JSON.parse(trial.prompt.text);

/** Runs a plan on a fake engine and returns what analysis gets. */
export async function observe(
  plan: Plan,
  options: FakeOptions,
  cutOff: (trial: Trial) => boolean = () => false,
  unprepared = 0,
): Promise<{ observed: Observation[]; engine: FakeEngine }> {
  const engine = new FakeEngine({ ...options, cutOff });
  const rows = new Map<string, LedgerRow>();
  const ledger = {
    rows,
    settled: (key: string) => rows.has(key),
    append: (added: readonly LedgerRow[]) => {
      for (const row of added) rows.set(row.key, row);
    },
  } as unknown as Ledger;
  const planned: { key: string; meta: Observation['meta'] }[] = [];
  const summary = await execute({
    engine,
    ledger,
    plan,
    planLog: { append: (all) => planned.push(...all) },
    fingerprint: (name) => name,
  });
  // An item that could not be prepared is one failed row instead of its trials.
  expect(summary.planned + unprepared).toBe(plan.trials);
  return { observed: planned.map(({ key, meta }) => ({ key, meta, row: rows.get(key) })), engine };
}
