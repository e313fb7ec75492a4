/** galvani characterize: what each step of training changed in the weights. */
import { Command } from 'commander';
import { nameFolders } from './names.js';
import {
  cutPair,
  defined,
  nonNegativeInteger,
  type RunOptions,
  runAndReport,
  studyOf,
  withRunOptions,
} from './shared.js';

interface CharacterizeOptions extends RunOptions {
  readonly control?: string;
  readonly spectra: boolean;
  readonly cuts?: [number, number];
  readonly seed: number;
}

export function characterizeCommand(): Command {
  const command = new Command('characterize')
    .description('energy, diversity, geometry and sparsity of the updates between two or three checkpoints')
    .argument('<dirs...>', 'two or three checkpoint folders in order of training: BASE IN RL, or BEFORE AFTER')
    .option('--control <dir>', 'another continuation of the last but one, such as more SFT, compared beside')
    .option('--no-spectra', 'skip singular values and their noise floor')
    .option('--cuts <mid,late>', 'first layers of mid and late (default: thirds)', cutPair)
    .option('--seed <n>', 'seed of the noise floor', nonNegativeInteger, 1)
    .addHelpText(
      'after',
      '\nExample:\n  galvani characterize lab/checkpoints/{base,in,rl} --control lab/checkpoints/in-more',
    );
  return withRunOptions(command, 'runs/characterize').action(async (dirs: string[], options: CharacterizeOptions) => {
    const all = nameFolders(options.control ? [...dirs, options.control] : dirs);
    const names = Object.keys(all);
    const models = names.slice(0, dirs.length);
    const { spectra, cuts, seed } = options;
    const study = studyOf('characterize', {
      name: `Weights of ${models.join(', ')}`,
      models: all,
      seed,
      ...defined({ cuts }),
      experiments: { characterize: { models, spectra, ...(options.control ? { control: names.at(-1) } : {}) } },
    });
    await runAndReport(study, { ...options, defaultOut: 'runs/characterize' });
  });
}
