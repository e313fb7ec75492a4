/** What every command shares: options, errors a person can act on, where output goes. */
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { GalvaniError } from '../errors.js';
import { writeReport } from '../experiments/report.js';
import { runStudy, type StudyRun } from '../experiments/study.js';
import { type ExperimentName, parseStudy, type Study } from '../experiments/study-file.js';
import { type Summary, summarize } from '../experiments/summary.js';
import { showProgress, silent } from '../run/progress.js';
import { parseShard, type Shard, shardFromEnvironment } from '../run/shards.js';
import { printStudy } from './print.js';

export interface RunOptions {
  readonly out?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly threads?: number;
  readonly blendMemory?: number;
  readonly shard?: Shard;
}

/** Options of every command that runs trials. */
export function withRunOptions(command: Command, defaultOut: string): Command {
  return command
    .option('-o, --out <dir>', `run directory; an interrupted run there is continued (default: ${defaultOut})`)
    .option('--json', 'print the summary as JSON on stdout')
    .option('--quiet', 'no progress on stderr')
    .option('--threads <n>', 'threads that compute (default: all)', positiveInteger)
    .addOption(
      new Option('--shard <i/n>', 'do part i of n (i from 0); `galvani report` joins them').argParser((text) =>
        parseShard(text),
      ),
    );
}

/** Of commands that may ask models between two checkpoints. */
export function withBlendMemory(command: Command): Command {
  return command.option(
    '--blend-memory <size>',
    'memory for models between IN and RL, such as 8GB (default: half of what there is)',
    byteSize,
  );
}

/** Options of every command that asks questions. */
export function withQuestionOptions(command: Command): Command {
  return command
    .option('--items-per-task <n>', 'items of every task, drawn with the seed (default: all)', positiveInteger)
    .option('--tasks <list>', 'tasks, separated by commas (default: all that fit)', list)
    .option('--system <text>', "system prompt (default: the chat template's own)")
    .option('--prefix <text>', 'put before every question')
    .option('--suffix <text>', 'put after every question')
    .option('--max-tokens <n>', 'longest answer', positiveInteger, 256)
    .option('--seed <n>', 'seed of everything drawn', nonNegativeInteger, 1);
}

export interface QuestionOptions {
  readonly itemsPerTask?: number;
  readonly tasks?: readonly string[];
  readonly system?: string;
  readonly prefix?: string;
  readonly suffix?: string;
  readonly maxTokens: number;
  readonly seed: number;
}

/** The parts of a study that question options fill. */
export function questionParts(options: QuestionOptions): { protocol: object; seed: number; draw: object } {
  const { system, prefix, suffix, maxTokens, seed, tasks, itemsPerTask } = options;
  return { protocol: defined({ system, prefix, suffix, maxTokens }), seed, draw: defined({ tasks, itemsPerTask }) };
}

export function defined<T extends object>(fields: T): Partial<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Partial<T>;
}

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('expected a whole number of at least 1.');
  return value;
}

export function nonNegativeInteger(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new InvalidArgumentError('expected a whole number of at least 0.');
  return value;
}

export function list(text: string): string[] {
  const parts = text
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean);
  if (parts.length === 0) throw new InvalidArgumentError('expected names separated by commas.');
  return parts;
}

/** "5GB", "500MB", "1e9" → bytes (decimal units, as the Hub's). */
export function byteSize(text: string): number {
  const match = /^([\d.]+(?:e\d+)?)\s*([KMG]?)B?$/i.exec(text.trim());
  const units = { '': 1, K: 1e3, M: 1e6, G: 1e9 } as const;
  const bytes = match ? Number(match[1]) * units[match[2]!.toUpperCase() as keyof typeof units] : Number.NaN;
  if (!(bytes >= 1)) throw new InvalidArgumentError('expected a size such as 5GB or 500MB.');
  return Math.floor(bytes);
}

/** "0.25,0.5" → [0.25, 0.5]. */
export function numbers(text: string): number[] {
  const values = list(text).map(Number);
  if (values.some((value) => !Number.isFinite(value))) {
    throw new InvalidArgumentError('expected finite numbers separated by commas.');
  }
  return values;
}

/** "3,6" → [3, 6]. */
export function cutPair(text: string): [number, number] {
  const parts = list(text).map(nonNegativeInteger);
  if (parts.length !== 2) throw new InvalidArgumentError('expected two layers, such as 9,18.');
  return parts as [number, number];
}

/** A study built by a command instead of a file. */
export function studyOf(command: string, value: object): Study {
  return parseStudy(value, `galvani ${command}`);
}

/**
 * Runs a study with progress, writes its report and prints the result. Ctrl-C ends the run after the request under
 * way; a second one stops at once. Either way the same command continues it.
 */
export async function runAndReport(
  study: Study,
  options: RunOptions & { readonly defaultOut: string; readonly only?: readonly ExperimentName[] },
): Promise<void> {
  const out = resolve(options.out ?? study.output ?? options.defaultOut);
  const progress = options.quiet ? silent : showProgress();
  const shard = options.shard ?? shardFromEnvironment(process.env);
  const controller = new AbortController();
  let stopping = false;
  const onInterrupt = (): void => {
    if (stopping) controller.abort(new GalvaniError('ABORTED', 'stopped'));
    stopping = true;
    progress.note('stopping after the request under way; press Ctrl-C again to stop at once');
  };
  process.on('SIGINT', onInterrupt);
  let run: StudyRun;
  const startMs = Date.now();
  try {
    run = await runStudy(study, {
      out,
      progress,
      signal: controller.signal,
      stopping: () => stopping,
      ...(options.only ? { only: options.only } : {}),
      ...(shard ? { shard } : {}),
      ...(options.threads === undefined ? {} : { threads: options.threads }),
      ...(options.blendMemory === undefined ? {} : { blendBytes: options.blendMemory }),
    });
  } catch (cause) {
    if (cause instanceof GalvaniError && cause.code === 'ABORTED') {
      throw new GalvaniError('ABORTED', `stopped; the same command continues the run in ${out}`, { cause });
    }
    throw cause;
  } finally {
    process.off('SIGINT', onInterrupt);
    progress.finish();
  }
  if (!run.finished) {
    throw new GalvaniError('ABORTED', `stopped; the same command continues the run in ${out}`);
  }
  if (shard && shard.count > 1) {
    process.stderr.write(`shard ${shard.index} of ${shard.count} is done; when all are, run: galvani report ${out}\n`);
    return;
  }
  const summary = summarize(out);
  const files = writeReport(out, summary);
  if (options.json) print(JSON.stringify(summary));
  else print(printStudy(summary, { run, files, seconds: (Date.now() - startMs) / 1000 }));
}

export function printSummary(summary: Summary, json: boolean | undefined, text: () => string): void {
  print(json ? JSON.stringify(summary) : text());
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
