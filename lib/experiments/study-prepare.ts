/** A study's experiments, planned: opens the models they name, reads their data, draws their items. Nothing runs here. */

import { writeAtomic } from '../checkpoint/files.js';
import { blockGraft, type Cuts, defaultCuts, paperGrafts, regions } from '../checkpoint/graft.js';
import type { QuestionItem } from '../data/items.js';
import { Engine } from '../engine.js';
import { GalvaniError } from '../errors.js';
import type { DecoderConfig } from '../models/family.js';
import { graftFingerprint } from '../run/fingerprint.js';
import { contentKey } from '../run/key.js';
import type { Measurement } from '../run/measurements.js';
import { packageVersion } from '../run/package.js';
import type { Plan } from '../run/plan.js';
import type { ProgressDisplay } from '../run/progress.js';
import type { JsonObject, Observation } from '../run/rows.js';
import { asJson, type RunRecord } from '../run/run-dir.js';
import { groupOf, type TaskGroups, taskGroups } from './answers.js';
import { planAttend, planAttendTexts } from './attend.js';
import { chosenForPictures, pictureMeasurements } from './attend-pictures.js';
import { characterizeMeasurements } from './characterize.js';
import { byTask, type PlanContext, type PlanModel } from './context.js';
import { freezeMeasurements, planFreeze } from './freeze.js';
import { planLocalizeReasoning } from './localize-reasoning.js';
import { flawsOf, planLocalizeVision } from './localize-vision.js';
import { Prompter } from './prompter.js';
import { planReferenceAppend, planReferencePrompts, publishedName, styleOf } from './reference.js';
import {
  type Describing,
  type DrawnSubset,
  describeData,
  describeLater,
  drawer,
  inGroups,
  readData,
  type StudyData,
} from './study-data.js';
import { type ExperimentName, type PromptText, policiesOf, type Study, selectedExperiments } from './study-file.js';
import { prepareInterpolation } from './study-interpolate.js';
import { modelsOf, type Opened, openModels, requireSameTokens } from './study-open.js';
import { planTransfer, transferModels } from './transfer.js';

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
  /** Items whose description is yet to be written by a model or an endpoint: known to a plan, none in a run. */
  readonly toDescribe: number;
}

export interface PrepareOptions {
  /** Items in random order: a sample of the first few then stands for all. */
  readonly shuffled?: boolean;
  /** How comparisons of weights are run. */
  readonly weights?: Pick<Parameters<typeof characterizeMeasurements>[2], 'signal' | 'threads' | 'within'>;
  /** How descriptions that the study has written are had. Absent: a stand-in takes their place. */
  readonly describe?: Pick<Describing, 'cache' | 'progress' | 'signal' | 'shard'>;
}

/** Opens what the selected experiments need and plans them; of all of it only descriptions are run and written. */
export async function prepareStudy(
  engine: Engine,
  study: Study,
  selected: readonly ExperimentName[],
  options: PrepareOptions = {},
): Promise<PreparedStudy> {
  const read = await readData(study, selected);
  const writes = options.describe !== undefined && read.items.length > 0 && study.data.descriptions !== undefined;
  const writer = writes ? describer(study) : undefined;
  const opened = await openModels(engine, study, selected, writer === undefined ? [] : [writer]);
  if (options.describe) {
    if (!writes) return prepare(engine, study, selected, opened, read, options);
    const data = await describeWith(engine, study, opened, read, options.describe);
    return prepare(engine, study, selected, opened, data, options);
  }
  const { data, toDescribe } = describeLater(study, read);
  const prepared = await prepare(engine, study, selected, opened, data, options);
  return { ...prepared, toDescribe };
}

/** The model of the study that writes its descriptions, if one does. */
function describer({ data: { descriptions } }: Study): string | undefined {
  return descriptions && 'model' in descriptions ? descriptions.model : undefined;
}

function describeWith(
  engine: Engine,
  study: Study,
  { records }: Opened,
  data: StudyData,
  options: NonNullable<PrepareOptions['describe']>,
): Promise<StudyData> {
  return describeData(study, data, {
    ...options,
    engine,
    asker: new Prompter(engine.processor(records[0]!.name), { maxTokens: study.protocol.maxTokens }, study.seed),
    fingerprint: (model) => records.find(({ name }) => name === model)!.fingerprint,
  });
}

