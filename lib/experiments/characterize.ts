/**
 * What training changed in the weights (METHODS §2): energy, diversity, geometry and sparsity of the update, per tensor,
 * beside what bf16 rounding alone would show. One ledger row per decoder layer, vision block or other part, so that a
 * comparison of large checkpoints resumes.
 */

import { readFolder } from '../checkpoint/folder.js';
import { type Cuts, regionOf, regions } from '../checkpoint/graft.js';
import { openCheckpoint } from '../checkpoint/safetensors.js';
import type { ModelFamily, TensorDescription } from '../models/family.js';
import { familyByName } from '../models/registry.js';
import type { Measurement } from '../run/measurements.js';
import type { Json, JsonObject } from '../run/rows.js';
import { type Characterization, characterize, type StepDelta, type TensorDelta } from '../weights.js';
import type { CharacterizeStudy } from './study-file.js';

export const characterizeExperiment = 'characterize';

/** Where a tensor sits, and in which region when it belongs to a decoder layer. */
export interface PlacedTensor extends TensorDescription {
  readonly region: string | null;
}

/** One tensor as kept in the ledger: every figure, no array of its size. */
export interface TensorRecord {
  readonly name: string;
  readonly place: PlacedTensor;
  readonly shape: readonly number[];
  readonly dtypes: readonly string[];
  readonly elements: number;
  readonly nonFinite: number;
  readonly weightNorms: readonly number[];
  readonly steps: readonly StepRecord[];
  readonly pair: {
    readonly dot: number;
    readonly cosine: number | null;
    readonly signAgreement: number | null;
    readonly bothChanged: number;
  } | null;
}

export interface StepRecord {
  readonly frobeniusNorm: number;
  readonly relativeNorm: number | null;
  readonly referenceRelativeNorm: number | null;
  readonly maxAbs: number;
  readonly unchangedFraction: number | null;
  readonly belowHalfUlpFraction: number | null;
  readonly ulpHistogram: readonly number[];
  /** null: a vector, or entries that are not finite. */
  readonly spectrum: SpectrumRecord | null;
}

export interface SpectrumRecord {
  readonly spectralNorm: number;
  readonly nuclearNorm: number | null;
  readonly stableRank: number | null;
  readonly effectiveRank: number | null;
  readonly conditionNumber: number | null;
  /** What rounding to the stored type alone would show. */
  readonly floor: {
    readonly frobeniusNorm: number;
    readonly edge: number;
    readonly stableRank: number | null;
    readonly effectiveRank: number | null;
  } | null;
  /** Singular values above the floor's largest, and their effective rank. */
  readonly rankAboveFloor: number | null;
  readonly effectiveRankAboveFloor: number | null;
}

export interface PartRecord {
  readonly comparison: string;
  readonly tensors: readonly TensorRecord[];
  readonly coverage: Characterization['coverage'];
}

/** A comparison of two or three checkpoints in the order of training. */
export interface Comparison {
  readonly name: string;
  readonly models: readonly string[];
}

/** The comparisons of a study: its checkpoints, and the control against the same start as the last step. */
export function comparisonsOf({ models, control }: CharacterizeStudy): Comparison[] {
  const main = { name: models.join(' → '), models };
  if (control === undefined) return [main];
  const start = models.at(-2)!;
  return [main, { name: `${start} → ${control}`, models: [start, control] }];
}

/** One measurement per part of the network and comparison. @throws what reading the folders throws */
export async function characterizeMeasurements(
  dirs: Readonly<Record<string, string>>,
  study: CharacterizeStudy,
  options: { readonly fingerprint: (model: string) => string; readonly cuts: Cuts; readonly seed: number },
): Promise<Measurement[]> {
  return comparisonsOf(study).flatMap((comparison) => {
    const naming = tensorNaming(dirs[comparison.models[0]!]!, options.cuts);
    const parts = new Map<string, string[]>();
    for (const name of naming.names) {
      const part = partOf(naming.place(name));
      const own = parts.get(part);
      if (own) own.push(name);
      else parts.set(part, [name]);
    }
    return [...parts].map(([part, names]): Measurement => {
      const meta: JsonObject = { comparison: comparison.name, models: comparison.models, part };
      return {
        experiment: characterizeExperiment,
        label: `characterize ${comparison.name} ${part}`,
        meta,
        identity: {
          models: comparison.models.map(options.fingerprint),
          names,
          spectra: study.spectra,
          seed: options.seed,
          cuts: options.cuts,
        },
        measure: async () => {
          const wanted = new Set(names);
          const [before, second, third] = comparison.models.map((model) => dirs[model]!);
          const result = await characterize({
            before: before!,
            ...(third === undefined ? { after: second! } : { mid: second!, after: third }),
            spectra: study.spectra,
            seed: options.seed,
            canonicalName: naming.canonical,
            filter: (name) => wanted.has(name),
          });
          const record: PartRecord = {
            comparison: comparison.name,
            tensors: result.tensors.map((delta) => tensorRecord(delta, naming.place(delta.name))),
            coverage: result.coverage,
          };
          return record as unknown as Json;
        },
      };
    });
  });
}

