/**
 * Malformed requests at the addon's own door, below all TypeScript validation: each must be a typed error that says
 * where, never a crash, and the engine must answer the next request as before.
 */
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readFolder } from '../../lib/checkpoint/folder.js';
import { familyByName } from '../../lib/models/registry.js';
import { type NativeCheckpoint, type NativeEngine, native } from '../../lib/native.js';
import { imagePrompt, randomImage, writeRandomModel } from '../support/random-model.js';

// What a caller without types may send.
// biome-ignore lint/suspicious/noExplicitAny: hostile input has no type
type Wild = any;

const layers = 3;
const dirs: string[] = [];
let engine: NativeEngine;
let checkpoint: NativeCheckpoint;
let spec: Wild;

const codes = ['BAD_ARGUMENT', 'SHAPE_MISMATCH', 'UNSUPPORTED', 'TENSOR_MISSING', 'OUT_OF_MEMORY'];

function specOf(dir: string): Wild {
  const { config } = readFolder(dir);
  checkpoint = native().openCheckpoint(dir);
  const names = familyByName(config.family).tensorNames(checkpoint.names(), config, dir);
  const tensors = Object.fromEntries(Object.entries(names).map(([canonical, name]) => [canonical, [0, name]]));
  return { config, checkpoints: [checkpoint], tensors };
}

beforeAll(() => {
  dirs.push(writeRandomModel({ layers: layers + 1, seed: 2 }), writeRandomModel({ layers, seed: 1 }));
  engine = new (native().NativeEngine)(2);
  engine.addModel('other', specOf(dirs[0]!));
  spec = specOf(dirs[1]!);
  engine.addModel('m', spec);
  engine.addModel('text', { ...spec, config: { ...spec.config, vision: null } });
  engine.addModel('removed', spec);
  engine.removeModel('removed');
});
afterAll(() => {
  for (const dir of dirs) rmSync(dir, { recursive: true });
});

const image = randomImage(3);
const prompt = imagePrompt(image);
const n = prompt.ids.length;

/** A request that runs: one prompt with an image, two trials. */
function good(): Wild {
  const { ids, positions, nextPosition } = prompt;
  return {
    images: [{ pixels: image.pixels, grid: [...image.grid] }],
    prompts: [
      {
        ids,
        positions,
        nextPosition,
        images: [{ image: 0, start: prompt.images[0]!.start, count: prompt.images[0]!.count }],
      },
    ],
    trials: [0, 1].map(() => ({
      prompt: 0,
      model: 'm',
      edits: [] as Wild[],
      captures: 0,
      maxTokens: 2,
      stopTokens: [],
    })),
  };
}

type Break = (request: Wild) => void;
const edit =
  (fields: Wild): Break =>
  (request) => {
    request.trials[0].edits = [
      {
        site: 'resid_post',
        op: 'zero',
        tower: 'decoder',
        layers: [0],
        rows: [[0, 2]],
        prefill: true,
        decode: true,
        ...fields,
      },
    ];
  };
const captures =
  (count: Wild, ...slots: Wild[]): Break =>
  (request) => {
    request.trials[0].captures = count;
    request.trials[0].edits = slots.map((capture) => ({
      site: 'q',
      op: 'capture',
      layers: [0],
      rows: [[0, 2]],
      capture,
    }));
  };
const trial =
  (fields: Wild): Break =>
  (request) =>
    Object.assign(request.trials[0], fields);
const promptField =
  (fields: Wild): Break =>
  (request) =>
    Object.assign(request.prompts[0], fields);
const picture =
  (fields: Wild): Break =>
  (request) =>
    Object.assign(request.images[0], fields);

const wrongTypes: Wild[] = [undefined, null, true, 'x', 1.5, Number.NaN, {}, () => 0, Symbol('s')];
const open = [[0, -1]];
const visionEdit = { tower: 'vision', site: 'resid_post', layers: [0] };
const patch = { op: 'patch', source: 1, rows: [[0, 2]], sourceRows: [[0, 2]] };
const mass = { site: 'attn_logits', op: 'capture', measure: 'mass', capture: 0, keys: [[[0, 1]]] };
const top = { site: 'attn_logits', op: 'capture', measure: 'topKeys', capture: 0, k: 3 };

