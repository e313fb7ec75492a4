/** The benches run where there is no peer, on a tiny model: galvani's side alone, said in one line, nothing saved. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');
const hasBuild = existsSync(join(root, 'dist/engine.js'));
if (!hasBuild) console.warn('bench smoke test skipped: dist is not built (npm run build)');

describe.skipIf(!hasBuild)('benches without Python', () => {
  const run = (name: string) =>
    promisify(execFile)(process.execPath, [join(root, `bench/${name}.mjs`), '--tiny', '--rounds', '1'], {
      env: { ...process.env, GALVANI_PYTHON: '/nonexistent/python' },
    });

  test('attention, at every level of hooks', async () => {
    const { stdout } = await run('attention');
    expect(stdout).toMatch(/^no peer, galvani alone: .*ENOENT/m);
    expect(stdout).toMatch(/unit +galvani +galvani, read +galvani, edit +galvani, all/);
    expect(stdout).toMatch(/prefill 64 +GFLOP\/s( +[\d.]+){4}/);
    expect(stdout).not.toContain('bench/results');
  });

  test('weights: statistics beside a plain read, and spectra', async () => {
    const { stdout } = await run('weights');
    expect(stdout).toMatch(/^no peer, galvani alone: .*ENOENT/m);
    expect(stdout).toMatch(/^plain read +cold +[\d.]+/m);
    expect(stdout).toMatch(/^galvani +warm +[\d.]+ +1 +\d+/m);
    expect(stdout).toMatch(/^64 × 96 +[\d.]+ +–/m);
    expect(stdout).not.toContain('bench/results');
  });

  test.each([
    ['engine', /prefill, text 1024 +rows\/s +[\d.]+/],
    ['sweep', /galvani computed 2\.\d\d forward passes for 5 runs/],
  ])('%s', async (name, line) => {
    const { stdout } = await run(name);
    expect(stdout).toMatch(/^no peer, galvani alone: .*ENOENT/m);
    expect(stdout).toMatch(line);
    expect(stdout).toMatch(/^galvani +\d+ +\d+/m);
    expect(stdout).not.toContain('bench/results');
  });
});
