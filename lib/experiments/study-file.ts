/** The study file: one YAML document that says which checkpoints, which questions, which experiments. See docs/study.md. */
import { readFileSync } from 'node:fs';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { type BlendComponent, type BlendRegion, blendComponents, blendRegions } from '../checkpoint/blend.js';
import { type NonLayerPolicy, nonLayerPolicies, type RegionName, regionNames } from '../checkpoint/graft.js';
import { type DatasetSpec, datasetsFrom, datasetsSchema } from '../data/dataset.js';
import { ruleSchema } from '../data/rules.js';
import { GalvaniError } from '../errors.js';
import { type SwapMode, swapModes } from '../hooks/interventions.js';
import type { MatchRule } from '../types.js';
import type { TaskGroups } from './answers.js';
import { type Controls, noControls } from './context.js';
import { type DescriptionSource, descriptionSchema } from './describe.js';
import { type AblatedPart, ablatedParts } from './localize-reasoning.js';
import { type Sight, sights } from './prompter.js';
import { type Protocol, protocolSchema, resolveProtocol } from './protocol.js';
import { type DeviationName, deviations } from './reference.js';
import { defaultInterpolation, type Interpolation } from './transfer-interpolate.js';

/** How many items of which tasks; `tasks` absent: all that fit the experiment. */
interface Draw {
  readonly tasks?: readonly string[] | undefined;
  /** Items of every task, drawn with the study's seed. Default: all. */
  readonly itemsPerTask?: number | undefined;
  /** Overrides the protocol's. */
  readonly maxTokens?: number | undefined;
}

export interface VisionStudy extends Draw {
  readonly models: readonly string[];
  readonly modes: readonly SwapMode[];
  readonly width: number;
  readonly heads?: readonly number[] | undefined;
  readonly resize: 'refuse' | 'source';
}

export interface ReasoningStudy extends Draw {
  readonly models: readonly string[];
  readonly parts: readonly AblatedPart[];
  readonly width: number;
}

export interface AttendStudy extends Draw {
  readonly models: readonly string[];
  readonly writer: string;
  /** Items whose attention is drawn over their picture. */
  readonly pictures: number;
}

export interface CharacterizeStudy {
  /** Two or three checkpoints in the order of training. */
  readonly models: readonly string[];
  /** A second pair, such as more SFT in place of RL, for comparison. */
  readonly control?: string | undefined;
  /** Every singular value; 'top': the leading ones only, in a few passes; false: none. */
  readonly spectra: boolean | 'top';
  /** Dimension of the leading singular subspaces that are compared; 0: none. */
  readonly subspace: number;
  /** Where the sums and Gram matrices are computed. */
  readonly device: 'cpu' | 'cuda';
}

export interface TransferStudy extends Draw {
  readonly in: string;
  readonly rl: string;
  /** One, or several as a factor. */
  readonly policy: NonLayerPolicy | readonly NonLayerPolicy[];
  /** Further models, measured beside the grafts. */
  readonly also: readonly string[];
  /** Conditions of sight beside those the ability measures need, for every item with an image. */
  readonly conditions?: readonly Sight[] | undefined;
  /** Step by step from IN to RL; its items are drawn from the experiment's. */
  readonly interpolate?: (Interpolation & Omit<Draw, 'maxTokens'>) | undefined;
}

export function policiesOf({ policy }: Pick<TransferStudy, 'policy'>): readonly NonLayerPolicy[] {
  return typeof policy === 'string' ? [policy] : [...new Set(policy)];
}

export interface FreezeStudy extends Draw {
  readonly before: string;
  readonly full: string;
  readonly controls: readonly string[];
  /** Model name → the region its training held fixed. */
  readonly frozen: Readonly<Record<string, RegionName>>;
}

export interface ReferenceStudy extends Draw {
  /** The model whose swaps are repeated with the published decode; needs data.pairs. */
  readonly swap?: string | undefined;
  /** Ask the grafts of `transfer` by name, too: what the published styles add to a question. Needs data.items. */
  readonly prompts?: { readonly boxed: PromptText; readonly reasoner: PromptText } | undefined;
  readonly deviations: readonly DeviationName[];
}

