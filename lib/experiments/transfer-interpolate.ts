/**
 * From IN to RL step by step: W = (1 − α)·IN + α·RL on a region's layers or a component of them (METHODS §3). All else is
 * IN's, so that only the region moves: α = 0 is IN, α = 1 the graft of that region under policy `in`. The region
 * `whole` moves every weight. Points that the experiment measures anyway, such as both ends, are not asked again.
 */
import {
  type Blend,
  type BlendComponent,
  type BlendRegion,
  blendComponents,
  blendRegions,
  describeBlend,
  regionBlend,
} from '../checkpoint/blend.js';
import type { Cuts, Donor, NonLayerPolicy } from '../checkpoint/graft.js';
import type { JsonObject } from '../run/rows.js';
import type { Variant, VariantKind } from './transfer.js';

/** What is asked for: the α between (or beyond) the ends, and what moves. */
export interface Interpolation {
  readonly alphas: readonly number[];
  readonly regions: readonly BlendRegion[];
  readonly components: readonly BlendComponent[];
}

export const defaultInterpolation: Interpolation = {
  alphas: [0.25, 0.5, 0.75],
  regions: ['early', 'mid', 'late'],
  components: ['all'],
};

/** A model of a curve, and which rows of the transfer experiment are its answers. */
export interface PointFacts extends JsonObject {
  readonly alpha: number;
  readonly model: string;
  readonly variant: VariantKind;
  readonly policy: NonLayerPolicy | null;
  readonly description: string;
}

export interface CurveFacts {
  readonly region: BlendRegion;
  readonly component: BlendComponent;
  /** By α, ascending; 0 and 1 among them. */
  readonly points: readonly PointFacts[];
}

/** What rows of a model that is only on a curve say of it. */
export interface BlendVariant extends Variant {
  readonly variant: 'blend';
  readonly region: BlendRegion;
  readonly component: BlendComponent;
  readonly alpha: number;
}

export interface BlendModel {
  /** Unique; its name in tables, too. */
  readonly opened: string;
  readonly meta: BlendVariant;
  readonly blend: Blend;
}

/**
 * The curves, and the models that must be asked for them.
 * @param identity content identity of a blend; `known` are models that are asked anyway, by identity.
 */
export function interpolationCurves(
  { alphas, regions, components }: Interpolation,
  parents: Readonly<Record<Donor, string>>,
  shape: { readonly totalLayers: number; readonly cuts: Cuts },
  identity: (blend: Blend) => string,
  known: ReadonlyMap<string, Variant>,
): { readonly curves: readonly CurveFacts[]; readonly models: readonly BlendModel[] } {
  const found = new Map(known);
  const models: BlendModel[] = [];
  const steps = [...new Set([0, ...alphas, 1])].sort((a, b) => a - b);
  const curves = blendRegions
    .filter((region) => regions.includes(region))
    .flatMap((region) =>
      blendComponents
        // Weights outside the layers have no components: `whole` is one curve.
        .filter((component) => components.includes(component) && (region !== 'whole' || component === 'all'))
        .map((component): CurveFacts => {
          const points = steps.map((alpha): PointFacts => {
            const blend = regionBlend({ from: parents.in, to: parents.rl, alpha, region, component, ...shape });
            const key = identity(blend);
            let meta = found.get(key);
            if (!meta) {
              const opened = `${alpha} RL in ${movingText({ region, component })}`;
              const own: BlendVariant = { model: opened, variant: 'blend', policy: 'in', region, component, alpha };
              models.push({ opened, meta: own, blend });
              found.set(key, own);
              meta = own;
            }
            const { model, variant, policy } = meta;
            return { alpha, model, variant, policy, description: describeBlend(blend) };
          });
          return { region, component, points };
        }),
    );
  return { curves, models };
}

const componentText: Readonly<Record<BlendComponent, string>> = { all: '', attn: 'attention of ', mlp: 'MLPs of ' };
const regionText: Readonly<Record<BlendRegion, string>> = {
  early: 'early',
  mid: 'mid',
  late: 'late',
  layers: 'all layers',
  whole: 'every weight',
};

/** "early", "MLPs of all layers". */
export function movingText({ region, component }: Pick<CurveFacts, 'region' | 'component'>): string {
  return `${componentText[component]}${regionText[region]}`;
}

/** The models in their order, as many at a time as fit into memory together; one that fits nowhere stands alone. */
export function asTheyFit<T>(models: readonly T[], bytesOf: (model: T) => number, budget: number): T[][] {
  const rooms: T[][] = [];
  let room = 0;
  for (const model of models) {
    const bytes = bytesOf(model);
    if (rooms.length === 0 || bytes > room) {
      rooms.push([]);
      room = budget;
    }
    rooms.at(-1)!.push(model);
    room -= bytes;
  }
  return rooms;
}
