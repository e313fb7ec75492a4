/**
 * Spectra by a LAPACK that GALVANI_LAPACK names: the own routine's answers, and a sentence for every way of not being
 * one. The variable is read once per process, so every case is a process.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folders = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/usr/lib', '/usr/local/lib'];
const names = [/^libopenblas\.so/, /^libopenblas64\.so/, /^liblapack\.so/, /^libmkl_rt\.so/, /^libflexiblas\.so/];
const installed = folders
  .filter((folder) => existsSync(folder))
  .flatMap((folder) =>
    names.flatMap((name) =>
      readdirSync(folder)
        .filter((file) => name.test(file))
        .map((file) => join(folder, file)),
    ),
  );
const library = process.env.GALVANI_LAPACK || installed[0];
if (!library)
  console.warn('spectra by LAPACK: not compared, none is installed (GALVANI_LAPACK, libopenblas, liblapack)');

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galvani-lapack-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (args: readonly string[], lapack: string) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, GALVANI_LAPACK: lapack },
  });
  return { status, stdout, log: `${stdout}${stderr}` };
};

/** Singular values by the Gram path of a full-rank and of a rank-5 matrix, and of an update with subspaces. */
const script = `
import { native } from './dist/native.js';
import { characterize } from './dist/weights.js';
let state = 1;
const draw = () => ((state = (state * 48271) % 2147483647) / 2147483647 - 0.5);
const full = Float32Array.from({ length: 120 * 90 }, draw);
const [left, right] = [60 * 5, 5 * 200].map((n) => Float32Array.from({ length: n }, draw));
const low = Float32Array.from({ length: 60 * 200 }, (_, i) => {
  let sum = 0;
  for (let r = 0; r < 5; r++) sum += left[Math.floor(i / 200) * 5 + r] * right[r * 200 + (i % 200)];
  return sum;
});
const values = (data, rows, columns) => [...native().singularValues(data, rows, columns, 'gram').values];
const { tensors } = await characterize({
  before: 'lab/checkpoints/base', after: 'lab/checkpoints/in', spectra: true, method: 'gram', subspace: 4,
  filter: (name) => name.includes('layers.3.') && name.includes('proj'),
});
const spectra = tensors.flatMap(({ steps: [{ spectrum }] }) => (spectrum ? [spectrum] : []));
console.log(JSON.stringify({
  full: values(full, 120, 90), low: values(low, 60, 200),
  update: spectra.map((one) => [...one.singularValues]),
  ranks: spectra.map((one) => [one.resolved, one.aboveFloor.rank]),
  angles: spectra.map((one) => [...one.weightCosines.left, ...one.weightCosines.right]),
}));`;
interface Found {
  readonly full: number[];
  readonly low: number[];
  readonly update: number[][];
  readonly ranks: number[][];
  readonly angles: number[][];
}
const spectra = (lapack: string): Found => {
  const { status, stdout, log } = run(['--input-type=module', '-e', script], lapack);
  expect(status, log).toBe(0);
  return JSON.parse(stdout) as Found;
};

test.skipIf(!library)(
  'answers as the own routine does',
  () => {
    const [own, theirs] = [spectra(''), spectra(library!)];
    const apart = (a: readonly number[], b: readonly number[]): number => {
      expect(b.length).toBe(a.length);
      return Math.max(...a.map((value, i) => Math.abs(value - b[i]!))) / Math.max(...a);
    };
    expect(own.full.length).toBe(90);
    expect(apart(own.full, theirs.full)).toBeLessThan(1e-12);
    // Below the resolution both say 0: an eigenvalue that should be 0 is rounding in either.
    expect(apart(own.low, theirs.low)).toBeLessThan(1e-12);
    expect(theirs.low.filter((value) => value > 0).length).toBe(own.low.filter((value) => value > 0).length);
    expect(own.update.length).toBeGreaterThan(3);
    own.update.forEach((values, i) => {
      expect(apart(values, theirs.update[i]!)).toBeLessThan(1e-12);
      expect(apart(own.angles[i]!, theirs.angles[i]!)).toBeLessThan(1e-8);
    });
    expect(theirs.ranks).toEqual(own.ranks);
  },
  60_000,
);

test('doctor says whose eigensolver is used', () => {
  const doctor = (lapack: string): string =>
    /eigensolver +(.*)/.exec(run(['dist/cli/main.js', 'doctor'], lapack).stdout)?.[1] ?? '';
  expect(doctor('')).toMatch(/own \(GALVANI_LAPACK is not set\)/);
  if (library) expect(doctor(library)).toMatch(/^LAPACK.*(32|64)-bit integers \(\/.*\), asked for by GALVANI_LAPACK$/);
  expect(doctor('/nowhere.so')).toMatch(/^none: GALVANI_LAPACK=\/nowhere\.so does not load: .*; unset GALVANI_LAPACK/);
});

describe('set and unusable', () => {
  const compiler = ['cc', 'gcc', 'clang'].find((name) => spawnSync(name, ['--version']).status === 0);
  const fake = (name: string, body: string): string => {
    const [source, made] = [join(folder, `${name}.c`), join(folder, `${name}.so`)];
    writeFileSync(source, body);
    const { status, stderr } = spawnSync(compiler!, ['-shared', '-fPIC', '-o', made, source], { encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    return made;
  };
  const routine = (answer: string): string =>
    `void dsyevd_(char *j, char *t, int *n, double *a, int *l, double *w, double *work, int *lwork, int *iwork, int *liwork, int *info) { ${answer} }`;
  const models = ['lab/checkpoints/base', 'lab/checkpoints/in'];
  const characterize = (lapack: string) => {
    const out = join(folder, 'run');
    const { status, log } = run(['dist/cli/main.js', 'characterize', ...models, '--quiet', '--out', out], lapack);
    const left = existsSync(out);
    rmSync(out, { recursive: true, force: true });
    return { status, log, left };
  };

  test('a path that is no library', () => {
    const text = join(folder, 'text.so');
    writeFileSync(text, 'not a library');
    const { status, log, left } = characterize(text);
    expect(status).not.toBe(0);
    expect(log).toMatch(
      /GALVANI_LAPACK=.*text\.so does not load: .*; unset GALVANI_LAPACK for galvani's own routine \[UNSUPPORTED\]/,
    );
    expect(left).toBe(false); // before anything was read
  });

  test.skipIf(!compiler)('a library without the routine, or with another one of its name', () => {
    expect(characterize(fake('empty', 'int nothing;')).log).toMatch(
      /empty\.so is no LAPACK: it has none of dsyevd_64_, dsyevd_/,
    );
    expect(characterize(fake('silent', routine(''))).log).toMatch(/its dsyevd_ does not answer a workspace query/);
  });

  test.skipIf(!compiler)('a routine that does not converge', () => {
    const query = 'if (*lwork == -1) { *work = 1 + 6 * *n + 2 * *n * *n; *iwork = 3 + 5 * *n; *info = 0; return; }';
    const failing = fake('failing', routine(`${query} *info = 3;`));
    const { status, log } = run(
      [
        '--input-type=module',
        '-e',
        "import { native } from './dist/native.js'; native().singularValues(new Float32Array(200), 10, 20, 'gram');",
      ],
      failing,
    );
    expect(status).not.toBe(0);
    expect(log).toMatch(/failing\.so\), Gram matrix of side 10: dsyevd did not converge, info = 3/);
  });
});
