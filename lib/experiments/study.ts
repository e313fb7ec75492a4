/**
 * A study end to end, up to the ledger: opens what its experiments need, plans them, runs them. Everything right of the
 * ledger (analysis, report) is in summary.ts and needs no model.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { type Cuts, defaultCuts, regions } from '../checkpoint/graft.js';
import { type QuestionItem, readItems, readPairs, type SwapPair, subsetPerTask } from '../data/items.js';
import { Engine } from '../engine.js';
import { GalvaniError } from '../errors.js';
import type { DecoderConfig } from '../models/family.js';
import { folderFingerprint, graftFingerprint } from '../run/fingerprint.js';
import { contentKey } from '../run/key.js';
import { type Measurement, takeMeasurements } from '../run/measurements.js';
import type { Plan } from '../run/plan.js';
import { type ProgressDisplay, silent } from '../run/progress.js';
import type { JsonObject, Observation } from '../run/rows.js';
import { asJson, RunDir, type RunModel, type RunRecord } from '../run/run-dir.js';
import { addStats, emptyStats, execute, limitsFor } from '../run/runner.js';
import { type Shard, wholeRun } from '../run/shards.js';
import type { RunStats } from '../types.js';
import { groupOf, groupsOf, type TaskGroups } from './answers.js';
import { planAttend, planAttendTexts } from './attend.js';
import { characterizeMeasurements } from './characterize.js';
import type { PlanContext, PlanModel } from './context.js';
import { freezeMeasurements, planFreeze } from './freeze.js';
import { planLocalizeReasoning } from './localize-reasoning.js';
import { flawsOf, planLocalizeVision, requireTasks } from './localize-vision.js';
import { Prompter } from './prompter.js';
import { type ExperimentName, experimentNames, type Study } from './study-file.js';
import { type NamedGraft, planTransfer, transferGrafts } from './transfer.js';

export interface StudyRunOptions {
  /** Run directory. */
  readonly out: string;
  readonly only?: readonly ExperimentName[];
  readonly shard?: Shard;
  readonly threads?: number;
  readonly progress?: ProgressDisplay;
  /** Stops at once. */
  readonly signal?: AbortSignal;
  /** Asked between requests; true ends the run after the rows so far are on disk. */
  readonly stopping?: () => boolean;
}

export interface StudyRun {
  readonly dir: string;
  readonly planned: number;
  readonly computed: number;
  readonly skipped: number;
  readonly failed: number;
  /** False when it was stopped before the end. */
  readonly finished: boolean;
  readonly stats: RunStats;
}

/** Experiments of the study that `only` leaves, in the order in which they run. */
export function selectedExperiments(study: Study, only?: readonly ExperimentName[]): ExperimentName[] {
  const present = experimentNames.filter((experiment) => study.experiments[experiment] !== undefined);
  for (const wanted of only ?? []) {
    if (!present.includes(wanted)) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `only: the study has no experiment '${wanted}'; it has ${present.join(', ')}`,
      );
    }
  }
  return present.filter((experiment) => only === undefined || only.includes(experiment));
}

/**
 * Runs a study whose paths are resolved (`withPathsFrom`); continues it when the directory holds part of it.
 * @throws what opening checkpoints, reading data and keeping the ledger throw; ABORTED.
 */
export async function runStudy(study: Study, options: StudyRunOptions): Promise<StudyRun> {
  const progress = options.progress ?? silent;
  const selected = selectedExperiments(study, options.only);
  await using engine = await Engine.open(options.threads === undefined ? {} : { threads: options.threads });
  const opened = await openModels(engine, study, selected);
  const data = await readData(study, selected);
  const prepared = await prepare(engine, study, selected, opened, data);
  using run = new RunDir(options.out, prepared.record, options.shard);
  const total = { planned: 0, computed: 0, skipped: 0, failed: 0, finished: true, stats: emptyStats };

  const runPlan = async (plan: Plan): Promise<Observation[]> => {
    const observed: Observation[] = [];
    if (!total.finished) return observed;
    progress.start(plan.experiment, plan.trials);
    const keys: { key: string; meta: JsonObject }[] = [];
    const summary = await execute({
      engine,
      ledger: run.ledger,
      plan,
      planLog: {
        append: (rows) => {
          run.planLog.append(rows);
          keys.push(...rows);
        },
      },
      fingerprint: prepared.fingerprint,
      limits: limitsFor(prepared.decoder),
      shard: options.shard ?? wholeRun,
      progress,
      ...(options.signal ? { signal: options.signal } : {}),
      ...(options.stopping ? { stopping: options.stopping } : {}),
    });
    progress.finish();
    total.planned += summary.planned;
    total.computed += summary.computed;
    total.skipped += summary.skipped;
    total.failed += summary.failed;
    total.finished = summary.finished;
    total.stats = addStats(total.stats, summary.stats);
    return keys.map(({ key, meta }) => ({ key, meta, row: run.ledger.rows.get(key) }));
  };
  const measure = async (title: string, measurements: readonly Measurement[]): Promise<void> => {
    // Comparisons of weights are not split: shard 0 makes them.
    if (!total.finished || (options.shard?.index ?? 0) !== 0 || measurements.length === 0) return;
    progress.start(title, measurements.length);
    const { taken, failed } = await takeMeasurements(measurements, run, (done) => progress.update({ done }));
    progress.finish();
    total.planned += measurements.length;
    total.computed += taken;
    total.skipped += measurements.length - taken;
    total.failed += failed;
    if (options.stopping?.()) total.finished = false;
  };
  for (const step of prepared.steps) await step(runPlan, measure);
  return { dir: resolve(options.out), ...total };
}

