/**
 * Random requests on the models of random-model.ts: what the planner must get right for every combination of sites,
 * ops, towers, phases, spans, sources and read-outs, not only for those somebody thought of.
 */
import type {
  GenerationOptions,
  Intervention,
  Phase,
  PixelPatches,
  Prompt,
  Range,
  Site,
  Tower,
  Trial,
} from '../../lib/types.js';
import { randomImage, randomSource } from './random-model.js';

/** Numbers of the models that writeRandomModel makes. */
const width = 32;
const heads = 4;
const kvHeads = 2;
const headDim = 8;
const vocab = 64;
const visionWidth = 16;
const visionHeads = 2;
const visionLayers = 2;

const streamSites: readonly Site[] = [
  'resid_pre',
  'q',
  'k',
  'v',
  'z',
  'attn_out',
  'resid_mid',
  'mlp_out',
  'resid_post',
];
const perHead: readonly Site[] = ['q', 'k', 'v', 'z', 'attn_logits'];

class Dice {
  readonly #next: () => number;
  constructor(seed: number) {
    this.#next = randomSource(seed);
  }
  /** 0 … n − 1 */
  int(n: number): number {
    return Math.min(n - 1, Math.floor(((this.#next() + 1) / 2) * n));
  }
  chance(p: number): boolean {
    return (this.#next() + 1) / 2 < p;
  }
  pick<T>(values: readonly T[]): T {
    return values[this.int(values.length)]!;
  }
  real(low: number, high: number): number {
    return low + ((this.#next() + 1) / 2) * (high - low);
  }
  vector(n: number): Float32Array {
    return Float32Array.from({ length: n }, () => this.#next());
  }
  /** A non-empty subset in ascending order. */
  some(n: number): number[] {
    const kept = Array.from({ length: n }, (_, i) => i).filter(() => this.chance(0.5));
    return kept.length ? kept : [this.int(n)];
  }
  /** `count` of the rows 0 … n − 1, as ranges. */
  rows(count: number, n: number): Range[] {
    if (this.chance(0.7)) {
      const start = this.int(n - count + 1);
      return [[start, start + count]];
    }
    const left = Array.from({ length: n }, (_, i) => i);
    while (left.length > count) left.splice(this.int(left.length), 1);
    return left.map((row) => [row, row + 1] as const);
  }
  shuffled<T>(values: readonly T[]): T[] {
    const out = [...values];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      [out[i], out[j]] = [out[j]!, out[i]!];
    }
    return out;
  }
}

/** Text and images in turn, with growing M-RoPE positions. */
export function mixedPrompt(images: readonly PixelPatches[], text: readonly number[], seed: number): Prompt {
  const dice = new Dice(seed);
  const ids: number[] = [];
  const axes: [number[], number[], number[]] = [[], [], []];
  const places: { image: PixelPatches; start: number; count: number }[] = [];
  const spans: Record<string, Range[]> = {};
  let position = 0;
  text.forEach((count, part) => {
    for (let i = 0; i < count; i++, position++) {
      ids.push(dice.int(60));
      for (const axis of axes) axis.push(position);
    }
    const image = images[part];
    if (!image) return;
    const [, h, w] = image.grid;
    const start = ids.length;
    for (let i = 0; i < (h * w) / 4; i++) {
      ids.push(60);
      axes[0].push(position);
      axes[1].push(position + Math.floor(i / (w / 2)));
      axes[2].push(position + (i % (w / 2)));
    }
    places.push({ image, start, count: ids.length - start });
    spans[`image ${part}`] = [[start, ids.length]];
    position += Math.max(h, w) / 2;
  });
  if (places.length) spans.image = places.map(({ start, count }) => [start, start + count] as const);
  return {
    ids: Int32Array.from(ids),
    positions: Int32Array.from(axes.flat()),
    nextPosition: position,
    images: places,
    spans,
    text: '',
  };
}

const grids = [
  [2, 2],
  [2, 4],
  [4, 2],
  [4, 6],
  [6, 6],
] as const;
const images = {
  small: grids.flatMap(([h, w], i) => [randomImage(100 + i, h, w), randomImage(200 + i, h, w)]),
  large: [randomImage(300, 20, 28), randomImage(301, 20, 28), randomImage(302, 32, 12), randomImage(303, 4, 4)],
};

function randomPrompt(dice: Dice, size: 'small' | 'large'): Prompt {
  const count = size === 'large' ? 1 + dice.int(2) : dice.pick([0, 0, 1, 1, 2]);
  const chosen = Array.from({ length: count }, () => dice.pick(images[size]));
  if (count === 2 && dice.chance(0.3)) chosen[1] = chosen[0]!;
  const most = dice.pick([3, 8, 20]);
  const text = chosen.map(() => dice.int(most));
  return mixedPrompt(chosen, [...text, 1 + dice.int(count ? most : 2 * most)], dice.int(1 << 30));
}

const patchesOf = (prompt: Prompt): number =>
  prompt.images.reduce((sum, { image }) => sum + image.grid[1] * image.grid[2], 0);

interface Scene {
  readonly dice: Dice;
  readonly layers: number;
  readonly earlier: readonly Trial[];
}

/** Explicit rows of the prompt, or a name; open ones only where they have a meaning. */
function randomRows(dice: Dice, n: number, prompt: Prompt, open: boolean): string | Range[] {
  const names = ['prompt', 'last', 'first', ...(prompt.images.length ? ['image', 'image 0'] : [])];
  if (open && dice.chance(0.4)) {
    const rows: (string | Range[])[] = ['all', 'generated', [[dice.int(n), Number.POSITIVE_INFINITY]]];
    rows.push([[n + dice.int(2), n + 3]]);
    return dice.pick(rows);
  }
  return dice.chance(0.4) ? dice.pick(names) : dice.rows(1 + dice.int(n), n);
}

type Draft = { -readonly [K in keyof Intervention]: Intervention[K] };

function decoderEdit(scene: Scene, prompt: Prompt): Intervention[] {
  const { dice, layers, earlier } = scene;
  const n = prompt.ids.length;
  const chosen = dice.chance(0.5) ? dice.some(layers) : [dice.int(layers)];
  const phase = dice.pick(['prefill', 'decode', 'both', 'both'] as const);
  const kind = dice.int(10);
  if (kind === 0 && earlier.length) {
    const source = dice.pick(earlier);
    const count = 1 + dice.int(Math.min(n, source.prompt.ids.length));
    const rows = dice.rows(count, n);
    const span = dice.rows(count, source.prompt.ids.length);
    const common = { op: 'patch', layers: chosen, rows, value: { trial: source.id, span } } as const;
    return [
      { site: 'k', ...common },
      { site: 'v', ...common },
    ];
  }
  if (kind <= 2) {
    const op = dice.pick(['knockout', 'add', 'scale'] as const);
    const edit: Draft = { site: 'attn_logits', op, layers: chosen, rows: randomRows(dice, n, prompt, true), phase };
    if (op !== 'knockout') edit.value = op === 'add' ? dice.real(-2, 2) : dice.pick([0, 0.5, 1, 2]);
    if (dice.chance(0.8)) edit.keys = [randomRows(dice, n, prompt, true), ...(dice.chance(0.3) ? ['first'] : [])];
    if (dice.chance(0.4)) edit.heads = dice.some(heads);
    return [edit];
  }
  const atLogits = kind === 3;
  const site = atLogits ? 'logits' : dice.pick(streamSites);
  const op = dice.pick(['zero', 'add', 'scale', 'mean', 'mean', 'patch', 'resample'] as const);
  const reads = op === 'patch' || op === 'resample' || (op === 'mean' && dice.chance(0.3));
  if (reads && !earlier.length) return [];
  const edit: Draft = { site, op, layers: atLogits ? [] : chosen, phase };
  const siteHeads = site === 'k' || site === 'v' ? kvHeads : heads;
  const withHeads = perHead.includes(site);
  const size = atLogits ? vocab : withHeads ? siteHeads * headDim : width;
  if (withHeads && dice.chance(0.4)) edit.heads = dice.some(siteHeads);
  if (reads) {
    const source = dice.pick(earlier);
    const rows = source.prompt.ids.length;
    const count = op === 'patch' ? 1 + dice.int(Math.min(n, rows)) : 1 + dice.int(rows);
    edit.rows = op === 'patch' ? dice.rows(count, n) : randomRows(dice, n, prompt, false);
    edit.value = { trial: source.id, span: dice.rows(count, rows), ...(op === 'resample' && { seed: dice.int(1000) }) };
    return [edit];
  }
  const ownMean = op === 'mean' && dice.chance(0.6);
  edit.rows = randomRows(dice, n, prompt, !ownMean);
  if (op === 'scale') edit.value = dice.real(-1.5, 1.5);
  else if (op === 'mean' ? !ownMean : op === 'add')
    edit.value = op === 'add' && dice.chance(0.3) ? 0.7 : dice.vector(size);
  return [edit];
}

/** An edit of the vision tower or of the image tokens. Patches come from the same rows of equal grids. */
function visionEdit(scene: Scene, prompt: Prompt): Intervention[] {
  const { dice, earlier } = scene;
  const tower: Tower = dice.chance(0.3) ? 'projector' : 'vision';
  const n = patchesOf(prompt) / (tower === 'projector' ? 4 : 1);
  const site = tower === 'projector' ? 'resid_post' : dice.pick(streamSites);
  const op = dice.pick(['zero', 'add', 'scale', 'mean', 'patch', 'resample'] as const);
  const edit: Draft = { site, op, tower, layers: tower === 'projector' ? [0] : dice.some(visionLayers) };
  edit.rows = dice.chance(0.3) ? dice.pick(['image', 'image 0', 'all']) : dice.rows(1 + dice.int(n), n);
  edit.phase = dice.pick(['prefill', 'decode', 'both'] as const);
  if (perHead.includes(site) && dice.chance(0.4)) edit.heads = dice.some(visionHeads);
  const gridsOf = (p: Prompt): string => p.images.map(({ image }) => image.grid.join()).join(';');
  const sources = earlier.filter((t) => gridsOf(t.prompt) === gridsOf(prompt));
  if (op === 'patch' || op === 'resample' || (op === 'mean' && dice.chance(0.3))) {
    if (!sources.length) return [];
    edit.value = { trial: dice.pick(sources).id, ...(op === 'resample' && { seed: dice.int(1000) }) };
  } else if (op === 'scale') edit.value = dice.real(-1, 1);
  else if (op === 'add' || (op === 'mean' && dice.chance(0.5)))
    edit.value = dice.vector(tower === 'projector' ? width : visionWidth);
  return [edit];
}

function randomCapture(scene: Scene, prompt: Prompt, name: string): Intervention {
  const { dice, layers } = scene;
  const n = prompt.ids.length;
  const phase = dice.pick(['prefill', 'decode', 'both', 'both'] as const);
  const common = {
    op: 'capture',
    layers: dice.some(layers),
    rows: randomRows(dice, n, prompt, true),
    phase,
    name,
  } as const;
  switch (dice.int(prompt.images.length ? 4 : 3)) {
    case 0:
      return { ...common, site: 'logits', layers: [] };
    case 1: {
      const measure = dice.pick(['mass', 'entropy', 'lse', 'keyMass'] as const);
      return {
        ...common,
        site: 'attn_logits',
        measure,
        ...(measure === 'mass' && { keys: [randomRows(dice, n, prompt, true), randomRows(dice, n, prompt, true)] }),
        ...(dice.chance(0.4) && { heads: dice.some(heads) }),
      };
    }
    case 2: {
      const site = dice.pick(streamSites);
      const some = perHead.includes(site) && dice.chance(0.4);
      return { ...common, site, ...(some && { heads: dice.some(site === 'k' || site === 'v' ? kvHeads : heads) }) };
    }
    default: {
      const tower = dice.chance(0.3) ? ('projector' as const) : ('vision' as const);
      const rows = patchesOf(prompt) / (tower === 'projector' ? 4 : 1);
      return {
        ...common,
        tower,
        site: tower === 'projector' ? 'resid_post' : dice.pick(streamSites),
        layers: tower === 'projector' ? [0] : dice.some(visionLayers),
        rows: dice.chance(0.5) ? 'image' : dice.rows(1 + dice.int(rows), rows),
      };
    }
  }
}

function randomGeneration(dice: Dice): GenerationOptions {
  const stopTokens = dice.chance(0.3) ? Array.from({ length: 8 }, () => dice.int(vocab)) : [];
  const options: GenerationOptions = { maxTokens: 1 + dice.int(5), stopTokens };
  if (dice.chance(0.6)) return options;
  return {
    ...options,
    temperature: dice.pick([0.3, 1, 2]),
    topK: dice.pick([0, 1, 5]),
    topP: dice.pick([0.5, 0.9, 1]),
    seed: dice.int(1000),
  };
}

/**
 * Edits after softmax, shared by several trials of a prompt as often as not, and read-outs of single keys. Drawn apart,
 * so that the other choices of a seed stay what they were when it first failed.
 */
function withPatterns(trials: readonly Trial[], layers: number, dice: Dice): Trial[] {
  const edits = new Map<Prompt, Intervention>();
  return trials.map((trial) => {
    const { prompt } = trial;
    const n = prompt.ids.length;
    const interventions = [...(trial.interventions ?? [])];
    const phase = (): Phase => dice.pick(['prefill', 'decode', 'both', 'both'] as const);
    for (let left = dice.int(3); left > 0; left--) {
      const op = dice.pick(['zero', 'scale', 'scale'] as const);
      const fresh: Intervention = {
        ...{ site: 'pattern', op, layers: dice.some(layers), rows: randomRows(dice, n, prompt, true), phase: phase() },
        ...(op === 'scale' && { value: dice.pick([0, 0.25, 1, 1.5]) }),
        ...(dice.chance(0.8) && { keys: [randomRows(dice, n, prompt, true)] }),
        ...(dice.chance(0.4) && { heads: dice.some(heads) }),
      };
      const edit = dice.chance(0.5) ? (edits.get(prompt) ?? fresh) : fresh;
      edits.set(prompt, edit);
      interventions.splice(dice.int(interventions.length + 1), 0, edit);
    }
    for (let left = dice.int(3); left > 0; left--) {
      const measure = dice.pick(['topKeys', 'pattern'] as const);
      interventions.splice(dice.int(interventions.length + 1), 0, {
        ...{ site: 'attn_logits', op: 'capture', measure, name: `${trial.id} ${measure} ${left}` },
        ...{ layers: dice.some(layers), rows: randomRows(dice, n, prompt, true), phase: phase() },
        ...(measure === 'topKeys' && { k: dice.pick([1, 3, 32]) }),
        ...(dice.chance(0.4) && { heads: dice.some(heads) }),
      });
    }
    return { ...trial, interventions };
  });
}

/**
 * 1 to 8 trials in random order; sources may form chains and come after the trials that read them.
 * @param patterns with edits and read-outs after softmax as well.
 */
export function randomRequest(
  seed: number,
  models: readonly string[],
  layers: number,
  size: 'small' | 'large' = 'small',
  patterns = true,
): Trial[] {
  const dice = new Dice(seed);
  const prompts = Array.from({ length: 1 + dice.int(3) }, () => randomPrompt(dice, size));
  const used = dice.shuffled(models).slice(0, 1 + dice.int(3));
  const trials: Trial[] = [];
  const count = 1 + dice.int(8);
  for (let t = 0; t < count; t++) {
    const prompt = dice.pick(prompts);
    const scene: Scene = { dice, layers, earlier: trials };
    const interventions: Intervention[] = [];
    // Sharing is greatest when a trial is another one with something added.
    const twin = trials.length && dice.chance(0.4) ? dice.pick(trials) : undefined;
    if (twin) interventions.push(...(twin.interventions ?? []).filter(() => dice.chance(0.8)));
    for (let left = dice.int(twin ? 3 : 7); left > 0; left--) {
      const at = twin ? twin.prompt : prompt;
      const added = at.images.length && dice.chance(0.2) ? visionEdit(scene, at) : decoderEdit(scene, at);
      interventions.splice(dice.int(interventions.length + 1), 0, ...added);
    }
    for (let left = dice.int(4); left > 0; left--) {
      const name = `${t}.${left}`;
      const at = dice.int(interventions.length + 1);
      interventions.splice(at, 0, randomCapture(scene, twin ? twin.prompt : prompt, name));
    }
    trials.push({
      id: `t${t}`,
      prompt: twin ? twin.prompt : prompt,
      model: twin && dice.chance(0.7) ? twin.model : dice.pick(used),
      interventions,
      ...(dice.chance(0.6) && { generate: randomGeneration(dice) }),
      ...(dice.chance(0.4) && {
        score: {
          tokens: Array.from({ length: dice.int(3) }, () => dice.int(vocab)),
          ...(dice.chance(0.6) && { klTo: `t${dice.int(count)}` }),
        },
      }),
    });
  }
  const shuffled = dice.shuffled(trials);
  return patterns ? withPatterns(shuffled, layers, new Dice(seed + 0x5eed)) : shuffled;
}

/** A trial with those it reads from, in the request's order. */
export function neededBy(trial: Trial, all: readonly Trial[]): Trial[] {
  const wanted = new Set<string>();
  const add = (id: string): void => {
    if (wanted.has(id)) return;
    wanted.add(id);
    const { interventions = [], score } = all.find((t) => t.id === id)!;
    for (const { value } of interventions) {
      if (typeof value === 'object' && !(value instanceof Float32Array)) add(value.trial);
    }
    if (id === trial.id && score?.klTo !== undefined) add(score.klTo);
  };
  add(trial.id);
  // What another trial would score is no part of this one.
  return all
    .filter(({ id }) => wanted.has(id))
    .map((t) =>
      t.id === trial.id || t.score?.klTo === undefined ? t : { ...t, score: { tokens: t.score.tokens ?? [] } },
    );
}
