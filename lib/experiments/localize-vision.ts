/**
 * Where an image is read: visual token swapping (METHODS §1a). In the patched run the keys and values of the image rows
 * come from the run with the other image; what changes in the answer was read from those layers.
 */
import { type PairFlaw, pairFlaws, type SwapPair } from '../data/items.js';
import { GalvaniError } from '../errors.js';
import { referenceSame, sameAnswer } from '../grading/match.js';
import { type SwapMode, swapImage } from '../hooks/interventions.js';
import { type Bundle, bundleOrFailure, type Plan, type PlannedTrial } from '../run/plan.js';
import type { JsonObject, Observation } from '../run/rows.js';
import type { MatchRule, Prompt, Trial } from '../types.js';
import { byTask, type PlanContext, type PlanModel, ruleJson, ruleOf } from './context.js';
import {
  accuracyOf,
  type Graded,
  gradeRow,
  isSignificant,
  type MeanRecord,
  meanOf,
  pairedTest,
  type RateRecord,
  rateOfFlags,
  type Select,
  type TestRecord,
  withHolm,
} from './measure.js';

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

interface SwapMeta extends JsonObject {
  readonly model: string;
  readonly task: string;
  readonly pair: string;
  readonly role: 'target' | 'source' | 'patched';
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
  const perModel = (layers: number): number =>
    2 + modes.reduce((sum, mode) => sum + swapPositions(mode, layers, width), 0);
  return {
    experiment: visionExperiment,
    trials: pairs.length * models.reduce((sum, { layers }) => sum + perModel(layers), 0),
    bundles: async function* () {
      for (const pair of pairs) yield await pairBundle(context, options, pair);
    },
  };
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
  { prompter }: PlanContext,
): PlannedTrial[] {
  const generate = { maxTokens: prompter.protocol.maxTokens };
  const meta = pairMeta(name, pair, golds);
  const score = meta.scored ? { tokens: golds } : {};
  const id = (role: string): string => `${name} ${role}`;
  const unpatched = (role: 'target' | 'source'): PlannedTrial => ({
    trial: { id: id(role), prompt: prompts[role], model: name, generate, score },
    label: rowLabel(name, pair, role),
    meta: { ...meta, role },
  });
  const patched = (mode: SwapMode, layer: number): PlannedTrial => {
    const trial: Trial = {
      id: id(`${mode} ${layer}`),
      prompt: prompts.target,
      model: name,
      interventions: swapImage({
        source: id('source'),
        mode,
        layer,
        totalLayers: layers,
        width,
        ...(heads ? { heads } : {}),
      }),
      generate,
      score: { ...score, klTo: id('target') },
    };
    const extra = { role: 'patched', mode, layer, ...(mode === 'window' ? { width } : {}) };
    return { trial, label: rowLabel(name, pair, `${mode} ${layer}`), meta: { ...meta, ...extra } };
  };
  return [
    unpatched('target'),
    unpatched('source'),
    ...modes.flatMap((mode) =>
      Array.from({ length: swapPositions(mode, layers, width) }, (_, layer) => patched(mode, layer)),
    ),
  ];
}

/** One (model, task, mode, layer). */
export interface SwapCell {
  readonly model: string;
  readonly task: string;
  readonly mode: SwapMode;
  readonly layer: number;
  /** Answer differs from the unpatched target run's. */
  readonly change: RateRecord;
  /** Answer is the unpatched source run's. */
  readonly toSource: RateRecord;
  /** Answer is still the target's gold answer. */
  readonly correct: RateRecord;
  /** The first two over pairs whose unpatched answers are both right and different: elsewhere a change cannot be read. */
  readonly readableChange: RateRecord;
  readonly readableToSource: RateRecord;
  /** `change` under the published script's comparison of whole texts. */
  readonly referenceChange: RateRecord;
  /** ln p(first token of the target's gold) − ln p(first token of the source's), at the first answer token, nats. */
  readonly logProbDifference: MeanRecord;
  /** KL(patched ‖ unpatched) of the first answer token, nats. */
  readonly kl: MeanRecord;
  /** `change` at this layer against the next one, on the same pairs; Holm over the layers of this curve. */
  readonly step: TestRecord | null;
  readonly select: Select;
}

