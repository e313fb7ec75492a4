/** Builders of the interventions the field has names for. Each returns plain records; METHODS is docs/methods.md. */
import { GalvaniError } from '../errors.js';
import type { Intervention, Phase, Site, SpanRef, Tower, TrialSource } from '../types.js';

/** Which layers a swap covers: `suffix` l and above, `single` l, `window` l … l+width−1, `prefix` up to and with l. */
export type SwapMode = 'suffix' | 'single' | 'window' | 'prefix';
export const swapModes: readonly SwapMode[] = ['suffix', 'single', 'window', 'prefix'];

/** [start, end) as a list. */
export function layerRange(start: number, end: number): number[] {
  return Array.from({ length: Math.max(0, end - start) }, (_, i) => start + i);
}

/**
 * Layers that a swap at `layer` covers in a decoder of `totalLayers`.
 * @throws BAD_ARGUMENT when the layer or the window does not lie inside the decoder.
 */
export function swapLayers(mode: SwapMode, layer: number, totalLayers: number, width = 1): number[] {
  if (!Number.isInteger(layer) || layer < 0 || layer >= totalLayers) {
    throw new GalvaniError('BAD_ARGUMENT', `layer: expected 0 … ${totalLayers - 1}, got ${layer}`);
  }
  switch (mode) {
    case 'suffix':
      return layerRange(layer, totalLayers);
    case 'single':
      return [layer];
    case 'prefix':
      return layerRange(0, layer + 1);
    case 'window':
      if (!Number.isInteger(width) || width < 1 || layer + width > totalLayers) {
        throw new GalvaniError(
          'BAD_ARGUMENT',
          `window: layers ${layer} … ${layer + width - 1} do not fit a decoder of ${totalLayers} layers`,
        );
      }
      return layerRange(layer, layer + width);
    default:
      throw new GalvaniError('BAD_ARGUMENT', `mode: expected ${swapModes.join(', ')}, got '${mode satisfies never}'`);
  }
}

export interface SwapOptions {
  /** Id of the source run in the same request; its prompt must have as many rows in the span. */
  readonly source: string;
  readonly mode: SwapMode;
  readonly layer: number;
  readonly totalLayers: number;
  /** Layers of a window. */
  readonly width?: number;
  /** KV heads swapped. Default: all. */
  readonly heads?: readonly number[];
  /** Default 'image'. */
  readonly span?: SpanRef;
}

/**
 * Visual token swapping: keys and values of the image rows come from the source run, after RoPE, with the source's own
 * positions; queries and residual stream stay the target's. The cache is edited once, at prefill.
 */
export function swapImage(options: SwapOptions): Intervention[] {
  const layers = swapLayers(options.mode, options.layer, options.totalLayers, options.width);
  return swapImageIn(layers, options);
}

/** The same in any set of layers; with the target run as its own source it changes nothing. */
export function swapImageIn(
  layers: readonly number[],
  { source, heads, span = 'image' }: Pick<SwapOptions, 'source' | 'heads' | 'span'>,
): Intervention[] {
  const common = {
    op: 'patch',
    layers,
    rows: span,
    value: { trial: source, span },
    phase: 'prefill',
    ...(heads ? { heads } : {}),
  } as const;
  return [
    { site: 'k', ...common },
    { site: 'v', ...common },
  ];
}

export interface Place {
  readonly layers: readonly number[];
  readonly rows?: SpanRef;
  readonly heads?: readonly number[];
  /** At `attn_logits` and `pattern`: which keys. Default: all. */
  readonly keys?: readonly SpanRef[];
  readonly tower?: Tower;
  /** Default 'both'. */
  readonly phase?: Phase;
}

/** The layer adds nothing: h(l+1) = h(l). */
export function skipLayer(layer: number | readonly number[]): Intervention[] {
  const layers = typeof layer === 'number' ? [layer] : layer;
  return [zeroAblate('attn_out', { layers }), zeroAblate('mlp_out', { layers })];
}

