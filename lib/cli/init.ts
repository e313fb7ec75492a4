/** galvani init: a commented study file from the checkpoints and questions that are found. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, extname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { writeAtomic } from '../checkpoint/files.js';
import { readFolder } from '../checkpoint/folder.js';
import { regions } from '../checkpoint/graft.js';
import { GalvaniError } from '../errors.js';
import { readStudy } from '../experiments/study-file.js';
import { positiveInteger, print } from './shared.js';

/** A folder that can be studied, and the stage its name suggests. */
export interface FoundModel {
  readonly name: string;
  readonly dir: string;
  readonly layers: number;
  /** A guess from the name, which the file marks as one: names are not facts. */
  readonly stage: 'base' | 'in' | 'rl' | 'frozen' | 'other';
}

export interface Found {
  readonly models: readonly FoundModel[];
  /** Folders that look like checkpoints and cannot be used, with the reason. */
  readonly refused: readonly { readonly dir: string; readonly reason: string }[];
  readonly items: readonly string[];
  readonly pairs: readonly string[];
}

export function initCommand(): Command {
  return new Command('init')
    .description('write a commented study file from the checkpoints and questions found under a folder')
    .argument('[dir]', 'where to look', '.')
    .option('-o, --out <file>', 'file to write (default: study.yaml in that folder)')
    .option('--depth <n>', 'how many folders deep to look', positiveInteger, 3)
    .option('--force', 'replace an existing file')
    .option('--json', 'print what was found as JSON and write nothing')
    .addHelpText('after', '\nExample:\n  galvani init checkpoints --out study.yaml && galvani plan study.yaml')
    .action((dir: string, options: { out?: string; depth: number; force?: boolean; json?: boolean }) => {
      const found = look(resolve(dir), options.depth);
      if (options.json) return print(JSON.stringify(found));
      const file = resolve(options.out ?? join(dir, 'study.yaml'));
      if (found.models.length === 0) {
        const why = found.refused.map(({ dir: at, reason }) => `\n  ${at}: ${reason}`).join('');
        throw new GalvaniError(
          'FILE_NOT_FOUND',
          `${resolve(dir)}: no checkpoint found ${options.depth} folders deep${why}`,
        );
      }
      if (existsSync(file) && !options.force) {
        throw new GalvaniError('BAD_ARGUMENT', `${file}: exists already; --force replaces it, --out writes elsewhere`);
      }
      if (!measurable(found)) {
        throw new GalvaniError(
          'BAD_ARGUMENT',
          `${resolve(dir)}: one checkpoint and no questions or pairs (JSONL) found: there is nothing to measure yet`,
        );
      }
      mkdirSync(dirname(file), { recursive: true });
      writeAtomic(file, studyText(found, file));
      readStudy(file); // what we write must be what we read
      print(
        [
          `${file}: ${found.models.length} checkpoints, ${found.items.length + found.pairs.length} data files`,
          ...found.refused.map(({ dir: at, reason }) => `left out ${at}: ${reason}`),
          `Check which model is which stage, then: galvani plan ${relative(process.cwd(), file) || file}`,
        ].join('\n'),
      );
    });
}

function measurable({ models, items, pairs }: Found): boolean {
  const stages = new Set(models.map(({ stage }) => stage).filter((stage) => ['base', 'in', 'rl'].includes(stage)));
  return items.length + pairs.length > 0 || stages.size >= 2;
}

const skipped = new Set(['node_modules', '.git', 'runs', 'build', 'dist']);

