/** The seam to the GPU: every way of not having one is a status and one clear line, and none of them breaks the CPU. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { native } from '../../lib/native.js';
import { buildNativeTests, hasCmake, nativeFolder, runNativeTest } from '../support/native-executable.js';
import { nvcc } from '../support/nvcc.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'galvani-device-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function run(command: string, args: string[], env: Record<string, string> = {}): { code: number | null; log: string } {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 28,
  });
  return { code: status, log: `${stdout}${stderr}` };
}

function fake(kind: number): string {
  const path = join(folder, `fake-${kind}.so`);
  const flags = ['-std=c++20', '-shared', '-fPIC', `-DFAKE=${kind}`, '-Inative'];
  const { code, log } = run('g++', [...flags, 'test/support/fake-backend.cc', '-o', path]);
  expect(code, log).toBe(0);
  return path;
}

test('the library in use: a status, one line, and a driver or the reason there is none', () => {
  const status = native().cudaStatus();
  expect(['ok', 'no-driver', 'no-library', 'no-device', 'error']).toContain(status.status);
  expect(status.reason).toMatch(/^[^\n]+$/);
  expect(status.library).toMatch(/galvani_cuda\.so$/);
  expect(status.devices.length > 0).toBe(status.status === 'ok');
  const driver = /libcuda\.so\.1/.test(run('sh', ['-c', 'ldconfig -p || /sbin/ldconfig -p']).log);
  if (!driver) {
    console.warn(`no GPU run here: ${status.reason}`);
    expect(status.status).toBe('no-driver');
    expect(status.reason).toContain('no NVIDIA driver on this machine');
  }
});

test('a CUDA library built here loads without a driver and says what it was compiled for', () => {
  const { library, targets } = native().cudaStatus();
  if (existsSync(library)) expect(targets).toMatch(/^sm_\d+ \+ PTX/);
  else console.warn(`skipped: ${library} is not built`);
});

describe('a library that is not what it should be', () => {
  test('missing, damaged, foreign', () => {
    const missing = native().cudaStatus(join(folder, 'missing.so'));
    expect(['no-library', 'no-driver']).toContain(missing.status);
    writeFileSync(join(folder, 'text.so'), 'not a library');
    const damaged = native().cudaStatus(join(folder, 'text.so'));
    expect(damaged).toMatchObject({ status: 'bad-library', targets: '', devices: [] });
    expect(damaged.reason).toMatch(/does not load: .*text\.so/);
    expect(native().cudaStatus(fake(0)).reason).toMatch(/fake-0\.so is not a galvani backend/);
    expect(() => native().cudaStatus(3 as never)).toThrow(/cudaStatus: library: expected a string/);
  });

  test('another version of the table', () => {
    for (const kind of [1, 2]) {
      const status = native().cudaStatus(fake(kind));
      expect(status.status).toBe('bad-library');
      expect(status.reason).toMatch(/another version of galvani \(this one speaks ABI \d+\)/);
    }
  });

  test('no device, a device that fails, two devices', () => {
    const none = native().cudaStatus(fake(3));
    expect(none).toMatchObject({ status: 'no-device', targets: 'nothing', devices: [] });
    expect(native().cudaStatus(fake(4))).toMatchObject({ status: 'error', reason: 'the fake device is on fire' });
    const two = native().cudaStatus(fake(5));
    expect(two.status).toBe('ok');
    expect(two.devices.map(({ name, computeCapability }) => [name, computeCapability])).toEqual([
      ['Fake 9000', '9.0'],
      ['Fake 9000', '9.0'],
    ]);
    expect(two.reason).toBe(
      'Fake 9000 (compute 9.0, 132 SMs, 80 GiB, driver for CUDA 13.1, runtime 13.0), GEMM: none at all, and 1 more',
    );
  });
});

describe.skipIf(!hasCmake())('a toolkit that is missing or broken costs one line, not the CPU build', () => {
  const script = (name: string, body: string): string => {
    const path = join(folder, name);
    writeFileSync(path, `#!/bin/sh\n${body}\n`);
    chmodSync(path, 0o755);
    return path;
  };
  const configure = (args: string[], env: Record<string, string>) => {
    const build = join(folder, 'build');
    mkdirSync(join(build, 'Release'), { recursive: true });
    writeFileSync(join(build, 'Release', 'galvani_cuda.so'), 'of an earlier build');
    const result = run('cmake', ['-S', '.', '-B', build, ...args], { GALVANI_CUDA: 'AUTO', ...env });
    return { ...result, left: existsSync(join(build, 'Release', 'galvani_cuda.so')) };
  };
  const line = (log: string): string => /galvani: CUDA backend.*/.exec(log)?.[0] ?? log;

  test('configuring', () => {
    const broken = {
      'fails at once': script('nvcc-1', 'echo "nvcc fatal: no toolkit" >&2; exit 1'),
      'says a version and compiles nothing': script('nvcc-2', 'echo "release 13.0, V13.0.88"'),
      'does not exist': join(folder, 'nowhere', 'nvcc'),
    };
    for (const [what, CUDACXX] of Object.entries(broken)) {
      const result = configure([], { CUDACXX });
      expect(result, `${what}\n${result.log}`).toMatchObject({ code: 0, left: false });
      expect(line(result.log), what).toMatch(/SKIPPED, CPU backend only\. Reason: .{10,}/);
    }
    const required = configure([], { CUDACXX: broken['fails at once'], GALVANI_CUDA: 'ON' });
    expect(required.code).not.toBe(0);
    expect(required.log).toContain('GALVANI_CUDA=ON but the CUDA toolchain does not work');
    expect(line(configure([], { GALVANI_CUDA: 'OFF' }).log)).toContain('CUDA backend OFF');

    // Last: what the runs before have found (compiler, make) is remembered, only nvcc is looked for again.
    const hidden = ['/usr/local/bin', '/usr/bin', '/usr/local/cuda/bin', ...(process.env.PATH ?? '').split(':')];
    const absent = configure([`-DCMAKE_IGNORE_PATH=${hidden.join(';')}`, `-DNODE_EXECUTABLE=${process.execPath}`], {
      CUDA_HOME: '',
      CUDA_PATH: '',
    });
    expect(absent, absent.log).toMatchObject({ code: 0, left: false });
    expect(line(absent.log)).toMatch(/SKIPPED, CPU backend only\. Reason: nvcc not found/);
  });

  test.skipIf(!nvcc.path)('building: a compiler that configures and then fails on our files', () => {
    const project = join(folder, 'cuda');
    const real = nvcc.path!;
    const failing = script(
      'nvcc-3',
      `case "$*" in *native/*) echo "cuda.cu(1): error: out of electrons" >&2; exit 2;; esac\nexec ${real} "$@"`,
    );
    const options = [`-DCMAKE_CUDA_COMPILER=${failing}`, '-DGALVANI_CUDA_ARCHS=80', '-DCMAKE_BUILD_TYPE=Release'];
    const configured = run('cmake', ['-S', 'native/device/cuda', '-B', project, ...options]);
    expect(configured.code, configured.log).toBe(0);
    const library = join(folder, 'old.so');
    const build = (required: string) =>
      run('cmake', [
        `-DPROJECT=${project}`,
        `-DLIBRARY=${library}`,
        `-DREQUIRED=${required}`,
        '-P',
        'native/device/cuda/build.cmake',
      ]);
    writeFileSync(library, 'of an earlier build');
    const optional = build('0');
    expect(optional.code, optional.log).toBe(0);
    expect(line(optional.log)).toMatch(/FAILED to build, CPU backend only\. Reason: .*out of electrons/);
    expect(existsSync(library)).toBe(false);
    expect(build('1').code).not.toBe(0);
  });
});

