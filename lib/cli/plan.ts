/** galvani plan: what a study file will do, how long it takes, and what its number of items can show. */
import { Command } from 'commander';
import { type Preview, type PreviewPart, previewStudy } from '../experiments/preview.js';
import {
  type ExperimentName,
  experimentNames,
  readStudy,
  studyFolder,
  withPathsFrom,
} from '../experiments/study-file.js';
import { showProgress, silent } from '../run/progress.js';
import { bytesText, textTable, wrap } from './print.js';
import { defined, list, nonNegativeInteger, positiveInteger, print, withBlendMemory } from './shared.js';

interface PlanOptions {
  readonly only?: string[];
  readonly seconds: number;
  readonly threads?: number;
  readonly blendMemory?: number;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

export function planCommand(): Command {
  const command = new Command('plan')
    .description('what a study file will do, how long it will take, and what its number of items can show')
    .argument('<file>', 'study file (YAML)')
    .option('--only <list>', `some of its experiments, separated by commas: ${experimentNames.join(', ')}`, list)
    .option('--seconds <n>', 'time each part is sampled for; 0 runs nothing', nonNegativeInteger, 5)
    .option('--threads <n>', 'threads that compute (default: all)', positiveInteger)
    .option('--json', 'print as JSON')
    .option('--quiet', 'no progress on stderr')
    .addHelpText('after', '\nNothing is written. Example:\n  galvani plan lab/study.yaml');
  return withBlendMemory(command).action(async (file: string, options: PlanOptions) => {
    const study = withPathsFrom(readStudy(file), studyFolder(file));
    const { only, seconds, threads, blendMemory: blendBytes } = options;
    const preview = await previewStudy(study, {
      ...(only ? { only: only as ExperimentName[] } : {}),
      ...defined({ threads, blendBytes }),
      sampleSeconds: seconds,
      progress: options.quiet ? silent : showProgress(),
    });
    print(options.json ? JSON.stringify(preview) : describe(preview));
  });
}

function describe({ name, parts, power, models, descriptions }: Preview): string {
  const known = parts.flatMap(({ seconds }) => (seconds === null ? [] : [seconds]));
  const total = known.reduce((sum, seconds) => sum + seconds, 0);
  const unknown = parts.filter(({ seconds, trials }) => seconds === null && trials > 0).length;
  const sections = [
    `${name}\n${parts.map(partText).join('\n')}`,
    known.length === 0
      ? 'No time is given: nothing was sampled.'
      : `About ${duration(total)} in all on this machine as busy as it is now${unknown > 0 ? `, without ${unknown} parts that did not end one request in the sampled time` : ''}.`,
    ...(descriptions > 0
      ? [`First ${descriptions} images are described, once for all runs in a directory; that time is not included.`]
      : []),
    `Weights: ${models.map((model) => `${model.name} ${bytesText(model.bytes)}`).join(', ')}, mapped once.`,
  ];
  if (power.length > 0) {
    const points = (value: number | null): string => (value === null ? 'none' : (100 * value).toFixed(0));
    const rows = power.map((row) => [
      row.what,
      `${row.n}`,
      `${row.tests}`,
      `${points(row.alone.fifth)} / ${points(row.alone.half)}`,
      `${points(row.adjusted.fifth)} / ${points(row.adjusted.half)}`,
      `${row.forTenPoints}`,
    ]);
    sections.push(
      `Smallest difference, in points, found with 80 % power when 20 % / 50 % of the items change\n${textTable(
        ['paired test', 'n', 'tests', 'alone', 'adjusted', 'n for 10 points'],
        rows,
      )}`,
      wrap(
        'Alone: one test at 5 %. Adjusted: the strictest test of the Holm family. n for 10 points: items needed to find ten points, adjusted, when 20 % change. Exact McNemar needs a little more.',
        110,
        '',
      ),
    );
  }
  return sections.join('\n\n');
}

function partText(part: PreviewPart): string {
  const { experiment, text, trials, measurements, seconds, sampled, kvBytes, errors } = part;
  const count = [trials > 0 ? `${trials} trials` : '', measurements > 0 ? `${measurements} measurements` : '']
    .filter(Boolean)
    .join(' and ');
  const time = seconds === null ? '' : `, about ${duration(seconds)} (from ${sampled} trials)`;
  const memory = kvBytes > 0 ? `, keys and values up to ${bytesText(kvBytes)} a request` : '';
  const faults = errors.map((message) => `\n      fails: ${message}`).join('');
  return wrap(`  ${experiment}: ${text}: ${count}${time}${memory}`, 110, '      ') + faults;
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
