/** The records that every room of the house shares. Data only: no behaviour, no imports. */

/** Part of the vision-language model. A layer is {tower, index}, never a signed number. */
export type Tower = 'vision' | 'projector' | 'decoder';

/** Named place in the network. `q` and `k` are taken after RoPE, as attention reads them. */
export type Site =
  | 'resid_pre' // [rows, C] residual stream entering the layer
  | 'q' // [rows, H, D] queries after bias and RoPE
  | 'k' // [rows, G, D] keys after bias and RoPE
  | 'v' // [rows, G, D] values after bias
  | 'attn_logits' // [rows, H, keys] scaled scores before softmax; never stored
  | 'pattern' // [rows, H, keys] attention probabilities after softmax; never stored
  | 'z' // [rows, H, D] weighted values before the output projection
  | 'attn_out' // [rows, C] what attention adds to the stream
  | 'resid_mid' // [rows, C] stream between attention and MLP
  | 'mlp_out' // [rows, C] what the MLP adds
  | 'resid_post' // [rows, C] stream leaving the layer
  | 'logits'; // [rows, V] after the final norm and head

export type Op = 'zero' | 'mean' | 'resample' | 'patch' | 'add' | 'scale' | 'knockout' | 'capture';

/** When an intervention acts: on prompt rows, on generated rows, or on both. */
export type Phase = 'prefill' | 'decode' | 'both';

/** Token rows [start, end). `end` may be Infinity: generated rows included. */
export type Range = readonly [start: number, end: number];

/** A named span of the prompt ('image', 'question', …; see Prompt.spans), or explicit ranges. */
export type SpanRef = string | readonly Range[];

/**
 * What a capture at `attn_logits` returns. All describe the softmax itself: edits of the scores (`attn_logits`) show in
 * them, edits of its result (`pattern`, `z`) do not. A row that sees no key has zeros, lse −∞ and no top key.
 */
export type AttentionMeasure =
  | 'mass' // [layers, rows, heads, keySpans] probability each query gives each key span
  | 'entropy' // [layers, rows, heads] nats
  | 'lse' // [layers, rows, heads] logsumexp of the scaled scores, nats
  | 'keyMass' // [layers, heads, keys] probability each key receives, mean over the query rows
  | 'topKeys' // [layers, rows, heads, k] the largest probabilities, descending; Capture.keys says of which keys
  | 'pattern'; // [layers, rows, heads, keys] the probabilities themselves, 0 where a row cannot see: name few rows

/** Reference to another trial of the same request, by its id. */
export interface TrialSource {
  readonly trial: string;
  /** Rows of the source run; default: the span of the same name there. */
  readonly span?: SpanRef;
  /** resample only: seeds the draw of source rows. */
  readonly seed?: number;
}

/**
 * One edit or read-out of one run. Data, never a callback; built by lib/hooks/interventions.ts.
 * `rows` are the rows acted on (queries at `attn_logits`, `pattern`, q, z, residual sites; keys at k, v).
 * In the vision tower and the projector rows count through the prompt's images in order, and every image is a run of
 * its own: means and source rows stay within one image; they are prompt rows, so phase 'decode' does nothing there.
 */
export interface Intervention {
  readonly site: Site;
  readonly op: Op;
  /** Default 'decoder'. */
  readonly tower?: Tower;
  /** Layer indices of the tower; ignored at `logits`. */
  readonly layers: readonly number[];
  /** Heads acted on (query heads at q, z, attn_logits, pattern; KV heads at k, v). Default: all. */
  readonly heads?: readonly number[];
  /** Default 'all'. */
  readonly rows?: SpanRef;
  /** attn_logits and pattern only: the keys cut, biased, scaled, or summed (measure mass: one column per entry). */
  readonly keys?: readonly SpanRef[];
  /** add: vector or scalar; scale: factor (attn_logits, pattern: ≥ 0); mean: the mean vector; patch, resample, mean: a source run. */
  readonly value?: number | Float32Array | TrialSource;
  /** capture at attn_logits. */
  readonly measure?: AttentionMeasure;
  /** measure topKeys: how many keys, 1 … 32. */
  readonly k?: number;
  /** capture: name of the result in TrialResult.captures. */
  readonly name?: string;
  /** Default 'both'. */
  readonly phase?: Phase;
}

