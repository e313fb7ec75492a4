/** galvani transfer: the paper's eight grafts of two checkpoints, by views. */
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { nonLayerPolicies } from '../checkpoint/graft.js';
import { nameFolders } from './names.js';
import {
  cutPair,
  defined,
  type QuestionOptions,
  questionParts,
  type RunOptions,
  runAndReport,
  studyOf,
  withQuestionOptions,
  withRunOptions,
} from './shared.js';

interface TransferOptions extends RunOptions, QuestionOptions {
  readonly items: string;
  readonly policy: string;
  readonly cuts?: [number, number];
}

export function transferCommand(): Command {
  const command = new Command('transfer')
    .description('do blocks of RL layers carry its gains? Eight grafts answer the same questions')
    .argument('<in>', 'checkpoint folder before RL')
    .argument('<rl>', 'checkpoint folder after RL')
    .requiredOption('--items <path>', 'questions: a JSONL file')
    .addOption(
      new Option('--policy <policy>', 'donor of the weights outside the decoder layers')
        .choices(nonLayerPolicies)
        .default('early'),
    )
    .option('--cuts <mid,late>', 'first layers of mid and late (default: thirds)', cutPair)
    .addHelpText(
      'after',
      '\nExample:\n  galvani transfer lab/checkpoints/in lab/checkpoints/rl --items lab/data/eval.jsonl',
    );
  return withQuestionOptions(withRunOptions(command, 'runs/transfer')).action(
    async (before: string, after: string, options: TransferOptions) => {
      const models = nameFolders([before, after]);
      const [first, second] = Object.keys(models);
      const { protocol, seed, draw } = questionParts(options);
      const { policy, cuts } = options;
      const study = studyOf('transfer', {
        name: `Transfer from ${second} into ${first}`,
        models,
        data: { items: resolve(options.items) },
        protocol,
        seed,
        ...defined({ cuts }),
        experiments: { transfer: { in: first, rl: second, policy, ...draw } },
      });
      await runAndReport(study, { ...options, defaultOut: 'runs/transfer' });
    },
  );
}