export interface UnpatchedCell {
  readonly model: string;
  readonly task: string;
  readonly target: RateRecord;
  readonly source: RateRecord;
  /** Pairs whose two unpatched answers are right and different. */
  readonly readablePairs: number;
  readonly logProbDifference: MeanRecord;
  readonly select: Select;
}

export interface LocalizeVisionResult {
  readonly cells: readonly SwapCell[];
  readonly unpatched: readonly UnpatchedCell[];
  /**
   * Layers between which swapping loses its effect (suffix: a significant fall of `change` from this layer to the
   * next), that is, layers where the image is read.
   */
  readonly readAt: readonly { readonly model: string; readonly task: string; readonly layers: readonly number[] }[];
  readonly flaws: readonly PairFlaw[];
}

type PairRows = { readonly meta: SwapMeta; readonly graded: Graded; readonly rule: MatchRule };

/** @param flaws of the set of pairs, found when it was read (they are facts of the data, not of a run). */
export function analyzeLocalizeVision(
  observed: readonly Observation[],
  options: { readonly seed: number; readonly flaws?: readonly PairFlaw[] },
): LocalizeVisionResult {
  const rows = observed.map(({ meta, row }): PairRows & { task: string } => {
    const swap = meta as SwapMeta;
    const rule = ruleOf(swap);
    return { meta: swap, rule, task: swap.task, graded: gradeRow(row, swap.targetGold, rule) };
  });
  const cells: SwapCell[] = [];
  const unpatched: UnpatchedCell[] = [];
  for (const model of unique(rows.map(({ meta }) => meta.model))) {
    for (const [task, own] of byTask(rows.filter(({ meta }) => meta.model === model))) {
      const base = unpatchedRuns(own);
      const select = { experiment: visionExperiment, model, task };
      unpatched.push(unpatchedCell(model, task, base, select, options.seed));
      for (const mode of unique(own.flatMap(({ meta }) => (meta.role === 'patched' ? [meta.mode as SwapMode] : [])))) {
        cells.push(...curve({ model, task, mode, base, own, select, seed: options.seed }));
      }
    }
  }
  const readAt = unpatched.map(({ model, task }) => ({
    model,
    task,
    layers: cells
      .filter((cell) => cell.model === model && cell.task === task && cell.mode === 'suffix')
      .filter(({ step }) => isSignificant(step) && (step!.difference ?? 0) < 0)
      .map(({ layer }) => layer),
  }));
  return { cells, unpatched, readAt, flaws: options.flaws ?? [] };
}

interface Unpatched {
  readonly target: PairRows | undefined;
  readonly source: Graded | undefined;
  readonly readable: boolean;
}

function unpatchedRuns(rows: readonly PairRows[]): Map<string, Unpatched> {
  const runs = new Map<string, Unpatched>();
  for (const pair of unique(rows.map(({ meta }) => meta.pair))) {
    const find = (role: string) => rows.find(({ meta }) => meta.pair === pair && meta.role === role);
    const target = find('target');
    const sourceRow = find('source');
    // The source run is graded against its own gold; the meta's order is the target's.
    const source = sourceRow && gradeRow(sourceRow.graded.row, sourceRow.meta.sourceGold, sourceRow.rule);
    const readable =
      target?.graded.outcome === 'correct' &&
      source?.outcome === 'correct' &&
      !sameAnswer(target.graded.answer, source.answer, target.rule);
    runs.set(pair, { target, source, readable });
  }
  return runs;
}

function unpatchedCell(
  model: string,
  task: string,
  base: ReadonlyMap<string, Unpatched>,
  select: Select,
  seed: number,
): UnpatchedCell {
  const runs = [...base.values()];
  return {
    model,
    task,
    target: accuracyOf(runs.map(({ target }) => target?.graded.outcome ?? 'failed')),
    source: accuracyOf(runs.map(({ source }) => source?.outcome ?? 'failed')),
    readablePairs: runs.filter(({ readable }) => readable).length,
    logProbDifference: meanOf(
      runs.map(({ target }) => (target ? logProbDifference(target) : null)),
      seed,
    ),
    select: { ...select, role: 'target' },
  };
}

