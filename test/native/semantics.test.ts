/**
 * What interventions and read-outs mean, recomputed here from other captures of the same request: means, draws, order
 * of edits, spans across the end of the prompt, images, tied grafts, scores, how a generation ends.
 */
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/safetensors.js';
import { Engine } from '../../lib/engine.js';
import { layerRange, skipLayer } from '../../lib/hooks/interventions.js';
import type { Capture, Intervention, Prompt, Site, SpanRef, Trial, TrialResult } from '../../lib/types.js';
import { imagePrompt, randomImage, randomSource, writeRandomModel } from '../support/random-model.js';
import { mixedPrompt } from '../support/random-request.js';

const layers = 4;
const width = 32;
const vocab = 64;
const dirs: string[] = [];
let engine: Engine;

beforeAll(async () => {
  dirs.push(
    writeRandomModel({ layers, seed: 1 }),
    writeRandomModel({ layers, seed: 5, tied: true }),
    writeRandomModel({ layers, seed: 6, tied: true }),
  );
  engine = await Engine.open({ threads: 2 });
  await engine.addModel('m', dirs[0]!);
  await engine.addModel('tied a', dirs[1]!);
  await engine.addModel('tied b', dirs[2]!);
});
afterAll(async () => {
  await engine.close();
  for (const dir of dirs) rmSync(dir, { recursive: true });
});

const prompt = imagePrompt(randomImage(11));
const other = imagePrompt(randomImage(12), 9);
const n = prompt.ids.length;
const vector = Float32Array.from({ length: width }, randomSource(3));
const steered: Intervention = { site: 'resid_post', op: 'add', layers: [0], rows: [[6, n]], value: vector };

const trial = (id: string, interventions: readonly Intervention[] = [], fields: Partial<Trial> = {}): Trial => ({
  id,
  prompt,
  model: 'm',
  interventions,
  ...fields,
});
const look = (site: Site, layer: number, rows: SpanRef, fields: Partial<Intervention> = {}): Intervention => ({
  site,
  op: 'capture',
  layers: [layer],
  rows,
  name: site,
  ...fields,
});
const logits = (rows: SpanRef = 'last'): Intervention => look('logits', 0, rows);
const generate = (maxTokens: number, stopTokens: readonly number[] = []) => ({ generate: { maxTokens, stopTokens } });

async function run(...trials: Trial[]): Promise<(id: string) => TrialResult> {
  const { outcomes } = await engine.run(trials);
  return (id) => {
    const outcome = outcomes.find((o) => o.id === id)!;
    if (!outcome.ok) throw outcome.error;
    return outcome.result;
  };
}

/** Row i of a capture of one layer. */
function row({ data, shape }: Capture, i: number): Float32Array {
  const rows = shape.length === 2 ? shape[0]! : shape[1]!;
  const size = data.length / rows;
  return data.slice(i * size, (i + 1) * size);
}

/** Mean of rows, summed in row order in float64, as the engine does. */
function meanOf(capture: Capture, rows: readonly number[]): Float32Array {
  return row(capture, rows[0]!).map((_, c) => rows.reduce((sum, i) => sum + row(capture, i)[c]!, 0) / rows.length);
}

const worst = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  expect(a.length).toBe(b.length);
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!));
  return most;
};

