/** From an intervention in names to one in numbers: spans → rows, trials → indices, values → vectors. */
import { GalvaniError } from '../errors.js';
import type { ModelConfig } from '../models/family.js';
import type { NativeEdit, NativeRange } from '../native.js';
import type { AttentionMeasure, Intervention, Op, Prompt, Range, Site, Tower, Trial, TrialSource } from '../types.js';
import { sites } from './sites.js';
import { resolveSpan, rowCount, type SpannedPrompt } from './spans.js';

/** What resolving needs to know of the request around an intervention. */
export interface ResolveContext {
  readonly trial: Trial;
  readonly config: ModelConfig;
  /** Index and trial of every id in the request. */
  readonly trials: ReadonlyMap<string, { readonly index: number; readonly trial: Trial }>;
}

const opsBySite: Readonly<Record<'attn_logits' | 'pattern' | 'other', readonly Op[]>> = {
  attn_logits: ['knockout', 'add', 'scale', 'capture'],
  pattern: ['zero', 'scale'],
  other: ['zero', 'mean', 'resample', 'patch', 'add', 'scale', 'capture'],
};
const perHead: readonly Site[] = ['q', 'k', 'v', 'attn_logits', 'pattern', 'z'];
const measures: readonly AttentionMeasure[] = ['mass', 'entropy', 'lse', 'keyMass', 'topKeys', 'pattern'];
/** Most keys of a topKeys capture, most numbers of a pattern (4 GiB): as native/model/interventions.h and validate.cc. */
const maxTopKeys = 32;
const maxPattern = 2 ** 30;

/** Hooks the towers before the decoder have. */
function checkTower(site: Site, tower: Tower, where: string): void {
  if (tower !== 'decoder' && (site === 'attn_logits' || site === 'pattern' || site === 'logits')) {
    throw new GalvaniError('UNSUPPORTED', `${where}: the ${tower} has no such site here; decoder only`);
  }
  if (tower === 'projector' && site !== 'resid_post') {
    throw new GalvaniError('UNSUPPORTED', `${where}: the projector has one site, resid_post (its image tokens)`);
  }
}

function bad(where: string, what: string): never {
  throw new GalvaniError('BAD_ARGUMENT', `${where}: ${what}`);
}

/** Rows of a tower as a prompt of its own: image patches in the vision tower, image tokens in the projector. */
function rowsOf(prompt: Prompt, tower: Tower, config: ModelConfig): SpannedPrompt {
  if (tower === 'decoder') return prompt;
  const merge = config.vision?.mergeSize ?? 1;
  const unit = tower === 'projector' ? merge * merge : 1;
  const spans: Record<string, readonly Range[]> = {};
  let total = 0;
  prompt.images.forEach(({ image }, i) => {
    const rows = (image.grid[0] * image.grid[1] * image.grid[2]) / unit;
    spans[`image ${i}`] = [[total, total + rows]];
    total += rows;
  });
  spans.image = [[0, total]];
  return { ids: new Int32Array(total), spans };
}

const toNative = (ranges: readonly Range[]): NativeRange[] =>
  ranges.map(([start, end]) => [start, end === Number.POSITIVE_INFINITY ? -1 : end]);

function isSource(value: Intervention['value']): value is TrialSource {
  return typeof value === 'object' && value !== null && !(value instanceof Float32Array);
}

/** Layers, heads and numbers per row that the tower has at this site. */
function extent(site: Site, tower: Tower, config: ModelConfig): { layers: number; heads: number; width: number } {
  const { decoder, vision } = config;
  if (tower === 'projector') return { layers: 1, heads: 0, width: decoder.width };
  if (tower === 'vision') return { layers: vision?.layers ?? 0, heads: vision?.heads ?? 0, width: vision?.width ?? 0 };
  const heads = site === 'k' || site === 'v' ? decoder.kvHeads : decoder.heads;
  const width = site === 'logits' ? decoder.vocab : perHead.includes(site) ? heads * decoder.headDim : decoder.width;
  return { layers: decoder.layers, heads, width };
}

function checkIndices(values: readonly number[], limit: number, what: string, where: string): number[] {
  for (const value of values) {
    if (!Number.isInteger(value) || value < 0 || value >= limit) {
      bad(where, `${what} ${value} does not exist; expected 0 … ${limit - 1}`);
    }
  }
  return [...new Set(values)].sort((a, b) => a - b);
}

/**
 * One intervention in numbers.
 * @param capture slot of its result; −1 when it captures nothing.
 * @throws BAD_ARGUMENT, SHAPE_MISMATCH (spans of unequal length), UNSUPPORTED; the message names trial and intervention.
 */
