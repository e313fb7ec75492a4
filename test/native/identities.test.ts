/**
 * What must hold exactly whatever the weights: the identities of DESIGN §4. Equality here is equality of bits, since
 * the CPU ops fix their order of accumulation.
 */
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { blockGraft } from '../../lib/checkpoint/graft.js';
import { Engine, type RunResult } from '../../lib/engine.js';
import { layerRange, skipLayer, swapImage, swapModes } from '../../lib/hooks/interventions.js';
import type { Intervention, Prompt, Site, Trial, TrialResult } from '../../lib/types.js';
import { imagePrompt, randomImage, randomSource, writeRandomModel } from '../support/random-model.js';

const layers = 6;
const dirs: string[] = [];
let engine: Engine;

beforeAll(async () => {
  dirs.push(writeRandomModel({ layers, seed: 1 }), writeRandomModel({ layers, seed: 2 }));
  engine = await Engine.open({ threads: 2 });
  await engine.addModel('in', dirs[0]!);
  await engine.addModel('rl', dirs[1]!);
});
afterAll(async () => {
  await engine.close();
  for (const dir of dirs) rmSync(dir, { recursive: true });
});

const captureLogits: Intervention = { site: 'logits', op: 'capture', layers: [], rows: 'all', name: 'logits' };
const generate = { maxTokens: 6, stopTokens: [] } as const;
const target = imagePrompt(randomImage(11));
const source = imagePrompt(randomImage(12));

function trial(id: string, prompt: Prompt, interventions: readonly Intervention[] = [], model = 'in'): Trial {
  return { id, prompt, model, interventions: [...interventions, captureLogits], generate };
}

function result(run: RunResult, id: string): TrialResult {
  const outcome = run.outcomes.find((o) => o.id === id)!;
  if (!outcome.ok) throw outcome.error;
  return outcome.result;
}

async function runAll(trials: readonly Trial[]): Promise<(id: string) => TrialResult> {
  const run = await engine.run(trials);
  return (id) => result(run, id);
}

function expectSame(a: TrialResult, b: TrialResult): void {
  expect([...a.tokens]).toEqual([...b.tokens]);
  expect(a.logprobs).toEqual(b.logprobs);
  expect(a.captures.logits).toEqual(b.captures.logits);
}
function expectDifferent(a: TrialResult, b: TrialResult): void {
  expect(a.captures.logits!.data).not.toEqual(b.captures.logits!.data);
}

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

