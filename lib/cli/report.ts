/** galvani report: rebuilds the report of a run directory from its ledger; no model is needed. */
import { Command } from 'commander';
import { GalvaniError } from '../errors.js';
import { writeReport } from '../experiments/report.js';
import { rowsBehind, summarize } from '../experiments/summary.js';
import type { JsonObject } from '../run/rows.js';
import { printStudy } from './print.js';
import { print } from './shared.js';

export function reportCommand(): Command {
  return new Command('report')
    .description('rebuild report.html, summary.json and the CSV tables of a run from its ledger, without a model')
    .argument('<run>', 'run directory, also one written by several shards')
    .option('--json', 'print the summary as JSON on stdout')
    .option('--rows <select>', 'print the rows behind a number: its `select` of summary.json, as JSON')
    .addHelpText(
      'after',
      `
Examples:
  galvani report runs/lab
  galvani report runs/lab --rows '{"experiment":"localize-vision","task":"ocr","mode":"suffix","layer":4}'`,
    )
    .action((dir: string, options: { json?: boolean; rows?: string }) => {
      if (options.rows !== undefined) {
        for (const row of rowsBehind(dir, parseSelect(options.rows))) print(JSON.stringify(row));
        return;
      }
      const summary = summarize(dir);
      const files = writeReport(dir, summary);
      print(options.json ? JSON.stringify(summary) : printStudy(summary, { files }));
    });
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