describe('means', () => {
  // The stream sites, one with heads, and keys: the three ways in which rows are found.
  test.each(['resid_pre', 'z', 'mlp_out', 'k', 'v'] as const)(
    'of own rows, some of them computed by a base: %s',
    async (site) => {
      const mean: Intervention = { site, op: 'mean', layers: [2], rows: [[2, 9]], phase: 'prefill' };
      const get = await run(
        trial('base', [mean, look(site, 2, 'prompt')]),
        trial('plain', [steered, look(site, 2, 'prompt')]),
        trial('mean', [steered, mean, look(site, 2, 'prompt')]),
      );
      const before = get('plain').captures[site]!;
      const after = get('mean').captures[site]!;
      const expected = meanOf(before, layerRange(2, 9));
      for (let i = 2; i < 9; i++) expect(row(after, i)).toEqual(expected);
      expect(row(after, 1)).toEqual(row(before, 1));
      expect(row(get('base').captures[site]!, 2)).not.toEqual(expected);
    },
  );

  test('an earlier site edited in the later rows of the span', async () => {
    const mean: Intervention = { site: 'mlp_out', op: 'mean', layers: [2], rows: [[2, 9]], phase: 'prefill' };
    const late: Intervention = { site: 'attn_out', op: 'scale', layers: [2], rows: [[7, n]], value: 2 };
    const get = await run(
      trial('base', [mean]),
      trial('plain', [late, look('mlp_out', 2, 'prompt')]),
      trial('mean', [mean, late, look('mlp_out', 2, 'prompt')]),
    );
    const expected = meanOf(get('plain').captures.mlp_out!, layerRange(2, 9));
    for (let i = 2; i < 9; i++) expect(row(get('mean').captures.mlp_out!, i)).toEqual(expected);
  });

  test('a read-out of attention that starts inside a span shared with a base', async () => {
    const mean: Intervention = { site: 'mlp_out', op: 'mean', layers: [2], rows: [[2, 9]], phase: 'prefill' };
    const late: Intervention = { site: 'mlp_out', op: 'scale', layers: [2], rows: [[10, n]], value: 2 };
    const entropy = look('attn_logits', 2, [[5, n]], { measure: 'entropy' });
    const get = await run(
      trial('base', [mean, look('mlp_out', 2, 'prompt')]),
      trial('reads', [mean, late, entropy, look('mlp_out', 2, 'prompt')]),
    );
    for (let i = 0; i < 10; i++)
      expect(row(get('reads').captures.mlp_out!, i)).toEqual(row(get('base').captures.mlp_out!, i));
  });

  test('of a source span; of some heads', async () => {
    const value = { trial: 'source', span: [[1, 5]] as const };
    const get = await run(
      trial('source', [look('z', 1, 'prompt')], { prompt: other }),
      trial('plain', [look('z', 1, 'prompt')]),
      trial('mean', [
        { site: 'z', op: 'mean', layers: [1], rows: 'question', heads: [1, 3], value, phase: 'prefill' },
        look('z', 1, 'prompt'),
      ]),
    );
    const expected = meanOf(get('source').captures.z!, [1, 2, 3, 4]);
    for (let i = n - 5; i < n; i++) {
      const got = row(get('mean').captures.z!, i);
      const plain = row(get('plain').captures.z!, i);
      for (const head of layerRange(0, 4)) {
        const from = head % 2 ? expected : plain;
        expect(got.subarray(head * 8, head * 8 + 8)).toEqual(from.subarray(head * 8, head * 8 + 8));
      }
    }
  });

  test('at logits: own rows, a source, and what a patch there reads', async () => {
    const common = { site: 'logits', layers: [], phase: 'prefill' } as const;
    const get = await run(
      trial('source', [logits('prompt')], { prompt: other }),
      trial('plain', [logits('prompt')]),
      trial('own', [{ ...common, op: 'mean', rows: [[4, 9]] }, logits('prompt')]),
      trial('of source', [
        { ...common, op: 'mean', rows: 'last', value: { trial: 'source', span: 'image' } },
        logits(),
      ]),
      trial('patch', [{ ...common, op: 'patch', rows: 'last', value: { trial: 'own', span: [[5, 6]] } }, logits()]),
    );
    const expected = meanOf(get('plain').captures.logits!, layerRange(4, 9));
    for (let i = 4; i < 9; i++) expect(row(get('own').captures.logits!, i)).toEqual(expected);
    expect(row(get('own').captures.logits!, 3)).toEqual(row(get('plain').captures.logits!, 3));
    expect(get('of source').captures.logits!.data).toEqual(meanOf(get('source').captures.logits!, layerRange(3, 9)));
    expect(get('patch').captures.logits!.data).toEqual(expected);
  });
});

