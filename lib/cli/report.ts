/** galvani report: rebuilds the report of a run directory from its ledger, or compares two runs; no model is needed. */
import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { writeAtomic } from '../checkpoint/files.js';
import { GalvaniError } from '../errors.js';
import { compareRuns } from '../experiments/compare.js';
import { writeReport } from '../experiments/report.js';
import { compareDocument } from '../experiments/report-compare.js';
import { rowsBehind, summarize } from '../experiments/summary.js';
import { renderHtml } from '../report/html.js';
import { renderMarkdown } from '../report/markdown.js';
import type { JsonObject } from '../run/rows.js';
import { findingsList, printStudy } from './print.js';
import { print } from './shared.js';

export function reportCommand(): Command {
  return new Command('report')
    .description('rebuild the report of a run from its ledger, or compare two runs; without a model')
    .argument('<run>', 'run directory, also one written by several shards')
    .argument('[other]', 'a second run: what was asked differently, what is reproduced, which rates differ')
    .option('--json', 'print the summary (or the comparison) as JSON on stdout')
    .option('-o, --out <dir>', 'where a comparison is written (default: runs/compare)')
    .option('--rows <select>', 'print the rows behind a number: its `select` of summary.json, as JSON')
    .addHelpText(
      'after',
      `
Examples:
  galvani report runs/lab
  galvani report runs/lab runs/lab-seed-2 --out runs/seeds
  galvani report runs/lab --rows '{"experiment":"localize-vision","task":"ocr","mode":"suffix","layer":4}'`,
    )
    .action((dir: string, other: string | undefined, options: { json?: boolean; rows?: string; out?: string }) => {
      if (other !== undefined) return compare(dir, other, options);
      if (options.rows !== undefined) {
        for (const row of rowsBehind(dir, parseSelect(options.rows))) print(JSON.stringify(row));
        return;
      }
      const summary = summarize(dir);
      const files = writeReport(dir, summary);
      print(options.json ? JSON.stringify(summary) : printStudy(summary, { files }));
    });
}

function compare(a: string, b: string, options: { json?: boolean; out?: string }): void {
  const comparison = compareRuns(a, b);
  const document = compareDocument(comparison, new Date().toISOString().slice(0, 16).replace('T', ' ').concat(' UTC'));
  const out = resolve(options.out ?? 'runs/compare');
  mkdirSync(out, { recursive: true });
  const html = join(out, 'compare.html');
  writeAtomic(html, renderHtml(document));
  writeAtomic(join(out, 'compare.md'), renderMarkdown(document));
  writeAtomic(join(out, 'compare.json'), `${JSON.stringify(comparison, null, 1)}\n`);
  print(options.json ? JSON.stringify(comparison) : `${findingsList(document.answers)}\n\nreport: ${html}`);
}

function parseSelect(text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new GalvaniError('BAD_ARGUMENT', `--rows: not JSON: ${text}`, { cause });
  }
  if (typeof value !== 'object' || value === null || !('experiment' in value)) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      '--rows: expected an object with an experiment, such as {"experiment":"attend"}',
    );
  }
  return value as JsonObject;
}
