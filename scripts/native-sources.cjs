'use strict';
// Lists the native sources of one kind by the same name rules as CMakeLists.txt; prints them for binding.gyp.
const { existsSync, readdirSync } = require('node:fs');
const { join } = require('node:path');

const rooms = ['core', 'io', 'ops', 'device', 'model', 'weights'];
const root = join(__dirname, '..', 'native');

function inRoom(room) {
  if (!existsSync(join(root, room))) return [];
  return readdirSync(join(root, room), { withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.cc') && !/_(fuzz|test)\.cc$/.test(entry.name))
    .map((entry) => `native/${room}/${entry.name}`);
}

/** 'avx512', 'avx2' or 'portable': the instruction set a file is compiled for. */
function isa(file) {
  return /_(avx512|avx2)\.cc$/.exec(file)?.[1] ?? 'portable';
}

/** Sources of a kind: one of the instruction sets, or 'bindings'. */
function sourcesOf(kind) {
  return kind === 'bindings' ? inRoom('bindings') : rooms.flatMap(inRoom).filter((file) => isa(file) === kind);
}

module.exports = { isa, sourcesOf };

if (require.main === module) process.stdout.write(`${sourcesOf(process.argv[2]).join('\n')}\n`);