interface CurveInput {
  readonly model: string;
  readonly task: string;
  readonly mode: SwapMode;
  readonly base: ReadonlyMap<string, Unpatched>;
  readonly own: readonly PairRows[];
  readonly select: Select;
  readonly seed: number;
}

function curve({ model, task, mode, base, own, select, seed }: CurveInput): SwapCell[] {
  const patched = own.filter(({ meta }) => meta.role === 'patched' && meta.mode === mode);
  const layers = unique(patched.map(({ meta }) => meta.layer as number)).sort((a, b) => a - b);
  const changes: (boolean | null)[][] = [];
  const cells = layers.map((layer): Omit<SwapCell, 'step'> => {
    const at = new Map(patched.flatMap((row) => (row.meta.layer === layer ? [[row.meta.pair, row] as const] : [])));
    const runs = [...base].map(([pair, unpatchedRun]) => ({ run: at.get(pair), ...unpatchedRun }));
    const compare = (same: (a: Graded, b: Graded, rule: MatchRule) => boolean, with_: 'target' | 'source') =>
      runs.map(({ run, target, source }): boolean | null => {
        const other = with_ === 'target' ? target?.graded : source;
        if (!run || !usable(run.graded) || !other || !usable(other)) return null;
        return same(run.graded, other, run.rule);
      });
    const sameRead = (a: Graded, b: Graded, rule: MatchRule): boolean => sameAnswer(a.answer, b.answer, rule);
    const change = compare((a, b, rule) => !sameRead(a, b, rule), 'target');
    const toSource = compare(sameRead, 'source');
    const reference = compare((a, b) => !referenceSame(a.row!.text, b.row!.text), 'target');
    changes.push(change);
    const readable = (flags: readonly (boolean | null)[]) => flags.filter((_, i) => runs[i]!.readable);
    const cut = runs.map(({ run }) => run?.graded.outcome === 'truncated');
    const asRate = (flags: readonly (boolean | null)[], cuts: readonly boolean[]): RateRecord =>
      rateOfFlags(flags, flags.filter((flag, i) => flag === null && cuts[i]).length);
    return {
      model,
      task,
      mode,
      layer,
      change: asRate(change, cut),
      toSource: asRate(toSource, cut),
      correct: accuracyOf(runs.map(({ run }) => run?.graded.outcome ?? 'failed')),
      readableChange: asRate(
        readable(change),
        cut.filter((_, i) => runs[i]!.readable),
      ),
      readableToSource: asRate(
        readable(toSource),
        cut.filter((_, i) => runs[i]!.readable),
      ),
      referenceChange: asRate(reference, cut),
      logProbDifference: meanOf(
        runs.map(({ run }) => (run ? logProbDifference(run) : null)),
        seed,
      ),
      kl: meanOf(
        runs.map(({ run }) => run?.graded.row?.score?.kl ?? null),
        seed,
      ),
      select: { ...select, role: 'patched', mode, layer },
    };
  });
  const steps = withHolm(changes.slice(1).map((next, i) => pairedTest(changes[i]!, next)));
  return cells.map((cell, i) => ({ ...cell, step: steps[i] ?? null }));
}

function usable(graded: Graded): boolean {
  return graded.outcome !== 'failed' && graded.outcome !== 'truncated';
}

function logProbDifference({ meta, graded }: PairRows): number | null {
  const scores = graded.row?.score?.logprobs;
  return meta.scored && scores?.length === 2 ? scores[0]! - scores[1]! : null;
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}

/** Flaws of a set of pairs, with overlapping boxes counted as one answer. */
export function flawsOf(pairs: readonly SwapPair[]): PairFlaw[] {
  return pairFlaws(pairs, (a, b, rule) => sameAnswer(a, b, rule));
}

/** @throws BAD_ARGUMENT naming what is there when a named task has no pair. */
export function requireTasks(found: readonly { readonly task: string }[], wanted: readonly string[]): void {
  const have = unique(found.map(({ task }) => task));
  const missing = wanted.filter((task) => !have.includes(task));
  if (missing.length > 0) {
    throw new GalvaniError('BAD_ARGUMENT', `tasks: no item of ${missing.join(', ')}; the data has ${have.join(', ')}`);
  }
}
