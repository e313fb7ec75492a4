/**
 * The engine against transformers 5 (float32, eager) on the committed small models: residual stream after every layer
 * of both towers, logits, 32 greedy tokens; a ragged batch of ours against their padded one.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/safetensors.js';
import { Engine } from '../../lib/engine.js';
import { layerRange } from '../../lib/hooks/interventions.js';
import { buildPrompt } from '../../lib/processor/prompt.js';
import type { Capture, Intervention, Prompt, Trial, TrialResult } from '../../lib/types.js';
import { relativeError } from '../support/compare.js';
import { fixtureModels, fixturePath, type ParityRecord, readFixtureJson } from '../support/fixture.js';
import { parityMessages } from '../support/prompts.js';

function layerOf(capture: Capture, layer: number): Float32Array {
  const size = capture.data.length / capture.shape[0]!;
  return capture.data.subarray(layer * size, (layer + 1) * size);
}

describe.each([...fixtureModels])('%s', (model) => {
  const fixture = readFixtureJson<ParityRecord>(`parity/${model}.json`);
  const tensors = openCheckpoint(fixturePath(`parity/${model}.safetensors`));
  let engine: Engine;
  beforeAll(async () => {
    engine = await Engine.open();
    await engine.addModel('m', fixturePath(`models/${model}`));
  });
  afterAll(() => engine.close());

  /** Our prompt with their pixels: resizing differs by up to 0.003 a value, which is the processor's test, not this one. */
  async function promptOf(index: number): Promise<Prompt> {
    const spec = fixture.cases[index]!;
    const prompt = await buildPrompt(engine.processor('m'), parityMessages(spec));
    if (spec.grids.length === 0) return prompt;
    const { data } = tensors.read(`${spec.name}/pixel_values`);
    let offset = 0;
    const images = prompt.images.map((place, i) => {
      const pixels = data.slice(offset, offset + place.image.pixels.length);
      offset += pixels.length;
      return { ...place, image: { ...place.image, pixels, hash: `${spec.name} ${i}` } };
    });
    return { ...prompt, images };
  }

  async function runCase(index: number): Promise<TrialResult> {
    const spec = fixture.cases[index]!;
    const prompt = await promptOf(index);
    const { decoder, vision } = engine.model('m').config;
    const interventions: Intervention[] = [
      { site: 'resid_pre', op: 'capture', layers: [0], rows: 'prompt', name: 'embed' },
      { site: 'resid_post', op: 'capture', layers: layerRange(0, decoder.layers), rows: 'prompt', name: 'decoder' },
      {
        site: 'logits',
        op: 'capture',
        layers: [],
        rows: spec.logitsRows.map((r) => [r, r + 1] as const),
        name: 'logits',
      },
    ];
    if (spec.grids.length && vision) {
      const layers = layerRange(0, vision.layers);
      interventions.push(
        { site: 'resid_pre', op: 'capture', tower: 'vision', layers: [0], name: 'vision embed' },
        { site: 'resid_post', op: 'capture', tower: 'vision', layers, name: 'vision' },
        { site: 'resid_post', op: 'capture', tower: 'projector', layers: [0], name: 'merged' },
      );
    }
    const trial: Trial = { id: 't', prompt, model: 'm', interventions, generate: { maxTokens: 32, stopTokens: [] } };
    const { outcomes } = await engine.run([trial]);
    const outcome = outcomes[0]!;
    if (!outcome.ok) throw outcome.error;
    return outcome.result;
  }

  test.each(fixture.cases.map(({ name }, i) => [name, i] as const))('%s', async (name, index) => {
    const result = await runCase(index);
    const spec = fixture.cases[index]!;
    const expected = (path: string): Float32Array => tensors.read(`${name}/${path}`).data;
    const { decoder, vision } = engine.model('m').config;
    const errors: Record<string, number> = {};
    if (spec.grids.length && vision) {
      errors['vision/embed'] = relativeError(result.captures['vision embed']!.data, expected('vision/embed'));
      for (let l = 0; l < vision.layers; l++) {
        errors[`vision/${l}`] = relativeError(layerOf(result.captures.vision!, l), expected(`vision/${l}`));
      }
      errors['vision/merged'] = relativeError(result.captures.merged!.data, expected('vision/merged'));
    }
    errors['decoder/embed'] = relativeError(result.captures.embed!.data, expected('decoder/embed'));
    for (let l = 0; l < decoder.layers; l++) {
      errors[`decoder/${l}`] = relativeError(layerOf(result.captures.decoder!, l), expected(`decoder/${l}`));
    }
    errors.logits = relativeError(result.captures.logits!.data, expected('logits'));
    expect(Object.entries(errors).filter(([, error]) => !(error <= 1e-4))).toEqual([]);
    expect([...result.tokens]).toEqual(spec.greedy);
  });

  test('a ragged batch equals their left-padded one', async () => {
    const { batch, cases } = fixture;
    const trials = await Promise.all(
      batch.cases.map(async (name): Promise<Trial> => {
        const prompt = await promptOf(cases.findIndex((spec) => spec.name === name));
        const logits: Intervention = { site: 'logits', op: 'capture', layers: [], rows: 'last', name: 'logits' };
        return { id: name, prompt, model: 'm', interventions: [logits], generate: { maxTokens: 32, stopTokens: [] } };
      }),
    );
    const { outcomes } = await engine.run(trials);
    const expected = tensors.read('batch/logits').data;
    const vocab = expected.length / trials.length;
    outcomes.forEach((outcome, i) => {
      if (!outcome.ok) throw outcome.error;
      const rows = expected.subarray(i * vocab, (i + 1) * vocab);
      expect(relativeError(outcome.result.captures.logits!.data.subarray(0, vocab), rows)).toBeLessThanOrEqual(1e-4);
      expect([...outcome.result.tokens]).toEqual(batch.greedy[i]);
    });
  });
});
