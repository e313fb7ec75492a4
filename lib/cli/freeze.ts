/** galvani freeze: plan a run that holds a region fixed, verify that it did, measure what it cost. */
import { resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { type Cuts, type RegionName, regionNames } from '../checkpoint/graft.js';
import { GalvaniError } from '../errors.js';
import { type EngineName, engineNames, installedVersion, writeFreezePlan } from '../experiments/freeze-engines.js';
import { type FreezePart, freezeParts, planFreezing, readFreezePlan, verifyPlan } from '../experiments/freeze-plan.js';
import { nameFolders } from './names.js';
import {
  cutPair,
  defined,
  list,
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
  return new Command('freeze')
    .description('necessity: plan a training run that holds a region fixed, verify that it did, measure what it cost')
    .addCommand(planCommand())
    .addCommand(verifyCommand())
    .addCommand(measureCommand(), { isDefault: true })
    .addHelpText(
      'after',
      `
Examples:
  galvani freeze plan lab/checkpoints/in --region late --engine trl --out runs/freeze-late
  galvani freeze verify lab/checkpoints/in TRAINED --plan runs/freeze-late/plan.json
  galvani freeze lab/checkpoints/in lab/checkpoints/rl-frozen-late --region late`,
    );
}

function planCommand(): Command {
  return new Command('plan')
    .description('write what an RL engine needs to hold a part of a checkpoint fixed: plan.json, its files, run.sh')
    .argument('<checkpoint>', 'checkpoint folder the run will start from')
    .requiredOption('--region <list>', `what to hold fixed, separated by commas: ${freezeParts.join(', ')}`, partList)
    .addOption(new Option('--engine <engine>', 'who trains').choices(engineNames).makeOptionMandatory())
    .option('--cuts <mid,late>', 'first layers of mid and late (default: thirds)', cutPair)
    .option('-o, --out <dir>', 'folder to write (default: runs/freeze-REGION-ENGINE)')
    .option('--python <path>', 'the Python whose installed engine version counts', 'python3')
    .option('--engine-version <version>', 'plan for this version of the engine; no Python is asked')
    .option('--json', 'print the plan as JSON on stdout')
    .addHelpText(
      'after',
      `
Examples:
  galvani freeze plan checkpoints/sft --region late --engine trl --python venv/bin/python
  galvani freeze plan checkpoints/sft --region early,vision --engine ms-swift --engine-version 4.6.0`,
    )
    .action((checkpoint: string, options: PlanOptions) => {
      const plan = planFreezing(checkpoint, options.region, options.cuts);
      const version = options.engineVersion ?? installedVersion(options.engine, options.python);
      const out = options.out ?? `runs/freeze-${options.region.join('-')}-${options.engine}`;
      const written = writeFreezePlan(plan, options.engine, version, out);
      if (options.json) {
        print(JSON.stringify({ ...written, plan }));
        return;
      }
      const { frozen, values, parts } = plan;
      const share = `${((100 * values.frozen) / values.all).toFixed(1)} %`;
      print(`${parts.join(', ')}: ${frozen.length} tensors held fixed, ${share} of the values`);
      print(`${written.dir}: ${written.files.join(', ')}`);
      if (written.warning) process.stderr.write(`${written.warning}\n`);
    });
}

interface PlanOptions {
  readonly region: readonly FreezePart[];
  readonly engine: EngineName;
  readonly cuts?: Cuts;
  readonly out?: string;
  readonly python: string;
  readonly engineVersion?: string;
  readonly json?: boolean;
}

function partList(text: string): FreezePart[] {
  const parts = list(text);
  const wrong = parts.find((part) => !(freezeParts as readonly string[]).includes(part));
  if (wrong !== undefined)
    throw new InvalidArgumentError(`expected some of ${freezeParts.join(', ')}, got '${wrong}'.`);
  return [...new Set(parts)] as FreezePart[];
}

function verifyCommand(): Command {
  return new Command('verify')
    .description('is the change of AFTER exactly zero on the names of a plan, and only there?')
    .argument('<base>', 'checkpoint folder the plan was made for')
    .argument('<after>', 'checkpoint folder after training')
    .requiredOption('--plan <file>', 'plan.json of `galvani freeze plan`')
    .option('--json', 'print the verdict as JSON on stdout')
    .action(async (base: string, after: string, options: { readonly plan: string; readonly json?: boolean }) => {
      const plan = readFreezePlan(options.plan);
      const result = await verifyPlan(resolve(base), resolve(after), plan);
      const held = result.frozenChanged.length === 0;
      if (options.json) print(JSON.stringify({ parts: plan.parts, held, ...result }));
      else print(verdict(inWords(plan.parts), result.frozen.length, result.others, result));
      if (!held) process.exitCode = 1;
    });
}

function measureCommand(): Command {
  const command = new Command('measure')
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
  galvani freeze measure lab/checkpoints/in lab/checkpoints/rl-frozen-late --region late
  galvani freeze measure lab/checkpoints/in lab/checkpoints/rl-frozen-late --region late --full lab/checkpoints/rl --items lab/data/eval.jsonl`,
    );
  return withQuestionOptions(withRunOptions(command, 'runs/freeze')).action(
    async (before: string, after: string, options: FreezeOptions) => {
      if (options.items) return measure(before, after, options);
      if (options.full) throw new GalvaniError('BAD_ARGUMENT', 'freeze: --full is measured with --items only');
      const plan = planFreezing(before, [options.region], options.cuts);
      const result = await verifyPlan(resolve(before), resolve(after), plan);
      const held = result.frozenChanged.length === 0;
      if (options.json) print(JSON.stringify({ region: options.region, held, ...result }));
      else print(verdict(inWords([options.region]), result.frozen.length, result.others, result));
      if (!held) process.exitCode = 1;
    },
  );
}

function inWords(parts: readonly FreezePart[]): string {
  return parts
    .map((part) => ((regionNames as readonly string[]).includes(part) ? `the ${part} region` : part))
    .join(', ');
}

function verdict(
  region: string,
  inside: number,
  outside: number,
  {
    frozenChanged,
    othersUnchanged,
  }: { readonly frozenChanged: readonly string[]; readonly othersUnchanged: readonly string[] },
): string {
  const held =
    frozenChanged.length === 0
      ? `held: all ${inside} tensors of ${region} are bit for bit the same`
      : `did not hold: ${frozenChanged.length} of ${inside} tensors of ${region} changed:\n  ${frozenChanged.join('\n  ')}`;
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
