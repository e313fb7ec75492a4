#!/usr/bin/env node
'use strict';
// prebuildify runs `<node-gyp> rebuild --target=V --devdir=D --arch=A --release`; answering with cmake-js
// lets one build description serve both.
const { spawnSync } = require('node:child_process');

const args = process.argv.slice(2);
const arch = args.find((arg) => arg.startsWith('--arch='))?.slice('--arch='.length);
const cli = require.resolve('cmake-js/bin/cmake-js');
const forwarded = [
  'rebuild',
  '--log-level',
  'warn',
  ...(arch ? ['--arch', arch] : []),
  ...(args.includes('--debug') ? ['--debug'] : []),
];
process.exit(spawnSync(process.execPath, [cli, ...forwarded], { stdio: 'inherit' }).status ?? 1);
