/** Every planted mistake of test/support/mutants.ts is caught in emulation by gpu_check or the kernel's own test. */
import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Mutant, mutants } from '../support/mutants.js';
import { buildNativeTests, hasCmake, nativeFolder } from '../support/native-executable.js';

const native = fileURLToPath(new URL('../../native', import.meta.url));
const kernels = join(native, 'ops/gpu');
const objects = `${nativeFolder}/CMakeFiles/galvani_emulated_parts.dir/native`;
const folder = mkdtempSync(join(tmpdir(), 'galvani-mutants-'));
const compiler = process.env.CXX ?? 'g++';

interface Ran {
  readonly code: number | null;
  readonly output: string;
}

function run(command: string, args: readonly string[], schedule = 0): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      env: { ...process.env, GALVANI_SCHEDULE: String(schedule) },
      timeout: 120_000,
    });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, output }));
  });
}

/** The emulated back end with one kernel replaced; null: unchanged, built the same way. */
async function build(mutant: Mutant | null, name: string): Promise<string> {
  const dir = join(folder, name);
  const over = join(dir, 'ops/gpu');
  mkdirSync(over, { recursive: true });
  // Quoted includes are looked up beside the including file first: all headers go where the mutated one lies.
  const headers = readdirSync(kernels).filter((file) => /\.(h|cuh)$/.test(file));
  const source = mutant?.compile ?? mutant?.file ?? 'attn_mma.cu';
  for (const file of [...headers, source]) cpSync(join(kernels, file), join(over, file));
  if (mutant) {
    const text = readFileSync(join(kernels, mutant.file), 'utf8');
    const parts = text.split(mutant.find);
    expect(parts.length, `${mutant.file} must have this text exactly once: ${mutant.find}`).toBe(2);
    writeFileSync(join(over, mutant.file), parts.join(mutant.put));
  }
  const object = join(dir, 'kernel.o');
  const flags = ['-std=c++20', '-O1', '-fPIC', '-fvisibility=hidden', '-Wno-psabi', `-I${dir}`, `-I${native}`];
  const compiled = await run(compiler, [...flags, '-x', 'c++', '-c', join(over, source), '-o', object]);
  expect(compiled.code, compiled.output).toBe(0);
  const others = readdirSync(objects, { recursive: true, encoding: 'utf8' }).filter(
    (file) => file.endsWith('.o') && !file.endsWith(`/${source}.o`),
  );
  const library = join(dir, 'mutant.so');
  const linked = await run(compiler, [
    '-shared',
    '-o',
    library,
    object,
    ...others.map((file) => join(objects, file)),
    '-ldl',
  ]);
  expect(linked.code, linked.output).toBe(0);
  return library;
}

const check = (library: string, mutant: Mutant, schedule: number): Promise<Ran> =>
  mutant.check === 'weights_test'
    ? run(`${nativeFolder}/weights_test`, [library], schedule)
    : run(`${nativeFolder}/gpu_check`, ['--backend', library, ...mutant.check], schedule);
const checkText = ({ check: how }: Mutant): string => (typeof how === 'string' ? how : how.join(' '));

if (!hasCmake()) console.warn('mutation tests of the GPU kernels skipped: cmake is not installed');

describe.skipIf(!hasCmake())('mistakes planted in the GPU kernels', () => {
  beforeAll(() => buildNativeTests(['galvani_emulated_parts', 'gpu_check', 'weights_test']), 600_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('there are at least ten, no two alike', () => {
    expect(mutants.length).toBeGreaterThanOrEqual(10);
    expect(new Set(mutants.map((m) => `${m.file} ${m.find} ${m.put}`)).size).toBe(mutants.length);
  });

  // What a mutant is caught by must not fail without it.
  it('the checks pass on the unchanged kernels under the same schedules', async () => {
    const library = await build(null, 'control');
    const seen = new Set<string>();
    for (const mutant of mutants)
      for (const schedule of mutant.schedules) {
        const key = `${schedule} ${checkText(mutant)}`;
        if (seen.has(key)) continue;
        seen.add(key);
        const { code, output } = await check(library, mutant, schedule);
        expect(code, `${checkText(mutant)} under schedule ${schedule}:\n${output}`).toBe(0);
      }
  }, 600_000);

  for (const [index, mutant] of mutants.entries())
    it(mutant.name, async () => {
      const library = await build(mutant, String(index));
      for (const schedule of mutant.schedules) {
        const { code, output } = await check(library, mutant, schedule);
        expect(output).toMatch(/^\d+ passed, \d+ failed$/m);
        if (code !== 0) return;
      }
      expect.fail(`not caught under schedules ${mutant.schedules.join(', ')}`);
    }, 300_000);
});
