/** galvani regrade: grades a run anew, by other rules or beside a judge; no model is needed. */
import { join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { writeAtomic } from '../checkpoint/files.js';
import { ruleSchema } from '../data/rules.js';
import { GalvaniError } from '../errors.js';
import {
  askJudge,
  dataGrading,
  type Grading,
  readGrading,
  type VerdictRow,
  verdictsOf,
  writeGrading,
} from '../experiments/grading.js';
import { writeReport } from '../experiments/report.js';
import { observedByExperiment, summarize } from '../experiments/summary.js';
import { readLines } from '../run/json-lines.js';
import { showProgress, silent } from '../run/progress.js';
import { mergeRun } from '../run/shards.js';
import type { MatchRule } from '../types.js';
import { print } from './shared.js';

interface RegradeOptions {
  readonly rule: Readonly<Record<string, MatchRule>>;
  readonly reset?: boolean;
  readonly judge?: string;
  readonly judgeModel?: string;
  readonly judgeKeyEnv?: string;
  readonly decide: 'rule' | 'judge';
  readonly quiet?: boolean;
  readonly json?: boolean;
}

export function regradeCommand(): Command {
  return new Command('regrade')
    .description('grade the answers of a run anew, by other rules or beside a judge, and rebuild its report; no model')
    .argument('<run>', 'run directory, also one written by several shards')
    .addOption(
      new Option('--rule <task=rule>', 'another rule for a task, by name or as JSON, repeatable: math=latex')
        .argParser(taskRule)
        .default({}, "the data's own"),
    )
    .option('--reset', "forget rules and judge given before: the data's own rules grade")
    .option('--judge <url>', 'an OpenAI-compatible server that grades as well, such as http://localhost:8000/v1')
    .option('--judge-model <name>', 'its model')
    .option('--judge-key-env <name>', 'environment variable with its key (default: OPENAI_API_KEY)')
    .addOption(
      new Option('--decide <who>', "whose verdicts the report counts; the other's are compared")
        .choices(['rule', 'judge'])
        .default('rule'),
    )
    .option('--quiet', 'no progress on stderr')
    .option('--json', 'print what changed as JSON on stdout')
    .addHelpText(
      'after',
      `
The ledger stays as it is. grading.json in the run directory keeps the choice, verdicts.jsonl every verdict, judge.jsonl
what the judge said; an answer it did not grade is missing data, and the same command asks for it again.

Examples:
  galvani regrade runs/lab
  galvani regrade runs/mine --rule math-targeted-vqa='{"kind":"number","relative":0.01}'
  galvani regrade runs/mine --judge http://localhost:8000/v1 --judge-model qwen3-32b`,
    )
    .action(regrade);
}

async function regrade(dir: string, options: RegradeOptions): Promise<void> {
  const before = options.reset ? dataGrading : readGrading(dir);
  const grading = gradingOf(before, options);
  const runs = observedByExperiment(mergeRun(dir));
  const tasks = new Set(runs.flatMap(({ observed }) => observed.map(({ meta }) => meta.task)));
  for (const task of Object.keys(options.rule)) {
    if (!tasks.has(task)) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `--rule: the run has no task '${task}'; it has ${[...tasks].filter(Boolean).join(', ')}`,
      );
    }
  }
  const path = join(dir, 'verdicts.jsonl');
  const recorded = readLines<VerdictRow>(path);
  const old = recorded.length > 0 ? recorded : verdictsOf(dir, runs, readGrading(dir));
  verdictsOf(dir, runs, { ...grading, judge: undefined }); // gold that a new rule cannot read is said before a judge is paid
  if (grading.judge && options.judge) {
    const progress = options.quiet ? silent : showProgress();
    progress.start(
      'judge',
      runs.reduce((sum, { observed }) => sum + observed.length, 0),
    );
    const told = await askJudge(
      dir,
      runs.flatMap(({ observed }) => observed),
      grading,
      {
        onProgress: (done) => progress.update({ done }),
      },
    );
    progress.finish();
    if (told.failed > 0) {
      process.stderr.write(
        `the judge did not grade ${told.failed} of ${told.asked} answers, now missing data: ${told.error}\n`,
      );
    }
  }
  const now = verdictsOf(dir, runs, grading);
  writeGrading(dir, grading);
  writeAtomic(path, now.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const summary = summarize(dir);
  const files = writeReport(dir, summary);
  const changes = changed(old, now);
  if (options.json) print(JSON.stringify({ graded: now.length, changes, grading: summary.grading }));
  else print(inWords(now, changes, summary.grading.judge, files.html));
}