/**
 * Writes {id, description} lines for the items whose descriptions the study has written; what was written is kept in
 * `<file>.cache`. Returns how many lines.
 */
export async function describeStudy(
  study: Study,
  options: { readonly file: string; readonly threads?: number; readonly progress: ProgressDisplay },
): Promise<number> {
  const source = study.data.descriptions;
  if (source === undefined || 'file' in source) {
    throw new GalvaniError('BAD_CONFIG', 'data.descriptions: expected a model or an endpoint that writes descriptions');
  }
  await using engine = await Engine.open(options.threads === undefined ? {} : { threads: options.threads });
  const opened = await openModels(engine, study, [], [describer(study) ?? Object.keys(study.models)[0]!]);
  const data = await readData(study, selectedExperiments(study));
  const { file, progress } = options;
  const described = await describeWith(engine, study, opened, data, { cache: `${file}.cache`, progress });
  const before = new Map(data.items.map((item) => [item.id, item.description]));
  const rows = described.items.filter(({ id, description }) => description !== before.get(id));
  writeAtomic(file, rows.map(({ id, description }) => `${JSON.stringify({ id, description })}\n`).join(''));
  return rows.length;
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
  const subsets: Record<string, DrawnSubset> = {};
  const draw = drawer(study.seed, subsets, options.shuffled ?? false);
  const steps: StudyStep[] = [];
  const facts: Record<string, unknown> = { layers, cuts, regions: regions(layers, cuts) };
  if (data.items.length > 0) facts.groups = data.groups;
  const { localize, attend, characterize, transfer, freeze, reference } = study.experiments;

  if (selected.includes('localize') && localize?.vision) {
    const { vision } = localize;
    const pairs = draw('localize.vision', data.pairs, vision);
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
    const items = draw('localize.reasoning', reasoning.tasks ? data.items : fitting, reasoning);
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
    const items = draw('attend', attend.tasks || fitting.length === 0 ? seeing : fitting, attend);
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
    const items = draw('transfer', data.items, transfer);
    const plan = planTransfer(context(transfer.maxTokens), {
      models: variants,
      items,
      groups: data.groups,
      ...(transfer.conditions ? { conditions: transfer.conditions } : {}),
    });
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
    const { interpolate } = transfer;
    if (interpolate) {
      const own = draw('transfer.interpolate', items, interpolate);
      const { curves, step } = prepareInterpolation(engine, {
        transfer: { ...transfer, interpolate },
        totalLayers: layers,
        cuts,
        variants,
        fingerprints,
        context: context(transfer.maxTokens),
        items: own,
        groups: data.groups,
        sizes: perGroup(own, data.groups),
      });
      facts.transfer = { ...(facts.transfer as object), curves };
      steps.push(step);
    }
  }
  if (selected.includes('freeze') && freeze) {
    const measurements = await freezeMeasurements(study.models, freeze, { fingerprint, cuts });
    const items = draw('freeze', data.items, freeze);
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
      const pairs = draw('reference.swap', data.pairs, {
        ...reference,
        tasks: tasksIn(data.pairs, reference.tasks),
      });
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
      const items = draw('reference.prompts', tasks ? data.items : fitting, { ...reference, tasks });
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
  if (data.sources.length > 0) facts.sources = data.sources;
  if (Object.keys(subsets).length > 0) facts.subsets = subsets;
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
  return { record, fingerprint, decoder, steps, toDescribe: 0 };
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

/** Items of every task, in order of first appearance. */
function perTask(items: readonly { readonly task: string }[]): (readonly [task: string, n: number])[] {
  return [...byTask(items)].map(([task, own]) => [task, own.length] as const);
}

function perGroup(items: readonly QuestionItem[], groups: TaskGroups): (readonly [group: string, n: number])[] {
  return taskGroups
    .map((group) => [group, items.filter((item) => groupOf(item, groups) === group).length] as const)
    .filter(([, n]) => n > 0);
}
