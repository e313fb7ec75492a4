/**
 * The package as another project gets it: `npm pack`, installed in an empty folder, the README's example compiled
 * against its types and run. The tarball carries the addon built here as a prebuilt binary, as a release does.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { fixturePath } from '../support/fixture.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'galvani-pack-'));
afterAll(() => rmSync(folder, { recursive: true }));

function run(command: string, args: readonly string[], cwd: string): string {
  try {
    return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: 'pipe' });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    throw new Error(`${command} ${args.join(' ')}\n${stdout}\n${stderr}`, { cause: error });
  }
}

test('npm pack, install, and the README example', { timeout: 180_000 }, () => {
  const example = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, 'README.md'), 'utf8'))?.[1];
  expect(example).toBeDefined();
  expect(example!.trim().split('\n').length).toBeLessThanOrEqual(21);

  // A copy of what would be published, with the binary where prebuildify puts it.
  const staging = join(folder, 'staging');
  const [packed] = JSON.parse(
    run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], root),
  ) as [{ filename: string; files: { path: string }[] }];
  mkdirSync(staging);
  run('tar', ['-xzf', join(folder, packed.filename), '-C', staging], folder);
  const prebuilds = join(staging, 'package', 'prebuilds', `${process.platform}-${process.arch}`);
  mkdirSync(prebuilds, { recursive: true });
  copyFileSync(join(root, 'build', 'Release', 'galvani.node'), join(prebuilds, 'node.glibc.node'));
  const paths = packed.files.map(({ path }) => path);
  expect(paths.filter((path) => /^(test|bench|lab|build)\//.test(path))).toEqual([]);
  expect(paths).toEqual(
    expect.arrayContaining([
      'package.json',
      'README.md',
      'LICENSE',
      'CMakeLists.txt',
      'binding.gyp',
      'dist/index.js',
      'dist/index.d.ts',
      'dist/cli/main.js',
      'native/bindings/addon.cc',
      'native/device/cuda/CMakeLists.txt',
      'native/device/cuda/build.cmake',
      'native/device/cuda/cuda.cu',
      'scripts/build-native.cjs',
      'scripts/native-sources.cjs',
      'templates/freeze/train_trl.py',
    ]),
  );

  const app = join(folder, 'app');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), JSON.stringify({ name: 'app', private: true, type: 'module' }));
  run(
    'npm',
    ['install', '--prefer-offline', '--no-audit', '--no-fund', join(staging, 'package'), '--install-links'],
    app,
  );
  mkdirSync(join(app, 'node_modules', '@types'), { recursive: true });
  symlinkSync(join(root, 'node_modules', '@types', 'node'), join(app, 'node_modules', '@types', 'node'));
  writeFileSync(join(app, 'example.ts'), example!);
  const options = { target: 'es2022', module: 'nodenext', strict: true, skipLibCheck: true, types: ['node'] };
  writeFileSync(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, files: ['example.ts'] }));
  run(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.'], app);

  const output = run(
    process.execPath,
    [
      'example.js',
      fixturePath('models/untied-gqa'),
      fixturePath('images/rgb-32x24.png'),
      fixturePath('images/other-32x24.png'),
      'How many red circles are there?',
    ],
    app,
  );
  for (const name of ['target', 'source', 'swap from layer 0', 'swap from layer 3']) expect(output).toContain(name);
  expect(output).toMatch(/\d+ layer-rows computed instead of \d+/);
  // Two runs of the whole app agree, and the swap at layer 0 answers as the source does.
  const answer = (run: string): string => new RegExp(`'${run}'\\s+│\\s+(.*?)\\s+│`).exec(output)?.[1] ?? '';
  expect(answer('swap from layer 0')).toBe(answer('source'));
  expect(answer('source')).not.toBe('');
});
