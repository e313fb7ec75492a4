#!/usr/bin/env node
'use strict';
// Builds the addon: a working binary is kept (unless --force), else cmake, else node-gyp.
// Run by `npm run setup` in a clone and by hand as `npx galvani-build` after an install without a prebuilt binary;
// there is no install script, since package managers block those by default.
const { spawnSync } = require('node:child_process');
const { existsSync } = require('node:fs');
const { availableParallelism } = require('node:os');
const { join } = require('node:path');

const root = join(__dirname, '..');
const say = (message) => console.log(`[galvani] ${message}`);
const works = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
const run = (command, args) => {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  const log = `${result.stdout ?? ''}${result.stderr ?? ''}`;
  for (const line of log.split('\n')) {
    if (/galvani: CUDA backend/.test(line)) say(line.replace(/^-- galvani: /, ''));
    else if (/warning:/.test(line)) console.warn(line);
  }
  if (result.status !== 0) process.stderr.write(log);
  return result.status === 0;
};
const binary = join(root, 'build', 'Release', 'galvani.node');
const force = process.argv.includes('--force');

if (!force && !existsSync(join(root, '.git'))) {
  try {
    require(require('node-gyp-build').resolve(root));
    say('native binary found, nothing to build');
    process.exit(0);
  } catch {
    // none for this platform: build it
  }
}
let built = false;
if (works('cmake')) {
  const generator = existsSync(join(root, 'build', 'CMakeCache.txt')) || !works('ninja') ? [] : ['-G', 'Ninja'];
  built =
    run('cmake', ['-S', '.', '-B', 'build', ...generator, '-DCMAKE_BUILD_TYPE=Release']) &&
    run('cmake', ['--build', 'build', '-j', String(availableParallelism())]);
} else {
  say('cmake not found: building the CPU backend alone with node-gyp');
  let gyp;
  try {
    gyp = require.resolve('node-gyp/bin/node-gyp.js');
  } catch {
    // npm puts node-gyp on PATH
  }
  built = gyp ? run(process.execPath, [gyp, 'rebuild']) : run('node-gyp', ['rebuild']);
}
if (!built) {
  console.error('[galvani] native build failed. Needed: g++ >= 11 with cmake >= 3.22, or g++, make and python3.');
  process.exit(1);
}
say(`native addon built: ${binary}`);
