/** Freezing from plan to proof, without the training in between (scripts/freeze-trl.sh does that for real). */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { openCheckpoint } from '../../lib/checkpoint/safetensors.js';
import { installedVersion, writeFreezePlan } from '../../lib/experiments/freeze-engines.js';
import {
  type FreezePart,
  freezeParts,
  planFreezing,
  readFreezePlan,
  verifyPlan,
} from '../../lib/experiments/freeze-plan.js';

const lab = (name: string): string => fileURLToPath(new URL(`../../lab/checkpoints/${name}`, import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'galvani-freeze-'));
afterAll(() => rmSync(work, { recursive: true }));

/** The checkpoint with other names in its header, as another version of transformers stores it. */
function renamed(dir: string, name: string, rename: (tensor: string) => string): string {
  const out = join(work, name);
  cpSync(dir, out, { recursive: true });
  const file = join(out, 'model.safetensors');
  const bytes = readFileSync(file);
  const size = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + size)) as Record<string, unknown>;
  const entries = Object.entries(header).map(([key, value]) => [key === '__metadata__' ? key : rename(key), value]);
  const text = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  length.writeBigUInt64LE(BigInt(padded.length));
  writeFileSync(file, Buffer.concat([length, padded, bytes.subarray(8 + size)]));
  return out;
}

const newer = (name: string): string =>
  name.replace(/^model\./, 'model.language_model.').replace(/^visual\./, 'model.visual.');

test('a plan names the tensors of its parts, and its pattern finds the same in either layout of names', () => {
  const names = openCheckpoint(lab('in')).names();
  const expected: Record<Exclude<FreezePart, 'head'>, RegExp> = {
    early: /^model\.layers\.[0-2]\./,
    mid: /^model\.layers\.[3-5]\./,
    late: /^model\.layers\.[6-8]\./,
    vision: /^visual\.(?!merger)/,
    projector: /^visual\.merger/,
    embed: /^model\.embed_tokens/,
    norm: /^model\.norm/,
  };
  for (const [part, shape] of Object.entries(expected) as [FreezePart, RegExp][]) {
    const plan = planFreezing(lab('in'), [part]);
    const held = names.filter((name) => shape.test(name));
    expect(plan.frozen.map(({ name }) => name)).toEqual(held);
    const pattern = new RegExp(plan.pattern);
    expect(
      names.filter((name) => pattern.test(name)),
      part,
    ).toEqual(held);
    expect(
      names.map(newer).filter((name) => pattern.test(name)),
      part,
    ).toEqual(held.map(newer));
  }
  const two = planFreezing(lab('in'), ['late', 'vision'], [2, 7]);
  expect(two.frozenLayers).toEqual([7, 8]);
  expect(two.frozen.length).toBe(names.filter((n) => /^model\.layers\.[78]\.|^visual\.(?!merger)/.test(n)).length);
  expect(two.values.frozen).toBeLessThan(two.values.all);
  expect(two.checkpoint).toMatchObject({ dir: lab('in'), dtype: 'bfloat16' });
});

test('a plan that cannot be is refused', () => {
  expect(() => planFreezing(lab('in'), ['head'])).toThrow(/no tensor in 'head'; it is tied to the embedding/);
  expect(() =>
    planFreezing(
      lab('in'),
      freezeParts.filter((part) => part !== 'head'),
    ),
  ).toThrow(/nothing would be trained/);
  expect(() => planFreezing(lab('in'), ['late'], [5, 3])).toThrow(/0 < mid < late/);
  const plan = planFreezing(lab('in'), ['late']);
  expect(() => writeFreezePlan(plan, 'verl', '0.8.0', join(work, 'old'))).toThrow(
    /expected verl 0\.9 or newer, got 0\.8\.0/,
  );
  expect(() => installedVersion('trl', process.execPath)).toThrow(/has no trl; name its Python with --python/);
});

test('every engine gets a script that a shell can read, its files, and the plan', () => {
  const plan = planFreezing(lab('in'), ['mid']);
  const scripts = (['trl', 'verl', 'ms-swift'] as const).map((engine) => {
    const out = join(work, engine);
    const version = { trl: '1.16.0', verl: '0.9.1', 'ms-swift': '4.6.0' }[engine];
    const written = writeFreezePlan(plan, engine, version, out);
    expect(written.warning).toBeUndefined();
    expect(readFreezePlan(join(out, 'plan.json'))).toEqual(plan);
    execFileSync('bash', ['-n', join(out, 'run.sh')]);
    for (const file of written.files) expect(readFileSync(join(out, file), 'utf8').length).toBeGreaterThan(100);
    return readFileSync(join(out, 'run.sh'), 'utf8');
  });
  const [trl, verl, swift] = scripts as [string, string, string];
  expect(trl).toContain('layers 3-5 of 9');
  expect(verl).toContain('model.external_lib=galvani_freeze_verl');
  expect(swift).toContain(`--freeze_parameters_regex '${plan.pattern}'`);
  expect(swift).toContain('--tuner_type full');
  expect(swift).toContain('--freeze_vit false --freeze_aligner false');
  const older = writeFreezePlan(plan, 'ms-swift', '3.9.1', join(work, 'older'));
  expect(older.warning).toMatch(/written as for ms-swift 4\.6\.0/);
  expect(readFileSync(join(work, 'older', 'run.sh'), 'utf8')).toContain('--train_type full');
});

test('verify proves a held region, names what changed, and knows another base', async () => {
  const plan = planFreezing(lab('in'), ['late']);
  const held = await verifyPlan(lab('in'), lab('rl-frozen-late'), plan);
  expect(held.frozenChanged).toEqual([]);
  expect(held.frozen).toHaveLength(36);
  expect(held.frozen.length + held.others).toBe(openCheckpoint(lab('in')).names().length);

  const full = await verifyPlan(lab('in'), lab('rl'), plan);
  expect(full.frozenChanged).toContain('model.layers.6.mlp.up_proj.weight');
  expect(full.frozenChanged.every((name) => /^model\.layers\.[6-8]\./.test(name))).toBe(true);

  const stored = renamed(lab('rl-frozen-late'), 'newer', newer);
  expect(openCheckpoint(stored).names()).toContain('model.language_model.layers.6.mlp.up_proj.weight');
  expect(await verifyPlan(lab('in'), stored, plan)).toEqual(held);
  expect((await verifyPlan(lab('in'), renamed(lab('rl'), 'newer-rl', newer), plan)).frozenChanged).toEqual(
    full.frozenChanged,
  );

  await expect(verifyPlan(lab('base'), lab('rl-frozen-late'), plan)).rejects.toThrow(
    /is not the checkpoint of the plan/,
  );
});

test('a damaged plan is refused with what is wrong', () => {
  const path = join(work, 'bad.json');
  writeFileSync(path, '{');
  expect(() => readFreezePlan(path)).toThrow(/not JSON/);
  writeFileSync(path, JSON.stringify({ ...planFreezing(lab('in'), ['late']), frozen: [] }));
  expect(() => readFreezePlan(path)).toThrow(/not a freeze plan[\s\S]*frozen/);
});
