/** galvani describe: writes the descriptions a study's condition needs into a file of their own. */
import { dirname, join, resolve } from 'node:path';
import { Command } from 'commander';
import { readStudy, studyFolder, withPathsFrom } from '../experiments/study-file.js';
import { describeStudy } from '../experiments/study-prepare.js';
import { showProgress, silent } from '../run/progress.js';
import { positiveInteger, print } from './shared.js';

interface DescribeCommandOptions {
  readonly out?: string;
  readonly threads?: number;
  readonly quiet?: boolean;
  readonly json?: boolean;
}

export function describeCommand(): Command {
  return new Command('describe')
    .description('write the image descriptions that a study’s data.descriptions asks for, once, for many runs')
    .argument('<file>', 'study file (YAML) with data.descriptions')
    .option('-o, --out <file>', 'JSON lines to write (default: descriptions.jsonl beside the study file)')
    .option('--threads <n>', 'threads that compute (default: all)', positiveInteger)
    .option('--quiet', 'no progress on stderr')
    .option('--json', 'print what was written as JSON on stdout')
    .addHelpText(
      'after',
      `
What was written so far is kept when it is interrupted; name the file in the study as data.descriptions.file.

Example:
  galvani describe study.yaml --out descriptions.jsonl`,
    )
    .action(async (file: string, options: DescribeCommandOptions) => {
      const study = withPathsFrom(readStudy(file), studyFolder(file));
      const out = resolve(options.out ?? join(dirname(resolve(file)), 'descriptions.jsonl'));
      const progress = options.quiet ? silent : showProgress();
      const described = await describeStudy(study, {
        file: out,
        progress,
        ...(options.threads === undefined ? {} : { threads: options.threads }),
      });
      print(options.json ? JSON.stringify({ file: out, items: described }) : `${out}: ${described} descriptions`);
    });
}
