/** galvani freeze: did a training run hold a region fixed? With questions: what did that cost? */
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { readFolder } from '../checkpoint/folder.js';
import { type Cuts, defaultCuts, type RegionName, regionNames } from '../checkpoint/graft.js';
import { GalvaniError } from '../errors.js';
import { regionTensors } from '../experiments/freeze.js';
import { verifyFrozen } from '../weights.js';
import { nameFolders } from './names.js';
import {
  cutPair,
  defined,
  print,
  type QuestionOptions,
  questionParts,
  type RunOptions,
  runAndReport,
  studyOf,
  withQuestionOptions,
  withRunOptions,
} from './shared.js';

interface FreezeOptions extends RunOptions, QuestionOptions {
  readonly region: RegionName;
  readonly cuts?: Cuts;
  readonly items?: string;
  readonly full?: string;
}

export function freezeCommand(): Command {
  const command = new Command('freeze')
    .description(
      'is the change of AFTER exactly zero in a region, and only there? With --items and --full: what did that cost?',
    )
    .argument('<before>', 'checkpoint folder the run started from')
    .argument('<after>', 'checkpoint folder of the run that held the region fixed')
    .addOption(new Option('--region <region>', 'decoder layers held fixed').choices(regionNames).makeOptionMandatory())
    .option('--cuts <mid,late>', 'first layers of mid and late (default: thirds)', cutPair)
    .option('--items <path>', 'questions: measure the checkpoints too')
    .option('--full <dir>', 'with --items: the run that trained everything')
    .addHelpText(
      'after',
      `
Examples:
  galvani freeze lab/checkpoints/in lab/checkpoints/rl-frozen-late --region late
  galvani freeze lab/checkpoints/in lab/checkpoints/rl-frozen-late --region late --full lab/checkpoints/rl --items lab/data/eval.jsonl`,
    );
  return withQuestionOptions(withRunOptions(command, 'runs/freeze')).action(
    async (before: string, after: string, options: FreezeOptions) => {
      if (options.items) return measure(before, after, options);
      if (options.full) throw new GalvaniError('BAD_ARGUMENT', 'freeze: --full is measured with --items only');
      const { layers } = readFolder(before).config.decoder;
      const { inside, outside } = regionTensors(before, options.region, options.cuts ?? defaultCuts(layers));
      const result = await verifyFrozen(resolve(before), resolve(after), inside);
      const held = result.frozenChanged.length === 0;
      if (options.json) print(JSON.stringify({ region: options.region, frozen: inside, held, ...result }));
      else print(verdict(options.region, inside.length, outside.length, result));
      if (!held) process.exitCode = 1;
    },
  );
}

function verdict(
  region: RegionName,
  inside: number,
  outside: number,
  {
    frozenChanged,
    othersUnchanged,
  }: { readonly frozenChanged: readonly string[]; readonly othersUnchanged: readonly string[] },
): string {
  const held =
    frozenChanged.length === 0
      ? `held: all ${inside} tensors of the ${region} region are bit for bit the same`
      : `did not hold: ${frozenChanged.length} of ${inside} tensors of the ${region} region changed:\n  ${frozenChanged.join('\n  ')}`;
  const rest =
    othersUnchanged.length === 0
      ? `outside it all ${outside} tensors changed`
      : `outside it ${othersUnchanged.length} of ${outside} tensors are unchanged too:\n  ${othersUnchanged.join('\n  ')}`;
  return `${held}\n${rest}`;
}

async function measure(before: string, after: string, options: FreezeOptions): Promise<void> {
  if (!options.full) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      'freeze: --items needs --full, the run that trained everything, to compare with',
    );
  }
  const models = nameFolders([before, options.full, after]);
  const [start, full, frozen] = Object.keys(models) as [string, string, string];
  const { protocol, seed, draw } = questionParts(options);
  const study = studyOf('freeze', {
    name: `Freezing the ${options.region} region`,
    models,
    data: { items: resolve(options.items!) },
    protocol,
    seed,
    ...defined({ cuts: options.cuts }),
    experiments: { freeze: { before: start, full, frozen: { [frozen]: options.region }, ...draw } },
  });
  await runAndReport(study, { ...options, defaultOut: 'runs/freeze' });
}