interface Opened {
  readonly models: ReadonlyMap<string, PlanModel>;
  readonly records: readonly RunModel[];
}

/** Opens every model that a selected experiment names. */
async function openModels(engine: Engine, study: Study, selected: readonly ExperimentName[]): Promise<Opened> {
  const wanted = new Set(selected.flatMap((experiment) => modelsOf(study, experiment)));
  const models = new Map<string, PlanModel>();
  const records: RunModel[] = [];
  for (const [name, dir] of Object.entries(study.models)) {
    if (!wanted.has(name)) continue;
    const { layers, config } = await engine.addModel(name, dir);
    models.set(name, { name, layers, heads: config.decoder.heads });
    records.push({ name, dir: resolve(dir), fingerprint: folderFingerprint(dir), layers });
  }
  return { models, records };
}

export function modelsOf({ experiments }: Study, experiment: ExperimentName): string[] {
  const { localize, attend, characterize, transfer, freeze } = experiments;
  switch (experiment) {
    case 'localize':
      return [...(localize?.vision?.models ?? []), ...(localize?.reasoning?.models ?? [])];
    case 'attend':
      return [...(attend?.models ?? [])];
    case 'characterize':
      return characterize ? [...characterize.models, ...(characterize.control ? [characterize.control] : [])] : [];
    case 'transfer':
      return transfer ? [transfer.in, transfer.rl] : [];
    case 'freeze':
      return freeze ? [freeze.before, ...freeze.controls, freeze.full, ...Object.keys(freeze.frozen)] : [];
    default:
      return experiment satisfies never;
  }
}

interface StudyData {
  readonly items: readonly QuestionItem[];
  readonly pairs: readonly SwapPair[];
  readonly groups: TaskGroups;
}

async function readData(study: Study, selected: readonly ExperimentName[]): Promise<StudyData> {
  const { data, experiments } = study;
  const rules = { rules: data.rules };
  const needsPairs = selected.includes('localize') && experiments.localize?.vision !== undefined;
  const needsItems =
    (selected.includes('localize') && experiments.localize?.reasoning !== undefined) ||
    (['attend', 'transfer', 'freeze'] as const).some((name) => selected.includes(name));
  const items = needsItems ? await readItems(data.items!, rules) : [];
  const pairs = needsPairs ? await readPairs(data.pairs!, rules) : [];
  return { items, pairs, groups: data.groups ?? groupsOf(items) };
}

type RunPlan = (plan: Plan) => Promise<Observation[]>;
type TakeAll = (title: string, measurements: readonly Measurement[]) => Promise<void>;

interface Prepared {
  readonly record: RunRecord;
  readonly fingerprint: (model: string) => string;
  readonly decoder: Pick<DecoderConfig, 'layers' | 'kvHeads' | 'headDim'>;
  readonly steps: readonly ((runPlan: RunPlan, measure: TakeAll) => Promise<void>)[];
}