/** Checkpoint folders and JSONL files below a folder, in name order. */
export function look(root: string, depth: number): Found {
  if (!existsSync(root) || !statSync(root).isDirectory()) {
    throw new GalvaniError('FILE_NOT_FOUND', `${root}: no such folder`);
  }
  const models: FoundModel[] = [];
  const refused: { dir: string; reason: string }[] = [];
  const files: string[] = [];
  const visit = (dir: string, left: number): void => {
    const entries = readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
    const names = entries.map(({ name }) => name);
    if (names.includes('config.json') && names.some((name) => name.endsWith('.safetensors'))) {
      try {
        const { config } = readFolder(dir);
        models.push({ name: basename(dir), dir, layers: config.decoder.layers, stage: stageOf(basename(dir)) });
      } catch (cause) {
        refused.push({ dir, reason: (cause as Error).message });
      }
      return;
    }
    for (const entry of entries) {
      const path = join(dir, entry.name);
      if (entry.isFile() && extname(entry.name) === '.jsonl') files.push(path);
      if (entry.isDirectory() && left > 0 && !skipped.has(entry.name)) visit(path, left - 1);
    }
  };
  visit(root, depth);
  return { models: distinct(models), refused, ...sorted(files) };
}

/** Names are unique in a study: two folders of one name take the folder above into theirs. */
function distinct(models: readonly FoundModel[]): FoundModel[] {
  return models.map((model) => {
    const twin = models.some((other) => other !== model && other.name === model.name);
    return twin ? { ...model, name: `${basename(dirname(model.dir))}-${model.name}` } : model;
  });
}

function stageOf(name: string): FoundModel['stage'] {
  const words = name.toLowerCase().split(/[^a-z0-9]+/);
  const has = (...some: string[]): boolean => some.some((word) => words.includes(word));
  if (has('frozen', 'freeze')) return 'frozen';
  if (has('more', 'control')) return 'other';
  if (has('rl', 'grpo', 'ppo', 'dapo', 'rlvr')) return 'rl';
  if (has('in', 'sft', 'cold', 'coldstart', 'start')) return 'in';
  if (has('base', 'instruct', 'pretrained')) return 'base';
  return 'other';
}

/** Tells questions from pairs by the fields of the first line. */
function sorted(files: readonly string[]): { items: string[]; pairs: string[] } {
  const fields = (path: string): string[] => {
    const [first = ''] = readFileSync(path, 'utf8').split('\n', 1);
    try {
      const value: unknown = JSON.parse(first);
      return typeof value === 'object' && value !== null ? Object.keys(value) : [];
    } catch {
      return []; // not a file of ours
    }
  };
  const having = (...names: string[]): string[] =>
    files.filter((path) => {
      const own = fields(path);
      return names.every((name) => own.includes(name));
    });
  return {
    items: having('id', 'task', 'question', 'answer'),
    pairs: having('id', 'task', 'target_image', 'source_image'),
  };
}