/** One trial of every kind: the zoo that the sharing tests run together and alone. */
function zoo(): Trial[] {
  const next = randomSource(9);
  const vector = Float32Array.from({ length: 32 }, next);
  const trials = [
    trial('target', target),
    trial('source', source),
    trial('in rl', target, [], 'rl'),
    trial('knockout', target, [
      { site: 'attn_logits', op: 'knockout', layers: [1, 3], rows: 'question', keys: ['image'], heads: [0, 2] },
    ]),
    trial('bias', target, [{ site: 'attn_logits', op: 'add', layers: [2], keys: ['image'], value: 1.5 }]),
    trial('temper', target, [{ site: 'attn_logits', op: 'scale', layers: [2, 4], keys: ['system'], value: 0.25 }]),
    trial('dampen', target, [{ site: 'pattern', op: 'scale', layers: [1, 4], keys: ['image'], value: 0.5 }]),
    trial('cut after softmax', target, [
      { site: 'pattern', op: 'zero', layers: [2], rows: 'question', keys: ['image'], heads: [1, 2] },
    ]),
    trial('steer', target, [{ site: 'resid_post', op: 'add', layers: [2], value: vector, phase: 'both' }]),
    trial('steer later', target, [{ site: 'resid_post', op: 'add', layers: [2], value: vector, phase: 'decode' }]),
    trial('heads', target, [{ site: 'z', op: 'scale', layers: [4], heads: [1, 3], value: 0 }]),
    trial('mean', target, [{ site: 'mlp_out', op: 'mean', layers: [3], rows: 'image', phase: 'prefill' }]),
    trial('mean of source', target, [
      { site: 'resid_mid', op: 'mean', layers: [3], rows: 'question', value: { trial: 'source' }, phase: 'prefill' },
    ]),
    trial('resample', target, [
      {
        site: 'resid_pre',
        op: 'resample',
        layers: [2],
        rows: 'image',
        value: { trial: 'source', seed: 4 },
        phase: 'prefill',
      },
    ]),
    trial(
      'one kv head',
      target,
      swapImage({ source: 'source', mode: 'suffix', layer: 2, totalLayers: layers, heads: [1] }),
    ),
    trial('chain', target, [
      { site: 'k', op: 'patch', layers: [3], rows: 'image', value: { trial: 'one kv head' }, phase: 'prefill' },
      { site: 'v', op: 'patch', layers: [3], rows: 'image', value: { trial: 'one kv head' }, phase: 'prefill' },
    ]),
    trial('vision', target, [
      { site: 'resid_post', tower: 'vision', op: 'scale', layers: [0], value: 0.5, rows: [[0, 7]] },
    ]),
    trial('vision patch', target, [
      {
        site: 'mlp_out',
        tower: 'vision',
        op: 'patch',
        layers: [1],
        rows: [[4, 12]],
        value: { trial: 'source', span: [[8, 16]] },
      },
    ]),
    trial('no image token', target, [
      { site: 'resid_post', tower: 'projector', op: 'zero', layers: [0], rows: [[2, 4]] },
    ]),
  ];
  for (let layer = 0; layer < layers; layer++) {
    trials.push(trial(`skip ${layer}`, target, skipLayer(layer)));
    for (const mode of swapModes) {
      const width = Math.min(2, layers - layer);
      trials.push(
        trial(`${mode} ${layer}`, target, swapImage({ source: 'source', mode, layer, width, totalLayers: layers })),
      );
    }
  }
  return trials;
}

describe('sharing changes nothing', () => {
  test('every trial of a mixed request equals the same trial alone, bit for bit', async () => {
    const all = zoo();
    const together = await runAll(all);
    const needed = (t: Trial): Trial[] => {
      const ids = (t.interventions ?? []).flatMap(({ value }) =>
        typeof value === 'object' && !(value instanceof Float32Array) ? [value.trial] : [],
      );
      return [...new Set(ids)].flatMap((id) => needed(all.find((other) => other.id === id)!)).concat(t);
    };
    for (const t of all) {
      const alone = await runAll([...new Map(needed(t).map((other) => [other.id, other])).values()]);
      expectSame(together(t.id), alone(t.id));
    }
  });

  test('neither the order of trials nor the number of threads matters', async () => {
    const all = zoo();
    const forward = await runAll(all);
    const backward = await runAll([...all].reverse());
    const other = await Engine.open({ threads: 5 });
    await other.addModel('in', dirs[0]!);
    await other.addModel('rl', dirs[1]!);
    const threaded = await other.run(all);
    await other.close();
    for (const { id } of all) {
      expectSame(forward(id), backward(id));
      expectSame(forward(id), result(threaded, id));
    }
  });

  test('interventions do something (the comparisons above can fail)', async () => {
    const all = zoo();
    const together = await runAll(all);
    for (const { id } of all) {
      if (id !== 'target' && id !== 'steer later') expectDifferent(together('target'), together(id));
    }
    expect(together('steer later').logprobs).not.toEqual(together('target').logprobs);
  });
});

describe('interventions that must change nothing', () => {
  test.each(streamSites)('patching %s with the run itself', async (site) => {
    const self = (rows: string): Intervention => ({
      site,
      op: 'patch',
      layers: layerRange(0, layers),
      rows,
      value: { trial: 'target' },
      phase: 'prefill',
    });
    const get = await runAll([
      trial('target', target),
      ...['prompt', 'image', 'last'].map((rows) => trial(rows, target, [self(rows)])),
    ]);
    for (const rows of ['prompt', 'image', 'last']) expectSame(get(rows), get('target'));
  });

  test('swapping the image with itself, in every mode at every layer', async () => {
    const swaps = layerRange(0, layers).flatMap((layer) =>
      swapModes.map((mode) =>
        trial(`${mode} ${layer}`, target, swapImage({ source: 'target', mode, layer, width: 1, totalLayers: layers })),
      ),
    );
    const get = await runAll([trial('target', target), ...swaps]);
    for (const { id } of swaps) expectSame(get(id), get('target'));
  });

  test('scaling by 1 and adding 0', async () => {
    const get = await runAll([
      trial('target', target),
      trial(
        'scale',
        target,
        streamSites.map((site) => ({ site, op: 'scale', layers: [1, 2], value: 1 })),
      ),
      trial('bias', target, [{ site: 'attn_logits', op: 'add', layers: [1], value: 0, keys: ['image'] }]),
    ]);
    expectSame(get('scale'), get('target'));
    expectSame(get('bias'), get('target'));
  });
});

