/**
 * Blends: a model between two opened checkpoints, W = (1 − α)·from + α·to on chosen decoder layers and parts of them.
 * A record of names and numbers; the engine makes the weights when a request first uses it (blends.ts). METHODS §3.
 */
import { GalvaniError } from '../errors.js';
import { type Cuts, type Graft, type RegionName, regionNames, regions } from './graft.js';

/** attn: attention with the norm before it; mlp: the MLP with the norm before it; all: both, the whole layer. */
export type BlendComponent = 'all' | 'attn' | 'mlp';
export const blendComponents: readonly BlendComponent[] = ['all', 'attn', 'mlp'];

/** What becomes of the weights outside the decoder layers: one parent's, or blended as the layers are. */
export type BlendRest = 'from' | 'to' | 'blend';
export const blendRests: readonly BlendRest[] = ['from', 'to', 'blend'];

export interface Blend {
  /** Names of opened checkpoints or grafts. */
  readonly from: string;
  readonly to: string;
  /** 0: from, 1: to. Finite; outside [0, 1] it extrapolates. */
  readonly alpha: number;
  /** Decoder layers that move; the others are `from`'s. */
  readonly layers: readonly number[];
  readonly component: BlendComponent;
  readonly rest: BlendRest;
}

/** layers: all decoder layers; whole: every weight. */
export type BlendRegion = RegionName | 'layers' | 'whole';
export const blendRegions: readonly BlendRegion[] = [...regionNames, 'layers', 'whole'];

/**
 * The blend of a region. Outside it everything is `from`'s, so only the region moves; `whole` has no outside.
 * @throws BAD_ARGUMENT for an unknown region, and `whole` of a component: weights outside the layers have none.
 */
export function regionBlend(options: {
  readonly from: string;
  readonly to: string;
  readonly alpha: number;
  readonly region: BlendRegion;
  readonly component: BlendComponent;
  readonly totalLayers: number;
  readonly cuts?: Cuts;
}): Blend {
  const { region, totalLayers, cuts, ...rest } = options;
  if (region === 'whole' && rest.component !== 'all') {
    throw new GalvaniError('BAD_ARGUMENT', `blend: region 'whole' goes with component 'all', got '${rest.component}'`);
  }
  const own = regions(totalLayers, cuts).find(({ name }) => name === region);
  if (!own && region !== 'layers' && region !== 'whole') {
    throw new GalvaniError('BAD_ARGUMENT', `blend: expected a region of ${blendRegions.join(', ')}, got '${region}'`);
  }
  const [start, end] = own ? [own.start, own.end] : [0, totalLayers];
  const layers = Array.from({ length: end - start }, (_, i) => start + i);
  return { ...rest, layers, rest: region === 'whole' ? 'blend' : 'from' };
}

/** @throws BAD_ARGUMENT naming the field. */
export function checkBlend(name: string, blend: Blend, totalLayers: number): void {
  const { alpha, layers, component, rest } = blend;
  const fail = (field: string, expected: string, got: unknown): never => {
    throw new GalvaniError('BAD_ARGUMENT', `blend '${name}', ${field}: expected ${expected}, got ${String(got)}`);
  };
  if (typeof alpha !== 'number' || !Number.isFinite(alpha)) fail('alpha', 'a finite number', alpha);
  if (!blendComponents.includes(component)) fail('component', blendComponents.join(', '), component);
  if (!blendRests.includes(rest)) fail('rest', blendRests.join(', '), rest);
  const wrong = layers.find((layer) => !Number.isInteger(layer) || layer < 0 || layer >= totalLayers);
  if (wrong !== undefined) fail('layers', `decoder layers from 0 to ${totalLayers - 1}`, wrong);
  if (new Set(layers).size !== layers.length) fail('layers', 'every layer once', layers.join(', '));
}

/** Where the weights of a canonical name (lib/models) come from, were α neither 0 nor 1. */
export function partOf(canonical: string, { layers, component, rest }: Blend): BlendRest {
  const found = /^layers\.(\d+)\.(norm1|q|k|v|o|norm2|gate|up|down)\b/.exec(canonical);
  if (!found) return rest;
  if (!layers.includes(Number(found[1]))) return 'from';
  const part = ['norm2', 'gate', 'up', 'down'].includes(found[2]!) ? 'mlp' : 'attn';
  return component === 'all' || component === part ? 'blend' : 'from';
}

/** The graft that a blend at its ends is, of whole layers; undefined for all others. */
export function graftOfBlend(blend: Blend, totalLayers: number): Graft | undefined {
  const { from, to, alpha, layers, component, rest } = blend;
  if (alpha !== 0 && (alpha !== 1 || (component !== 'all' && layers.length > 0))) return undefined;
  const blended = alpha === 0 ? from : to;
  const outside = rest === 'blend' ? blended : rest === 'to' ? to : from;
  return {
    layers: Array.from({ length: totalLayers }, (_, layer) => (layers.includes(layer) ? blended : from)),
    embed: outside,
    vision: outside,
    projector: outside,
    norm: outside,
    head: outside,
  };
}

const componentText: Readonly<Record<BlendComponent, string>> = { all: '', attn: 'attention of ', mlp: 'MLPs of ' };

/** One line for a table: "0.75 in + 0.25 rl in layers 3–5; all else in". */
export function describeBlend({ from, to, alpha, layers, component, rest }: Blend): string {
  const runs: [number, number][] = [];
  for (const layer of [...layers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && layer === last[1] + 1) last[1] = layer;
    else runs.push([layer, layer]);
  }
  const list = runs.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`)).join(', ') || 'none';
  const share = Number((1 - alpha).toPrecision(12));
  const outside =
    rest === 'blend'
      ? ` and outside the layers; other layers ${from}`
      : rest === 'from'
        ? `; all else ${from}`
        : `; other layers ${from}, outside the layers ${to}`;
  const moving = `${componentText[component]}layers ${list}`;
  return `${share} ${from} ${alpha < 0 ? '−' : '+'} ${Math.abs(alpha)} ${to} in ${moving}${outside}`;
}
