/** galvani merge: a recipe → a checkpoint. */
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Command } from 'commander';
import { GalvaniError } from '../errors.js';
import { mergeMethods } from '../merge/methods.js';
import { type MergePlan, planMerge } from '../merge/plan.js';
import { parseRecipe } from '../merge/recipe.js';
import { companionFiles, isTokenizerFile, type MergeResult, shardsOf, writeMerge } from '../merge/write.js';
import { packageVersion } from '../run/package.js';
import { showProgress, silent } from '../run/progress.js';
import { bytesText } from './print.js';
import { byteSize, positiveInteger, print } from './shared.js';

interface MergeOptions {
  readonly out?: string;
  readonly dryRun?: boolean;
  readonly shardSize: number;
  readonly overwrite?: boolean;
  readonly hash?: boolean;
  readonly threads?: number;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Which files come with the weights, by the model they are taken from. */
function companionText(plan: MergePlan): string {
  const paths = [...companionFiles(plan)];
  const of = (dir: string): string[] =>
    paths.filter(([, path]) => dirname(resolve(path)) === resolve(dir)).map(([name]) => name);
  const { host, tokenizerHost } = plan;
  const sources = [`from ${host.key}: ${['config.json', ...of(host.dir)].join(', ')}`];
  if (tokenizerHost.dir !== host.dir) sources.push(`from ${tokenizerHost.key}: ${of(tokenizerHost.dir).join(', ')}`);
  const hasTokenizer = paths.some(([name]) => isTokenizerFile(name));
  return [...sources, ...(hasTokenizer ? [] : [`no tokenizer in ${tokenizerHost.key}, none in the output`])].join('; ');
}

function describePlan(plan: MergePlan, shardBytes: number): string {
  const { coverage } = plan;
  const count = new Map<string, { tensors: number; from: string }>();
  for (const { method, from } of plan.tensors) {
    const line = `${method} of ${from.join(', ')}`;
    count.set(line, { tensors: (count.get(line)?.tensors ?? 0) + 1, from: line });
  }
  const unused = Object.entries(coverage.unused);
  return [
    `${coverage.tensors} tensors, ${coverage.elements.toLocaleString('en')} values, ${bytesText(plan.bytes)} in ${shardsOf(plan.tensors, shardBytes).length} file(s)`,
    ...[...count].map(([line, { tensors }]) => `  ${String(tensors).padStart(5)}  ${line}`),
    companionText(plan),
    ...unused.map(
      ([model, names]) =>
        `not read of ${model}: ${names.length} tensors (${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''})`,
    ),
    ...plan.notes.map((note) => `note: ${note}`),
  ].join('\n');
}

const planJson = (plan: MergePlan): object => ({
  tensors: plan.tensors.map(({ name, dtype, shape, method, from, shared, each }) => ({
    name,
    dtype,
    shape,
    method,
    from,
    shared,
    each,
  })),
  coverage: plan.coverage,
  notes: plan.notes,
  bytes: plan.bytes,
});

function readRecipe(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: cannot be read`, { cause });
  }
}

const methodTable = (): string => mergeMethods.map(({ name, about }) => `  ${name.padEnd(18)}${about}`).join('\n');

/** Ctrl-C stops after the shard's tile under way; finished shards are kept. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = (): void => controller.abort(new GalvaniError('ABORTED', 'stopped'));
  process.on('SIGINT', stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off('SIGINT', stop);
  }
}

async function run(recipePath: string, options: MergeOptions): Promise<void> {
  const path = resolve(recipePath);
  const text = readRecipe(path);
  const plan = planMerge(parseRecipe(text, recipePath), recipePath, dirname(path));
  if (options.dryRun)
    return print(options.json ? JSON.stringify(planJson(plan)) : describePlan(plan, options.shardSize));
  if (options.out === undefined) throw new GalvaniError('BAD_ARGUMENT', 'merge: -o DIR is missing (or --dry-run)');
  const progress = options.quiet ? silent : showProgress();
  const { shardSize, overwrite, hash, threads } = options;
  const mega = (bytes: number): number => Math.round(bytes / 1e6);
  const startMs = Date.now();
  let result: MergeResult;
  try {
    progress.start('merge, MB', mega(plan.bytes));
    result = await interruptible((signal) =>
      writeMerge(plan, {
        out: options.out!,
        recipe: text,
        version: packageVersion(),
        shardBytes: shardSize,
        ...(overwrite ? { overwrite } : {}),
        ...(hash ? { hash } : {}),
        ...(threads === undefined ? {} : { threads }),
        signal,
        onProgress: (done, _, resumed) => progress.update({ done: mega(done), skipped: mega(resumed) }),
      }),
    );
  } finally {
    progress.finish();
  }
  const seconds = (Date.now() - startMs) / 1000;
  if (options.json) return print(JSON.stringify({ ...result, ...planJson(plan), seconds }));
  print(describePlan(plan, shardSize));
  if (result.resumedBytes > 0) print(`${bytesText(result.resumedBytes)} were there from an earlier run`);
  print(`${result.dir}: written and verified in ${seconds.toFixed(1)} s`);
}

export function mergeCommand(): Command {
  return new Command('merge')
    .description(
      'write a checkpoint merged, grafted or interpolated from others, as a recipe says (mergekit YAML is read as it is)',
    )
    .argument('<recipe>', 'recipe in YAML; paths in it start at its folder')
    .option('-o, --out <dir>', 'folder of the new checkpoint; appears when complete')
    .option('--dry-run', 'say what would be written and where every tensor comes from')
    .option('--shard-size <size>', 'largest file', byteSize, 5e9)
    .option('--overwrite', 'replace an existing folder, when the new one is complete')
    .option('--hash', 'SHA-256 of every input and output file in the manifest (reads them once more)')
    .option('--threads <n>', 'threads that compute (default: all)', positiveInteger)
    .option('--json', 'print plan and result as JSON on stdout')
    .option('--quiet', 'no progress on stderr')
    .addHelpText(
      'after',
      `\nMethods:\n${methodTable()}\n\nAn interrupted merge is continued by the same command. Recipes: docs/merge.md.`,
    )
    .action(run);
}