/** At `pattern` with `keys`: those probabilities become 0 after softmax and the others stay (`knockout` renormalises). */
export function zeroAblate(site: Site, place: Place): Intervention {
  return { site, op: 'zero', ...place };
}

/** Replaces rows by a mean: a given vector, the mean of a source run's span, or (no value) of the run's own rows. */
export function meanAblate(site: Site, place: Place & { value?: Float32Array | TrialSource }): Intervention {
  return { site, op: 'mean', ...place };
}

/** Replaces every row by one drawn from the source run's span; `seed` fixes the draw. */
export function resample(site: Site, place: Place & { source: string; span?: SpanRef; seed: number }): Intervention {
  const { source, span, seed, ...rest } = place;
  return { site, op: 'resample', ...rest, value: { trial: source, seed, ...(span === undefined ? {} : { span }) } };
}

/** Activation patching: rows take the source run's values at the same site and layer. */
export function patch(site: Site, place: Place & { source: string; span?: SpanRef }): Intervention {
  const { source, span, ...rest } = place;
  return { site, op: 'patch', ...rest, value: { trial: source, ...(span === undefined ? {} : { span }) } };
}

/** Attention knockout: the query rows cannot see the keys in these layers. */
export function knockout(edge: {
  layers: readonly number[];
  queries: SpanRef;
  keys: SpanRef;
  heads?: readonly number[];
  phase?: Phase;
}): Intervention {
  const { queries, keys, ...rest } = edge;
  return { site: 'attn_logits', op: 'knockout', ...rest, rows: queries, keys: [keys] };
}

/** Steering: adds a fixed direction (or a scalar) to the rows. */
export function steer(site: Site, place: Place & { value: number | Float32Array }): Intervention {
  return { site, op: 'add', ...place };
}

/** At `attn_logits` scales scores before softmax, at `pattern` probabilities after it, without renormalising. */
export function scale(site: Site, place: Place & { value: number }): Intervention {
  return { site, op: 'scale', ...place };
}

export interface CaptureQuery {
  readonly name: string;
  readonly layers: readonly number[];
  readonly rows: SpanRef;
  readonly heads?: readonly number[];
  readonly phase?: Phase;
}

/** [layers, rows, heads, keys.length]: attention probability each query row gives each key span. */
export function captureMass(query: CaptureQuery & { keys: readonly SpanRef[] }): Intervention {
  return { site: 'attn_logits', op: 'capture', measure: 'mass', ...query };
}

/** [layers, rows, heads], nats. */
export function captureEntropy(query: CaptureQuery): Intervention {
  return { site: 'attn_logits', op: 'capture', measure: 'entropy', ...query };
}

/** [layers, heads, keys]: attention probability each key receives, mean over the query rows. */
export function captureKeyMass(query: CaptureQuery): Intervention {
  return { site: 'attn_logits', op: 'capture', measure: 'keyMass', ...query };
}

/**
 * [layers, rows, heads, k]: the k largest attention probabilities of each query row, descending; `keys` of the capture
 * names their rows (−1 where fewer are visible). Equal ones keep the order of the prompt. k = 1 is the argmax.
 */
export function captureTopKeys(query: CaptureQuery & { k: number }): Intervention {
  return { site: 'attn_logits', op: 'capture', measure: 'topKeys', ...query };
}

/** [layers, rows, heads, keys]: the attention probabilities themselves. Never S×S unless you name every row. */
export function capturePattern(query: CaptureQuery): Intervention {
  return { site: 'attn_logits', op: 'capture', measure: 'pattern', ...query };
}

/** [layers, rows, C] of the residual stream (default: leaving the layer). */
export function captureResidual(
  query: CaptureQuery & { site?: 'resid_pre' | 'resid_mid' | 'resid_post' },
): Intervention {
  const { site, ...rest } = query;
  return { site: site ?? 'resid_post', op: 'capture', ...rest };
}

/** [rows, V] */
export function captureLogits(query: { name: string; rows?: SpanRef; phase?: Phase }): Intervention {
  return { site: 'logits', op: 'capture', layers: [], rows: query.rows ?? 'last', ...query };
}
