/** galvani extract-lora: the difference of two checkpoints as an adapter. */
import { Command, InvalidArgumentError } from 'commander';
import { type ExtractResult, extractLora } from '../merge/extract-lora.js';
import { packageVersion } from '../run/package.js';
import { showProgress, silent } from '../run/progress.js';
import { interruptible } from './merge.js';
import { defined, positiveInteger, print } from './shared.js';

interface ExtractCommandOptions {
  readonly out: string;
  readonly rank: number;
  readonly energy?: number;
  readonly include?: RegExp;
  readonly exclude?: RegExp;
  readonly embeddings?: boolean;
  readonly saveRest?: boolean;
  readonly dtype: string;
  readonly overwrite?: boolean;
  readonly threads?: number;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

function share(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value <= 1)) throw new InvalidArgumentError('expected a share such as 0.9.');
  return value;
}

function pattern(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch (cause) {
    throw new InvalidArgumentError((cause as Error).message);
  }
}

const percent = (value: number): string => `${(100 * value).toFixed(1)} %`;

function describe(result: ExtractResult, seconds: number): string {
  const { modules, leftOut, saved, energyKept } = result;
  const width = Math.max(...modules.map(({ name }) => name.length), 6);
  const at = (energy: readonly number[], rank: number) =>
    energy.length >= rank ? percent(energy[rank - 1]!).padStart(8) : ' '.repeat(8);
  const lost = leftOut.reduce((sum, one) => sum + one.share, 0);
  return [
    `${'weight'.padEnd(width)}  rank  energy kept by rank 1, 4, 16, all`,
    ...modules.map(({ name, rank, energy }) =>
      [
        name.padEnd(width),
        String(rank).padStart(5),
        at(energy, 1),
        at(energy, 4),
        at(energy, 16),
        at(energy, energy.length),
      ].join(' '),
    ),
    `${modules.length} matrices factored${saved.length > 0 ? `, ${saved.length} tensors stored whole` : ''}; of the whole update's energy the adapter keeps ${energyKept === null ? 'all: nothing changed' : percent(energyKept)}`,
    ...(leftOut.length > 0
      ? [
          `left out: ${leftOut.length} changed tensors with ${percent(lost)} of the energy (${[...new Set(leftOut.map(({ why }) => why))].join(', ')})`,
        ]
      : []),
    `${result.dir}: written in ${seconds.toFixed(1)} s`,
  ].join('\n');
}

async function run(base: string, tuned: string, options: ExtractCommandOptions): Promise<void> {
  const progress = options.quiet ? silent : showProgress();
  const { json, quiet: _, ...settings } = options;
  const startMs = Date.now();
  let started = false;
  let result: ExtractResult;
  try {
    result = await interruptible((signal) =>
      extractLora({
        base,
        tuned,
        version: packageVersion(),
        ...(defined(settings) as typeof settings),
        signal,
        onProgress: (done, total, resumed) => {
          if (!started) progress.start('extract-lora', total);
          started = true;
          progress.update({ done, skipped: resumed });
        },
      }),
    );
  } finally {
    progress.finish();
  }
  print(json ? JSON.stringify(result) : describe(result, (Date.now() - startMs) / 1000));
}

export function extractLoraCommand(): Command {
  return new Command('extract-lora')
    .description('the difference of two checkpoints as a LoRA adapter, with the energy each rank keeps')
    .argument('<base>', 'checkpoint before')
    .argument('<tuned>', 'checkpoint after')
    .requiredOption('-o, --out <dir>', 'folder of the adapter; appears when complete')
    .option('--rank <n>', 'largest rank', positiveInteger, 16)
    .option('--energy <share>', 'stop at this share of a matrix’s energy where a smaller rank reaches it', share)
    .option('--include <regex>', 'only weights whose name matches', pattern)
    .option('--exclude <regex>', 'no weights whose name matches', pattern)
    .option('--embeddings', 'factor embedding and head too')
    .option('--save-rest', 'store changed norms, biases and convolutions whole')
    .option('--dtype <type>', 'of the factors', 'float32')
    .option('--overwrite', 'replace an existing folder, when the new one is complete')
    .option('--threads <n>', 'threads that compute (default: all)', positiveInteger)
    .option('--json', 'print the result as JSON on stdout')
    .option('--quiet', 'no progress on stderr')
    .addHelpText('after', '\nAn interrupted extraction is continued by the same command.')
    .action(run);
}
