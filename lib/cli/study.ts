/** galvani study: everything a study file asks for. */
import { Command } from 'commander';
import {
  type ExperimentName,
  experimentNames,
  readStudy,
  studyFolder,
  withPathsFrom,
} from '../experiments/study-file.js';
import { list, type RunOptions, runAndReport, withBlendMemory, withRunOptions } from './shared.js';

interface StudyOptions extends RunOptions {
  readonly only?: string[];
}

export function studyCommand(): Command {
  const command = new Command('study')
    .description('run every experiment of a study file and write its report; see docs/study.md')
    .argument('<file>', 'study file (YAML)')
    .option('--only <list>', `some of its experiments, separated by commas: ${experimentNames.join(', ')}`, list)
    .addHelpText('after', '\nExample:\n  galvani study lab/study.yaml --only localize,transfer');
  return withBlendMemory(withRunOptions(command, "the file's output, else runs/study")).action(
    async (file: string, options: StudyOptions) => {
      const study = withPathsFrom(readStudy(file), studyFolder(file));
      const { only, ...rest } = options;
      await runAndReport(study, {
        ...rest,
        ...(only ? { only: only as ExperimentName[] } : {}),
        defaultOut: 'runs/study',
      });
    },
  );
}
