/**
 * A family of checkpoints whose updates are known, through the whole instrument: what was planted must be found, where
 * it was planted, and nothing else.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CharacterizeResult, WeightCell } from '../../lib/experiments/characterize-analyze.js';
import { writeReport } from '../../lib/experiments/report.js';
import { runStudy } from '../../lib/experiments/study.js';
import { parseStudy } from '../../lib/experiments/study-file.js';
import { summarize } from '../../lib/experiments/summary.js';
import { bfloat16, lowRank, normals, type Stored, sum, writeTensors } from '../support/weight-files.js';

const [width, mlp, heads, layers] = [64, 96, 4, 6];
const headDim = width / heads;
const shapes = {
  'self_attn.q_proj.weight': [width, width],
  'self_attn.k_proj.weight': [width / 2, width],
  'self_attn.o_proj.weight': [width, width],
  'mlp.up_proj.weight': [mlp, width],
  'mlp.down_proj.weight': [width, mlp],
  'input_layernorm.weight': [width],
} as const;
const config = {
  model_type: 'qwen2_5_vl',
  vocab_size: 32,
  hidden_size: width,
  intermediate_size: mlp,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: 2,
  rope_scaling: { type: 'mrope', mrope_section: [2, 3, 3] },
};

// SFT: rank 3 in `down` of every layer. RL: rank 2 in `up` of the late layers, the same `down` direction again in layer
// 4, and head 1 of `q` in layer 5. Entries of 5e-4 are four bf16 steps of weights of 0.02.
const sftRank = 3;
const rlRank = 2;
const sft = (layer: number): Float32Array => lowRank(width, mlp, sftRank, 100 + layer, 5e-4);
function plant(stage: 'sft' | 'rl', name: string, layer: number, shape: readonly number[]): Float32Array | undefined {
  if (stage === 'sft') return name.startsWith('mlp.down') ? sft(layer) : undefined;
  if (name.startsWith('mlp.up') && layer >= 4) return lowRank(shape[0]!, shape[1]!, rlRank, 200 + layer, 1e-3);
  if (name.startsWith('mlp.down') && layer === 4) return sft(4).map((x) => x * 0.5);
  if (name.includes('q_proj') && layer === 5) {
    const delta = new Float32Array(width * width);
    delta.set(normals(headDim * width, 300, 1e-3), headDim * width); // rows of head 1
    return delta;
  }
  return undefined;
}

let folder = '';
let result: CharacterizeResult;
const models: Record<string, string> = {};

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'galvani-planted-'));
  const weights = new Map<string, Float32Array>();
  for (const stage of ['base', 'sft', 'rl'] as const) {
    const tensors: Record<string, Stored> = {};
    for (let layer = 0; layer < layers; layer += 1) {
      for (const [name, shape] of Object.entries(shapes)) {
        const path = `model.layers.${layer}.${name}`;
        const count = shape.reduce((a: number, b) => a * b, 1);
        const before = weights.get(path) ?? normals(count, layer * 31 + name.length, 0.02);
        const delta = stage === 'base' ? undefined : plant(stage, name, layer, shape);
        const after = delta ? sum(before, delta) : before;
        weights.set(path, after);
        tensors[path] = bfloat16(shape, after);
      }
    }
    models[stage] = join(folder, stage);
    mkdirSync(models[stage]!);
    writeTensors(models[stage]!, 'model.safetensors', tensors);
    writeFileSync(join(models[stage]!, 'config.json'), JSON.stringify(config));
  }
  const study = parseStudy(
    { name: 'planted', models, experiments: { characterize: { models: ['base', 'sft', 'rl'], subspace: 3 } } },
    'test',
  );
  const out = join(folder, 'run');
  await runStudy(study, { out });
  const summary = summarize(out);
  writeReport(out, summary);
  result = summary.characterize!;
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const cell = (kind: WeightCell['kind'], group: string): WeightCell =>
  result.cells.find((one) => one.kind === kind && one.group === group)!;
const matrix = (module: string, layer: number) =>
  result.detail.matrices.find((one) => one.module === module && one.layer === layer)!;

describe('a planted update', () => {
  test('is found in its region: what was not trained is bit for bit the same', () => {
    expect(cell('region', 'early').steps[1]).toMatchObject({ frobeniusNorm: 0, unchangedFraction: 1 });
    expect(cell('region', 'mid').steps[1]).toMatchObject({ frobeniusNorm: 0, unchangedFraction: 1 });
    expect(cell('region', 'late').steps[1]!.unchangedFraction).toBeLessThan(0.9);
    const late = result.regionShares.find(({ step, region }) => step === 'sft → rl' && region === 'late')!;
    expect(late.share).toBe(1);
    for (const module of ['q', 'k', 'o', 'up', 'norm1'])
      expect(cell('module', module).steps[0]).toMatchObject({ frobeniusNorm: 0, unchangedFraction: 1 });
    expect(cell('whole', 'whole model').tensors).toBe(layers * Object.keys(shapes).length);
  });

  test('has its rank above the rounding floor, where the raw effective rank is several times larger', () => {
    for (let layer = 0; layer < layers; layer += 1) {
      const down = matrix('down', layer);
      expect(down.rankAboveFloor[0]).toBe(sftRank);
      expect(down.effectiveRank[0]!).toBeGreaterThan(3 * sftRank);
    }
    for (const layer of [4, 5]) expect(matrix('up', layer).rankAboveFloor[1]).toBe(rlRank);
    expect(matrix('up', 3).rankAboveFloor[1]).toBe(0);
    expect(cell('module', 'down').steps[0]!.effectiveRankAboveFloor!).toBeLessThanOrEqual(sftRank);
  });

  test('has its size and its direction', () => {
    // Half of the SFT update again: cosine 1 and half the norm, up to bf16 rounding.
    const down = matrix('down', 4);
    expect(down.cosine!).toBeGreaterThan(0.97);
    expect(down.relativeNorm[1]! / down.relativeNorm[0]!).toBeGreaterThan(0.47);
    expect(down.relativeNorm[1]! / down.relativeNorm[0]!).toBeLessThan(0.53);
    const geometry = result.detail.geometry.find(({ layer }) => layer === 4)!;
    expect(geometry.steps!.left).toBeGreaterThan(5 * geometry.chance.left);
    // The norm that was planted, rounding aside.
    const wanted = Math.hypot(...sft(0));
    const got =
      matrix('down', 0).relativeNorm[0]! * Math.hypot(...normals(width * mlp, 'mlp.down_proj.weight'.length, 0.02));
    expect(Math.abs(got / wanted - 1)).toBeLessThan(0.02);
  });

  test('is sparse where it was: one head of one layer', () => {
    const { layers: shares } = result.detail.heads.find(({ step }) => step === 1)!;
    expect(shares.map(({ layer }) => layer)).toEqual([5]); // no other q changed
    expect(shares[0]!.shares.map((share) => Math.round(share))).toEqual([0, heads, 0, 0]);
    const { rowSpread } = cell('layer', 'layer 5').steps[1]!;
    expect(rowSpread!).toBeLessThan(1);
  });
});
