/**
 * The parts of bench/gpu that must follow the headers: structs as its Python reads them, the planner's C door, and that
 * every script still compiles. Running it takes torch: bench/gpu/check.sh --dry-run.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const run = (command: string, ...args: string[]) => spawnSync(command, args, { cwd: root, encoding: 'utf8' });
const python = process.env.GALVANI_PYTHON ?? 'python3';
const hasPython = run(python, '-c', 'import sys; assert sys.version_info >= (3, 9)').status === 0;
const compiler = process.env.CXX ?? 'c++';
if (!hasPython) console.warn(`bench/gpu: structs not compared, ${python} is not here (it is needed for nothing else)`);

describe('bench/gpu', () => {
  it('opens the planner to callers without C++', () => {
    const args = [
      '-std=c++20',
      '-fsyntax-only',
      '-Wall',
      '-Wextra',
      '-Werror',
      '-Inative',
      '-I.',
      'bench/gpu/plan_abi.cc',
    ];
    expect(run(compiler, ...args).stderr).toBe('');
  });

  it.skipIf(!hasPython)('reads every struct as the compiler lays it out', () => {
    const { status, stdout, stderr } = run(python, '-B', 'bench/gpu/abi.py');
    expect(status, stderr).toBe(0);
    const counts = /^(\d+) sizes and offsets of (\d+) structs agree with the compiler$/m.exec(stdout);
    expect(Number(counts?.[1]), stdout).toBeGreaterThan(200);
    expect(Number(counts?.[2])).toBeGreaterThan(20);
  });

  it.skipIf(!hasPython)('has scripts that compile', () => {
    const files = readdirSync(`${root}bench/gpu`).filter((name) => name.endsWith('.py'));
    expect(files.length).toBeGreaterThan(10);
    const check = 'import sys\nfor name in sys.argv[1:]: compile(open(name).read(), name, "exec")';
    expect(run(python, '-B', '-c', check, ...files.map((name) => `bench/gpu/${name}`)).stderr).toBe('');
  });
});
