/** The rooms of the house and who may import whom (DESIGN §2). Prints the sizes, so that growth is seen. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** What each room may import, beside itself. */
const nativeRooms: Readonly<Record<string, readonly string[]>> = {
  core: [],
  io: ['core'],
  ops: ['core'],
  device: ['core', 'ops'],
  model: ['core', 'io', 'ops', 'device'],
  weights: ['core', 'io', 'ops', 'device'],
  bindings: ['core', 'io', 'ops', 'device', 'model', 'weights'],
};
const base = ['errors', 'types'];
const libRooms: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  types: [],
  native: base,
  checkpoint: [...base, 'native', 'models'],
  models: [...base, 'native', 'checkpoint'],
  processor: [...base, 'native', 'checkpoint', 'models'],
  hooks: [...base, 'native', 'checkpoint', 'models', 'processor'],
  weights: [...base, 'native', 'checkpoint', 'models', 'processor'],
  merge: [...base, 'native', 'checkpoint', 'models'],
  engine: [...base, 'native', 'checkpoint', 'models', 'processor', 'hooks'],
  remote: base,
  data: base,
  grading: base,
  stats: base,
  report: base,
  run: [...base, 'checkpoint', 'models', 'processor', 'hooks', 'engine', 'weights', 'data', 'grading', 'stats'],
  experiments: [
    ...base,
    'checkpoint',
    'models',
    'processor',
    'hooks',
    'engine',
    'weights',
    'remote',
    'data',
    'grading',
    'stats',
    'report',
    'run',
  ],
};
const everything = [...Object.keys(libRooms), 'experiments', 'cli', 'index'];

function filesBelow(dir: string, ending: RegExp): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && ending.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

function room(path: string, top: string): string {
  return relative(join(root, top), path)
    .split('/')[0]!
    .replace(/\.[^.]+$/, '');
}

test('native rooms include only the rooms below them', () => {
  const wrong: string[] = [];
  const files = filesBelow(join(root, 'native'), /\.(cc|h|cu|cuh)$/);
  expect(files.length).toBeGreaterThan(30);
  for (const file of files) {
    const own = room(file, 'native');
    const allowed = nativeRooms[own];
    expect(allowed, `native/${own} is not a room of DESIGN §2`).toBeDefined();
    const source = readFileSync(file, 'utf8');
    for (const [, target] of source.matchAll(/^#include "([a-z]+)\//gm)) {
      if (target !== own && !allowed!.includes(target!)) wrong.push(`${relative(root, file)} includes ${target}/`);
    }
    if (own !== 'bindings' && /#include <napi\.h>/.test(source)) wrong.push(`${relative(root, file)} includes napi.h`);
    if (!/\.cuh?$/.test(file) && /#include <cuda/.test(source))
      wrong.push(`${relative(root, file)} includes CUDA headers`);
  }
  expect(wrong).toEqual([]);
});

test('lib rooms import only the rooms below them, and files do not import in circles', () => {
  const wrong: string[] = [];
  const imports = new Map<string, string[]>();
  const files = filesBelow(join(root, 'lib'), /\.ts$/);
  expect(files.length).toBeGreaterThan(30);
  for (const file of files) {
    const own = room(file, 'lib');
    const allowed = libRooms[own] ?? (own === 'cli' || own === 'index' ? everything : undefined);
    expect(allowed, `lib/${own} is not a room of DESIGN §2`).toBeDefined();
    const targets: string[] = [];
    for (const [, path] of readFileSync(file, 'utf8').matchAll(/from '(\.{1,2}\/[^']+)'/g)) {
      const target = join(dirname(file), path!.replace(/\.js$/, '.ts'));
      targets.push(target);
      const to = room(target, 'lib');
      if (to !== own && !allowed!.includes(to)) wrong.push(`${relative(root, file)} imports ${to}`);
    }
    imports.set(file, targets);
  }
  expect(wrong).toEqual([]);

  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    if (done.has(file)) return;
    const at = path.indexOf(file);
    if (at >= 0) {
      wrong.push([...path.slice(at), file].map((f) => relative(root, f)).join(' → '));
      return;
    }
    path.push(file);
    for (const next of imports.get(file) ?? []) visit(next);
    path.pop();
    done.add(file);
  };
  for (const file of files) visit(file);
  expect(wrong).toEqual([]);
});

test('sizes', () => {
  const lines = (file: string): number => readFileSync(file, 'utf8').split('\n').length;
  const table: string[] = [];
  const large: string[] = [];
  for (const [top, ending] of [
    ['native', /\.(cc|h)$/],
    ['lib', /\.ts$/],
    ['test', /\.(ts|py)$/],
    ['bench', /\.(mjs|py|ts)$/],
    ['lab', /\.py$/],
  ] as const) {
    const byRoom = new Map<string, { files: number; lines: number }>();
    for (const file of filesBelow(join(root, top), ending)) {
      const name = room(file, top);
      const sum = byRoom.get(name) ?? { files: 0, lines: 0 };
      byRoom.set(name, { files: sum.files + 1, lines: sum.lines + lines(file) });
      if (lines(file) > 600) large.push(`${relative(root, file)} ${lines(file)}`);
    }
    const total = [...byRoom.values()].reduce((sum, r) => sum + r.lines, 0);
    const rooms = [...byRoom].map(([name, r]) => `${name} ${r.lines}/${r.files}`).join(', ');
    table.push(`${top} ${total} lines: ${rooms}`);
  }
  console.log(`${table.join('\n')}\nfiles above 600 lines: ${large.join(', ') || 'none'}`);
  expect(table.length).toBe(5);
});