describe('two ways to the same run', () => {
  test('swapping all image keys and values from layer 0 on is the source run, as far as text rows can tell', async () => {
    const get = await runAll([
      trial('target', target),
      trial('source', source),
      trial('swap', target, swapImage({ source: 'source', mode: 'suffix', layer: 0, totalLayers: layers })),
    ]);
    expect([...get('swap').tokens]).toEqual([...get('source').tokens]);
    expect(get('swap').logprobs).toEqual(get('source').logprobs);
    expectDifferent(get('target'), get('source'));
  });

  test('zeroing attn_out and mlp_out passes the stream on unchanged', async () => {
    const streams: Intervention[] = [
      { site: 'resid_pre', op: 'capture', layers: [2], rows: 'all', name: 'before' },
      { site: 'resid_post', op: 'capture', layers: [2], rows: 'all', name: 'after' },
    ];
    const get = await runAll([trial('skip', target, [...skipLayer(2), ...streams])]);
    expect(get('skip').captures.before).toEqual(get('skip').captures.after);
    expect(get('skip').captures.before!.shape).toEqual([1, target.ids.length + 5, 32]);
  });

  test('knocking a span out for every query of every layer equals a prompt without it', async () => {
    const n = target.ids.length;
    const [start, end] = [3, 9];
    const kept = layerRange(0, n).filter((i) => i < start || i >= end);
    const without: Prompt = {
      ...target,
      ids: Int32Array.from(kept, (i) => target.ids[i]!),
      positions: Int32Array.from([0, 1, 2].flatMap((axis) => kept.map((i) => target.positions[axis * n + i]!))),
      images: [],
      spans: {},
    };
    const blocked: Intervention = {
      site: 'attn_logits',
      op: 'knockout',
      layers: layerRange(0, layers),
      keys: [[[start, end]]],
      rows: [
        [0, start],
        [end, Number.POSITIVE_INFINITY],
      ],
    };
    const get = await runAll([trial('knockout', target, [blocked]), trial('without', without)]);
    expect([...get('knockout').tokens]).toEqual([...get('without').tokens]);
    expect(get('knockout').logprobs).toEqual(get('without').logprobs);
  });

  test('a graft of one donor is the donor; its captures follow the block that made them', async () => {
    engine.addGraft('all in', blockGraft({ blocks: 'IN', totalLayers: layers, policy: 'early' }));
    engine.addGraft('in in rl', blockGraft({ blocks: 'IN:IN:RL', totalLayers: layers, policy: 'in' }));
    const stream: Intervention = { site: 'resid_post', op: 'capture', layers: [3, 4], rows: 'prompt', name: 'stream' };
    const run = await engine.run([
      trial('in', target, [stream]),
      trial('rl', target, [stream], 'rl'),
      trial('copy', target, [stream], 'all in'),
      trial('graft', target, [stream], 'in in rl'),
    ]);
    expectSame(result(run, 'copy'), result(run, 'in'));
    const size = target.ids.length * 32;
    const graft = result(run, 'graft').captures.stream!.data;
    const donor = result(run, 'in').captures.stream!.data;
    expect(graft.subarray(0, size)).toEqual(donor.subarray(0, size)); // layer 3: still IN
    expect(graft.subarray(size)).not.toEqual(donor.subarray(size)); // layer 4: RL's weights
    // IN, its copy and the graft share layers 0…3; the graft leaves at 4, RL runs alone.
    const rows = target.ids.length;
    const ours = run.stats.prefillLayerRows;
    expect(ours).toBe(rows * (6 + 6 + 2));
    expect(run.stats.naiveLayerRows).toBe(rows * 24);
    engine.removeModel('all in');
    engine.removeModel('in in rl');
  });
});