export interface GenerationOptions {
  /** 0 = prefill only. Default 0. */
  readonly maxTokens?: number;
  /** 0 (default) = greedy. */
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly seed?: number;
  /** Token ids that end the generation; default: the checkpoint's. */
  readonly stopTokens?: readonly number[];
}

/** Next-token read-outs at the last prompt row. */
export interface ScoreOptions {
  /** Log-probabilities wanted of these tokens. */
  readonly tokens?: readonly number[];
  /** KL(this ‖ that trial) of the next-token distribution, nats. */
  readonly klTo?: string;
}

/** A decoded image as the vision tower reads it. */
export interface PixelPatches {
  /** [patches, channels·temporal·patch²], normalised, in the processor's merge-grouped order. */
  readonly pixels: Float32Array;
  /** Patches in (time, height, width). */
  readonly grid: readonly [t: number, h: number, w: number];
  /** Content hash of the pixels and grid: equal images are encoded once. */
  readonly hash: string;
}

/** A prompt ready for the engine: ids with image tokens expanded, positions, pixels, named spans. */
export interface Prompt {
  readonly ids: Int32Array;
  /** M-RoPE positions [3, ids.length]: time, height, width. */
  readonly positions: Int32Array;
  /** Position of the first generated token. */
  readonly nextPosition: number;
  readonly images: readonly {
    readonly image: PixelPatches /** first image-token row */;
    readonly start: number;
    readonly count: number;
  }[];
  /** Named row ranges: 'system', 'image' (all images), 'image 0', 'question', 'all', 'last', … */
  readonly spans: Readonly<Record<string, readonly Range[]>>;
  /** The rendered text, for humans and ledgers. */
  readonly text: string;
}

/** One prompt through one model with interventions: the unit of all experiments. */
export interface Trial {
  /** Unique within a request; other trials refer to it. */
  readonly id: string;
  readonly prompt: Prompt;
  /** Name of an opened model or graft. */
  readonly model: string;
  readonly interventions?: readonly Intervention[];
  readonly generate?: GenerationOptions;
  readonly score?: ScoreOptions;
}

export interface Capture {
  readonly data: Float32Array;
  readonly shape: readonly number[];
  /** measure topKeys: the row of each key, beside its probability in `data`; −1 where fewer keys are visible. */
  readonly keys?: Int32Array;
}

export interface TrialResult {
  readonly id: string;
  readonly tokens: Int32Array;
  /** Natural-log probability of each generated token under the model (before temperature). */
  readonly logprobs: Float32Array;
  readonly text: string;
  /** True when maxTokens ended the generation, not a stop token. */
  readonly truncated: boolean;
  readonly score?: { readonly logprobs: Float32Array; readonly kl?: number };
  readonly captures: Readonly<Record<string, Capture>>;
}

/** What a request cost, beside what it would have cost one trial at a time. */
export interface RunStats {
  /** Decoder rows × layers computed in prefill. */
  readonly prefillLayerRows: number;
  /** The same if every trial ran alone from the first layer. */
  readonly naiveLayerRows: number;
  readonly visionLayerRows: number;
  readonly naiveVisionLayerRows: number;
  readonly decodeLayerRows: number;
  readonly prefillMs: number;
  readonly visionMs: number;
  readonly decodeMs: number;
  /** Largest KV arena in bytes. */
  readonly kvBytes: number;
}

/** A rate with its 95 % Wilson interval. `failed` and `truncated` items are counted apart, never as wrong. */
export interface Rate {
  readonly rate: number;
  readonly low: number;
  readonly high: number;
  readonly successes: number;
  readonly n: number;
  readonly failed: number;
  readonly truncated: number;
}

/** How a prediction is compared with gold (METHODS §3). */
export type MatchRule =
  | { readonly kind: 'exact' }
  | { readonly kind: 'option'; readonly choices: readonly string[] }
  | {
      readonly kind: 'number';
      /** Absolute, in gold's unit; default 0. */
      readonly tolerance?: number;
      /** Share of |gold|; default 0. The larger allowance counts. */
      readonly relative?: number;
      /** Unit of gold where its text names none, such as 'cm'. */
      readonly unit?: string;
    }
  | { readonly kind: 'latex' }
  | { readonly kind: 'yesno' }
  | { readonly kind: 'box'; readonly iou: number };
