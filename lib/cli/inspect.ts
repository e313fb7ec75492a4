/** galvani inspect: what a checkpoint holds, and what is wrong with it. */
import { Command } from 'commander';
import { type Inspection, inspectCheckpoint, type Share } from '../checkpoint/inspect.js';
import { formatNumber } from '../report/format.js';
import { showProgress, silent } from '../run/progress.js';
import { bytesText, textTable } from './print.js';
import { positiveInteger, print } from './shared.js';

interface InspectCommandOptions {
  readonly values: boolean;
  readonly tensors?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly threads?: number;
}

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('tensors, types, parts and damage of a checkpoint: broken files, missing tensors, NaN, zeros')
    .argument('<dir>', 'checkpoint folder, or one .safetensors file')
    .option('--no-values', 'headers only: do not read the weights')
    .option('--tensors', 'list every tensor')
    .option('--json', 'print everything found as JSON')
    .option('--quiet', 'no progress on stderr')
    .option('--threads <n>', 'threads that read (default: all)', positiveInteger)
    .addHelpText('after', '\nThe exit code is 1 when something is damaged.')
    .action(async (dir: string, options: InspectCommandOptions) => {
      const progress = options.quiet ? silent : showProgress();
      const controller = new AbortController();
      const stop = (): void => controller.abort();
      process.on('SIGINT', stop);
      let started = false;
      try {
        const found = await inspectCheckpoint(dir, {
          values: options.values,
          signal: controller.signal,
          ...(options.threads === undefined ? {} : { threads: options.threads }),
          onProgress: (done, total) => {
            if (!started) progress.start('inspect', 100);
            started = true;
            progress.update({ done: total > 0 ? Math.floor((100 * done) / total) : 100 });
          },
        });
        progress.finish();
        print(options.json ? JSON.stringify(found) : describe(found, options.tensors ?? false));
        if (found.damage.length > 0) process.exitCode = 1;
      } finally {
        process.off('SIGINT', stop);
        progress.finish();
      }
    });
}

function describe(found: Inspection, listAll: boolean): string {
  const { dir, modelType, family, layers, tensors, elements, bytes, files, dtypes, parts, table, scanned } = found;
  const about = [
    `${dir}`,
    family !== null
      ? `${modelType}, a family galvani runs`
      : modelType !== null
        ? `${modelType}, not a family galvani runs`
        : 'no model type known',
    `${layers} decoder layers, ${tensors} tensors, ${formatNumber(elements)} values, ${bytesText(bytes)} in ${files.length} ${files.length === 1 ? 'file' : 'files'}`,
  ].join('\n');
  const shares = (title: string, rows: readonly Share[]): string =>
    textTable(
      [title, 'tensors', 'values', 'size'],
      rows.map((row) => [row.name, String(row.tensors), formatNumber(row.elements), bytesText(row.bytes)]),
    );
  const health =
    found.damage.length > 0
      ? `Damaged:\n${found.damage.map(({ where, what }) => `  ${where}: ${what}`).join('\n')}`
      : scanned
        ? 'No damage: every header is sound, every expected tensor is there, every value is finite.'
        : 'No damage in the headers; the values were not read.';
  return [
    about,
    ...(tensors > 0 ? [shares('type', dtypes), shares('part', parts)] : []),
    ...(listAll
      ? [
          textTable(
            ['tensor', 'type', 'shape', 'size', 'place', 'file'],
            table.map((row) => [
              row.name,
              row.dtype,
              `[${row.shape.join(', ')}]`,
              bytesText(row.bytes),
              row.place,
              row.file,
            ]),
          ),
        ]
      : []),
    ...(found.notes.length > 0 ? [found.notes.map((note) => `note: ${note}`).join('\n')] : []),
    health,
  ].join('\n\n');
}