const broken: [string, Break][] = [
  ['images: a number', (r) => (r.images = 3)],
  ['prompts: missing', (r) => delete r.prompts],
  ['prompts: none', (r) => (r.prompts = [])],
  ['trials: a string', (r) => (r.trials = 'all')],
  ['trials: claims 2^32 − 1 entries', (r) => (r.trials = new Array(2 ** 32 - 1))],
  ...wrongTypes.map((value): [string, Break] => [
    `trial: ${typeof value} ${String(value)}`,
    (r) => (r.trials[0] = value),
  ]),
  ...[
    'prompt',
    'model',
    'edits',
    'captures',
    'maxTokens',
    'temperature',
    'topK',
    'topP',
    'seed',
    'stopTokens',
    'scoreTokens',
    'klTo',
  ].map((field): [string, Break] => [`trial.${field}: an object`, trial({ [field]: { length: 1 } })]),
  ['trial.prompt: beyond', trial({ prompt: 1 })],
  ['trial.prompt: negative', trial({ prompt: -1 })],
  ['trial.prompt: wraps at 2^32', trial({ prompt: 2 ** 32 })],
  [
    'second trial: prompt beyond, read by the first',
    (r) => {
      edit(patch)(r);
      r.trials[1].prompt = 1 << 20;
    },
  ],
  ['trial.model: unknown', trial({ model: 'nobody' })],
  ['trial.model: removed', trial({ model: 'removed' })],
  ['trial.model: another architecture', trial({ model: 'other' })],
  [
    'trial.model: text only, prompt with image',
    (r) => {
      for (const t of r.trials) t.model = 'text';
    },
  ],
  ['trial.model: text only beside one with vision', (r) => (r.trials[1].model = 'text')],
  ['trial.maxTokens: negative', trial({ maxTokens: -1 })],
  ['trial.maxTokens: 2^31 − 1', trial({ maxTokens: 2 ** 31 - 1 })],
  ['trial.maxTokens: wraps at 2^32', trial({ maxTokens: 2 ** 32 + 1 })],
  ['trial.maxTokens: a fraction', trial({ maxTokens: 0.5 })],
  ['trial.temperature: NaN', trial({ temperature: Number.NaN })],
  ['trial.temperature: negative', trial({ temperature: -1 })],
  ['trial.temperature: infinite', trial({ temperature: Number.POSITIVE_INFINITY })],
  ['trial.topK: negative', trial({ topK: -1 })],
  ['trial.topP: 0', trial({ topP: 0 })],
  ['trial.topP: NaN', trial({ topP: Number.NaN })],
  ['trial.scoreTokens: negative', trial({ scoreTokens: [-1] })],
  ['trial.scoreTokens: the vocabulary', trial({ scoreTokens: [64] })],
  ['trial.scoreTokens: NaN', trial({ scoreTokens: [Number.NaN] })],
  ['trial.scoreTokens: claims 2^32 − 1 entries', trial({ scoreTokens: new Array(2 ** 32 - 1) })],
  ['trial.klTo: beyond', trial({ klTo: 2 })],
  ['trial.klTo: −2', trial({ klTo: -2 })],
  ['trial.captures: negative', trial({ captures: -1 })],
  ['trial.captures: huge', trial({ captures: 2 ** 31 - 1 })],
  ['trial.captures: unfilled slots', captures(2, 0)],
  ['trial.captures: duplicate slots', captures(2, 1, 1)],
  ['trial.captures: a slot beyond', captures(1, 1)],
  ['trial.captures: a negative slot', captures(1, -1)],
  ['prompt.ids: none', promptField({ ids: new Int32Array(0), positions: new Int32Array(0), images: [] })],
  ['prompt.ids: an array', promptField({ ids: [...prompt.ids] })],
  ['prompt.ids: another element type', promptField({ ids: new Float32Array(n) })],
  ['prompt.ids: negative', promptField({ ids: prompt.ids.map((id, i) => (i ? id : -1)) })],
  ['prompt.ids: beyond the vocabulary', promptField({ ids: prompt.ids.map((id, i) => (i ? id : 64)) })],
  ['prompt.positions: one short', promptField({ positions: prompt.positions.slice(1) })],
  ['prompt.positions: one row', promptField({ positions: prompt.positions.slice(0, n) })],
  ['prompt.positions: negative', promptField({ positions: prompt.positions.map((p, i) => (i ? p : -1)) })],
  ['prompt.positions: huge', promptField({ positions: prompt.positions.map((p, i) => (i ? p : 2 ** 31 - 1)) })],
  ['prompt.nextPosition: huge', promptField({ nextPosition: 2 ** 31 - 1 })],
  ['prompt.nextPosition: negative', promptField({ nextPosition: -5 })],
  ['prompt.images: beyond the list', promptField({ images: [{ image: 1, start: 0, count: 6 }] })],
  ['prompt.images: negative image', promptField({ images: [{ image: -1, start: 0, count: 6 }] })],
  ['prompt.images: beyond the prompt', promptField({ images: [{ image: 0, start: n - 5, count: 6 }] })],
  ['prompt.images: negative start', promptField({ images: [{ image: 0, start: -1, count: 6 }] })],
  [
    'prompt.images: start + count overflows',
    promptField({ images: [{ image: 0, start: 2 ** 31 - 1, count: 2 ** 31 - 1 }] }),
  ],
  ['prompt.images: count of another grid', promptField({ images: [{ image: 0, start: 3, count: 5 }] })],
  ['prompt.images: overlapping', promptField({ images: [3, 5].map((start) => ({ image: 0, start, count: 6 })) })],
  ['prompt.images: the same twice', promptField({ images: [3, 3].map((start) => ({ image: 0, start, count: 6 })) })],
  ['image.pixels: too short', picture({ pixels: image.pixels.slice(1) })],
  ['image.pixels: none', picture({ pixels: new Float32Array(0) })],
  ['image.pixels: Float64Array', picture({ pixels: Float64Array.from(image.pixels) })],
  ['image.grid: two numbers', picture({ grid: [4, 6] })],
  ['image.grid: empty', picture({ grid: [0, 4, 6] })],
  ['image.grid: negative', picture({ grid: [1, -4, -6] })],
  ['image.grid: no multiple of merge', picture({ grid: [1, 3, 8] })],
  ['image.grid: product overflows', picture({ grid: [2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1] })],
  ['image.grid: product is 0 mod 2^64', picture({ grid: [2 ** 22, 2 ** 22, 2 ** 20] })],
  ...wrongTypes.map((value): [string, Break] => [
    `edit: ${typeof value} ${String(value)}`,
    (r) => (r.trials[0].edits = [value]),
  ]),
  ...[
    'site',
    'op',
    'tower',
    'layers',
    'heads',
    'rows',
    'keys',
    'vector',
    'scalar',
    'source',
    'sourceRows',
    'seed',
    'prefill',
    'decode',
    'measure',
    'k',
    'capture',
  ].map((field): [string, Break] => [`edit.${field}: an object`, edit({ [field]: { length: 1 } })]),
  ['edit.site: unknown', edit({ site: 'hidden' })],
  ['edit.op: unknown', edit({ op: 'double' })],
  ['edit.tower: unknown', edit({ tower: 'audio' })],
  ['edit.layers: beyond', edit({ layers: [layers] })],
  ['edit.layers: negative', edit({ layers: [-1] })],
  ['edit.layers: unsorted', edit({ layers: [1, 0] })],
  ['edit.layers: duplicate', edit({ layers: [1, 1] })],
  ['edit.layers: claims 2^32 − 1 entries', edit({ layers: new Array(2 ** 32 - 1) })],
  ['edit.heads: beyond', edit({ site: 'k', heads: [2] })],
  ['edit.heads: none', edit({ site: 'k', heads: [] })],
  ['edit.heads: duplicate', edit({ site: 'q', heads: [1, 1] })],
  ['edit.heads: at a site without', edit({ heads: [0] })],
  ['edit.rows: three numbers', edit({ rows: [[0, 1, 2]] })],
  ['edit.rows: NaN', edit({ rows: [[0, Number.NaN]] })],
  ['edit.rows: negative', edit({ rows: [[-1, 2]] })],
  ['edit.rows: end −2', edit({ rows: [[0, -2]] })],
  ['edit.rows: backwards', edit({ rows: [[2, 1]] })],
  [
    'edit.rows: overlapping',
    edit({
      rows: [
        [0, 3],
        [2, 4],
      ],
    }),
  ],
  [
    'edit.rows: unsorted',
    edit({
      rows: [
        [2, 4],
        [0, 1],
      ],
    }),
  ],
  [
    'edit.rows: after an open one',
    edit({
      rows: [
        [0, -1],
        [5, 6],
      ],
    }),
  ],
  ['edit.keys: none', edit({ site: 'attn_logits', op: 'knockout', keys: [] })],
  [
    'edit.keys: overlapping',
    edit({
      site: 'attn_logits',
      op: 'knockout',
      keys: [
        [
          [0, 3],
          [2, 4],
        ],
      ],
    }),
  ],
  ['edit.keys: at another site', edit({ keys: [[[0, 1]]] })],
  ['edit.scalar: NaN', edit({ op: 'scale', scalar: Number.NaN })],
  ['edit.scalar: infinite in float32', edit({ op: 'add', scalar: 1e300 })],
  ['edit.scalar: negative at attn_logits', edit({ site: 'attn_logits', op: 'scale', scalar: -1 })],
  ['edit.scalar: negative at pattern', edit({ site: 'pattern', op: 'scale', scalar: -0.5 })],
  [
    'edit.keys: of a pattern, overlapping',
    edit({
      site: 'pattern',
      keys: [
        [
          [0, 3],
          [2, 4],
        ],
      ],
    }),
  ],
  ['edit.heads: beyond, at pattern', edit({ site: 'pattern', heads: [4] })],
  ['edit: add at pattern', edit({ site: 'pattern', op: 'add', scalar: 1 })],
  ['edit: mean at pattern', edit({ site: 'pattern', op: 'mean' })],
  ['edit: patch at pattern', edit({ site: 'pattern', ...patch })],
  ['edit: knockout at pattern', edit({ site: 'pattern', op: 'knockout' })],
  ['edit.vector: at pattern', edit({ site: 'pattern', op: 'scale', scalar: 1, vector: new Float32Array(3) })],
  ['edit.vector: short', edit({ op: 'add', vector: new Float32Array(31) })],
  ['edit.vector: none', edit({ op: 'add', vector: new Float32Array(0) })],
  ['edit.vector: of the query heads at k', edit({ site: 'k', op: 'add', vector: new Float32Array(32) })],
  ['edit.vector: at attn_logits', edit({ site: 'attn_logits', op: 'add', vector: new Float32Array(32) })],
  ['edit: zero at attn_logits', edit({ site: 'attn_logits', op: 'zero' })],
  ['edit: knockout of the stream', edit({ op: 'knockout' })],
  ['edit: zero with a source', edit({ source: 1, sourceRows: [[0, 1]] })],
  [
    'edit: capture with a source',
    (r) => {
      captures(1, 0)(r);
      Object.assign(r.trials[0].edits[0], { source: 1, sourceRows: [[0, 1]] });
    },
  ],
  ['edit.source: beyond', edit({ ...patch, source: 2 })],
  ['edit.source: wraps at 2^32', edit({ ...patch, source: 2 ** 32 + 1 })],
  ['edit.source: −2', edit({ ...patch, source: -2 })],
  ['edit.source: itself', edit({ ...patch, source: 0 })],
  [
    'edit.source: a circle',
    (r) => {
      edit(patch)(r);
      r.trials[1].edits = [{ ...r.trials[0].edits[0], source: 0 }];
    },
  ],
  ['patch: no source', edit({ op: 'patch' })],
  ['patch: source rows beyond', edit({ ...patch, sourceRows: [[n - 1, n + 1]] })],
  ['patch: source rows open', edit({ ...patch, sourceRows: open })],
  ['patch: source rows missing', edit({ ...patch, sourceRows: undefined })],
  ['patch: unequal', edit({ ...patch, sourceRows: [[0, 3]] })],
  ['patch: rows open', edit({ ...patch, rows: open })],
  ['patch: rows beyond the prompt', edit({ ...patch, rows: [[n, n + 2]] })],
  ['resample: generated rows', edit({ ...patch, op: 'resample', rows: open })],
  ['resample: closed rows beyond the prompt', edit({ ...patch, op: 'resample', rows: [[n, n + 2]] })],
  ['resample: rows across the end of the prompt', edit({ ...patch, op: 'resample', rows: [[n - 1, n + 1]] })],
  [
    'resample at logits: closed rows beyond the prompt',
    edit({ ...patch, site: 'logits', op: 'resample', rows: [[n, n + 2]] }),
  ],
  ['mean of own rows beyond the prompt', edit({ op: 'mean', rows: [[n, n + 2]] })],
  ['mean of a source on generated rows', edit({ ...patch, op: 'mean', rows: [[n, n + 2]] })],
  ['mean at logits of own rows beyond the prompt', edit({ op: 'mean', site: 'logits', rows: [[n, n + 2]] })],
  ['capture: mass of a stream', edit({ ...mass, site: 'q' })],
  ['capture: mass without keys', edit({ ...mass, keys: undefined })],
  ['capture: value at attn_logits', edit({ ...mass, measure: 'value' })],
  ['capture: at pattern', edit({ ...mass, site: 'pattern' })],
  ['capture: the value of pattern', edit({ ...mass, site: 'pattern', measure: 'value', keys: undefined })],
  ['capture: an unknown measure', edit({ ...mass, measure: 'argmax' })],
  ['capture: keys of an entropy', edit({ ...mass, measure: 'entropy' })],
  ['capture: keys of a pattern', edit({ ...mass, measure: 'pattern' })],
  ...[undefined, 0, -1, 33, 2 ** 31 - 1, 2 ** 32 + 1, 1.5, Number.NaN, '3'].map((k): [string, Break] => [
    `capture: top ${k} keys`,
    edit({ ...top, k }),
  ]),
  ['capture: k of a mass', edit({ ...mass, k: 3 })],
  ['capture: top keys of a stream', edit({ ...top, site: 'resid_post' })],
  [
    'capture: a pattern beyond memory',
    (r) => {
      edit({ ...top, measure: 'pattern', k: undefined, rows: open })(r);
      Object.assign(r.trials[0], { captures: 1, maxTokens: 1 << 20 });
    },
  ],
  ['vision edit: pattern', edit({ ...visionEdit, site: 'pattern' })],
  ['vision edit: attn_logits', edit({ ...visionEdit, site: 'attn_logits', op: 'knockout' })],
  ['vision edit: logits', edit({ ...visionEdit, site: 'logits' })],
  ['vision edit: layer beyond', edit({ ...visionEdit, layers: [2] })],
  ['vision edit: head beyond', edit({ ...visionEdit, site: 'q', heads: [2] })],
  ['vision edit: rows beyond', edit({ ...visionEdit, rows: [[0, 25]] })],
  [
    'vision edit: of a text prompt',
    (r) => {
      edit(visionEdit)(r);
      r.prompts[0].images = [];
    },
  ],
  [
    'vision edit: source without an image',
    (r) => {
      edit({ ...visionEdit, ...patch })(r);
      r.prompts.push({ ...r.prompts[0], images: [] });
      r.trials[1].prompt = 1;
    },
  ],
  [
    'vision edit: on a text-only model',
    (r) => {
      edit(visionEdit)(r);
      r.prompts[0].images = [];
      for (const t of r.trials) t.model = 'text';
    },
  ],
  ['projector edit: another site', edit({ ...visionEdit, tower: 'projector', site: 'q' })],
  ['projector edit: layer 1', edit({ ...visionEdit, tower: 'projector', layers: [1] })],
];

