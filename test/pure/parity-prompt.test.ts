import { describe, expect, it } from 'vitest';
import { loadProcessor } from '../../lib/processor/processor.js';
import { buildPrompt } from '../../lib/processor/prompt.js';
import {
  fixtureModels,
  fixturePath,
  type ParityRecord,
  readFixtureJson,
  readFixtureTensors,
} from '../support/fixture.js';
import { parityMessages } from '../support/prompts.js';

/** Cases whose images keep their size: pixels must be bit-equal. */
const resized = new Set(['odd-size']);
const MEAN_ERROR = 0.003;

function meanError(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += Math.abs(a[i]! - b[i]!);
  return sum / a.length;
}

describe.each(fixtureModels)('prompts of %s equal transformers', (model) => {
  const record = readFixtureJson<ParityRecord>(`parity/${model}.json`);
  const tensors = readFixtureTensors(`parity/${model}.safetensors`);
  const processor = loadProcessor(fixturePath(`models/${model}`), { imageBackend: 'pillow' });

  it.each(record.cases)('$name', async (expected) => {
    const prompt = await buildPrompt(processor, parityMessages(expected));
    expect(prompt.text).toBe(expected.text);
    expect([...prompt.ids]).toEqual(expected.ids);
    const n = expected.ids.length;
    expect([0, 1, 2].map((axis) => [...prompt.positions.subarray(axis * n, (axis + 1) * n)])).toEqual(
      expected.positions,
    );
    expect(prompt.nextPosition).toBe(Math.max(...expected.positions.flat()) + 1);
    expect(prompt.images.map(({ image }) => image.grid)).toEqual(expected.grids);

    const wanted = tensors.get(`${expected.name}/pixel_values`);
    const pixels = prompt.images.flatMap(({ image }) => [...image.pixels]);
    expect(pixels.length).toBe(wanted?.data.length ?? 0);
    if (!wanted) return;
    if (resized.has(expected.name)) {
      expect(meanError(Float32Array.from(pixels), wanted.data)).toBeLessThanOrEqual(MEAN_ERROR);
    } else expect(Float32Array.from(pixels)).toEqual(wanted.data);
  });
});
