/**
 * Which layers reasoning needs: a layer, or one of its two halves, adds nothing (METHODS §1b), and accuracy on
 * questions with a checkable answer is compared with the unablated run on the same items.
 */
import type { QuestionItem } from '../data/items.js';
import { GalvaniError } from '../errors.js';
import { layerRange, patch, skipLayer, zeroAblate } from '../hooks/interventions.js';
import { type Bundle, bundleOrFailure, type Plan, type PlannedTrial } from '../run/plan.js';
import type { Observation } from '../run/rows.js';
import { namedRandom, sample } from '../stats/random.js';
import type { Intervention } from '../types.js';
import {
  byTask,
  type ControlKind,
  type GoldMeta,
  goldMeta,
  noControls,
  type PlanContext,
  type PlanModel,
  ruleOf,
} from './context.js';
import {
  accuracyOf,
  adjusted,
  correctness,
  type Graded,
  gradeRow,
  pairedTest,
  type RateRecord,
  type Select,
  type TestRecord,
} from './measure.js';

export const reasoningExperiment = 'localize-reasoning';

/** What is set to zero: the whole layer, or what its attention or its MLP adds. */
export type AblatedPart = 'layer' | 'attn' | 'mlp';
export const ablatedParts: readonly AblatedPart[] = ['layer', 'attn', 'mlp'];

export interface LocalizeReasoningOptions {
  readonly models: readonly PlanModel[];
  readonly items: readonly QuestionItem[];
  readonly parts: readonly AblatedPart[];
  /** Neighbouring layers ablated together. */
  readonly width: number;
}

interface AblationMeta extends GoldMeta {
  /** 'none' is the unablated run. */
  readonly part: AblatedPart | 'none';
}

export function ablation(part: AblatedPart, layers: readonly number[]): Intervention[] {
  switch (part) {
    case 'layer':
      return skipLayer(layers);
    case 'attn':
      return [zeroAblate('attn_out', { layers })];
    case 'mlp':
      return [zeroAblate('mlp_out', { layers })];
    default:
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `part: expected ${ablatedParts.join(', ')}, got '${part satisfies never}'`,
      );
  }
}

export function planLocalizeReasoning(context: PlanContext, options: LocalizeReasoningOptions): Plan {
  const { models, items, parts, width } = options;
  const controls = controlKinds(context).length;
  const perItem = models.reduce((sum, { layers }) => sum + 1 + parts.length * (layers - width + 1 + controls), 0);
  return {
    experiment: reasoningExperiment,
    trials: items.length * perItem,
    bundles: async function* () {
      for (const item of items) yield await itemBundle(context, options, item);
    },
  };
}

/** One random set of layers per item and part: the items average over sets. */
function controlKinds({ controls = noControls }: PlanContext): ControlKind[] {
  return [...(controls.self ? (['self'] as const) : []), ...(controls.random > 0 ? (['random'] as const) : [])];
}

/** Every layer's attention and MLP output replaced by the run's own: an identity. */
function selfPatch(part: AblatedPart, source: string, layers: number): Intervention[] {
  const sites = part === 'layer' ? (['attn_out', 'mlp_out'] as const) : ([`${part}_out`] as const);
  return sites.map((site) => patch(site, { source, layers: layerRange(0, layers), phase: 'prefill' }));
}

function itemBundle(context: PlanContext, options: LocalizeReasoningOptions, item: QuestionItem): Promise<Bundle> {
  const { prompter, seed } = context;
  const { models, parts, width } = options;
  const label = (model: string, what: string): string => `${reasoningExperiment} ${model} ${item.id} ${what}`;
  const unablated = (name: string) => ({
    label: label(name, 'unablated'),
    meta: { ...goldMeta(name, item), part: 'none' },
  });
  return bundleOrFailure(
    item.id,
    () => models.map(({ name }) => unablated(name)),
    async () => {
      const prompt = await prompter.ask(item);
      const generate = { maxTokens: prompter.protocol.maxTokens };
      return models.flatMap(({ name, layers }): PlannedTrial[] => [
        { trial: { id: `${name} unablated`, prompt, model: name, generate }, ...unablated(name) },
        ...parts.flatMap((part) =>
          layerRange(0, layers - width + 1).map((layer): PlannedTrial => {
            const interventions = ablation(part, layerRange(layer, layer + width));
            return {
              trial: { id: `${name} ${part} ${layer}`, prompt, model: name, interventions, generate },
              label: label(name, `without ${part} ${layer}`),
              meta: { ...goldMeta(name, item), part, layer, width },
            };
          }),
        ),
        ...parts.flatMap((part) =>
          controlKinds(context).map((control): PlannedTrial => {
            const drawn = sample(namedRandom(seed, item.id, part), layers, width);
            const interventions =
              control === 'self' ? selfPatch(part, `${name} unablated`, layers) : ablation(part, drawn);
            return {
              trial: { id: `${name} ${part} ${control}`, prompt, model: name, interventions, generate },
              label: label(name, `${control} control of ${part}`),
              meta: {
                ...goldMeta(name, item),
                part,
                control,
                width,
                ...(control === 'random' ? { layers: drawn } : {}),
              },
            };
          }),
        ),
      ]);
    },
  );
}