async function attempt(request: Wild, options?: Wild): Promise<{ code?: string; message?: string }> {
  try {
    await engine.run(request, options);
    return {};
  } catch (error) {
    return error as { code: string; message: string };
  }
}

describe('run', () => {
  test('the request that the others spoil runs', async () => {
    expect(await attempt(good())).toEqual({});
  });

  test.each(broken)('%s', async (_, spoil) => {
    const request = good();
    spoil(request);
    const { code, message } = await attempt(request);
    expect(codes).toContain(code);
    expect(message).not.toBe('');
    expect(await attempt(good())).toEqual({});
  });

  test.each(wrongTypes.map((value) => [`${typeof value} ${String(value)}`, value]))('request: %s', async (_, value) => {
    expect((await attempt(value)).code).toBe('BAD_ARGUMENT');
  });

  test.each([
    ['cancel: no flag', { cancel: {} }],
    ['onProgress: no function', { onProgress: 1 }],
    ['options: a number', 7],
  ])('%s', async (_, options) => {
    expect((await attempt(good(), options)).code).toBe('BAD_ARGUMENT');
  });

  test('a chain of 100 000 sources', async () => {
    const request = good();
    const chain = 100_000;
    request.prompts = [{ ids: Int32Array.of(1), positions: Int32Array.of(0, 0, 0), nextPosition: 1, images: [] }];
    request.trials = Array.from({ length: chain }, (_, i) => ({
      prompt: 0,
      model: 'm',
      // Every trial reads from the next: deepest for a search that goes by trial number. No layers: nothing to patch.
      edits:
        i === chain - 1
          ? []
          : [
              {
                site: 'k',
                op: 'patch',
                layers: [],
                rows: [[0, 1]],
                source: i + 1,
                sourceRows: [[0, 1]],
                decode: false,
              },
            ],
      captures: 0,
      maxTokens: 0,
    }));
    expect(await attempt(request)).toEqual({});
  });

  test('a chain of 1000 swapped keys', async () => {
    const request = good();
    request.trials = Array.from({ length: 1000 }, (_, i) => ({
      prompt: 0,
      model: 'm',
      edits: ['k', 'v'].flatMap((site) =>
        i === 999
          ? []
          : [{ site, op: 'patch', layers: [0, 2], rows: [[0, 2]], source: i + 1, sourceRows: [[0, 2]], decode: false }],
      ),
      captures: 0,
      maxTokens: 0,
      scoreTokens: [1],
    }));
    expect(await attempt(request)).toEqual({});
  });

  test('a getter that detaches what was read before', async () => {
    const request = good();
    const ids = Int32Array.from(prompt.ids);
    request.prompts[0] = {
      ...request.prompts[0],
      ids,
      get positions(): Int32Array {
        structuredClone(ids.buffer, { transfer: [ids.buffer] });
        return prompt.positions;
      },
    };
    await attempt(request); // copied before, or refused; memory-safe either way
    expect(await attempt(good())).toEqual({});
  });

  test('a throwing getter passes its own error on', async () => {
    const request = good();
    Object.defineProperty(request.trials[0], 'model', {
      get() {
        throw new Error('mine');
      },
    });
    expect((await attempt(request)).message).toBe('mine');
  });

  test('methods on something that is no engine', () => {
    const { run } = engine;
    for (const other of [{}, checkpoint, undefined, Object.create(engine)])
      expect(() => run.call(other as Wild, good())).toThrow();
  });

  test('weights and edits of NaN give NaN, not a crash or a zero', async () => {
    const request = good();
    edit({ op: 'add', rows: open, vector: new Float32Array(32).fill(Number.NaN) })(request);
    Object.assign(request.trials[0], { temperature: 1, topK: 5, topP: 0.9, maxTokens: 4, scoreTokens: [1], klTo: 1 });
    const { trials } = await engine.run(request);
    expect([...trials[0]!.tokens].every((id) => id >= 0 && id < 64)).toBe(true);
    expect([...trials[0]!.logprobs].every(Number.isNaN)).toBe(true);
    expect(trials[0]!.scoreLogprobs[0]).toBeNaN();
    expect(trials[0]!.kl).toBeNaN();
  });
});

