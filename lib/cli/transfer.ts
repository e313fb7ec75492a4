/** galvani transfer: the paper's eight grafts of two checkpoints, by views. */
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { blendRegions } from '../checkpoint/blend.js';
import { nonLayerPolicies } from '../checkpoint/graft.js';
import { nameFolders } from './names.js';
import {
  cutPair,
  defined,
  list,
  numbers,
  type QuestionOptions,
  questionParts,
  type RunOptions,
  runAndReport,
  studyOf,
  withBlendMemory,
  withQuestionOptions,
  withRunOptions,
} from './shared.js';

interface TransferOptions extends RunOptions, QuestionOptions {
  readonly items: string;
  readonly policy: string;
  readonly cuts?: [number, number];
  readonly alphas?: number[];
  readonly regions?: string[];
  readonly components?: string[];
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
    .option('--alphas <list>', 'from IN to RL by steps: shares of RL, such as 0.25,0.5,0.75 (the default)', numbers)
    .option('--regions <list>', `the same: what moves, of ${blendRegions.join(', ')} (default: early,mid,late)`, list)
    .option('--components <list>', 'the same: all, attn or mlp of the layers that move (default: all)', list)
    .addHelpText(
      'after',
      '\nAny of --alphas, --regions and --components asks models between IN and RL, too: a region moves, all else is IN.\n' +
        '\nExample:\n  galvani transfer lab/checkpoints/in lab/checkpoints/rl --items lab/data/eval.jsonl',
    );
  return withQuestionOptions(withBlendMemory(withRunOptions(command, 'runs/transfer'))).action(
    async (before: string, after: string, options: TransferOptions) => {
      const models = nameFolders([before, after]);
      const [first, second] = Object.keys(models);
      const { protocol, seed, draw } = questionParts(options);
      const { policy, cuts, alphas, regions, components } = options;
      const steps = defined({ alphas, regions, components });
      const interpolate = Object.keys(steps).length > 0 ? { interpolate: steps } : {};
      const study = studyOf('transfer', {
        name: `Transfer from ${second} into ${first}`,
        models,
        data: { items: resolve(options.items) },
        protocol,
        seed,
        ...defined({ cuts }),
        experiments: { transfer: { in: first, rl: second, policy, ...draw, ...interpolate } },
      });
      await runAndReport(study, { ...options, defaultOut: 'runs/transfer' });
    },
  );
}