/** Accuracy with layer `layer` … `layer + width − 1` ablated; `layer` null is the unablated run. */
export interface AblationCell {
  readonly model: string;
  /** A task's name, or 'all tasks'. */
  readonly task: string;
  readonly part: AblatedPart | 'none';
  readonly layer: number | null;
  readonly width: number;
  readonly accuracy: RateRecord;
  /** Against the unablated run on the same items; Holm over the layers of this curve. */
  readonly test: TestRecord | null;
  readonly select: Select;
}

/** Accuracy when a run is patched with its own outputs (`self`), or without `width` random layers (`random`). */
export interface AblationControl {
  readonly model: string;
  readonly task: string;
  readonly part: AblatedPart;
  readonly control: ControlKind;
  readonly width: number;
  readonly accuracy: RateRecord;
  /** Against the unablated run on the same items; a family of its own. */
  readonly test: TestRecord | null;
  readonly select: Select;
}

export interface LocalizeReasoningResult {
  readonly cells: readonly AblationCell[];
  readonly controls: readonly AblationControl[];
}

export const allTasks = 'all tasks';

interface AblationRow {
  readonly meta: AblationMeta;
  readonly graded: Graded;
}

export function analyzeLocalizeReasoning(observed: readonly Observation[]): LocalizeReasoningResult {
  const rows = observed.map(({ meta, row }): AblationRow & { task: string } => {
    const facts = meta as AblationMeta;
    return { meta: facts, task: facts.task, graded: gradeRow(row, facts.gold, ruleOf(facts)) };
  });
  const cells: AblationCell[] = [];
  const controls: AblationControl[] = [];
  for (const model of new Set(rows.map(({ meta }) => meta.model))) {
    const own = rows.filter(({ meta }) => meta.model === model);
    const tasks = byTask(own);
    const groups: [string, readonly AblationRow[]][] = [...tasks];
    if (tasks.size > 1) groups.push([allTasks, own]);
    for (const [task, group] of groups) {
      const select = { experiment: reasoningExperiment, model, ...(task === allTasks ? {} : { task }) };
      cells.push(...curves(model, task, group, select));
      controls.push(...controlsOf(model, task, group, select));
    }
  }
  return { cells, controls };
}

function unablatedOf(rows: readonly AblationRow[]): ReadonlyMap<string, Graded> {
  return new Map(rows.flatMap(({ meta, graded }) => (meta.part === 'none' ? [[meta.item, graded] as const] : [])));
}

function controlsOf(model: string, task: string, rows: readonly AblationRow[], select: Select): AblationControl[] {
  const base = unablatedOf(rows);
  const before = [...base.values()].map(({ outcome }) => correctness(outcome));
  const own = rows.filter(({ meta }) => meta.control !== undefined);
  const kinds = new Map(own.map(({ meta }) => [`${meta.part} ${String(meta.control)}`, meta]));
  const cells = [...kinds.values()].map(({ part, control, width }): AblationControl => {
    const at = new Map(
      own.flatMap(({ meta, graded }) =>
        meta.part === part && meta.control === control ? [[meta.item, graded] as const] : [],
      ),
    );
    const outcomes = [...base.keys()].map((item) => at.get(item)?.outcome ?? 'failed');
    return {
      model,
      task,
      part: part as AblatedPart,
      control: control as ControlKind,
      width: width as number,
      accuracy: accuracyOf(outcomes),
      test: pairedTest(before, outcomes.map(correctness)),
      select: { ...select, part, control: control as ControlKind },
    };
  });
  const tests = adjusted(cells.map(({ test }) => test));
  return cells.map((cell, i) => ({ ...cell, test: tests[i] ?? null }));
}

function curves(model: string, task: string, rows: readonly AblationRow[], select: Select): AblationCell[] {
  const base = unablatedOf(rows);
  const before = [...base.values()].map(({ outcome }) => correctness(outcome));
  const cells: AblationCell[] = [
    {
      model,
      task,
      part: 'none',
      layer: null,
      width: 0,
      accuracy: accuracyOf([...base.values()].map(({ outcome }) => outcome)),
      test: null,
      select: { ...select, part: 'none' },
    },
  ];
  for (const part of ablatedParts) {
    const own = rows.filter(({ meta }) => meta.part === part && meta.control === undefined);
    const layers = [...new Set(own.map(({ meta }) => meta.layer as number))].sort((a, b) => a - b);
    const curve = layers.map((layer): AblationCell => {
      const at = new Map(
        own.flatMap(({ meta, graded }) => (meta.layer === layer ? [[meta.item, graded] as const] : [])),
      );
      const outcomes = [...base.keys()].map((item) => at.get(item)?.outcome ?? 'failed');
      return {
        model,
        task,
        part,
        layer,
        width: (own.find(({ meta }) => meta.layer === layer)?.meta.width as number | undefined) ?? 1,
        accuracy: accuracyOf(outcomes),
        test: pairedTest(before, outcomes.map(correctness)),
        select: { ...select, part, layer },
      };
    });
    const tests = adjusted(curve.map(({ test }) => test));
    cells.push(...curve.map((cell, i) => ({ ...cell, test: tests[i] ?? null })));
  }
  return cells;
}