/** What a style puts around a question in place of the protocol's own. */
export interface PromptText {
  readonly system?: string | undefined;
  readonly prefix?: string | undefined;
  readonly suffix?: string | undefined;
}

export interface StudyExperiments {
  readonly localize?:
    | { readonly vision?: VisionStudy | undefined; readonly reasoning?: ReasoningStudy | undefined }
    | undefined;
  readonly attend?: AttendStudy | undefined;
  readonly characterize?: CharacterizeStudy | undefined;
  readonly transfer?: TransferStudy | undefined;
  readonly freeze?: FreezeStudy | undefined;
  readonly reference?: ReferenceStudy | undefined;
}
export type ExperimentName = keyof StudyExperiments;
export const experimentNames: readonly ExperimentName[] = [
  'localize',
  'attend',
  'characterize',
  'transfer',
  'freeze',
  'reference',
];

export interface Study {
  readonly name: string;
  readonly description?: string | undefined;
  /** Name → checkpoint folder. */
  readonly models: Readonly<Record<string, string>>;
  readonly data: {
    /** A path, a data set with a declared mapping, a preset, or several. */
    readonly items?: DatasetSpec | readonly DatasetSpec[] | undefined;
    /** Where descriptions of images come from, for items that have none. */
    readonly descriptions?: DescriptionSource | undefined;
    readonly pairs?: string | undefined;
    /** Grading rule by task; overrides the data's own. */
    readonly rules: Readonly<Record<string, MatchRule>>;
    /** Absent: sorted by what the items have (image, description). */
    readonly groups?: TaskGroups | undefined;
  };
  readonly protocol: Protocol;
  readonly seed: number;
  readonly controls: Controls;
  /** First layer of mid and of late. Absent: thirds. */
  readonly cuts?: readonly [number, number] | undefined;
  readonly output?: string | undefined;
  readonly experiments: StudyExperiments;
}

const name = z.string().min(1);
const count = z.int().positive();
const draw = {
  tasks: z.array(name).min(1).optional(),
  itemsPerTask: count.optional(),
  maxTokens: count.optional(),
};
const modelList = z.array(name).min(1);

const vision = z.strictObject({
  ...draw,
  models: modelList,
  modes: z
    .array(z.enum(swapModes as [SwapMode, ...SwapMode[]]))
    .min(1)
    .default(['suffix', 'single']),
  width: count.default(3),
  heads: z.array(z.int().nonnegative()).min(1).optional(),
  resize: z.enum(['refuse', 'source']).default('refuse'),
});

const reasoning = z.strictObject({
  ...draw,
  models: modelList,
  parts: z
    .array(z.enum(ablatedParts as [AblatedPart, ...AblatedPart[]]))
    .min(1)
    .default(['layer']),
  width: count.default(1),
});

const policy = z.enum(nonLayerPolicies as [NonLayerPolicy, ...NonLayerPolicy[]]);
const region = z.enum(regionNames as [RegionName, ...RegionName[]]);

const interpolate = z
  .strictObject({
    alphas: z
      .array(z.number())
      .min(1)
      .refine((alphas) => alphas.some((alpha) => alpha !== 0 && alpha !== 1), {
        error: '0 and 1 are always there; expected another number',
      })
      .default([...defaultInterpolation.alphas]),
    regions: z
      .array(z.enum(blendRegions as [BlendRegion, ...BlendRegion[]]))
      .min(1)
      .default([...defaultInterpolation.regions]),
    components: z
      .array(z.enum(blendComponents as [BlendComponent, ...BlendComponent[]]))
      .min(1)
      .default([...defaultInterpolation.components]),
    tasks: draw.tasks,
    itemsPerTask: draw.itemsPerTask,
  })
  .refine(({ regions, components }) => components.includes('all') || regions.some((region) => region !== 'whole'), {
    error: "region 'whole' goes with component 'all': weights outside the layers have no components",
  });

