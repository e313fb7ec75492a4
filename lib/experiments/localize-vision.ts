/**
 * Where an image is read: visual token swapping (METHODS §1a). In the patched run the keys and values of the image rows
 * come from the run with the other image; what changes in the answer was read from those layers.
 */
import { type PairFlaw, pairFlaws, type SwapPair } from '../data/items.js';
import { GalvaniError } from '../errors.js';
import { sameAnswer } from '../grading/match.js';
import { type SwapMode, swapImage, swapImageIn, swapLayers } from '../hooks/interventions.js';
import { type Bundle, bundleOrFailure, type Plan, type PlannedTrial } from '../run/plan.js';
import type { JsonObject } from '../run/rows.js';
import { namedRandom, sample } from '../stats/random.js';
import type { Prompt, Trial } from '../types.js';
import { type ControlKind, noControls, type PlanContext, type PlanModel, ruleJson } from './context.js';

export const visionExperiment = 'localize-vision';

export interface LocalizeVisionOptions {
  readonly models: readonly PlanModel[];
  readonly pairs: readonly SwapPair[];
  readonly modes: readonly SwapMode[];
  /** Layers of a window. */
  readonly width: number;
  /** KV heads swapped. Default: all. */
  readonly heads?: readonly number[] | undefined;
  /** 'refuse': images of unequal token counts are a failed pair. 'source': the source is rendered at the target's grid. */
  readonly resize: 'refuse' | 'source';
}

export interface SwapMeta extends JsonObject {
  readonly model: string;
  readonly task: string;
  readonly pair: string;
  readonly role: 'target' | 'source' | 'patched' | 'control';
  readonly targetGold: string;
  readonly sourceGold: string;
  readonly rule: JsonObject;
  /** score.logprobs are those of the first tokens of the two gold answers, target's then source's. */
  readonly scored: boolean;
}

/** First layers at which a swap of this mode can stand. */
export function swapPositions(mode: SwapMode, layers: number, width: number): number {
  return mode === 'window' ? Math.max(0, layers - width + 1) : layers;
}

export function planLocalizeVision(context: PlanContext, options: LocalizeVisionOptions): Plan {
  const { models, pairs, modes, width } = options;
  const controls = controlKinds(context).length;
  const perModel = (layers: number): number =>
    2 + modes.reduce((sum, mode) => sum + (1 + controls) * swapPositions(mode, layers, width), 0);
  return {
    experiment: visionExperiment,
    trials: pairs.length * models.reduce((sum, { layers }) => sum + perModel(layers), 0),
    bundles: async function* () {
      for (const pair of pairs) yield await pairBundle(context, options, pair);
    },
  };
}

/** A random set of layers is drawn once per pair, mode and layer: the pairs average over sets. */
function controlKinds({ controls = noControls }: PlanContext): ControlKind[] {
  return [...(controls.self ? (['self'] as const) : []), ...(controls.random > 0 ? (['random'] as const) : [])];
}

function pairBundle(context: PlanContext, options: LocalizeVisionOptions, pair: SwapPair): Promise<Bundle> {
  const { prompter } = context;
  const { question } = pair;
  const golds = [pair.targetAnswer, pair.sourceAnswer].map((gold) => prompter.tokens(gold)[0]!) as [number, number];
  // One failed target row per model stands for a pair that cannot be prepared: every curve counts it as failed.
  const failed = () =>
    options.models.map(({ name }) => ({
      label: rowLabel(name, pair, 'target'),
      meta: { ...pairMeta(name, pair, golds), role: 'target' },
    }));
  return bundleOrFailure(pair.id, failed, async () => {
    const target = await prompter.ask({ question, image: pair.targetImage });
    const [, height, width] = target.images[0]!.image.grid;
    const grid = options.resize === 'source' ? { grid: [height, width] as const } : {};
    const source = await prompter.ask({ question, image: pair.sourceImage }, grid);
    return options.models.flatMap((model) => modelTrials(options, model, pair, { target, source }, golds, context));
  });
}

const rowLabel = (model: string, pair: SwapPair, role: string): string =>
  `${visionExperiment} ${model} ${pair.id} ${role}`;

function pairMeta(model: string, pair: SwapPair, golds: readonly [number, number]): Omit<SwapMeta, 'role'> {
  return {
    model,
    task: pair.task,
    pair: pair.id,
    targetGold: pair.targetAnswer,
    sourceGold: pair.sourceAnswer,
    rule: ruleJson(pair.rule),
    scored: golds[0] !== golds[1],
  };
}

function modelTrials(
  { modes, width, heads }: LocalizeVisionOptions,
  { name, layers }: PlanModel,
  pair: SwapPair,
  prompts: { readonly target: Prompt; readonly source: Prompt },
  golds: readonly [number, number],
  context: PlanContext,
): PlannedTrial[] {
  const { prompter, seed } = context;
  const generate = { maxTokens: prompter.protocol.maxTokens };
  const meta = pairMeta(name, pair, golds);
  const score = meta.scored ? { tokens: golds } : {};
  const id = (role: string): string => `${name} ${role}`;
  const some = heads ? { heads } : {};
  const unpatched = (role: 'target' | 'source'): PlannedTrial => ({
    trial: { id: id(role), prompt: prompts[role], model: name, generate, score },
    label: rowLabel(name, pair, role),
    meta: { ...meta, role },
  });
  const swap = (role: string, interventions: Trial['interventions'], extra: JsonObject): PlannedTrial => ({
    trial: {
      id: id(role),
      prompt: prompts.target,
      model: name,
      interventions: interventions!,
      generate,
      score: { ...score, klTo: id('target') },
    },
    label: rowLabel(name, pair, role),
    meta: { ...meta, ...extra },
  });
  const patched = (mode: SwapMode, layer: number): PlannedTrial[] => {
    const place = { mode, layer, ...(mode === 'window' ? { width } : {}) };
    const at = { mode, layer, totalLayers: layers, width, ...some };
    const covered = swapLayers(mode, layer, layers, width);
    const control = (kind: ControlKind): PlannedTrial => {
      const random = namedRandom(seed, pair.id, mode, layer);
      const [where, source] =
        kind === 'self' ? [covered, id('target')] : [sample(random, layers, covered.length), id('source')];
      const extra = { role: 'control', control: kind, ...place, ...(kind === 'random' ? { layers: where } : {}) };
      return swap(`${kind} ${mode} ${layer}`, swapImageIn(where, { source, ...some }), extra);
    };
    return [
      swap(`${mode} ${layer}`, swapImage({ source: id('source'), ...at }), { role: 'patched', ...place }),
      ...controlKinds(context).map(control),
    ];
  };
  return [
    unpatched('target'),
    unpatched('source'),
    ...modes.flatMap((mode) =>
      Array.from({ length: swapPositions(mode, layers, width) }, (_, layer) => patched(mode, layer)).flat(),
    ),
  ];
}

/** Flaws of a set of pairs, with overlapping boxes counted as one answer. */
export function flawsOf(pairs: readonly SwapPair[]): PairFlaw[] {
  return pairFlaws(pairs, (a, b, rule) => sameAnswer(a, b, rule));
}

/** @throws BAD_ARGUMENT naming what is there when a named task has no pair. */
export function requireTasks(found: readonly { readonly task: string }[], wanted: readonly string[]): void {
  const have = [...new Set(found.map(({ task }) => task))];
  const missing = wanted.filter((task) => !have.includes(task));
  if (missing.length > 0) {
    throw new GalvaniError('BAD_ARGUMENT', `tasks: no item of ${missing.join(', ')}; the data has ${have.join(', ')}`);
  }
}