describe.skipIf(!hasCmake())('the emulated back end', () => {
  beforeAll(
    () => buildNativeTests(['emulated_test', 'dense_test', 'weights_test', 'cublaslt_test', 'galvani_emulated']),
    600_000,
  );

  test('poison, guard zones and ranges', () => {
    const { passed, failed, output } = runNativeTest('emulated_test');
    expect(failed, output).toBe(0);
    expect(passed).toBeGreaterThan(30);
  });

  test('the dense kernels, under several schedules, against float64 and the CPU ops', () => {
    const { passed, failed, output } = runNativeTest('dense_test');
    expect(failed, output).toBe(0);
    expect(passed).toBeGreaterThan(1500);
  });

  test('weight statistics of resident tensors, under several schedules, against the CPU', () => {
    const { passed, failed, output } = runNativeTest('weights_test');
    expect(failed, output).toBe(0);
    expect(passed).toBeGreaterThan(4000);
  });

  test('characterize --device: the same figures as on the CPU; without a device one sentence and nothing written', () => {
    const models = ['base', 'in'].map((name) => join('lab', 'checkpoints', name));
    const characterize = (out: string, device: string, library: string) =>
      run(
        process.execPath,
        ['dist/cli/main.js', 'characterize', ...models, '--quiet', '--device', device, '--out', join(folder, out)],
        { GALVANI_CUDA_LIBRARY: library },
      );
    const read = (out: string): { characterize: object } =>
      JSON.parse(readFileSync(join(folder, out, 'summary.json'), 'utf8'));
    const emulated = join(nativeFolder, 'Release', 'galvani_emulated.so');
    for (const device of ['cpu', 'cuda']) {
      const { code, log } = characterize(device, device, emulated);
      expect(code, log).toBe(0);
    }
    const [cpu, cuda] = [read('cpu').characterize, read('cuda').characterize].map(numbers) as [number[], number[]];
    expect(cuda.length).toBe(cpu.length);
    expect(cpu.length).toBeGreaterThan(1000);
    const apart = cpu.map((x, i) => Math.abs(x - cuda[i]!) / Math.max(Math.abs(x), 1e-9));
    expect(Math.max(...apart)).toBeLessThan(1e-9);
    expect(Math.max(...apart)).toBeGreaterThan(0); // another order of addition: it did run elsewhere
    const without = characterize('without', 'cuda', join(folder, 'nowhere.so'));
    expect(without.code).not.toBe(0);
    expect(without.log).toMatch(/device cuda: (no NVIDIA driver|.*there is no).*\[UNSUPPORTED\]/);
    expect(existsSync(join(folder, 'without'))).toBe(false);
  }, 120_000);

  describe('cuSOLVER, where it is asked for', () => {
    const emulated = () => ({ GALVANI_CUDA_LIBRARY: join(nativeFolder, 'Release', 'galvani_emulated.so') });
    const compiled = (name: string, ...flags: string[]): string => {
      const path = join(folder, `${name}.so`);
      const args = ['-std=c++20', '-O2', '-shared', '-fPIC', ...flags, 'test/support/fake-cusolver.cc', '-o', path];
      const { code, log } = run('g++', args);
      expect(code, log).toBe(0);
      return path;
    };
    const models = ['base', 'in'].map((name) => join('lab', 'checkpoints', name));
    const characterize = (out: string, library: string, ...more: string[]) =>
      run(
        process.execPath,
        [
          'dist/cli/main.js',
          'characterize',
          ...models,
          '--quiet',
          '--device',
          'cuda',
          ...more,
          '--out',
          join(folder, out),
        ],
        { ...emulated(), GALVANI_CUSOLVER: library },
      );

    const direct = (library: string) => {
      const script = `
        import { characterize } from './dist/weights.js';
        await characterize({ before: 'lab/checkpoints/base', after: 'lab/checkpoints/in', spectra: true, method: 'gram', device: 'cuda' });`;
      return run(process.execPath, ['--input-type=module', '-e', script], { ...emulated(), GALVANI_CUSOLVER: library });
    };

    test('a library by its documented contract: the CPU’s answers, said in doctor, the report and the record', () => {
      const library = compiled('cusolver');
      const { passed, failed, output } = runNativeTest('weights_test', { GALVANI_CUSOLVER: library });
      expect(failed, output).toBe(0);
      expect(passed).toBeGreaterThan(runNativeTest('weights_test').passed + 100);
      const doctor = run(process.execPath, ['dist/cli/main.js', 'doctor'], {
        ...emulated(),
        GALVANI_CUSOLVER: library,
      });
      expect(doctor.log).toContain(`cuSOLVER 12.3.45 (${library}), asked for by GALVANI_CUSOLVER`);

      // Values of more than 160 rows go through the Gram matrix; those of this script all do.
      const script = `
        import { characterize } from './dist/weights.js';
        const { tensors } = await characterize({
          before: 'lab/checkpoints/base', after: 'lab/checkpoints/in', spectra: true, method: 'gram', subspace: 4, device: 'cuda',
          filter: (name) => name.includes('layers.3.') && name.includes('proj'),
        });
        const spectra = tensors.flatMap(({ steps: [{ spectrum }] }) => (spectrum ? [spectrum] : []));
        console.log(JSON.stringify(spectra.map((one) => [[...one.singularValues], one.resolved, one.aboveFloor.rank, ...one.weightCosines.left])));`;
      const spectra = (name: string) => {
        const { code, log } = run(process.execPath, ['--input-type=module', '-e', script], {
          ...emulated(),
          GALVANI_CUSOLVER: name,
        });
        expect(code, log).toBe(0);
        return JSON.parse(log) as [number[], number, number, ...number[]][];
      };
      const [own, theirs] = [spectra(''), spectra(library)];
      expect(own.length).toBeGreaterThan(3);
      for (const [i, [values, resolved, rank, ...cosines]] of own.entries()) {
        const [others, theirResolved, theirRank, ...theirCosines] = theirs[i]!;
        expect([theirResolved, theirRank]).toEqual([resolved, rank]);
        for (const [j, value] of values.entries())
          expect(Math.abs(others[j]! - value) / values[0]!).toBeLessThan(1e-12);
        for (const [j, cosine] of cosines.entries()) expect(Math.abs(theirCosines[j]! - cosine)).toBeLessThan(1e-8);
      }
      expect(theirs).not.toEqual(own); // another routine did run

      const { code, log } = characterize('solved', library);
      expect(code, log).toBe(0);
      expect(readFileSync(join(folder, 'solved', 'report.md'), 'utf8')).toContain('spectra by cuSOLVER 12.3.45');
    }, 300_000);

    test('unusable: one sentence and nothing written', () => {
      const wrong = characterize('wrong', '/nowhere.so');
      expect(wrong.code).not.toBe(0);
      expect(wrong.log).toMatch(
        /GALVANI_CUSOLVER=\/nowhere\.so: no cuSOLVER: \/nowhere\.so: cannot open .*; unset GALVANI_CUSOLVER for the CPU's routine \[UNSUPPORTED\]/,
      );
      expect(existsSync(join(folder, 'wrong'))).toBe(false);
      const other = characterize('other', fake(1));
      expect(other.log).toMatch(/no cuSOLVER: .*fake-1\.so has no cusolverGetVersion/);
      // One that is there and does not work is a failed part of the run, with its reason.
      const broken = (name: string, flag: string) => direct(compiled(name, flag));
      expect(broken('mute', '-DFAIL=1').log).toMatch(/cuSOLVER 12\.3\.45 \(.*mute\.so\): it does not start: status 1/);
      expect(broken('stuck', '-DFAIL=2').log).toMatch(/Gram matrix of side \d+: did not converge, info = 4/);
    }, 300_000);

    test('NVIDIA’s own, without a GPU: found, and says that it does not start', () => {
      const path = process.env.GALVANI_CUSOLVER_LIBRARY;
      if (!path || native().cudaStatus().status !== 'no-driver') {
        console.warn('skipped: GALVANI_CUSOLVER_LIBRARY names no libcusolver.so, or there is a driver');
        return;
      }
      expect(direct(path).log).toMatch(
        /cuSOLVER 1[12]\.\d+\.\d+ \(.*libcusolver\.so.*\): it does not start: status 1; unset GALVANI_CUSOLVER/,
      );
    });
  });

  test('cuBLASLt: what it is or why it is not used', () => {
    const here = runNativeTest('cublaslt_test');
    expect(here.failed, here.output).toBe(0);
    expect(here.output).toMatch(/cuBLASLt/);
    const nowhere = runNativeTest('cublaslt_test', { GALVANI_CUBLASLT: '/nowhere.so' });
    expect(nowhere.failed, nowhere.output).toBe(0);
    expect(nowhere.output).toMatch(/own kernel: cuBLASLt not found \(\/nowhere\.so: cannot open/);
  });

  test('stands in for the CUDA library: GALVANI_CUDA_LIBRARY', () => {
    const library = join(nativeFolder, 'Release', 'galvani_emulated.so');
    expect(native().cudaStatus(library)).toMatchObject({ status: 'ok', targets: 'this CPU' });
    const doctor = run(process.execPath, ['dist/cli/main.js', 'doctor'], { GALVANI_CUDA_LIBRARY: library });
    expect(doctor.log).toMatch(/CUDA +ok: emulator on the CPU/);
    expect(doctor.log).toContain(`${library}, for this CPU`);
    const missing = run(process.execPath, ['dist/cli/main.js', 'doctor'], { GALVANI_CUDA_LIBRARY: '/nowhere.so' });
    expect(missing.log).toMatch(/CUDA +no: .*(no NVIDIA driver|there is no \/nowhere\.so)/);
    expect(missing.log).toMatch(/CUDA library +not loaded/);
  });
});

/** Every number in a value, in order. */
function numbers(value: unknown): number[] {
  if (typeof value === 'number') return [value];
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(numbers) : [];
}
