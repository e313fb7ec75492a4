/** What every bench leaves: a table on the terminal and bench/results/<name>.json with machine, versions and samples. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { native } from '../dist/native.js';
import { median, threads } from './peer.mjs';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const round = (x, digits = 4) => Number(x.toPrecision(digits));

function commit() {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { cwd: at('.'), encoding: 'utf8' }).trim();
  } catch {
    return null; // not a clone
  }
}

/** Machine, versions and date of a run. `peer`: what findPeer returned. */
export function circumstances(peer) {
  const { isa, threads: available, features } = native().cpuInfo();
  const { version } = JSON.parse(readFileSync(at('../package.json'), 'utf8'));
  return {
    date: new Date().toISOString(),
    machine: {
      cpu: cpus()[0].model.trim(),
      cores: available,
      features,
      memoryGiB: round(totalmem() / 2 ** 30, 3),
      loadBefore: loadavg().map((x) => round(x, 3)),
    },
    threads,
    versions: { node: process.versions.node, galvani: version, commit: commit(), isa, ...(peer?.versions ?? {}) },
    ...(peer?.missing && { peerMissing: peer.missing }),
  };
}

/**
 * One row of a table. `samples`: side name → milliseconds, 'galvani' first; `count` and `unit`: what those
 * milliseconds did, for a speed; `target`: the least speed relative to the side `against`.
 */
export function summarise({ name, samples, count, unit, target, against = 'torch float32' }) {
  const sides = Object.fromEntries(
    [...samples].map(([side, ms]) => {
      const middle = median(ms);
      const speed = count === undefined ? {} : { perSecond: round((1000 * count) / middle) };
      return [side, { medianMs: round(middle), ...speed, samplesMs: ms.map((x) => round(x)) }];
    }),
  );
  const ours = median(samples.get('galvani'));
  const ratios = Object.fromEntries(
    [...samples].filter(([side]) => side !== 'galvani').map(([side, ms]) => [side, round(median(ms) / ours, 3)]),
  );
  const row = { name, unit, sides, ratios };
  if (target !== undefined && ratios[against] !== undefined) {
    Object.assign(row, { target, against, met: ratios[against] >= target });
  }
  return row;
}

/** Columns padded to their widest cell; the first to the left, the others to the right. */
export function table(head, rows) {
  const cells = [head, ...rows].map((row) => row.map((cell) => String(cell ?? '')));
  const widths = head.map((_, i) => Math.max(...cells.map((row) => row[i].length)));
  const line = (row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ');
  return [line(cells[0]), widths.map((w) => '─'.repeat(w)).join('  '), ...cells.slice(1).map(line)].join('\n');
}

/** The rows of summarise() as a table: speed (or time) per side, and ours relative to each. */
export function speedTable(rows) {
  const sides = Object.keys(rows[0].sides);
  const peers = sides.slice(1);
  const head = ['', 'unit', ...sides, ...peers.map((peer) => `× ${peer}`), 'target'];
  return table(
    head,
    rows.map((row) => [
      row.name,
      row.unit ?? 'ms',
      ...sides.map((side) => row.sides[side]?.perSecond ?? row.sides[side]?.medianMs ?? '–'),
      ...peers.map((peer) => row.ratios[peer]?.toFixed(2) ?? '–'),
      row.target === undefined ? '' : `≥ ${row.target} ${row.met ? 'met' : 'MISSED'}`,
    ]),
  );
}

/** Writes bench/results/<name>.json beside, then renames. */
export function save(name, record) {
  const path = at(`results/${name}.json`);
  mkdirSync(at('results'), { recursive: true });
  writeFileSync(`${path}.part`, `${JSON.stringify({ bench: name, ...record }, null, 2)}\n`);
  renameSync(`${path}.part`, path);
  console.log(`→ bench/results/${name}.json\n`);
}
