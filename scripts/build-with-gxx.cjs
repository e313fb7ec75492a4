'use strict';
// Builds the addon with a C++ compiler and nothing else: no cmake, no make, no python. The same sources and flags as
// CMakeLists.txt; objects newer than their source and every header are kept.
const { spawn, spawnSync } = require('node:child_process');
const { mkdirSync, readdirSync, statSync } = require('node:fs');
const { availableParallelism } = require('node:os');
const { basename, join } = require('node:path');
const { isa, sourcesOf } = require('./native-sources.cjs');

const root = join(__dirname, '..');
const compiler = process.env.CXX || 'g++';
const common = [
  '-std=c++20',
  '-fPIC',
  '-fvisibility=hidden',
  '-fvisibility-inlines-hidden',
  '-Wall',
  '-Wextra',
  '-Inative',
];
const isaFlags = {
  portable: [],
  avx2: ['-mavx2', '-mfma', '-mf16c'],
  avx512: ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mavx2', '-mfma', '-mf16c'],
};
const bindingFlags = () => [
  '-O2',
  ...[require('node-api-headers').include_dir, require('node-addon-api').include_dir.replaceAll('"', '')].flatMap(
    (dir) => ['-isystem', dir],
  ),
  '-DNAPI_VERSION=9',
  '-DNODE_ADDON_API_CPP_EXCEPTIONS',
  '-DNODE_ADDON_API_DISABLE_DEPRECATED',
];

const newest = (files) => Math.max(...files.map((file) => statSync(join(root, file)).mtimeMs));
const headers = () =>
  readdirSync(join(root, 'native'), { recursive: true }).flatMap((file) =>
    file.endsWith('.h') ? [join('native', file)] : [],
  );

function compile(source, object, flags) {
  return new Promise((resolve, reject) => {
    const child = spawn(compiler, [...common, ...flags, '-c', source, '-o', object], { cwd: root, stdio: 'inherit' });
    child.on('error', reject);
    child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`${compiler} failed on ${source}`))));
  });
}

/** True when there is a compiler that takes C++20. */
function compilerWorks() {
  return (
    spawnSync(compiler, ['-std=c++20', '-x', 'c++', '-fsyntax-only', '-'], { input: 'int main() {}' }).status === 0
  );
}

async function build(say) {
  const objects = join(root, 'build', 'objects');
  mkdirSync(objects, { recursive: true });
  mkdirSync(join(root, 'build', 'Release'), { recursive: true });
  const since = newest([...headers(), 'scripts/build-with-gxx.cjs']);
  const units = ['portable', 'avx2', 'avx512', 'bindings'].flatMap((kind) =>
    sourcesOf(kind).map((source) => ({
      source,
      object: join(objects, `${source.split('/').slice(1, -1).join('-')}-${basename(source, '.cc')}.o`),
      flags: kind === 'bindings' ? bindingFlags() : ['-O3', ...isaFlags[isa(source)]],
    })),
  );
  const stale = units.filter(({ source, object }) => {
    const made = statSync(object, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    return made < since || made < newest([source]);
  });
  say(`${compiler}: ${stale.length} of ${units.length} files to compile`);
  const queue = [...stale];
  const worker = async () => {
    for (let unit = queue.shift(); unit; unit = queue.shift()) await compile(unit.source, unit.object, unit.flags);
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  const link = [
    '-shared',
    '-static-libstdc++',
    '-static-libgcc',
    '-Wl,--exclude-libs,ALL',
    ...units.map(({ object }) => object),
  ];
  const output = join(root, 'build', 'Release', 'galvani.node');
  const linked = spawnSync(compiler, [...link, '-pthread', '-ldl', '-o', output], { cwd: root, stdio: 'inherit' });
  if (linked.status !== 0) throw new Error(`${compiler} could not link ${output}`);
}

module.exports = { build, compilerWorks };