export function resolveIntervention(
  intervention: Intervention,
  index: number,
  capture: number,
  context: ResolveContext,
): NativeEdit {
  const { trial, config } = context;
  const { site, op, tower = 'decoder', phase = 'both', value } = intervention;
  const where = `trial '${trial.id}', interventions[${index}] (${op} at ${site})`;
  if (!sites.some((known) => known.site === site)) {
    bad(where, `site: expected one of ${sites.map((known) => known.site).join(', ')}`);
  }
  const insideAttention = site === 'attn_logits' || site === 'pattern';
  const allowed = opsBySite[insideAttention ? site : 'other'];
  if (site === 'pattern' && op === 'capture') bad(where, "the pattern is read at attn_logits, with measure: 'pattern'");
  if (!allowed.includes(op)) bad(where, `this site takes ${allowed.join(', ')}`);
  if (tower !== 'decoder' && !config.vision) bad(where, `the model has no ${tower}`);
  checkTower(site, tower, where);

  const { layers, heads, width } = extent(site, tower, config);
  const edit: { -readonly [K in keyof NativeEdit]: NativeEdit[K] } = {
    site,
    op,
    tower,
    layers: site === 'logits' ? [] : checkIndices(intervention.layers, layers, `${tower} layer`, where),
    rows: toNative(resolveSpan(rowsOf(trial.prompt, tower, config), intervention.rows ?? 'all', `${where}.rows`)),
    prefill: phase !== 'decode',
    decode: phase !== 'prefill',
  };
  if (intervention.heads) {
    if (!perHead.includes(site)) bad(where, 'this site has no heads');
    if (!intervention.heads.length) bad(where, 'heads: expected at least one; leave it out for all');
    edit.heads = checkIndices(intervention.heads, heads, 'head', where);
  }
  if (intervention.keys) {
    if (!insideAttention) bad(where, 'keys belong to attn_logits and pattern');
    if (!intervention.keys.length) bad(where, 'keys: expected at least one span; leave it out for all keys');
    edit.keys = intervention.keys.map((span, i) => toNative(resolveSpan(trial.prompt, span, `${where}.keys[${i}]`)));
  }

  if (isSource(value)) {
    if (op !== 'patch' && op !== 'resample' && op !== 'mean') bad(where, `${op} takes no source run`);
    const source = context.trials.get(value.trial);
    if (!source) bad(where, `the request has no trial '${value.trial}'`);
    const span = value.span ?? intervention.rows ?? 'all';
    const sourceRows = resolveSpan(rowsOf(source.trial.prompt, tower, config), span, `${where}.value.span`);
    const closed = sourceRows.map(
      ([start, end]): Range => [start, Math.min(end, rowsOf(source.trial.prompt, tower, config).ids.length)],
    );
    edit.source = source.index;
    edit.sourceRows = toNative(closed);
    if (value.seed !== undefined) edit.seed = value.seed;
    if (op === 'patch') edit.rows = matchRows(edit.rows, closed, trial, source.trial, tower, config, where);
    if (tower !== 'decoder')
      checkImages(edit.rows, closed, op, trial.prompt, source.trial.prompt, tower, config, where);
  } else if (op === 'patch' || op === 'resample') {
    bad(where, `value: expected a source run {trial, span?}, got ${value === undefined ? 'nothing' : typeof value}`);
  } else if (value instanceof Float32Array) {
    if (op !== 'add' && op !== 'mean') bad(where, `${op} takes no vector`);
    if (site === 'attn_logits') bad(where, 'value: expected one number');
    if (value.length !== width) {
      throw new GalvaniError(
        'SHAPE_MISMATCH',
        `${where}.value: ${value.length} numbers, the site has ${width} per row`,
      );
    }
    edit.vector = value;
  } else if (value !== undefined) {
    if (op !== 'add' && op !== 'scale') bad(where, `${op} takes no number`);
    if (!Number.isFinite(Math.fround(value))) bad(where, `value: expected a finite number in float32, got ${value}`);
    if (insideAttention && op === 'scale' && value < 0) bad(where, `value: expected a factor ≥ 0, got ${value}`);
    edit.scalar = value;
  } else if (op === 'add' || op === 'scale') {
    bad(where, `value: ${op} needs a ${op === 'scale' ? 'factor' : 'number or a vector'}`);
  }

  const limit = rowsOf(trial.prompt, tower, config).ids.length;
  if (tower !== 'decoder') {
    const beyond = edit.rows.find(([, end]) => end > limit);
    if (beyond) bad(where, `rows [${beyond[0]}, ${beyond[1]}) exceed the ${limit} rows of the ${tower}`);
  } else if (edit.decode && (op === 'resample' || (op === 'mean' && !edit.vector))) {
    if (edit.rows.some(([, end]) => end === -1 || end > limit)) {
      throw new GalvaniError(
        'UNSUPPORTED',
        `${where}: ${op === 'mean' ? 'a mean without a vector' : op} acts on prompt rows only; set phase: 'prefill' or end the rows at ${limit}`,
      );
    }
  }

  if (op === 'capture') {
    edit.capture = capture;
    if (site === 'attn_logits') resolveMeasure(intervention, edit, trial, heads, where);
    else if (intervention.measure) bad(where, 'measure belongs to attn_logits');
  }
  if (intervention.k !== undefined && intervention.measure !== 'topKeys') bad(where, 'k belongs to measure topKeys');
  return edit;
}