describe('resample', () => {
  const draw = (seed: number, rows: SpanRef): Intervention[] => [
    {
      site: 'resid_pre',
      op: 'resample',
      layers: [1],
      rows,
      value: { trial: 'source', span: [[0, 7]], seed },
      phase: 'prefill',
    },
    look('resid_pre', 1, 'prompt'),
  ];

  test('every row is a row of the source span; the seed and the row alone decide which', async () => {
    const get = await run(
      trial('source', [look('resid_pre', 1, 'prompt')], { prompt: other }),
      trial('one', draw(1, 'prompt')),
      trial('two', draw(2, 'prompt')),
      trial(
        'part',
        draw(1, [
          [4, 6],
          [8, 10],
        ]),
      ),
    );
    const pool = layerRange(0, 7).map((i) => String(row(get('source').captures.resid_pre!, i)));
    const drawn = (id: string) => layerRange(0, n).map((i) => String(row(get(id).captures.resid_pre!, i)));
    for (const id of ['one', 'two']) for (const values of drawn(id)) expect(pool).toContain(values);
    expect(new Set(drawn('one')).size).toBeGreaterThan(2);
    expect(drawn('one')).not.toEqual(drawn('two'));
    for (const i of [4, 5, 8, 9]) expect(drawn('part')[i]).toBe(drawn('one')[i]);
    const again = await run(trial('source', [], { prompt: other }), trial('one', draw(1, 'prompt')));
    expect(again('one').captures).toEqual(get('one').captures);
  });
});

describe('edits at one place act in the order of the list', () => {
  test('scale and add at attn_logits', async () => {
    const half: Intervention = { site: 'attn_logits', op: 'scale', layers: [1], value: 0.5 };
    const one: Intervention = { site: 'attn_logits', op: 'add', layers: [1], value: 1 };
    const lse = look('attn_logits', 1, 'first', { measure: 'lse' }); // row 0 sees one key: lse is its score
    const get = await run(
      trial('plain', [lse]),
      trial('scale, add', [half, one, lse]),
      trial('add, scale', [one, half, lse]),
      trial('add, cut', [one, { site: 'attn_logits', op: 'knockout', layers: [1], keys: ['first'] }, lse]),
    );
    const scores = (id: string) => get(id).captures.attn_logits!.data;
    expect(
      worst(
        scores('scale, add'),
        scores('plain').map((s) => s * 0.5 + 1),
      ),
    ).toBeLessThan(1e-5);
    expect(
      worst(
        scores('add, scale'),
        scores('plain').map((s) => (s + 1) * 0.5),
      ),
    ).toBeLessThan(1e-5);
    expect([...scores('add, cut')].every((s) => s === Number.NEGATIVE_INFINITY)).toBe(true);
  });

  test('scale and add in the stream', async () => {
    const double: Intervention = { site: 'mlp_out', op: 'scale', layers: [1], value: 2 };
    const add: Intervention = { site: 'mlp_out', op: 'add', layers: [1], value: vector };
    const get = await run(
      trial('plain', [look('mlp_out', 1, 'last')]),
      trial('scale, add', [double, add, look('mlp_out', 1, 'last')]),
      trial('add, scale', [add, double, look('mlp_out', 1, 'last')]),
    );
    const plain = get('plain').captures.mlp_out!.data;
    expect(get('scale, add').captures.mlp_out!.data).toEqual(plain.map((x, i) => Math.fround(x * 2) + vector[i]!));
    expect(get('add, scale').captures.mlp_out!.data).toEqual(plain.map((x, i) => Math.fround(x + vector[i]!) * 2));
  });
});