/** Plans of all selected experiments and the facts their analysis needs; nothing is run yet. */
async function prepare(
  engine: Engine,
  study: Study,
  selected: readonly ExperimentName[],
  { models, records }: Opened,
  data: StudyData,
): Promise<Prepared> {
  const [first] = records;
  if (!first) throw new GalvaniError('BAD_CONFIG', 'the study opens no model');
  requireSameTokens(engine, records, data);
  const { decoder } = engine.model(first.name).config;
  const layers = decoder.layers;
  const cuts: Cuts = study.cuts ?? defaultCuts(layers);
  const fingerprints = new Map(records.map(({ name, fingerprint }) => [name, fingerprint]));
  const fingerprint = (model: string): string => fingerprints.get(model)!;
  const context = (maxTokens: number | undefined): PlanContext => ({
    prompter: new Prompter(
      engine.processor(first.name),
      { ...study.protocol, ...(maxTokens === undefined ? {} : { maxTokens }) },
      study.seed,
    ),
    seed: study.seed,
    controls: study.controls,
  });
  const named = (names: readonly string[]): PlanModel[] => names.map((name) => models.get(name)!);
  const draw = drawer(study.seed);
  const steps: Prepared['steps'][number][] = [];
  const facts: Record<string, unknown> = { layers, cuts, regions: regions(layers, cuts) };
  if (data.items.length > 0) facts.groups = data.groups;
  const { localize, attend, characterize, transfer, freeze } = study.experiments;

  if (selected.includes('localize') && localize?.vision) {
    const { vision } = localize;
    const pairs = draw(data.pairs, vision);
    facts.flaws = flawsOf(pairs);
    const plan = planLocalizeVision(context(vision.maxTokens), { ...vision, models: named(vision.models), pairs });
    steps.push(async (runPlan) => void (await runPlan(plan)));
  }
  if (selected.includes('localize') && localize?.reasoning) {
    const { reasoning } = localize;
    const fitting = inGroups(data, ['visualReasoning', 'textReasoning']);
    const items = draw(reasoning.tasks ? data.items : fitting, reasoning);
    const plan = planLocalizeReasoning(context(reasoning.maxTokens), {
      ...reasoning,
      models: named(reasoning.models),
      items,
    });
    steps.push(async (runPlan) => void (await runPlan(plan)));
  }
  if (selected.includes('attend') && attend) {
    const seeing = data.items.filter(({ image }) => image !== undefined);
    const fitting = inGroups(data, ['visualReasoning']);
    const items = draw(attend.tasks || fitting.length === 0 ? seeing : fitting, attend);
    const attendOptions = { models: named(attend.models), items, writer: attend.writer };
    const own = context(attend.maxTokens);
    steps.push(async (runPlan) => {
      const texts = await runPlan(planAttendTexts(own, attendOptions));
      await runPlan(planAttend(own, attendOptions, texts));
    });
  }
  if (selected.includes('characterize') && characterize) {
    const measurements = await characterizeMeasurements(study.models, characterize, {
      fingerprint,
      cuts,
      seed: study.seed,
    });
    steps.push(async (_, measure) => measure('characterize', measurements));
  }
  if (selected.includes('transfer') && transfer) {
    const grafts = transferGrafts({
      totalLayers: layers,
      policy: transfer.policy,
      cuts,
      parents: { in: transfer.in, rl: transfer.rl },
    });
    for (const { name, graft } of grafts) {
      engine.addGraft(name, graft);
      fingerprints.set(name, graftFingerprint(graft, fingerprint));
    }
    facts.transfer = transferFacts(grafts, transfer.policy, cuts);
    const items = draw(data.items, transfer);
    const plan = planTransfer(context(transfer.maxTokens), { grafts, items, groups: data.groups });
    steps.push(async (runPlan) => void (await runPlan(plan)));
  }
  if (selected.includes('freeze') && freeze) {
    const measurements = await freezeMeasurements(study.models, freeze, { fingerprint, cuts });
    const items = draw(data.items, freeze);
    const plan = planFreeze(context(freeze.maxTokens), {
      models: [...new Set(modelsOf(study, 'freeze'))],
      items,
      groups: data.groups,
    });
    steps.push(async (runPlan, measure) => {
      await measure('freeze check', measurements);
      await runPlan(plan);
    });
  }
  const record: RunRecord = {
    format: 1,
    galvani: packageVersion(),
    node: process.versions.node,
    definition: asJson(study) as JsonObject,
    models: records,
    data: {
      ...(data.items.length > 0 ? { items: contentKey(data.items) } : {}),
      ...(data.pairs.length > 0 ? { pairs: contentKey(data.pairs) } : {}),
    },
    facts: asJson(facts) as JsonObject,
  };
  return { record, fingerprint, decoder, steps };
}

function transferFacts(grafts: readonly NamedGraft[], policy: string, cuts: Cuts): unknown {
  return { policy, cuts, models: grafts.map(({ name, description }) => ({ name, description })) };
}

function inGroups({ items, groups }: StudyData, wanted: readonly (keyof TaskGroups)[]): QuestionItem[] {
  return items.filter((item) => {
    const group = groupOf(item, groups);
    return group !== undefined && wanted.includes(group);
  });
}

/** @throws BAD_ARGUMENT when a wanted task has no item, or nothing is left. */
function drawer(seed: number) {
  return <T extends { readonly id: string; readonly task: string }>(
    found: readonly T[],
    {
      tasks,
      itemsPerTask,
    }: { readonly tasks?: readonly string[] | undefined; readonly itemsPerTask?: number | undefined },
  ): readonly T[] => {
    requireTasks(found, tasks ?? []);
    const own = tasks ? found.filter(({ task }) => tasks.includes(task)) : found;
    if (own.length === 0) throw new GalvaniError('BAD_ARGUMENT', 'items: none fits this experiment; name its tasks');
    return itemsPerTask === undefined ? own : subsetPerTask(own, itemsPerTask, seed).items;
  };
}

/** One tokenisation for all models of a study: otherwise they would not be asked the same question. */
function requireSameTokens(engine: Engine, models: readonly RunModel[], { items, pairs }: StudyData): void {
  const [first, ...others] = models.map(({ name }) => name);
  const texts = [...items, ...pairs].slice(0, 200).map(({ question }) => question);
  const ids = (model: string, text: string): string => engine.processor(model).tokenizer.encode(text).join(' ');
  for (const other of others) {
    const text = texts.find((sample) => ids(first!, sample) !== ids(other, sample));
    if (text !== undefined) {
      throw new GalvaniError(
        'BAD_CONFIG',
        `models: '${first}' and '${other}' tokenise '${text}' differently; a study needs models of one tokenizer`,
      );
    }
  }
}

export function packageVersion(): string {
  const path = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
}
