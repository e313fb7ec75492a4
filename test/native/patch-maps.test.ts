/** Attention planted on one image token must show at that token's place over the picture, and come from its pixels. */
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Engine } from '../../lib/engine.js';
import { keySpans, querySpans } from '../../lib/experiments/attend.js';
import { attentionReducer, type ReducedAttention } from '../../lib/experiments/attend-reduce.js';
import { layersOf } from '../../lib/experiments/report-attend-pictures.js';
import { captureKeyMass, captureMass, knockout, layerRange } from '../../lib/hooks/interventions.js';
import { imagePatches } from '../../lib/processor/image.js';
import { buildPrompt } from '../../lib/processor/prompt.js';
import type { RgbImage } from '../../lib/processor/resize.js';
import { pictureMaps } from '../../lib/report/picture-map.js';

let engine: Engine;
beforeAll(async () => {
  engine = await Engine.open({ threads: 2 });
  await engine.addModel('rl', fileURLToPath(new URL('../../lab/checkpoints/rl', import.meta.url)));
});
afterAll(() => engine.close());

// Wider than high, so that rows and columns cannot be taken for each other: 2 × 8 image tokens of 16 pixels.
const [rows, columns, token] = [2, 8, 16];
const picture = (at?: readonly [row: number, column: number]): RgbImage => {
  const [width, height] = [columns * token, rows * token];
  const data = new Uint8Array(width * height * 3).fill(40);
  if (at) {
    for (let y = at[0] * token; y < (at[0] + 1) * token; y += 1) {
      data.fill(220, (y * width + at[1] * token) * 3, (y * width + (at[1] + 1) * token) * 3);
    }
  }
  return { width, height, data };
};
const places = [
  [0, 0],
  [0, 7],
  [1, 3],
  [1, 6],
] as const;

test.each(places)('attention planted at row %i, column %i is drawn there', async (row, column) => {
  const processor = engine.processor('rl');
  const prompt = await buildPrompt(
    processor,
    { question: 'sum of digits ?', images: [picture()] },
    { answer: '<think> 0 + 9 = 9 </think> <answer> 9 </answer>' },
  );
  const { start, count } = prompt.images[0]!;
  expect(count).toBe(rows * columns);
  const planted = start + row * columns + column;
  const layers = layerRange(0, engine.model('rl').layers);
  const keys = keySpans(prompt);
  const captures = querySpans.flatMap((query) => [
    captureMass({ name: `mass ${query}`, layers, rows: query, keys: Object.values(keys), phase: 'prefill' }),
    captureKeyMass({ name: `keys ${query}`, layers, rows: query, phase: 'prefill' }),
  ]);
  const hidden = [
    [start, planted],
    [planted + 1, start + count],
  ].filter(([from, to]) => from! < to!) as [number, number][];
  const { outcomes } = await engine.run([
    {
      id: 'planted',
      prompt,
      model: 'rl',
      interventions: [knockout({ layers, queries: 'answer', keys: hidden, phase: 'prefill' }), ...captures],
    },
  ]);
  const [outcome] = outcomes;
  if (!outcome?.ok) throw new Error('the trial failed');
  const reduced = attentionReducer(keys, querySpans, true).apply(outcome.result, prompt) as unknown as ReducedAttention;
  for (const query of querySpans) {
    const { map } = reduced[query]!;
    expect(map!.grid).toEqual([rows, columns]);
    for (const { values } of layersOf(map!)) {
      values.forEach((value, i) => {
        if (i === row * columns + column) expect(value).toBeGreaterThan(0);
        else expect(value).toBe(0);
      });
    }
  }
  const html = pictureMaps(
    [
      {
        id: 'p',
        title: 'planted',
        picture: { url: 'data:,', width: 200, height: 90 },
        grid: [rows, columns],
        views: [{ label: 'v', panels: [{ name: 'rl', layers: layersOf(reduced.think!.map!) }] }],
        below: '',
      },
    ],
    'share',
  );
  // A pixel a patch, stretched over the whole picture.
  const [, url] = /<image class="patches" href="data:image\/png;base64,([^"]+)" width="200" height="90"/.exec(html)!;
  const { data, info } = await sharp(Buffer.from(url!, 'base64')).raw().toBuffer({ resolveWithObject: true });
  expect(info).toMatchObject({ width: columns, height: rows, channels: 4 });
  const seen = Array.from({ length: rows * columns }, (_, i) => i).filter((i) => data[4 * i + 3]! > 0);
  expect(seen).toEqual([row * columns + column]);
});

test.each(places)('image token at row %i, column %i is made of the pixels under its cell', (row, column) => {
  const settings = engine.processor('rl').images!;
  const [plain, bright] = [imagePatches(picture(), settings), imagePatches(picture([row, column]), settings)];
  const size = plain.pixels.length / (rows * columns);
  for (let i = 0; i < rows * columns; i += 1) {
    const same = plain.pixels
      .subarray(i * size, (i + 1) * size)
      .every((value, j) => value === bright.pixels[i * size + j]);
    expect(same).toBe(i !== row * columns + column);
  }
});
