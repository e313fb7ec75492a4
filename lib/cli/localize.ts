/** galvani localize: where the image is read (swapping) and which layers reasoning needs (ablation). */
import { basename, resolve } from 'node:path';
import { Command, Option } from 'commander';
import { GalvaniError } from '../errors.js';
import { ablatedParts } from '../experiments/localize-reasoning.js';
import { swapModes } from '../hooks/interventions.js';
import {
  cutPair,
  defined,
  nonNegativeInteger,
  positiveInteger,
  type QuestionOptions,
  questionParts,
  type RunOptions,
  runAndReport,
  studyOf,
  withQuestionOptions,
  withRunOptions,
} from './shared.js';

interface LocalizeOptions extends RunOptions, QuestionOptions {
  readonly data?: string;
  readonly items?: string;
  readonly mode: string[];
  readonly width: number;
  readonly heads?: number[];
  readonly resize: string;
  readonly part: string[];
  readonly cuts?: [number, number];
}

export function localizeCommand(): Command {
  const command = new Command('localize')
    .description('where a model reads the image (--data) and which layers its reasoning needs (--items)')
    .argument('<dir>', 'checkpoint folder (Hugging Face, Qwen2.5-VL)')
    .option('--data <path>', 'image pairs: a JSONL file, or the folder of a published set')
    .option('--items <path>', 'questions for layer ablation: a JSONL file')
    .addOption(new Option('--mode <modes...>', 'layers swapped').choices(swapModes).default(['suffix', 'single']))
    .option('--width <n>', 'layers of a window', positiveInteger, 3)
    .option('--heads <heads...>', 'KV heads swapped (default: all)', (text: string, all: number[] = []) => [
      ...all,
      nonNegativeInteger(text),
    ])
    .addOption(
      new Option('--resize <rule>', 'images of unequal size in a pair').choices(['refuse', 'source']).default('refuse'),
    )
    .addOption(new Option('--part <parts...>', 'what ablation sets to zero').choices(ablatedParts).default(['layer']))
    .option('--cuts <mid,late>', 'first layers of mid and late (default: thirds)', cutPair)
    .addHelpText(
      'after',
      `
Examples:
  galvani localize lab/checkpoints/rl --data lab/data/pairs.jsonl
  galvani localize MODEL --data vision-functions --items-per-task 50 --mode suffix window --width 4
  galvani localize lab/checkpoints/rl --items lab/data/eval.jsonl --tasks dsum,diff,chain`,
    );
  return withQuestionOptions(withRunOptions(command, 'runs/localize-NAME')).action(
    async (dir: string, options: LocalizeOptions) => {
      if (!options.data && !options.items) {
        throw new GalvaniError('BAD_ARGUMENT', 'localize: give --data (image pairs), --items (questions), or both');
      }
      const name = basename(resolve(dir));
      const { protocol, seed, draw } = questionParts(options);
      const { mode, width, heads, resize, part, cuts } = options;
      const study = studyOf('localize', {
        name: `Localisation in ${name}`,
        models: { [name]: resolve(dir) },
        data: defined({ pairs: options.data && resolve(options.data), items: options.items && resolve(options.items) }),
        protocol,
        seed,
        ...defined({ cuts }),
        experiments: {
          localize: {
            ...(options.data
              ? { vision: { models: [name], modes: mode, width, resize, ...draw, ...defined({ heads }) } }
              : {}),
            ...(options.items ? { reasoning: { models: [name], parts: part, ...draw } } : {}),
          },
        },
      });
      await runAndReport(study, { ...options, defaultOut: `runs/localize-${name}` });
    },
  );
}