describe('addModel', () => {
  const decoder = (fields: Wild) => (s: Wild) => Object.assign(s.config.decoder, fields);
  const vision = (fields: Wild) => (s: Wild) => Object.assign(s.config.vision, fields);
  const sizes = ['layers', 'width', 'heads', 'kvHeads', 'headDim', 'mlpWidth', 'vocab'];
  const visionSizes = [
    'layers',
    'width',
    'heads',
    'mlpWidth',
    'patchDim',
    'patchSize',
    'mergeSize',
    'windowSize',
    'outWidth',
  ];
  const values: Wild[] = [0, -1, 0.5, Number.NaN, 2 ** 31 - 1, 2 ** 32 + 1, '4', undefined];
  const cases: [string, (s: Wild) => void][] = [
    ...sizes.flatMap((field) =>
      values.map((v): [string, (s: Wild) => void] => [`decoder.${field} ${v}`, decoder({ [field]: v })]),
    ),
    ...visionSizes.flatMap((field) =>
      values.map((v): [string, (s: Wild) => void] => [`vision.${field} ${v}`, vision({ [field]: v })]),
    ),
    ['decoder.heads not a multiple of kvHeads', decoder({ heads: 3 })],
    ['decoder.heads and headDim inconsistent with the weights', decoder({ heads: 8 })],
    ['decoder.headDim odd', decoder({ headDim: 7 })],
    ['decoder.mropeSection: two', decoder({ mropeSection: [2, 2] })],
    ['decoder.mropeSection: another sum', decoder({ mropeSection: [2, 2, 2] })],
    ['decoder.mropeSection: negative', decoder({ mropeSection: [-1, 3, 2] })],
    ['decoder.mropeSection: overflows', decoder({ mropeSection: [2 ** 31 - 1, 2 ** 31 - 1, 6] })],
    ['decoder.rmsEps NaN', decoder({ rmsEps: Number.NaN })],
    ['decoder.ropeTheta 0', decoder({ ropeTheta: 0 })],
    ['decoder.layers more than the checkpoint', decoder({ layers: layers + 1 })],
    ['decoder.width of another model', decoder({ width: 64 })],
    ['vision.heads: head size no multiple of 4', vision({ heads: 8 })],
    ['vision.windowSize below a patch', vision({ windowSize: 4 })],
    ['vision.fullAttentionLayers: a string', vision({ fullAttentionLayers: 'all' })],
    ['config: none', (s) => delete s.config],
    ['checkpoints: not checkpoints', (s) => (s.checkpoints = [{}])],
    ['checkpoints: none', (s) => (s.checkpoints = [])],
    ['tensors: none', (s) => (s.tensors = {})],
    ['tensors: index beyond', (s) => (s.tensors.embed = [1, 'model.embed_tokens.weight'])],
    ['tensors: index negative', (s) => (s.tensors.embed = [-1, 'model.embed_tokens.weight'])],
    ['tensors: no such tensor', (s) => (s.tensors.embed = [0, 'model.nothing'])],
    ['tensors: no pair', (s) => (s.tensors.embed = 'model.embed_tokens.weight')],
    ['tensors: another shape', (s) => (s.tensors.embed = [0, 'model.norm.weight'])],
  ];
  test.each(cases)('%s', async (_, spoil) => {
    const copy = {
      ...spec,
      config: { ...spec.config, decoder: { ...spec.config.decoder }, vision: { ...spec.config.vision } },
      tensors: { ...spec.tensors },
    };
    spoil(copy);
    let code: string | undefined;
    try {
      engine.addModel('bad', copy);
    } catch (error) {
      code = (error as { code: string }).code;
    }
    expect([...codes, 'BAD_FILE']).toContain(code);
    const request = good();
    request.trials[0].model = 'bad';
    expect((await attempt(request)).code).toBe('BAD_ARGUMENT'); // nothing half-added stays
  });
});

test.each([-1, 1025, 1.5, Number.NaN, '2', null])('new NativeEngine(%s)', (threads) => {
  expect(() => new (native().NativeEngine)(threads as Wild)).toThrow(/threads/);
});