interface TensorNaming {
  /** Canonical names of all tensors; a tensor the family does not name keeps its own. */
  readonly names: readonly string[];
  readonly canonical: (stored: string) => string;
  readonly place: (canonical: string) => PlacedTensor;
}

/** Names that agree between checkpoints written by old and new versions of transformers. */
function tensorNaming(dir: string, cuts: Cuts): TensorNaming {
  const { config } = readFolder(dir);
  const family: ModelFamily = familyByName(config.family);
  const all = regions(config.decoder.layers, cuts);
  const stored = openCheckpoint(dir).names();
  const canonical = (name: string): string => canonicalOf(family, name);
  const places = new Map(
    stored.map((name) => {
      const place = family.describeTensor(name);
      const region = place.tower === 'decoder' && place.layer !== null ? regionOf(place.layer, all) : null;
      return [canonical(name), { ...place, region }] as const;
    }),
  );
  return { names: [...places.keys()].sort(), canonical, place: (name) => places.get(name)! };
}

/** "decoder.3.q.weight"; the stored name where the family knows no better. */
export function canonicalOf(family: ModelFamily, stored: string): string {
  const { tower, layer, module, part } = family.describeTensor(stored);
  if (tower === 'other' || module === 'other' || part === 'other') return stored;
  return [tower, layer, module, part].filter((piece) => piece !== null).join('.');
}

function partOf({ tower, layer }: PlacedTensor): string {
  return layer === null ? tower : `${tower} ${layer}`;
}

function tensorRecord(delta: TensorDelta, place: PlacedTensor): TensorRecord {
  const { name, shape, dtypes, elements, nonFinite, weightNorms, steps, pair } = delta;
  return {
    name,
    place,
    shape,
    dtypes,
    elements,
    nonFinite,
    weightNorms,
    steps: steps.map(stepRecord),
    pair: pair
      ? { dot: pair.dot, cosine: pair.cosine, signAgreement: pair.signAgreement, bothChanged: pair.bothChanged }
      : null,
  };
}

function stepRecord(step: StepDelta): StepRecord {
  const { spectrum } = step;
  return {
    frobeniusNorm: step.frobeniusNorm,
    relativeNorm: step.relativeNorm,
    referenceRelativeNorm: step.referenceRelativeNorm,
    maxAbs: step.maxAbs,
    unchangedFraction: step.unchangedFraction,
    belowHalfUlpFraction: step.belowHalfUlpFraction,
    ulpHistogram: step.ulpHistogram,
    spectrum: spectrum
      ? {
          spectralNorm: spectrum.spectralNorm,
          nuclearNorm: spectrum.nuclearNorm,
          stableRank: spectrum.stableRank,
          effectiveRank: spectrum.effectiveRank,
          conditionNumber: spectrum.conditionNumber,
          floor: spectrum.floor ? floorRecord(spectrum.floor) : null,
          rankAboveFloor: spectrum.aboveFloor?.rank ?? null,
          effectiveRankAboveFloor: spectrum.aboveFloor?.effectiveRank ?? null,
        }
      : null,
  };
}

function floorRecord(floor: {
  singularValues: Float64Array;
  edge: number;
  frobeniusNorm: number;
}): SpectrumRecord['floor'] {
  const [largest = 0] = floor.singularValues;
  const total = floor.singularValues.reduce((sum, value) => sum + value, 0);
  const square = floor.singularValues.reduce((sum, value) => sum + value * value, 0);
  const entropy = floor.singularValues.reduce(
    (sum, value) => (value > 0 ? sum - (value / total) * Math.log(value / total) : sum),
    0,
  );
  return {
    frobeniusNorm: floor.frobeniusNorm,
    edge: floor.edge,
    stableRank: largest > 0 ? square / largest ** 2 : null,
    effectiveRank: total > 0 ? Math.exp(entropy) : null,
  };
}
