/** A study's experiments, planned: opens the models they name, reads their data, draws their items. Nothing runs here. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { blockGraft, type Cuts, defaultCuts, paperGrafts, regions } from '../checkpoint/graft.js';
import { readLayout } from '../checkpoint/layout.js';
import { type QuestionItem, readItems, readPairs, type SwapPair, subsetPerTask } from '../data/items.js';
import type { Engine } from '../engine.js';
import { GalvaniError } from '../errors.js';
import type { DecoderConfig } from '../models/family.js';
import { folderFingerprint, graftFingerprint } from '../run/fingerprint.js';
import { contentKey } from '../run/key.js';
import type { Measurement } from '../run/measurements.js';
import type { Plan } from '../run/plan.js';
import type { JsonObject, Observation } from '../run/rows.js';
import { asJson, type RunModel, type RunRecord } from '../run/run-dir.js';
import { groupOf, groupsOf, type TaskGroups, taskGroups } from './answers.js';
import { planAttend, planAttendTexts } from './attend.js';
import { chosenForPictures, pictureMeasurements } from './attend-pictures.js';
import { characterizeMeasurements } from './characterize.js';
import { byTask, type PlanContext, type PlanModel } from './context.js';
import { freezeMeasurements, planFreeze } from './freeze.js';
import { planLocalizeReasoning } from './localize-reasoning.js';
import { flawsOf, planLocalizeVision, requireTasks } from './localize-vision.js';
import { Prompter } from './prompter.js';
import { planReferenceAppend, planReferencePrompts, publishedName, styleOf } from './reference.js';
import { type ExperimentName, type PromptText, policiesOf, type Study } from './study-file.js';
import { planTransfer, transferModels } from './transfer.js';

interface Opened {
  readonly models: ReadonlyMap<string, PlanModel>;
  readonly records: readonly RunModel[];
  /** Of the first model; the numbers of heads are 0 where its family is not known. */
  readonly decoder: Pick<DecoderConfig, 'layers' | 'kvHeads' | 'headDim'>;
}

/**
 * Opens every model that a selected experiment names. When weights are only compared, nothing needs to run: then any
 * family will do, and a folder needs no tokenizer.
 */
async function openModels(engine: Engine, study: Study, selected: readonly ExperimentName[]): Promise<Opened> {
  const weightsOnly = selected.every((experiment) => experiment === 'characterize');
  const wanted = new Set(selected.flatMap((experiment) => modelsOf(study, experiment)));
  const models = new Map<string, PlanModel>();
  const records: RunModel[] = [];
  let first: Opened['decoder'] | undefined;
  for (const [name, dir] of Object.entries(study.models)) {
    if (!wanted.has(name)) continue;
    const { layers, decoder } = weightsOnly ? readLayout(dir) : await addModel(engine, name, dir);
    models.set(name, { name, layers, heads: decoder?.heads ?? 0 });
    records.push({ name, dir: resolve(dir), fingerprint: folderFingerprint(dir), layers });
    first ??= { layers, kvHeads: decoder?.kvHeads ?? 0, headDim: decoder?.headDim ?? 0 };
  }
  if (!first) throw new GalvaniError('BAD_CONFIG', 'the study opens no model');
  return { models, records, decoder: first };
}

async function addModel(
  engine: Engine,
  name: string,
  dir: string,
): Promise<{ layers: number; decoder: DecoderConfig }> {
  const { layers, config } = await engine.addModel(name, dir);
  return { layers, decoder: config.decoder };
}