describe('decode', () => {
  /** The prompt with the tokens of a run appended. */
  function continued(tokens: Int32Array): Prompt {
    const all = n + tokens.length;
    const positions = new Int32Array(3 * all);
    for (let axis = 0; axis < 3; axis++) {
      positions.set(prompt.positions.subarray(axis * n, (axis + 1) * n), axis * all);
      for (let i = 0; i < tokens.length; i++) positions[axis * all + n + i] = prompt.nextPosition + i;
    }
    return { ...prompt, ids: Int32Array.of(...prompt.ids, ...tokens), positions };
  }
  const cases: [string, Intervention[]][] = [
    ['nothing', []],
    ['steering', [{ site: 'resid_post', op: 'add', layers: [1], value: vector }]],
    ['skipping', skipLayer(2)],
    ['heads of z', [{ site: 'z', op: 'scale', layers: [1, 2], heads: [0, 3], value: -0.5 }]],
    [
      'keys and values',
      ['k', 'v'].map((site) => ({ site: site as Site, op: 'scale', layers: [1], heads: [1], value: 0.3 })),
    ],
    ['knockout of the image', [{ site: 'attn_logits', op: 'knockout', layers: [0, 2], keys: ['image'], heads: [1] }]],
    [
      'bias',
      [
        {
          site: 'attn_logits',
          op: 'add',
          layers: [1],
          keys: [
            [
              [2, n],
              [n, 30],
            ],
          ],
          value: 1.25,
        },
      ],
    ],
    ['probabilities of the image', [{ site: 'pattern', op: 'scale', layers: [1, 3], keys: ['image'], value: 0.4 }]],
    [
      'mean vector',
      [{ site: 'mlp_out', op: 'mean', layers: [1], value: vector, rows: [[5, Number.POSITIVE_INFINITY]] }],
    ],
  ];
  test.each(cases)('equals prefill of the same tokens, bit for bit: %s', async (_, edits) => {
    const everywhere = edits.map((edit) => ({ ...edit, rows: edit.rows ?? [[0, Number.POSITIVE_INFINITY] as const] }));
    const get = await run(trial('decoded', [...everywhere, logits('all')], generate(40)));
    const { tokens, captures } = get('decoded');
    const whole = continued(tokens.slice(0, -1));
    const again = await run(trial('prefilled', [...everywhere, logits('prompt')], { prompt: whole }));
    expect(captures.logits!.shape).toEqual([n + 39, vocab]);
    expect(again('prefilled').captures.logits!).toEqual(captures.logits!);
  });

  test('read-outs across the end of the prompt are those before it and those after it', async () => {
    const ends: readonly [string, SpanRef][] = [
      ['across', [[n - 3, Number.POSITIVE_INFINITY]]],
      ['before', [[n - 3, n]]],
      ['after', 'generated'],
    ];
    const places: [Site, Partial<Intervention>][] = [
      ['resid_post', {}],
      ['k', { heads: [1] }],
      ['z', { heads: [0, 2] }],
      ['logits', {}],
      ['attn_logits', { measure: 'entropy' }],
      ['attn_logits', { measure: 'mass', keys: ['image', 'generated'], heads: [3] }],
    ];
    const captures = places.flatMap(([site, fields], i) =>
      ends.map(([end, rows]) => look(site, 1, rows, { ...fields, name: `${end} ${i}` })),
    );
    const get = await run(trial('t', captures, generate(5)));
    places.forEach(([site], i) => {
      const part = (end: string) => get('t').captures[`${end} ${i}`]!;
      const rowAxis = site === 'logits' ? 0 : 1;
      expect(['across', 'before', 'after'].map((end) => part(end).shape[rowAxis])).toEqual([7, 3, 4]);
      expect([...part('across').data]).toEqual([...part('before').data, ...part('after').data]);
    });
  });

  test('keyMass over prompt and generated rows is the mean of single-key masses', async () => {
    const keys = layerRange(0, n + 3).map((key): SpanRef => [[key, key + 1]]);
    const get = await run(
      trial(
        't',
        [
          look('attn_logits', 2, 'all', { measure: 'keyMass', name: 'received' }),
          look('attn_logits', 2, 'all', { measure: 'mass', keys, name: 'pattern' }),
          look('attn_logits', 2, 'generated', { measure: 'keyMass', name: 'later' }),
        ],
        generate(4),
      ),
    );
    const { received, pattern, later } = get('t').captures;
    const rows = n + 3;
    expect(received!.shape).toEqual([1, 4, rows]);
    expect(later!.shape).toEqual([1, 4, rows]);
    const mean = (from: number, head: number, key: number): number =>
      layerRange(from, rows).reduce((sum, r) => sum + pattern!.data[(r * 4 + head) * rows + key]!, 0) / (rows - from);
    for (let head = 0; head < 4; head++)
      for (let key = 0; key < rows; key++) {
        expect(Math.abs(received!.data[head * rows + key]! - mean(0, head, key))).toBeLessThan(1e-6);
        expect(Math.abs(later!.data[head * rows + key]! - mean(n, head, key))).toBeLessThan(1e-6);
      }
  });

  test('how a generation ends', async () => {
    const { tokens } = (await run(trial('t', [], generate(6))))('t');
    const twice = tokens.findIndex((token, i) => i > 0 && tokens.indexOf(token) === i); // its first occurrence
    const get = await run(
      trial('none', [logits('all')], generate(0)),
      trial('one', [logits('all')], generate(1)),
      trial('one, a stop', [logits('all')], generate(1, [tokens[0]!])),
      trial('stop', [logits('all')], generate(6, [tokens[twice]!])),
      trial('stop at the end', [], generate(twice + 1, [tokens[twice]!])),
      trial('longer', [], generate(6)),
    );
    const end = (id: string) => [get(id).tokens.length, get(id).truncated];
    expect(twice).toBeGreaterThan(0);
    expect(end('none')).toEqual([0, false]);
    expect(end('one')).toEqual([1, true]);
    expect(end('one, a stop')).toEqual([1, false]);
    expect(end('stop')).toEqual([twice + 1, false]); // the stop token is the last
    expect(end('stop at the end')).toEqual([twice + 1, false]);
    expect(end('longer')).toEqual([6, true]);
    expect(get('stop').tokens).toEqual(tokens.slice(0, twice + 1));
    // The last token is never run, so it has no logits of its own.
    expect(get('one').captures.logits!.shape).toEqual([n, vocab]);
    expect(get('stop').captures.logits!.shape).toEqual([n + twice, vocab]);
    const { data } = get('stop').captures.logits!;
    [...get('stop').tokens].forEach((token, i) => {
      const at = data.slice((n - 1 + i) * vocab, (n + i) * vocab);
      expect(at.indexOf(Math.max(...at))).toBe(token);
      const lse = Math.log(at.reduce((sum, x) => sum + Math.exp(x), 0));
      expect(get('stop').logprobs[i]).toBeCloseTo(at[token]! - lse, 5);
    });
  });
});