const promptText = z.strictObject({
  system: z.string().exactOptional(),
  prefix: z.string().exactOptional(),
  suffix: z.string().exactOptional(),
});
const reference = z.strictObject({
  ...draw,
  swap: name.optional(),
  prompts: z
    .strictObject({
      boxed: promptText.default({ suffix: 'Put the final answer in \\boxed{}.' }),
      reasoner: promptText.default({
        system: 'Reason step by step inside <think></think>, then give the final answer inside <answer></answer>.',
      }),
    })
    .optional(),
  deviations: z
    .array(z.enum(deviations))
    .min(1)
    .default([...deviations]),
});

export const studySchema: z.ZodType<Study> = z.strictObject({
  name,
  description: z.string().optional(),
  models: z.record(name, name).refine((models) => Object.keys(models).length > 0, 'expected at least one model'),
  data: z
    .strictObject({
      items: datasetsSchema.optional(),
      descriptions: descriptionSchema.optional(),
      pairs: name.optional(),
      rules: z.record(name, ruleSchema).default({}),
      groups: z
        .strictObject({
          vision: z.array(name).default([]),
          visualReasoning: z.array(name).default([]),
          textReasoning: z.array(name).default([]),
        })
        .optional(),
    })
    .default({ rules: {} }),
  protocol: protocolSchema.default({ maxTokens: 256 }),
  seed: z.int().nonnegative().default(1),
  controls: z
    .strictObject({ self: z.boolean().default(false), random: z.int().nonnegative().max(100).default(0) })
    .default({ ...noControls }),
  cuts: z.tuple([count, count]).optional(),
  output: name.optional(),
  experiments: z.strictObject({
    localize: z.strictObject({ vision: vision.optional(), reasoning: reasoning.optional() }).optional(),
    attend: z
      .strictObject({ ...draw, models: modelList, writer: name, pictures: z.int().nonnegative().max(50).default(4) })
      .optional(),
    characterize: z
      .strictObject({
        models: z.array(name).min(2).max(3),
        control: name.optional(),
        spectra: z.union([z.boolean(), z.literal('top')]).default(true),
        subspace: z.int().nonnegative().max(64).default(8),
        device: z.enum(['cpu', 'cuda']).default('cpu'),
      })
      .optional(),
    transfer: z
      .strictObject({
        ...draw,
        in: name,
        rl: name,
        policy: z.union([policy, z.array(policy).min(1)]).default('early'),
        also: z.array(name).default([]),
        conditions: z
          .array(z.enum(sights as [Sight, ...Sight[]]))
          .min(1)
          .optional(),
        interpolate: interpolate.optional(),
      })
      .optional(),
    freeze: z
      .strictObject({
        ...draw,
        before: name,
        full: name,
        controls: z.array(name).default([]),
        frozen: z.record(name, region).default({}),
      })
      .optional(),
    reference: reference.optional(),
  }),
});

/**
 * Checks a study given as data (defaults filled in) and that its experiments name models and data it has.
 * @param where names the file or command in errors.
 * @throws BAD_CONFIG listing every fault with its path.
 */
export function parseStudy(value: unknown, where: string): Study {
  const parsed = studySchema.safeParse(value);
  if (!parsed.success) {
    throw new GalvaniError('BAD_CONFIG', `${where}: not a study\n${z.prettifyError(parsed.error)}`);
  }
  const study = { ...parsed.data, protocol: resolveProtocol(parsed.data.protocol) };
  const faults = crossFaults(study);
  if (faults.length > 0) throw new GalvaniError('BAD_CONFIG', `${where}: not a study\n${faults.join('\n')}`);
  return study;
}

