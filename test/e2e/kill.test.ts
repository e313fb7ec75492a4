import { spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readLines } from '../../lib/run/json-lines.js';
import type { LedgerRow } from '../../lib/run/rows.js';
import { mergeRun } from '../../lib/run/shards.js';

const child = fileURLToPath(new URL('kill-child.mjs', import.meta.url));
let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'galvani-kill-'));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Runs the child; kills it with SIGKILL after `killMs`. True when it came to its end. */
function run(dir: string, delayMs: number, killMs?: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const process_ = spawn(process.execPath, [child, dir, String(delayMs)], { stdio: ['ignore', 'ignore', 'pipe'] });
    let errors = '';
    process_.stderr.on('data', (text) => {
      errors += text;
    });
    const timer = killMs === undefined ? undefined : setTimeout(() => process_.kill('SIGKILL'), killMs);
    process_.on('exit', (code, signal) => {
      clearTimeout(timer);
      if (signal === 'SIGKILL') resolve(false);
      else if (code === 0) resolve(true);
      else reject(new Error(`child exited with ${code}: ${errors}`));
    });
  });
}

const rowsOf = (dir: string): readonly LedgerRow[] => readLines<LedgerRow>(join(dir, 'ledger.jsonl'));

test('killed at random moments, the run ends with the same ledger, and no flushed row is computed again', async () => {
  const whole = join(root, 'whole');
  expect(await run(whole, 0)).toBe(true);

  const killed = join(root, 'killed');
  let kills = 0;
  let ended = false;
  let flushed: readonly LedgerRow[] = [];
  // Each attempt lives a seventh longer, so that the test ends on a machine of any speed and under any load.
  for (let attempt = 0; attempt < 40 && !ended; attempt += 1) {
    ended = await run(killed, 4, 100 * 1.15 ** attempt + Math.random() * 150);
    kills += ended ? 0 : 1;
    if (!existsSync(join(killed, 'ledger.jsonl'))) continue;
    const now = rowsOf(killed);
    // What was on disk before this attempt is untouched: computing it again would have appended a second row.
    expect(now.slice(0, flushed.length)).toEqual(flushed);
    flushed = now;
  }
  expect(ended).toBe(true);
  expect(kills).toBeGreaterThanOrEqual(3);
  expect(new Set(flushed.map(({ key }) => key)).size).toBe(flushed.length);
  expect(flushed).toHaveLength(160);
  expect(readFileSync(join(killed, 'ledger.jsonl'), 'utf8')).toBe(readFileSync(join(whole, 'ledger.jsonl'), 'utf8'));
  expect(mergeRun(killed).plan).toEqual(mergeRun(whole).plan);
});

test('whatever byte the file was cut at, the next run completes it', async () => {
  const whole = join(root, 'whole-for-cuts');
  expect(await run(whole, 0)).toBe(true);
  const ledger = readFileSync(join(whole, 'ledger.jsonl'));
  for (const part of [0, 1, 17, ledger.length >> 1, ledger.length - 2600, ledger.length - 2, ledger.length - 1]) {
    const cut = join(root, `cut-${part}`);
    cpSync(whole, cut, { recursive: true });
    truncateSync(join(cut, 'ledger.jsonl'), part);
    const before = rowsOf(cut).length;
    expect(await run(cut, 0)).toBe(true);
    const after = rowsOf(cut);
    expect(after.slice(0, before)).toEqual(rowsOf(whole).slice(0, before));
    expect(readFileSync(join(cut, 'ledger.jsonl')).equals(ledger)).toBe(true);
  }
});
