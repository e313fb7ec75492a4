/** galvani attend: where generated tokens look, compared between checkpoints. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import { nameFolders } from './names.js';
import {
  type QuestionOptions,
  questionParts,
  type RunOptions,
  runAndReport,
  studyOf,
  withQuestionOptions,
  withRunOptions,
} from './shared.js';

interface AttendOptions extends RunOptions, QuestionOptions {
  readonly items: string;
  readonly writer?: string;
  readonly pictures: string;
}

export function attendCommand(): Command {
  const command = new Command('attend')
    .description(
      'attention of reasoning and answer tokens per layer, head and span, and over the picture, for checkpoints in order of training',
    )
    .argument('<dirs...>', 'checkpoint folders: BASE IN RL, or any number in order')
    .requiredOption('--items <path>', 'questions with images: a JSONL file')
    .option('--writer <name>', 'whose text all read in the same-text comparison (default: the last)')
    .option('--pictures <n>', 'items whose attention is drawn over their picture', '4')
    .addHelpText(
      'after',
      '\nExample:\n  galvani attend lab/checkpoints/{base,in,rl} --items lab/data/eval.jsonl --tasks dsum,diff',
    );
  return withQuestionOptions(withRunOptions(command, 'runs/attend')).action(
    async (dirs: string[], options: AttendOptions) => {
      const models = nameFolders(dirs);
      const names = Object.keys(models);
      const { protocol, seed, draw } = questionParts(options);
      const study = studyOf('attend', {
        name: `Attention of ${names.join(', ')}`,
        models,
        data: { items: resolve(options.items) },
        protocol,
        seed,
        experiments: {
          attend: {
            models: names,
            writer: options.writer ?? names.at(-1),
            pictures: Number(options.pictures),
            ...draw,
          },
        },
      });
      await runAndReport(study, { ...options, defaultOut: 'runs/attend' });
    },
  );
}