function gradingOf(before: Grading, { rule, judge, judgeModel, judgeKeyEnv, decide }: RegradeOptions): Grading {
  if (judge === undefined) {
    if (judgeModel !== undefined || judgeKeyEnv !== undefined) {
      throw new GalvaniError('BAD_ARGUMENT', 'regrade: --judge-model and --judge-key-env need --judge');
    }
    const kept = before.judge && { ...before.judge, decides: decide === 'judge' };
    if (decide === 'judge' && !kept) throw new GalvaniError('BAD_ARGUMENT', 'regrade: --decide judge needs a --judge');
    return { ...before, rules: { ...before.rules, ...rule }, judge: kept };
  }
  if (judgeModel === undefined) throw new GalvaniError('BAD_ARGUMENT', 'regrade: --judge needs --judge-model');
  const keyEnv = judgeKeyEnv === undefined ? {} : { keyEnv: judgeKeyEnv };
  return {
    ...before,
    rules: { ...before.rules, ...rule },
    judge: { url: judge, model: judgeModel, ...keyEnv, decides: decide === 'judge' },
  };
}

interface Change {
  readonly label: string;
  readonly gold: string;
  readonly answer: string | null;
  readonly before: string;
  readonly after: string;
}

function changed(old: readonly VerdictRow[], now: readonly VerdictRow[]): Change[] {
  const identity = ({ experiment, key, item, gold }: VerdictRow): string =>
    JSON.stringify([experiment, key, item, gold]);
  const before = new Map(old.map((row) => [identity(row), row.verdict]));
  return now.flatMap((row): Change[] => {
    const { label, gold, answer, verdict } = row;
    const was = before.get(identity(row));
    return was === undefined || was === verdict ? [] : [{ label, gold, answer, before: was, after: verdict }];
  });
}

const shown = 10;

function inWords(
  now: readonly VerdictRow[],
  changes: readonly Change[],
  judge: ReturnType<typeof summarize>['grading']['judge'],
  html: string,
): string {
  const count = (verdict: string): number => now.filter((row) => row.verdict === verdict).length;
  const lines = [
    `${now.length} answers: ${['correct', 'wrong', 'unparsed', 'undecided'].map((verdict) => `${count(verdict)} ${verdict}`).join(', ')}`,
    changes.length === 0
      ? 'no verdict changed'
      : `${changes.length} verdicts changed${changes.length > shown ? `, the first ${shown}` : ''}:`,
    ...changes
      .slice(0, shown)
      .map(
        ({ label, gold, answer, before, after }) =>
          `  ${label}: ${before} → ${after} (answer ${JSON.stringify(answer)}, gold ${JSON.stringify(gold)})`,
      ),
  ];
  if (judge) {
    const { agreement, kappa, onlyRules, onlyJudge } = judge;
    const share = agreement.rate === null ? 'nothing to compare' : `${(100 * agreement.rate).toFixed(1)} % agreement`;
    lines.push(
      `judge ${judge.model}: ${share} with the rules on ${agreement.n} answers (kappa ${kappa === null ? 'undefined' : kappa.toFixed(2)}); ` +
        `right by rules only ${onlyRules}, by the judge only ${onlyJudge}; not judged ${agreement.failed}`,
    );
  }
  return [...lines, `report: ${html}`].join('\n');
}

function taskRule(text: string, all: Readonly<Record<string, MatchRule>>): Record<string, MatchRule> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('expected task=rule, such as math=latex.');
  const written = text.slice(at + 1).trim();
  let value: unknown = { kind: written };
  if (written.startsWith('{')) {
    try {
      value = JSON.parse(written);
    } catch {
      throw new InvalidArgumentError(`not JSON: ${written}`);
    }
  }
  const parsed = ruleSchema.safeParse(value);
  if (!parsed.success) throw new InvalidArgumentError(`no rule: ${written} (see docs/grading.md).`);
  return { ...all, [text.slice(0, at)]: parsed.data };
}