describe('images', () => {
  const two = mixedPrompt([randomImage(31, 4, 6), randomImage(32, 4, 4)], [2, 3, 4], 1);
  const same = mixedPrompt([randomImage(31, 4, 4), randomImage(31, 4, 4)], [2, 3, 4], 1);
  const tokens = look('resid_post', 0, 'image', { tower: 'projector', name: 'tokens' });
  const patches = look('resid_pre', 1, 'image', { tower: 'vision', name: 'patches' });

  test('a mean stays within an image, rows count through both', async () => {
    const mean = (rows: SpanRef): Intervention => ({
      site: 'resid_pre',
      tower: 'vision',
      op: 'mean',
      layers: [1],
      rows,
    });
    const get = await run(
      trial('plain', [patches], { prompt: two }),
      trial('both', [mean('image'), patches], { prompt: two }),
      trial('second', [mean([[24, 30]]), patches, tokens], { prompt: two }),
      trial('untouched', [tokens], { prompt: two }),
    );
    const plain = get('plain').captures.patches!;
    expect(plain.shape).toEqual([1, 40, 16]);
    const means = [
      meanOf(plain, layerRange(0, 24)),
      meanOf(plain, layerRange(24, 40)),
      meanOf(plain, layerRange(24, 30)),
    ];
    for (let i = 0; i < 40; i++) {
      expect(row(get('both').captures.patches!, i)).toEqual(means[i < 24 ? 0 : 1]);
      expect(row(get('second').captures.patches!, i)).toEqual(i >= 24 && i < 30 ? means[2] : row(plain, i));
    }
    for (let i = 0; i < 10; i++) {
      const at = row(get('second').captures.tokens!, i);
      const before = row(get('untouched').captures.tokens!, i);
      if (i < 6) expect(at).toEqual(before);
      else expect(at).not.toEqual(before);
    }
  });

  test('the same image twice is read out and edited in each of its places', async () => {
    const zero: Intervention = { site: 'resid_post', tower: 'projector', op: 'zero', layers: [0], rows: 'image 1' };
    const get = await run(
      trial('plain', [patches, tokens], { prompt: same }),
      trial('edited', [zero, tokens], { prompt: same }),
    );
    expect(get('plain').captures.patches!.shape).toEqual([1, 32, 16]);
    for (const name of ['patches', 'tokens']) {
      const { data } = get('plain').captures[name]!;
      expect(data.slice(0, data.length / 2)).toEqual(data.slice(data.length / 2));
    }
    const { data } = get('edited').captures.tokens!;
    expect(data.slice(0, data.length / 2)).toEqual(get('plain').captures.tokens!.data.slice(0, data.length / 2));
    expect(data.slice(data.length / 2).every((x) => x === 0)).toBe(true);
  });

  test("phase 'decode' does nothing to an image", async () => {
    const zero = { site: 'resid_post', tower: 'vision', op: 'zero', layers: [0] } as const;
    const get = await run(
      trial('plain', [logits('prompt')]),
      trial('decode', [{ ...zero, phase: 'decode' }, logits('prompt')]),
      trial('both', [zero, logits('prompt')]),
    );
    expect(get('decode').captures).toEqual(get('plain').captures);
    expect(get('both').captures).not.toEqual(get('plain').captures);
  });

  test('a source image of other size is refused by trial, the others run', async () => {
    const one = mixedPrompt([randomImage(31, 4, 4), randomImage(32, 4, 6)], [2, 3, 4], 1);
    const patch: Intervention = {
      site: 'q',
      tower: 'vision',
      op: 'patch',
      layers: [0],
      rows: 'image',
      value: { trial: 'two' },
    };
    const { outcomes } = await engine.run([
      trial('two', [], { prompt: two }),
      trial('one', [patch], { prompt: one }),
      trial('none', [patch]),
      trial('beyond', [{ site: 'q', tower: 'vision', op: 'zero', layers: [0], rows: [[0, 41]] }], { prompt: two }),
    ]);
    expect(outcomes.map((o) => (o.ok ? 'ok' : o.error.code))).toEqual([
      'ok',
      'SHAPE_MISMATCH',
      'SHAPE_MISMATCH',
      'BAD_ARGUMENT',
    ]);
  });
});

