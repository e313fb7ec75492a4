/** The README claims nothing about the GPU that a committed report of bench/gpu/check.sh does not show. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { kernels, notRun, readReports, renewed, table } from '../../bench/gpu/readme-table.mjs';

const readme = readFileSync(fileURLToPath(new URL('../../README.md', import.meta.url)), 'utf8');

/** A report with everything in it, of a card that does not exist. */
// biome-ignore lint/suspicious/noExplicitAny: a report is whatever check.sh wrote
const report = (change: (r: any) => void = () => undefined) => {
  const made = {
    file: 'card.json',
    dry_run: false,
    date: '2030-01-01T00:00:00Z',
    machine: { gpu: { name: 'Card' } },
    stages: {
      'correctness small': {
        record: {
          scenes: [
            { kernels: 'attn_mma 3, attn_combine 2', ok: true },
            { kernels: 'attn_mma 1', ok: true },
          ],
        },
      },
      attention: {
        record: {
          rows: [{ layout: 'plain', length: 2048, sides: { attn_mma: { us: 10 }, 'sdpa flash': { us: 12 } } }],
        },
      },
      dense: {
        record: {
          rows: [
            {
              op: 'swiglu',
              agrees: true,
              errors: { ours: 1e-3 },
              sides: { ours: { us: 2 }, 'torch compiled': { us: 3 } },
            },
          ],
        },
      },
    },
  };
  change(made);
  return made;
};
const line = (text: string, kernel: string) => text.split('\n').find((row) => row.startsWith(`| \`${kernel}\``));

describe('GPU table of the README', () => {
  test('is what the committed reports say', () => {
    expect(readme, 'node bench/gpu/readme-table.mjs renews it').toBe(renewed(readme, readReports()));
  });

  test('says of every kernel that it has not run while no report exists', () => {
    const rows = table([]).split('\n').slice(2);
    expect(rows.length).toBe(kernels.length);
    for (const row of rows) expect(row.split(notRun).length - 1).toBe(2);
    if (readReports().length === 0) for (const row of rows) expect(readme).toContain(row);
  });

  test('claims what a report shows, and no more', () => {
    const text = table([report()]);
    expect(line(text, 'attn_mma')).toContain(
      '| 2 comparisons with float64 pass ([Card](bench/results/gpu/card.json)) |',
    );
    expect(line(text, 'attn_mma')).toContain('1.20× (2k) of SDPA flash');
    expect(line(text, 'swiglu')).toContain('1.50× of torch.compile');
    expect(line(text, 'attn_wgmma')).toContain(`| ${notRun} | ${notRun} |`);
    expect(line(text, 'attn_combine')).toMatch(/1 comparisons with float64 pass.*\| not yet run on hardware \|$/);
  });

  test('shows failures', () => {
    const text = table([report((r) => (r.stages['correctness small'].record.scenes[1].ok = false))]);
    expect(line(text, 'attn_mma')).toContain('**1 of 2 comparisons with float64 fail**');
  });

  test('refuses a dry run as evidence', () => {
    expect(() => table([report((r) => (r.dry_run = true))])).toThrow('card.json: not a run on a GPU');
    expect(() => table([report((r) => (r.machine = {}))])).toThrow('not a run on a GPU');
  });
});
