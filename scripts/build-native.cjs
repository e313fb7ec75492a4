#!/usr/bin/env node
'use strict';
// Builds the addon: a working prebuilt binary is kept, else cmake builds, else the C++ compiler alone.
// Run by `npm run setup` in a clone and by hand as `npx galvani-build` after an install without a prebuilt binary;
// there is no install script, since package managers block those by default.
const { spawnSync } = require('node:child_process');
const { existsSync } = require('node:fs');
const { availableParallelism } = require('node:os');
const { join } = require('node:path');
const gxx = require('./build-with-gxx.cjs');

const root = join(__dirname, '..');
const say = (message) => console.log(`[galvani] ${message}`);
const works = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
const force = process.argv.includes('--force');

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  const log = `${result.stdout ?? ''}${result.stderr ?? ''}`;
  for (const line of log.split('\n')) {
    if (/galvani: CUDA backend/.test(line)) say(line.replace(/^-- galvani: /, ''));
    else if (/warning:/.test(line)) console.warn(line);
  }
  if (result.status !== 0) process.stderr.write(log);
  return result.status === 0;
}

function prebuiltWorks() {
  if (force || existsSync(join(root, '.git'))) return false;
  try {
    require(require('node-gyp-build').resolve(root));
    return true;
  } catch {
    return false; // none for this platform: build it
  }
}

async function main() {
  if (prebuiltWorks()) {
    say('native binary found, nothing to build');
    return true;
  }
  if (works('cmake') && (works('ninja') || works('make'))) {
    const generator = existsSync(join(root, 'build', 'CMakeCache.txt')) || !works('ninja') ? [] : ['-G', 'Ninja'];
    return (
      run('cmake', ['-S', '.', '-B', 'build', ...generator, '-DCMAKE_BUILD_TYPE=Release']) &&
      run('cmake', ['--build', 'build', '-j', String(availableParallelism())])
    );
  }
  if (!gxx.compilerWorks()) return false;
  say('cmake not found: building the CPU backend with the C++ compiler alone (no CUDA)');
  await gxx.build(say);
  return true;
}

main()
  .catch((error) => {
    console.error(`[galvani] ${error.message}`);
    return false;
  })
  .then((built) => {
    if (built) return say(`native addon ready: ${join(root, 'build', 'Release', 'galvani.node')}`);
    console.error(
      '[galvani] native build failed. Needed: a C++20 compiler (g++ 11 or newer, or CXX=…); cmake is optional.',
    );
    process.exitCode = 1;
  });