/** Reads a study file. @throws FILE_NOT_FOUND, BAD_CONFIG with line numbers for YAML faults. */
export function readStudy(path: string): Study {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: no such study file`, { cause });
  }
  const document = parseDocument(text, { prettyErrors: true });
  const [fault] = document.errors;
  if (fault) throw new GalvaniError('BAD_CONFIG', `${path}: ${fault.message}`);
  return parseStudy(document.toJS(), path);
}

/** The study with the paths in it taken from `folder`. */
export function withPathsFrom(study: Study, folder: string): Study {
  const from = (path: string): string => (isAbsolute(path) ? path : join(folder, path));
  const { items, pairs, descriptions, ...data } = study.data;
  return {
    ...study,
    models: Object.fromEntries(Object.entries(study.models).map(([model, dir]) => [model, from(dir)])),
    data: {
      ...data,
      ...(items ? { items: datasetsFrom(items, folder) } : {}),
      ...(pairs ? { pairs: from(pairs) } : {}),
      ...(descriptions
        ? { descriptions: 'file' in descriptions ? { file: from(descriptions.file) } : descriptions }
        : {}),
    },
    ...(study.output ? { output: from(study.output) } : {}),
  };
}

export function studyFolder(path: string): string {
  return dirname(resolve(path));
}

/** Every model an experiment names, with where it names it. */
function namedModels({ data, experiments }: Study): [where: string, model: string][] {
  const { localize, attend, characterize, transfer, freeze, reference: published } = experiments;
  const list = (where: string, models: readonly (string | undefined)[] | undefined): [string, string][] =>
    (models ?? []).flatMap((model) =>
      model === undefined ? [] : [[`experiments.${where}`, model] as [string, string]],
    );
  const { descriptions } = data;
  return [
    ...(descriptions && 'model' in descriptions
      ? [['data.descriptions.model', descriptions.model] as [string, string]]
      : []),
    ...list('localize.vision.models', localize?.vision?.models),
    ...list('localize.reasoning.models', localize?.reasoning?.models),
    ...list('attend.models', attend?.models),
    ...list('characterize.models', characterize && [...characterize.models, characterize.control]),
    ...list('transfer', transfer && [transfer.in, transfer.rl, ...transfer.also]),
    ...list('freeze', freeze && [freeze.before, freeze.full, ...freeze.controls, ...Object.keys(freeze.frozen)]),
    ...list('reference.swap', published && [published.swap]),
  ];
}

function crossFaults(study: Study): string[] {
  const { models, data, experiments } = study;
  const faults: string[] = [];
  const known = Object.keys(models);
  for (const [where, model] of namedModels(study)) {
    if (!known.includes(model)) faults.push(`✖ '${model}' is not one of models: ${known.join(', ')}\n  → at ${where}`);
  }
  const { localize, attend, transfer, freeze } = experiments;
  if (localize?.vision && !data.pairs) faults.push('✖ experiments.localize.vision needs data.pairs');
  if ((localize?.reasoning || attend || transfer || freeze) && !data.items) {
    faults.push('✖ experiments.localize.reasoning, attend, transfer and freeze need data.items');
  }
  const { descriptions } = data;
  if (descriptions && !('file' in descriptions) && !descriptions.tasks && !data.groups) {
    faults.push('✖ descriptions that are written need their tasks, or data.groups\n  → at data.descriptions');
  }
  if (attend && !attend.models.includes(attend.writer)) {
    faults.push(`✖ writer '${attend.writer}' is not one of its models\n  → at experiments.attend.writer`);
  }
  if (transfer && transfer.in === transfer.rl)
    faults.push('✖ in and rl are the same model\n  → at experiments.transfer');
  const published = experiments.reference;
  if (published?.swap && !data.pairs) faults.push('✖ experiments.reference.swap needs data.pairs');
  if (published?.prompts && !transfer) {
    faults.push(
      '✖ the published prompts are of grafts: experiments.transfer is missing\n  → at experiments.reference.prompts',
    );
  }
  if (Object.values(experiments).every((experiment) => experiment === undefined)) {
    faults.push(`✖ no experiment; expected at least one of ${experimentNames.join(', ')}\n  → at experiments`);
  }
  return faults;
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
