'use strict';
// Lists the native sources of one kind for binding.gyp, by the same name rules as CMakeLists.txt.
const { readdirSync } = require('node:fs');
const { join } = require('node:path');

const rooms = ['core', 'io', 'ops', 'device', 'model', 'weights'];
const kind = process.argv[2];
const root = join(__dirname, '..', 'native');
const sources = (room) =>
  readdirSync(join(root, room), { withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.cc') && !/_(fuzz|test)\.cc$/.test(entry.name))
    .map((entry) => `native/${room}/${entry.name}`);
const isa = (file) => /_(avx512|avx2)\.cc$/.exec(file)?.[1] ?? 'portable';
const files = kind === 'bindings' ? sources('bindings') : rooms.flatMap(sources).filter((file) => isa(file) === kind);
process.stdout.write(`${files.join('\n')}\n`);
