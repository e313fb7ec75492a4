/** What is planned for a GPU and what its attention kernels answer, in emulation, by the executables of native/device. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildNativeTests, hasCmake, nativeFolder, runNativeTest } from '../support/native-executable.js';

if (!hasCmake()) console.warn('attention on the emulated GPU skipped: cmake is not installed');

describe.skipIf(!hasCmake())('attention on a GPU, in emulation', () => {
  beforeAll(() => buildNativeTests(['attn_plan_test', 'page_pool_test', 'check_test', 'gpu_check']), 900_000);

  for (const [what, name, least] of [
    ['the planner covers every visible key once', 'attn_plan_test', 1_000_000],
    ['pages are shared, written once and come back', 'page_pool_test', 100_000],
    ['the bench passes attention by the definition and sees every planted mistake', 'check_test', 1000],
  ] as const)
    it(what, () => {
      const { passed, failed, output } = runNativeTest(name);
      expect(failed, output).toBe(0);
      expect(passed).toBeGreaterThan(least);
    }, 300_000);

  // Without --kernel the planner chooses, and reads shared prefixes once.
  for (const [what, args, seeds] of [
    ['planned', [], 24],
    ['attn_mma', ['--kernel', 'attn_mma'], 20],
    ['attn_decode', ['--kernel', 'attn_decode'], 24],
    ['attn_wgmma', ['--kernel', 'attn_wgmma'], 16],
  ] as const)
    for (const schedule of [0, 1, 2, 3])
      it(`${what}, schedule ${schedule}`, () => {
        const first = schedule * seeds;
        const range = ['--seeds', `${first}..${first + seeds - 1}`];
        const { passed, failed, output } = runNativeTest('gpu_check', { GALVANI_SCHEDULE: String(schedule) }, [
          ...args,
          ...range,
        ]);
        expect(failed, output).toBe(0);
        expect(passed).toBe(seeds);
      }, 300_000);

  it('the program refuses what it does not understand and writes what it found', () => {
    const run = (...args: string[]) => spawnSync(`${nativeFolder}/gpu_check`, args, { encoding: 'utf8' });
    for (const [args, why] of [
      [['--kernel', 'attn_magic'], "no kernel 'attn_magic'"],
      [['--seeds', '1..x'], "--seeds expects a number, got 'x'"],
      [['--backend', '/nowhere/galvani_cuda.so'], 'cannot open shared object'],
      [['--backend'], '--backend expects a value'],
      [['--loud'], 'unknown option --loud'],
    ] as const) {
      const result = run(...args);
      expect(result.status).toBe(2);
      expect(result.stderr).toContain(why);
    }
    const folder = mkdtempSync(join(tmpdir(), 'galvani-check-'));
    const { status, stdout } = run('--backend', 'host', '--seeds', '3..5', '--json', join(folder, 'out.json'));
    expect(status, stdout).toBe(0);
    const json = JSON.parse(readFileSync(join(folder, 'out.json'), 'utf8'));
    expect(json).toMatchObject({ backend: 'host', passed: 3, failed: 0 });
    expect(json.scenes.map((s: { ok: boolean }) => s.ok)).toEqual([true, true, true]);
    expect(json.checks.out).toMatchObject({ failed: 0 });
    rmSync(folder, { recursive: true });
  });
});
