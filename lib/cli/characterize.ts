/** galvani characterize: what each step of training changed in the weights. */
import { Command, Option } from 'commander';
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
  readonly spectra: boolean | 'all' | 'top';
  readonly subspace: number;
  readonly device: 'cpu' | 'cuda';
  readonly cuts?: [number, number];
  readonly seed: number;
}

export function characterizeCommand(): Command {
  const command = new Command('characterize')
    .description('energy, diversity, geometry and sparsity of the updates between two or three checkpoints')
    .argument('<dirs...>', 'two or three checkpoint folders in order of training: BASE IN RL, or BEFORE AFTER')
    .option('--control <dir>', 'another continuation of the last but one, such as more SFT, compared beside')
    .addOption(
      new Option('--spectra <which>', 'all singular values, or the leading ones only: much faster for large models')
        .choices(['all', 'top'])
        .default('all'),
    )
    .option('--no-spectra', 'statistics only: every byte is read once')
    .option('--subspace <n>', 'dimension of the leading subspaces compared; 0: none', nonNegativeInteger, 8)
    .addOption(
      new Option('--device <where>', 'where sums and Gram matrices are computed; cuda has not run on hardware yet')
        .choices(['cpu', 'cuda'])
        .default('cpu'),
    )
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
    const { cuts, seed, subspace, device } = options;
    const spectra = options.spectra === 'all' ? true : options.spectra;
    const study = studyOf('characterize', {
      name: `Weights of ${models.join(', ')}`,
      models: all,
      seed,
      ...defined({ cuts }),
      experiments: {
        characterize: { models, spectra, subspace, device, ...(options.control ? { control: names.at(-1) } : {}) },
      },
    });
    await runAndReport(study, { ...options, defaultOut: 'runs/characterize' });
  });
}
