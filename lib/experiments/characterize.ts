/**
 * What training changed in the weights (METHODS §2): energy, diversity, geometry and sparsity of the update, per tensor,
 * beside what bf16 rounding alone would show. One ledger row per decoder layer, vision block or other part, so that a
 * comparison of large checkpoints resumes.
 */

import { type Cuts, regionOf, regions } from '../checkpoint/graft.js';
import { readLayout } from '../checkpoint/layout.js';
import type { Measurement } from '../run/measurements.js';
import type { Json, JsonObject } from '../run/rows.js';
import { matchTensors } from '../weights/match.js';
import { type Characterization, characterize, requireDevice, requireEigensolver } from '../weights.js';
import { type PlacedTensor, type TensorRecord, tensorRecord } from './characterize-record.js';
import type { CharacterizeStudy } from './study-file.js';

export const characterizeExperiment = 'characterize';

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

/**
 * One measurement per part of the network and comparison. All checkpoints are matched before any is read: what does not
 * fit is one error, not a failed row per layer.
 * @throws SHAPE_MISMATCH listing every difference; UNSUPPORTED for a device, LAPACK or cuSOLVER that is not here; what reading the folders throws
 */
export function characterizeMeasurements(
  dirs: Readonly<Record<string, string>>,
  study: CharacterizeStudy,
  options: {
    readonly fingerprint: (model: string) => string;
    readonly cuts: Cuts;
    readonly seed: number;
    readonly threads?: number | undefined;
    readonly signal?: AbortSignal | undefined;
    /** Where the part under way is. */
    readonly within?: (share: number) => void;
  },
): Measurement[] {
  requireDevice(study.device);
  const spectra = study.spectra !== false;
  const eigensolver = spectra ? requireEigensolver(study.device) : '';
  const settings = {
    spectra,
    ...(study.spectra === 'top' ? { method: 'top' as const } : {}),
    subspace: spectra ? study.subspace : 0,
    mass: true,
    seed: options.seed,
    // Part of what a measurement is: another device adds in another order.
    ...(study.device === 'cuda' ? { device: study.device } : {}),
  };
  return comparisonsOf(study).flatMap((comparison) => {
    const naming = tensorNaming(
      comparison.models.map((model) => dirs[model]!),
      options.cuts,
    );
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
          cuts: options.cuts,
          ...settings,
          ...(eigensolver ? { eigensolver } : {}), // another library, other last bits
        },
        measure: async () => {
          const wanted = new Set(names);
          const [before, second, third] = comparison.models.map((model) => dirs[model]!);
          const result = await characterize({
            before: before!,
            ...(third === undefined ? { after: second! } : { mid: second!, after: third }),
            ...settings,
            canonicalName: naming.canonical,
            filter: (name) => wanted.has(name),
            onProgress: (done, total) => options.within?.(total > 0 ? done / total : 1),
            ...(options.threads === undefined ? {} : { threads: options.threads }),
            ...(options.signal ? { signal: options.signal } : {}),
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

/** Names that agree between checkpoints written by old and new versions of transformers. @throws SHAPE_MISMATCH */
function tensorNaming(dirs: readonly string[], cuts: Cuts): TensorNaming {
  const layouts = dirs.map(readLayout);
  const { describe, layers, canonical, decoder } = layouts[0]!;
  const all = regions(layers, cuts);
  const keys = matchTensors(
    layouts.map(({ checkpoint }) => checkpoint),
    canonical,
  );
  const places = new Map(
    keys.map(({ name, names }) => {
      const place = describe(names[0]!);
      const isLayer = place.tower === 'decoder' && place.layer !== null;
      const region = isLayer ? regionOf(place.layer!, all) : null;
      const headRows = isLayer && place.module === 'q' && decoder ? decoder.headDim : null;
      return [name, { ...place, region, headRows }] as const;
    }),
  );
  return { names: [...places.keys()], canonical, place: (name) => places.get(name)! };
}

function partOf({ tower, layer }: PlacedTensor): string {
  return layer === null ? tower : `${tower} ${layer}`;
}
