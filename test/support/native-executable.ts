/** Builds and runs the plain C++ test executables (native/<room>/<name>_test.cc), which print "N passed, N failed". */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
// The addon's own build folder has the library compiled already; without it (built by node-gyp) a folder of our own.
export const nativeFolder = existsSync(`${root}build/CMakeCache.txt`) ? `${root}build` : `${root}build-tests`;

function run(command: string, args: string[]): void {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  if (result.status !== 0)
    throw new Error(`${command} ${args.join(' ')} failed:\n${result.error ?? ''}${result.stdout}${result.stderr}`);
}

/** Test files run side by side in their own processes; they build in one folder, so they take turns. */
function withLock(work: () => void): void {
  const lock = `${nativeFolder}/.lock`;
  mkdirSync(nativeFolder, { recursive: true });
  for (;;) {
    try {
      mkdirSync(lock);
      break;
    } catch {
      const age = Date.now() - (statSync(lock, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
      if (age > 600_000) rmSync(lock, { recursive: true, force: true }); // left by a killed run
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    }
  }
  try {
    work();
  } finally {
    rmSync(lock, { recursive: true, force: true });
  }
}

/** Builds these executables. */
export function buildNativeTests(names: readonly string[]): void {
  withLock(() => {
    run('cmake', ['-S', '.', '-B', nativeFolder, '-DGALVANI_TESTS=ON']);
    run('cmake', ['--build', nativeFolder, '-j', String(availableParallelism()), '--target', ...names]);
  });
}

export function hasCmake(): boolean {
  return spawnSync('cmake', ['--version']).status === 0;
}

/** The instruction sets this CPU can be asked to use through GALVANI_ISA. */
export function availableIsas(): string[] {
  const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? [];
  const has = (...wanted: string[]) => wanted.every((flag) => flags.includes(flag));
  const isas = ['portable'];
  if (has('avx2', 'fma', 'f16c')) isas.push('avx2');
  if (has('avx2', 'fma', 'avx512f', 'avx512bw', 'avx512dq', 'avx512vl')) isas.push('avx512');
  return isas;
}

/** Runs one executable; returns what it counted. `output` has its messages. */
export function runNativeTest(
  name: string,
  env: Record<string, string> = {},
  args: readonly string[] = [],
): { passed: number; failed: number; output: string } {
  const result = spawnSync(`${nativeFolder}/${name}`, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 28,
  });
  const output = `${result.stdout}${result.stderr}`;
  const counts = /^(\d+) passed, (\d+) failed$/m.exec(output);
  if (!counts) throw new Error(`${name} ended with ${result.signal ?? result.status} before it counted:\n${output}`);
  return { passed: Number(counts[1]), failed: Number(counts[2]), output };
}

/** Weak and unique-global symbols of the library's object files whose path matches, by path. */
export function weakSymbolsOf(pattern: RegExp): Record<string, string[]> {
  const objects = readdirSync(`${nativeFolder}/CMakeFiles/galvani_core.dir`, { recursive: true, encoding: 'utf8' });
  const matching = objects.filter((path) => pattern.test(path));
  return Object.fromEntries(
    matching.map((path) => {
      const result = spawnSync('nm', ['-C', `${nativeFolder}/CMakeFiles/galvani_core.dir/${path}`], {
        encoding: 'utf8',
      });
      if (result.status !== 0) throw new Error(`nm ${path}: ${result.error ?? result.stderr}`);
      return [path, result.stdout.split('\n').filter((line) => /^[0-9a-f ]+ [WVuwv] /.test(line))];
    }),
  );
}