/** What a capture at attn_logits measures. */
function resolveMeasure(
  { measure, keys, k }: Intervention,
  edit: { -readonly [K in keyof NativeEdit]: NativeEdit[K] },
  { prompt, generate }: Trial,
  heads: number,
  where: string,
): void {
  if (!measure || !measures.includes(measure)) {
    bad(where, `measure: expected ${measures.join(', ')}; got ${measure ? `'${measure}'` : 'none'}`);
  }
  edit.measure = measure;
  if (measure === 'mass' && !keys?.length) bad(where, 'keys: mass needs at least one key span');
  if (measure !== 'mass' && keys) bad(where, `keys: only mass takes key spans; ${measure} is about all keys`);
  if (measure === 'topKeys') {
    if (!Number.isInteger(k) || k! < 1 || k! > maxTopKeys) {
      bad(where, `k: topKeys gives 1 to ${maxTopKeys} keys, got ${k}; for more, capture the pattern`);
    }
    edit.k = k!;
  }
  if (measure === 'pattern') {
    const total = prompt.ids.length + (generate?.maxTokens ?? 0);
    const rows = edit.rows.reduce((sum, [a, b]) => sum + Math.max(0, Math.min(b === -1 ? total : b, total) - a), 0);
    // What is kept, and what one layer gives on the way there: all heads.
    const numbers = Math.max(heads, edit.layers.length * (edit.heads?.length ?? heads)) * rows * total;
    if (numbers > maxPattern) {
      bad(where, `a pattern of up to ${numbers} numbers; at most 2^30 in one capture: name fewer rows or layers`);
    }
  }
}

/** In the towers every image is a run of its own: rows of image i read from the source's image i. */
function checkImages(
  rows: readonly NativeRange[],
  sourceRows: readonly Range[],
  op: Op,
  target: Prompt,
  source: Prompt,
  tower: Tower,
  config: ModelConfig,
  where: string,
): void {
  if (target.images.length !== source.images.length) {
    bad(where, `the prompt has ${target.images.length} images, the source's ${source.images.length}`);
  }
  const inside = (ranges: readonly (readonly [number, number])[], [start, end]: Range): number =>
    ranges.reduce((sum, [a, b]) => sum + Math.max(0, Math.min(b === -1 ? end : b, end) - Math.max(a, start)), 0);
  target.images.forEach((_, i) => {
    const here = inside(rows, rowsOf(target, tower, config).spans[`image ${i}`]![0]!);
    const there = inside(sourceRows, rowsOf(source, tower, config).spans[`image ${i}`]![0]!);
    if (here === 0 || (op === 'patch' ? there === here : there > 0)) return;
    throw new GalvaniError(
      'SHAPE_MISMATCH',
      `${where}: image ${i} has ${here} rows in the span, the source's image ${i} has ${there}`,
    );
  });
}

/** Patched rows, closed at the prompt's end, as many as the source's. */
function matchRows(
  rows: readonly NativeRange[],
  sourceRows: readonly Range[],
  target: Trial,
  source: Trial,
  tower: Tower,
  config: ModelConfig,
  where: string,
): NativeRange[] {
  const limit = rowsOf(target.prompt, tower, config).ids.length;
  const closed = rows.map(([start, end]): Range => [start, end === -1 ? limit : end]);
  if (rowCount(closed) !== rowCount(sourceRows)) {
    throw new GalvaniError(
      'SHAPE_MISMATCH',
      `${where}: the span has ${rowCount(closed)} rows here and ${rowCount(sourceRows)} in the source run '${source.id}'; ` +
        'patched spans must be equally long (render the source image at the target grid, or choose another span)',
      { details: { target: rowCount(closed), source: rowCount(sourceRows) } },
    );
  }
  return toNative(closed);
}