/** The file, with every experiment that what was found allows; the others stand there as comments. */
export function studyText({ models, items, pairs }: Found, file: string): string {
  const folder = dirname(file);
  const path = (to: string): string => relative(folder, to) || '.';
  const of = (stage: FoundModel['stage']) => models.filter((model) => model.stage === stage);
  const first = (stage: FoundModel['stage']): string | undefined => of(stage)[0]?.name;
  const [base, sft, rl] = [first('base'), first('in'), first('rl')];
  const stages = [base, sft, rl].filter((name) => name !== undefined);
  const studied = rl ?? sft ?? base ?? models[0]!.name;
  const layers = models[0]!.layers;
  const [, mid, late] = regions(layers);
  const question = items[0];
  const on = (condition: unknown, lines: readonly string[]): string[] =>
    lines.map((line) => (condition ? `  ${line}` : `  # ${line}`));
  const before = sft ?? 'IN';
  const after = rl ?? 'RL';
  const frozen = of('frozen').map(({ name }) => {
    const region = ['early', 'mid', 'late'].find((one) => name.toLowerCase().includes(one));
    return region ? `    ${quoted(name)}: ${region}` : `    # ${quoted(name)}: early, mid or late?`;
  });
  const schema = relative(folder, fileURLToPath(new URL('../../docs/study.schema.json', import.meta.url)));
  return `${[
    `# yaml-language-server: $schema=${schema}`,
    '# A study: which checkpoints, which questions, which experiments. Run: galvani plan FILE, then galvani study FILE.',
    '# Which model is which stage of training was guessed from folder names: check it.',
    `name: What RL changed in ${quoted(studied)}`,
    '',
    'models: # name → checkpoint folder, relative to this file',
    ...models.map(
      ({ name, dir, stage }) => `  ${quoted(name)}: ${quoted(path(dir))}${stage === 'other' ? '' : ` # ${stage}?`}`,
    ),
    '',
    question || pairs[0] ? 'data:' : '# data: # nothing was found; JSONL files',
    question
      ? `  items: ${quoted(path(question))}`
      : '  # items: eval.jsonl # questions: {"id","task","question","answer","image"?,"description"?}',
    ...items.slice(1).map((other) => `  # also found: ${path(other)}`),
    pairs[0]
      ? `  pairs: ${quoted(path(pairs[0]))}`
      : '  # pairs: pairs.jsonl # image pairs for swapping: {"id","task","prompt","target_image","source_image",…}',
    '  # groups: # which tasks ask for what; default: by whether items have an image and a description',
    '  #   vision: []',
    '  #   visualReasoning: []',
    '  #   textReasoning: []',
    '',
    'protocol: # how every question is put, the same for all models',
    '  # system: You are a helpful assistant.',
    '  # suffix: Answer in <answer></answer>.',
    '  maxTokens: 256',
    '',
    'seed: 1 # of everything drawn',
    'controls: # they run with the rest and stand in the figures',
    '  self: true # patch runs with their own values: must change nothing',
    '  random: 1 # as many random layers beside every swap, ablation and graft',
    `# cuts: [${mid!.start}, ${late!.start}] # first layers of mid and late; this is the default for ${layers} layers`,
    `output: ${quoted(`runs/${basename(file, extname(file))}`)}`,
    '',
    'experiments:',
    ...on(pairs.length + (question ? 1 : 0), ['localize:']),
    ...on(pairs.length, [
      '  vision: # where the image is read',
      `    models: [${quoted(studied)}]`,
      '    modes: [suffix, single]',
      '    itemsPerTask: 50',
    ]),
    ...on(question, [
      '  reasoning: # which layers reasoning needs',
      `    models: [${
        [sft, rl]
          .filter((name) => name !== undefined)
          .map(quoted)
          .join(', ') || quoted(studied)
      }]`,
      '    itemsPerTask: 50',
    ]),
    ...on(question && stages.length >= 2, [
      'attend: # where reasoning looks',
      `  models: [${stages.map(quoted).join(', ')}]`,
      `  writer: ${quoted(studied)}`,
      '  itemsPerTask: 50',
    ]),
    ...on(stages.length >= 2, [
      'characterize: # what changed in the weights',
      `  models: [${stages.map(quoted).join(', ')}]`,
    ]),
    ...on(question && sft && rl, [
      'transfer: # do blocks of RL layers carry its gains',
      `  in: ${quoted(before)}`,
      `  rl: ${quoted(after)}`,
      '  policy: early # donor of the weights outside the layers: early, in, rl, ends',
      '  itemsPerTask: 100',
      '  # interpolate: # step by step from IN to RL: one region moves, all else is IN',
      '  #   alphas: [0.25, 0.5, 0.75]',
      '  #   regions: [early, mid, late] # also layers (all of them), whole (every weight)',
    ]),
    ...on(question && sft && rl && frozen.length > 0, [
      'freeze: # was a region necessary',
      `  before: ${quoted(before)}`,
      `  full: ${quoted(after)}`,
      '  controls: []',
      '  frozen:',
      ...frozen,
    ]),
  ].join('\n')}\n`;
}

/** A plain YAML scalar where that is safe, else a quoted one. */
function quoted(text: string): string {
  return /^[A-Za-z0-9_./][A-Za-z0-9_./ -]*$/.test(text) && !/^(true|false|null|yes|no|on|off|~|[\d.]+)$/i.test(text)
    ? text
    : JSON.stringify(text);
}
