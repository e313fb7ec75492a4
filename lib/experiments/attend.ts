/**
 * Where generated tokens look (METHODS §1c): attention mass per decoder layer from the tokens of a reasoning or answer
 * span to the image and to the rest, once with every model reading the same text (only the reading differs) and once
 * with each reading its own (the text differs too). Texts are generated first and then teacher-forced.
 */
import type { QuestionItem } from '../data/items.js';
import { captureKeyMass, captureMass, layerRange } from '../hooks/interventions.js';
import { hasSpan, resolveSpan, rowCount, withoutRows } from '../hooks/spans.js';
import { type Bundle, bundleOrFailure, type Plan, type PlannedTrial } from '../run/plan.js';
import type { JsonObject, Observation } from '../run/rows.js';
import type { Intervention, Prompt, Range } from '../types.js';
import { attentionReducer, type SpanKeys } from './attend-reduce.js';
import { goldMeta, type PlanContext, type PlanModel } from './context.js';

export const textsExperiment = 'attend-texts';
export const attendExperiment = 'attend';

/** Rows that look: the reasoning, or the final answer. */
export type QuerySpan = 'think' | 'final';
export const querySpans: readonly QuerySpan[] = ['think', 'final'];

/** `same`: every model reads the writer's text. `own`: each reads what it generated. */
export type TextMode = 'same' | 'own';

export interface AttendOptions {
  /** Base, in, rl, in this order where there are three. */
  readonly models: readonly PlanModel[];
  /** With an image each. */
  readonly items: readonly QuestionItem[];
  /** Whose text all read in mode `same`; one of the models. */
  readonly writer: string;
  /** Ids of items whose attention is kept patch by patch, to be drawn over the picture. */
  readonly pictures?: readonly string[];
}

/** First stage: every model answers every item. */
export function planAttendTexts({ prompter }: PlanContext, { models, items }: AttendOptions): Plan {
  return {
    experiment: textsExperiment,
    trials: models.length * items.length,
    bundles: async function* () {
      for (const item of items) {
        const facts = (model: string) => ({
          label: `${textsExperiment} ${model} ${item.id}`,
          meta: goldMeta(model, item),
        });
        yield await bundleOrFailure(
          item.id,
          () => models.map(({ name }) => facts(name)),
          async () => {
            const prompt = await prompter.ask(item);
            const generate = { maxTokens: prompter.protocol.maxTokens };
            return models.map(({ name }) => ({ trial: { id: name, prompt, model: name, generate }, ...facts(name) }));
          },
        );
      }
    },
  };
}

export interface AttendMeta extends JsonObject {
  readonly model: string;
  readonly task: string;
  readonly item: string;
  readonly mode: TextMode;
  readonly writer: string;
}

/** Second stage: the texts of the first, teacher-forced. Items without a finished text are left to the first stage. */
export function planAttend(context: PlanContext, options: AttendOptions, texts: readonly Observation[]): Plan {
  const written = new Map<string, string>();
  for (const { meta, row } of texts) {
    if (row?.kind === 'trial' && !row.truncated && row.text.trim() !== '') {
      written.set(`${String(meta.model)}\n${String(meta.item)}`, row.text);
    }
  }
  const drawn = new Set(options.pictures);
  const readings = options.items.map((item) => ({ item, metas: readingsOf(item, options, written) }));
  return {
    experiment: attendExperiment,
    isFollowUp: true,
    trials: readings.reduce((sum, { metas }) => sum + metas.length, 0),
    bundles: async function* () {
      for (const { item, metas } of readings) {
        if (metas.length > 0) yield await readingBundle(context, options, item, metas, written, drawn.has(item.id));
      }
    },
  };
}

function readingsOf(
  item: QuestionItem,
  { models, writer }: AttendOptions,
  written: ReadonlyMap<string, string>,
): AttendMeta[] {
  const meta = (model: string, mode: TextMode, by: string): AttendMeta[] =>
    written.has(`${by}\n${item.id}`) ? [{ model, task: item.task, item: item.id, mode, writer: by }] : [];
  return models.flatMap(({ name }) => [...meta(name, 'same', writer), ...meta(name, 'own', name)]);
}

function readingBundle(
  { prompter }: PlanContext,
  { models }: AttendOptions,
  item: QuestionItem,
  metas: readonly AttendMeta[],
  written: ReadonlyMap<string, string>,
  withMap: boolean,
): Promise<Bundle> {
  const label = ({ model, mode }: AttendMeta): string => `${attendExperiment} ${model} ${item.id} ${mode} text`;
  return bundleOrFailure(
    item.id,
    () => metas.map((meta) => ({ label: label(meta), meta })),
    () =>
      Promise.all(
        metas.map(async (meta): Promise<PlannedTrial> => {
          const answer = written.get(`${meta.writer}\n${item.id}`)!;
          const prompt = await prompter.ask(item, { answer });
          const { layers } = models.find(({ name }) => name === meta.model)!;
          const keys = keySpans(prompt);
          return {
            trial: {
              id: `${meta.model} ${meta.mode}`,
              prompt,
              model: meta.model,
              interventions: attentionCaptures(prompt, layers, keys),
            },
            label: label(meta),
            meta,
            reduce: attentionReducer(keys, querySpans, withMap),
          };
        }),
      ),
  );
}

export function keySpans(prompt: Prompt): SpanKeys {
  const first: readonly Range[] = [[0, 1]];
  const span = (name: string): readonly Range[] =>
    hasSpan(prompt, name) ? withoutRows(resolveSpan(prompt, name), first) : [];
  return { first, image: span('image'), question: span('question'), think: span('think'), final: span('final') };
}

function attentionCaptures(prompt: Prompt, layers: number, keys: SpanKeys): Intervention[] {
  const all = layerRange(0, layers);
  const columns = Object.values(keys).filter((ranges) => rowCount(ranges) > 0);
  return querySpans
    .filter((rows) => hasSpan(prompt, rows))
    .flatMap((rows) => [
      captureMass({ name: `mass ${rows}`, layers: all, rows, keys: columns, phase: 'prefill' }),
      captureKeyMass({ name: `keys ${rows}`, layers: all, rows, phase: 'prefill' }),
    ]);
}