describe('read-outs', () => {
  test('mass over a partition of the keys is 1; keyMass sums to 1; entropy and lse agree with the scores', async () => {
    const all = layerRange(0, layers);
    const get = await runAll([
      trial('t', target, [
        {
          site: 'attn_logits',
          op: 'capture',
          measure: 'mass',
          layers: all,
          rows: 'all',
          keys: ['system', 'image', 'question', 'generated'],
          name: 'mass',
        },
        {
          site: 'attn_logits',
          op: 'capture',
          measure: 'mass',
          layers: all,
          rows: 'all',
          keys: [[[2, 6]], 'all'],
          name: 'overlap',
        },
        { site: 'attn_logits', op: 'capture', measure: 'keyMass', layers: all, rows: 'question', name: 'received' },
        { site: 'attn_logits', op: 'capture', measure: 'entropy', layers: all, rows: [[0, 1]], name: 'entropy' },
      ]),
      trial('plain', target),
    ]);
    const { mass, overlap, received, entropy } = get('t').captures;
    const rows = target.ids.length + 5;
    expect(mass!.shape).toEqual([layers, rows, 4, 4]);
    for (let i = 0; i < mass!.data.length; i += 4) {
      const total = mass!.data[i]! + mass!.data[i + 1]! + mass!.data[i + 2]! + mass!.data[i + 3]!;
      expect(Math.abs(total - 1)).toBeLessThan(1e-5);
    }
    for (let i = 1; i < overlap!.data.length; i += 2) expect(Math.abs(overlap!.data[i]! - 1)).toBeLessThan(1e-5);
    expect(received!.shape).toEqual([layers, 4, target.ids.length]);
    for (let i = 0; i < received!.data.length; i += target.ids.length) {
      const total = received!.data.subarray(i, i + target.ids.length).reduce((a, b) => a + b, 0);
      expect(Math.abs(total - 1)).toBeLessThan(1e-5);
    }
    expect([...entropy!.data].every((h) => Math.abs(h) < 1e-6)).toBe(true); // row 0 sees one key
    expectSame(get('t'), get('plain')); // looking changes nothing
  });

  test('score and KL', async () => {
    const { outcomes } = await engine.run([
      {
        id: 'a',
        prompt: target,
        model: 'in',
        score: { tokens: [1, 5], klTo: 'a' },
        interventions: [{ ...captureLogits, rows: 'last' }],
      },
      { id: 'b', prompt: source, model: 'in', score: { tokens: [1], klTo: 'a' } },
    ]);
    const [a, b] = outcomes.map((o) => {
      if (!o.ok) throw o.error;
      return o.result;
    });
    const logits = [...a!.captures.logits!.data];
    const lse = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
    expect(a!.score!.logprobs[0]).toBeCloseTo(logits[1]! - lse, 5);
    expect(a!.score!.logprobs[1]).toBeCloseTo(logits[5]! - lse, 5);
    expect(a!.score!.kl).toBe(0);
    expect(b!.score!.kl!).toBeGreaterThan(0);
  });
});

test('28 suffix swaps of 320 image and 30 text tokens cost at most 4 forward passes', async () => {
  const dir = writeRandomModel({ layers: 28, seed: 3 });
  const deep = await Engine.open();
  await deep.addModel('m', dir);
  const here = imagePrompt(randomImage(21, 32, 40), 5, 12, 18);
  const there = imagePrompt(randomImage(22, 32, 40), 5, 12, 18);
  expect([here.images[0]!.count, here.ids.length]).toEqual([320, 350]);
  const swaps = layerRange(0, 28).map(
    (layer): Trial => ({
      id: `swap ${layer}`,
      prompt: here,
      model: 'm',
      score: { tokens: [1] },
      interventions: swapImage({ source: 'source', mode: 'suffix', layer, totalLayers: 28 }),
    }),
  );
  const { stats, outcomes } = await deep.run([
    { id: 'target', prompt: here, model: 'm', score: { tokens: [1] } },
    { id: 'source', prompt: there, model: 'm', score: { tokens: [1] } },
    ...swaps,
  ]);
  await deep.close();
  rmSync(dir, { recursive: true });
  expect(outcomes.every((o) => o.ok)).toBe(true);
  const forward = 350 * 28;
  expect(stats.naiveLayerRows).toBe(30 * forward);
  console.log(`28 swaps: ${(stats.prefillLayerRows / forward).toFixed(2)} forward passes for 30 runs`);
  expect(stats.prefillLayerRows / forward).toBeLessThanOrEqual(4);
});

