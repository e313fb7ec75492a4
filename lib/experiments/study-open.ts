/** The models of a study, opened. */
import { resolve } from 'node:path';
import { readLayout } from '../checkpoint/layout.js';
import type { Engine } from '../engine.js';
import { GalvaniError } from '../errors.js';
import type { DecoderConfig } from '../models/family.js';
import { folderFingerprint } from '../run/fingerprint.js';
import type { RunModel } from '../run/run-dir.js';
import type { PlanModel } from './context.js';
import type { StudyData } from './study-data.js';
import type { ExperimentName, Study } from './study-file.js';

export interface Opened {
  readonly models: ReadonlyMap<string, PlanModel>;
  readonly records: readonly RunModel[];
  /** Of the first model; the numbers of heads are 0 where its family is not known. */
  readonly decoder: Pick<DecoderConfig, 'layers' | 'kvHeads' | 'headDim'>;
}

/**
 * Opens every model that a selected experiment names, and those `also` names. When weights are only compared, nothing needs to run: then any
 * family will do, and a folder needs no tokenizer.
 */
export async function openModels(
  engine: Engine,
  study: Study,
  selected: readonly ExperimentName[],
  also: readonly string[] = [],
): Promise<Opened> {
  const weightsOnly = also.length === 0 && selected.every((experiment) => experiment === 'characterize');
  const wanted = new Set([...selected.flatMap((experiment) => modelsOf(study, experiment)), ...also]);
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

/** One tokenisation for all models of a study: otherwise they would not be asked the same question. */
export function requireSameTokens(
  engine: Engine,
  models: readonly RunModel[],
  { items, pairs }: Pick<StudyData, 'items' | 'pairs'>,
): void {
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