describe('scores', () => {
  test('KL and log-probabilities of trials that share every layer', async () => {
    const bend: Intervention = { site: 'logits', op: 'scale', layers: [], value: 0.5 };
    const get = await run(
      trial('a', [logits()], { score: { tokens: [3], klTo: 'b' } }),
      trial('b', [bend, logits()], { score: { tokens: [3], klTo: 'a' } }),
      trial('c', [], { score: { klTo: 'a' } }),
    );
    const logProbabilities = (id: string): number[] => {
      const values = [...get(id).captures.logits!.data];
      const lse = Math.log(values.reduce((sum, x) => sum + Math.exp(x), 0));
      return values.map((x) => x - lse);
    };
    const [a, b] = [logProbabilities('a'), logProbabilities('b')];
    const kl = (p: number[], q: number[]): number => p.reduce((sum, x, i) => sum + Math.exp(x) * (x - q[i]!), 0);
    expect(get('a').score!.kl).toBeCloseTo(kl(a, b), 10);
    expect(get('b').score!.kl).toBeCloseTo(kl(b, a), 10);
    expect(kl(a, b)).toBeGreaterThan(0.01);
    expect(get('c').score!.kl).toBe(0);
    expect(get('a').score!.logprobs[0]).toBeCloseTo(a[3]!, 6);
    expect(get('b').score!.logprobs[0]).toBeCloseTo(b[3]!, 6);
  });

  test('a graft reads its head from the donor of the head, tied or not', async () => {
    const part = (embed: string, head: string) => ({
      layers: layerRange(0, layers).map(() => 'tied a'),
      embed,
      vision: 'tied a',
      projector: 'tied a',
      norm: 'tied a',
      head,
    });
    engine.addGraft('head of b', part('tied a', 'tied b'));
    engine.addGraft('embed of b', part('tied b', 'tied a'));
    const read = [look('resid_post', layers - 1, 'last'), look('resid_pre', 0, 'question'), logits()];
    const get = await run(
      ...['tied a', 'tied b', 'head of b', 'embed of b'].map((model) => trial(model, read, { model })),
    );
    const checkpoints = { a: openCheckpoint(dirs[1]!), b: openCheckpoint(dirs[2]!) };
    const norm = checkpoints.a.read('model.norm.weight').data;
    for (const [id, donor] of [
      ['tied a', 'a'],
      ['head of b', 'b'],
      ['embed of b', 'a'],
    ] as const) {
      const stream = get(id).captures.resid_post!.data;
      const table = checkpoints[donor].read('model.embed_tokens.weight').data;
      const scale = 1 / Math.sqrt(stream.reduce((sum, x) => sum + x * x, 0) / width + 1e-6);
      const expected = Array.from({ length: vocab }, (_, token) =>
        stream.reduce((sum, x, c) => sum + x * scale * norm[c]! * table[token * width + c]!, 0),
      );
      expect(worst(get(id).captures.logits!.data, expected)).toBeLessThan(1e-4);
    }
    const entry = (id: string) => get(id).captures.resid_pre!.data;
    expect(entry('head of b')).toEqual(entry('tied a'));
    expect(entry('embed of b')).toEqual(entry('tied b'));
    expect(engine.model('head of b').parameters).toBe(engine.model('tied a').parameters + vocab * width);
  });
});