describe('what cannot run says why', () => {
  const patch = (value: Intervention['value'], rows = 'image'): Intervention => ({
    site: 'k',
    op: 'patch',
    layers: [0],
    rows,
    value: value!,
  });
  const cases: [string, Trial, string, RegExp][] = [
    [
      'unequal spans',
      trial('x', target, [patch({ trial: 'wide' })]),
      'SHAPE_MISMATCH',
      /6 rows here and 8 in the source run 'wide'/,
    ],
    ['unknown source', trial('x', target, [patch({ trial: 'nobody' })]), 'BAD_ARGUMENT', /no trial 'nobody'/],
    [
      'unknown span',
      trial('x', target, [{ site: 'v', op: 'zero', layers: [0], rows: 'answer' }]),
      'BAD_ARGUMENT',
      /no span 'answer'; it has .*image/,
    ],
    [
      'layer',
      trial('x', target, [{ site: 'v', op: 'zero', layers: [6] }]),
      'BAD_ARGUMENT',
      /decoder layer 6 does not exist; expected 0 … 5/,
    ],
    ['head', trial('x', target, [{ site: 'v', op: 'zero', layers: [0], heads: [2] }]), 'BAD_ARGUMENT', /head 2/],
    [
      'op',
      trial('x', target, [{ site: 'attn_logits', op: 'zero', layers: [0] }]),
      'BAD_ARGUMENT',
      /takes knockout, add, scale, capture/,
    ],
    [
      'vector',
      trial('x', target, [{ site: 'resid_post', op: 'add', layers: [0], value: new Float32Array(3) }]),
      'SHAPE_MISMATCH',
      /3 numbers, the site has 32/,
    ],
    ['generation', { ...trial('x', target), generate: { maxTokens: -1 } }, 'BAD_ARGUMENT', /maxTokens/],
  ];
  test.each(cases)('%s', async (_, bad, code, message) => {
    const wide = trial('wide', imagePrompt(randomImage(13, 4, 8)));
    const dependent = trial('dependent', target, [patch({ trial: 'x' })]);
    const run = await engine.run([wide, bad, dependent, trial('fine', target)]);
    const byId = new Map(run.outcomes.map((o) => [o.id, o]));
    const failed = byId.get('x')!;
    expect(failed.ok).toBe(false);
    if (!failed.ok) {
      expect(failed.error.code).toBe(code);
      expect(failed.error.message).toMatch(message);
    }
    const second = byId.get('dependent')!;
    if (!second.ok) expect(second.error.message).toMatch(/reads from 'x'/);
    expect(second.ok).toBe(false);
    expect(byId.get('fine')!.ok).toBe(true);
  });

  test('a circle of sources', async () => {
    const a = trial('a', target, [patch({ trial: 'b' })]);
    const b = trial('b', target, [patch({ trial: 'a' })]);
    await expect(engine.run([a, b])).rejects.toMatchObject({ code: 'BAD_ARGUMENT', message: /circle/ });
  });

  test('an aborted run', async () => {
    const controller = new AbortController();
    const long = { ...trial('long', target), generate: { maxTokens: 100_000, stopTokens: [] } };
    const running = engine.run([long], { signal: controller.signal });
    setTimeout(() => controller.abort(), 100);
    await expect(running).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(engine.run([trial('after', target)])).resolves.toBeDefined();
  });

  test('a closed engine', async () => {
    const other = await Engine.open();
    await other.close();
    await expect(other.run([])).rejects.toMatchObject({ code: 'CLOSED' });
  });
});