export function modelsOf({ experiments }: Study, experiment: ExperimentName): string[] {
  const { localize, attend, characterize, transfer, freeze, reference } = experiments;
  switch (experiment) {
    case 'localize':
      return [...(localize?.vision?.models ?? []), ...(localize?.reasoning?.models ?? [])];
    case 'attend':
      return [...(attend?.models ?? [])];
    case 'characterize':
      return characterize ? [...characterize.models, ...(characterize.control ? [characterize.control] : [])] : [];
    case 'transfer':
      return transfer ? [transfer.in, transfer.rl, ...transfer.also] : [];
    case 'freeze':
      return freeze ? [freeze.before, ...freeze.controls, freeze.full, ...Object.keys(freeze.frozen)] : [];
    case 'reference': {
      const parents = reference?.prompts && transfer ? [transfer.in, transfer.rl] : [];
      return [...(reference?.swap ? [reference.swap] : []), ...parents];
    }
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
  const published = selected.includes('reference') ? experiments.reference : undefined;
  const needsPairs =
    (selected.includes('localize') && experiments.localize?.vision !== undefined) || published?.swap !== undefined;
  const needsItems =
    (selected.includes('localize') && experiments.localize?.reasoning !== undefined) ||
    (['attend', 'transfer', 'freeze'] as const).some((name) => selected.includes(name)) ||
    published?.prompts !== undefined;
  const items = needsItems ? await readItems(data.items!, rules) : [];
  const pairs = needsPairs ? await readPairs(data.pairs!, rules) : [];
  return { items, pairs, groups: data.groups ?? groupsOf(items) };
}

export type RunPlan = (plan: Plan) => Promise<Observation[]>;
export type TakeAll = (title: string, measurements: readonly Measurement[]) => Promise<void>;

/** A family of paired tests that an experiment will make: on n items each, adjusted over `tests`. */
export interface TestFamily {
  readonly what: string;
  readonly n: number;
  readonly tests: number;
}

export interface StudyStep {
  readonly experiment: ExperimentName;
  /** In words: what is run, on what. */
  readonly text: string;
  readonly families: readonly TestFamily[];
  readonly run: (runPlan: RunPlan, measure: TakeAll) => Promise<void>;
}

export interface PreparedStudy {
  readonly record: RunRecord;
  readonly fingerprint: (model: string) => string;
  readonly decoder: Pick<DecoderConfig, 'layers' | 'kvHeads' | 'headDim'>;
  readonly steps: readonly StudyStep[];
}

export interface PrepareOptions {
  /** Items in random order: a sample of the first few then stands for all. */
  readonly shuffled?: boolean;
  /** How comparisons of weights are run. */
  readonly weights?: Pick<Parameters<typeof characterizeMeasurements>[2], 'signal' | 'threads' | 'within'>;
}

/** Opens what the selected experiments need and plans them; nothing is run and nothing written. */
export async function prepareStudy(
  engine: Engine,
  study: Study,
  selected: readonly ExperimentName[],
  options: PrepareOptions = {},
): Promise<PreparedStudy> {
  const opened = await openModels(engine, study, selected);
  const data = await readData(study, selected);
  return prepare(engine, study, selected, opened, data, options);
}

/** Plans of all selected experiments and the facts their analysis needs; nothing is run yet. */
async function prepare(
  engine: Engine,
  study: Study,
  selected: readonly ExperimentName[],
  { models, records, decoder }: Opened,
  data: StudyData,
  options: PrepareOptions,
): Promise<PreparedStudy> {
  const first = records[0]!;
  requireSameTokens(engine, records, data);
  const { layers } = decoder;
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
  const draw = drawer(study.seed, options.shuffled ?? false);
  const steps: StudyStep[] = [];
  const facts: Record<string, unknown> = { layers, cuts, regions: regions(layers, cuts) };
  if (data.items.length > 0) facts.groups = data.groups;
  const { localize, attend, characterize, transfer, freeze, reference } = study.experiments;

  if (selected.includes('localize') && localize?.vision) {
    const { vision } = localize;
    const pairs = draw(data.pairs, vision);
    facts.flaws = flawsOf(pairs);
    const plan = planLocalizeVision(context(vision.maxTokens), { ...vision, models: named(vision.models), pairs });
    steps.push({
      experiment: 'localize',
      text: `swap the image of ${pairs.length} pairs in ${vision.models.join(', ')}: ${vision.modes.join(', ')}`,
      families: perTask(pairs).map(([task, n]) => ({
        what: `change from layer to layer, ${task}`,
        n,
        tests: layers - 1,
      })),
      run: async (runPlan) => void (await runPlan(plan)),
    });
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
    const positions = layers - reasoning.width + 1;
    const what = (task: string): string =>
      `accuracy without ${reasoning.width === 1 ? 'a layer' : 'a window'}, ${task}`;
    steps.push({
      experiment: 'localize',
      text: `leave out ${reasoning.parts.join(', ')} of every layer on ${items.length} questions in ${reasoning.models.join(', ')}`,
      families: [...perTask(items), ['all tasks', items.length] as const].map(([task, n]) => ({
        what: what(task),
        n,
        tests: positions,
      })),
      run: async (runPlan) => void (await runPlan(plan)),
    });
  }
  if (selected.includes('attend') && attend) {
    const seeing = data.items.filter(({ image }) => image !== undefined);
    const fitting = inGroups(data, ['visualReasoning']);
    const items = draw(attend.tasks || fitting.length === 0 ? seeing : fitting, attend);
    const shown = chosenForPictures(items, attend.pictures, study.seed);
    const pictures = shown.map(({ id }) => id);
    const attendOptions = { models: named(attend.models), items, writer: attend.writer, pictures };
    const own = context(attend.maxTokens);
    steps.push({
      experiment: 'attend',
      text: `attention of ${attend.models.join(', ')} while they read ${items.length} answers, the text of ${attend.writer} and their own`,
      families: [],
      run: async (runPlan, measure) => {
        await measure('attend: pictures', pictureMeasurements(shown));
        const texts = await runPlan(planAttendTexts(own, attendOptions));
        await runPlan(planAttend(own, attendOptions, texts));
      },
    });
  }
  if (selected.includes('characterize') && characterize) {
    const measurements = characterizeMeasurements(study.models, characterize, {
      fingerprint,
      cuts,
      seed: study.seed,
      ...options.weights,
    });
    steps.push({
      experiment: 'characterize',
      text: `compare every tensor of ${characterize.models.join(' → ')}${characterize.control ? `, and of the control ${characterize.control}` : ''}`,
      families: [],
      run: (_, measure) => measure('characterize', measurements),
    });
  }
  if (selected.includes('transfer') && transfer) {
    const policies = policiesOf(transfer);
    const variants = transferModels({
      totalLayers: layers,
      cuts,
      policies,
      parents: { in: transfer.in, rl: transfer.rl },
      random: study.controls.random,
      seed: study.seed,
      also: transfer.also,
    });
    for (const { opened, graft } of variants) {
      if (!graft) continue;
      engine.addGraft(opened, graft);
      fingerprints.set(opened, graftFingerprint(graft, fingerprint));
    }
    facts.transfer = { cuts, models: variants.map(({ meta, description }) => ({ ...meta, description })) };
    const items = draw(data.items, transfer);
    const plan = planTransfer(context(transfer.maxTokens), { models: variants, items, groups: data.groups });
    steps.push({
      experiment: 'transfer',
      text: `${variants.length} models (grafts of ${transfer.in} and ${transfer.rl}, policies ${policies.join(', ')}) answer ${items.length} questions`,
      families: perGroup(items, data.groups).map(([group, n]) => ({
        what: `a graft against IN, ${group}`,
        n,
        tests: 7,
      })),
      run: async (runPlan) => void (await runPlan(plan)),
    });
  }
  if (selected.includes('freeze') && freeze) {
    const measurements = await freezeMeasurements(study.models, freeze, { fingerprint, cuts });
    const items = draw(data.items, freeze);
    const names = [...new Set(modelsOf(study, 'freeze'))];
    const plan = planFreeze(context(freeze.maxTokens), { models: names, items, groups: data.groups });
    steps.push({
      experiment: 'freeze',
      text: `check ${measurements.length} freezes; ${names.join(', ')} answer ${items.length} questions`,
      families: perGroup(items, data.groups).map(([group, n]) => ({
        what: `a run against ${freeze.full}, ${group}`,
        n,
        tests: names.length - 1,
      })),
      run: async (runPlan, measure) => {
        await measure('freeze check', measurements);
        await runPlan(plan);
      },
    });
  }
  if (selected.includes('reference') && reference) {
    const { swap, prompts } = reference;
    const plans: Plan[] = [];
    const own = context(reference.maxTokens);
    if (swap) {
      const pairs = draw(data.pairs, { ...reference, tasks: tasksIn(data.pairs, reference.tasks) });
      plans.push(planReferenceAppend(own, { model: models.get(swap)!, pairs }));
    }
    if (prompts && transfer) {
      const parents = { in: transfer.in, rl: transfer.rl };
      const [policy] = policiesOf(transfer);
      const grafts = Object.keys(paperGrafts).map((model) => {
        // The same table as that of the transfer experiment; opened here when that is not part of this run.
        if (!fingerprints.has(model)) {
          const graft = blockGraft({ blocks: model, totalLayers: layers, policy: policy!, names: parents, cuts });
          engine.addGraft(model, graft);
          fingerprints.set(model, graftFingerprint(graft, fingerprint));
        }
        return { model, style: styleOf(publishedName(model, parents)) };
      });
      const asker = (text: PromptText): Prompter =>
        new Prompter(engine.processor(first.name), { ...own.prompter.protocol, ...defined(text) }, study.seed);
      const askers = { plain: own.prompter, boxed: asker(prompts.boxed), reasoner: asker(prompts.reasoner) };
      const fitting = inGroups(data, ['visualReasoning', 'textReasoning']);
      const tasks = tasksIn(data.items, reference.tasks);
      const items = draw(tasks ? data.items : fitting, { ...reference, tasks });
      plans.push(planReferencePrompts(askers, { grafts, items }));
    }
    steps.push({
      experiment: 'reference',
      text: `the published protocol, deviation by deviation: ${reference.deviations.join(', ')}`,
      families: [],
      run: async (runPlan) => {
        for (const plan of plans) await runPlan(plan);
      },
    });
  }
  const record: RunRecord = {
    format: 1,
    galvani: packageFile().version,
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

function inGroups({ items, groups }: StudyData, wanted: readonly (keyof TaskGroups)[]): QuestionItem[] {
  return items.filter((item) => {
    const group = groupOf(item, groups);
    return group !== undefined && wanted.includes(group);
  });
}

/** Of the wanted tasks those that are here: questions and pairs have some tasks each. undefined: all. */
function tasksIn(
  found: readonly { readonly task: string }[],
  wanted: readonly string[] | undefined,
): readonly string[] | undefined {
  const here = wanted?.filter((task) => found.some((one) => one.task === task));
  return here && here.length > 0 ? here : undefined;
}

function defined<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

/** @throws BAD_ARGUMENT when a wanted task has no item, or nothing is left. */
function drawer(seed: number, shuffled: boolean) {
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
    const drawn = itemsPerTask === undefined ? own : subsetPerTask(own, itemsPerTask, seed).items;
    const order = ({ id }: T): string => contentKey([seed, id]);
    return shuffled ? [...drawn].sort((a, b) => (order(a) < order(b) ? -1 : 1)) : drawn;
  };
}

/** Items of every task, in order of first appearance. */
function perTask(items: readonly { readonly task: string }[]): (readonly [task: string, n: number])[] {
  return [...byTask(items)].map(([task, own]) => [task, own.length] as const);
}

function perGroup(items: readonly QuestionItem[], groups: TaskGroups): (readonly [group: string, n: number])[] {
  return taskGroups
    .map((group) => [group, items.filter((item) => groupOf(item, groups) === group).length] as const)
    .filter(([, n]) => n > 0);
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
  return packageFile().version;
}

interface PackageFile {
  readonly version: string;
  /** Pinned exactly. */
  readonly dependencies: Readonly<Record<string, string>>;
}

export function packageFile(): PackageFile {
  const path = new URL('../../package.json', import.meta.url);
  return JSON.parse(readFileSync(path, 'utf8')) as PackageFile;
}
