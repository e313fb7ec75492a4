/**
 * How a run is graded, laid over its ledger: rules by task that replace the data's own, and an optional judge.
 * grading.json in the run directory holds it; without the file the rules of the data grade, as they always did.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { writeAtomic } from '../checkpoint/files.js';
import { ruleSchema } from '../data/rules.js';
import { GalvaniError } from '../errors.js';
import { type AnswerSource, canRead, extract } from '../grading/extract.js';
import { cohenKappa, type Judged, judgePrompt, judgePromptVersion, readJudgement } from '../grading/judge.js';
import { match, type Verdict } from '../grading/match.js';
import { askAll, type ChatEndpoint, chat, hopeless } from '../remote/chat.js';
import { JsonLines, readLines } from '../run/json-lines.js';
import { contentKey } from '../run/key.js';
import type { Observation, TrialRow } from '../run/rows.js';
import { rate } from '../stats/rates.js';
import type { MatchRule } from '../types.js';
import { type GoldMeta, ruleJson, ruleOf } from './context.js';
import { asRecord, type RateRecord } from './measure.js';

export interface Grading {
  readonly format: 1;
  /** Rule by task, in place of the data's own. */
  readonly rules: Readonly<Record<string, MatchRule>>;
  readonly judge?: (ChatEndpoint & { readonly decides: boolean }) | undefined;
}

export const dataGrading: Grading = { format: 1, rules: {} };

const gradingSchema: z.ZodType<Grading> = z.strictObject({
  format: z.literal(1),
  rules: z.record(z.string(), ruleSchema),
  judge: z
    .strictObject({ url: z.string(), model: z.string(), keyEnv: z.string().optional(), decides: z.boolean() })
    .optional(),
});

const gradingFile = (dir: string): string => join(dir, 'grading.json');
const judgeFile = (dir: string): string => join(dir, 'judge.jsonl');

/** The run's grading; the data's own when it has no grading.json. @throws BAD_CONFIG */
export function readGrading(dir: string): Grading {
  let text: string;
  try {
    text = readFileSync(gradingFile(dir), 'utf8');
  } catch {
    return dataGrading;
  }
  try {
    return gradingSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new GalvaniError('BAD_CONFIG', `${gradingFile(dir)}: not a grading: ${(cause as Error).message}`, { cause });
  }
}

export function writeGrading(dir: string, grading: Grading): void {
  writeAtomic(gradingFile(dir), `${JSON.stringify(grading, null, 1)}\n`);
}

interface JudgementRow {
  readonly key: string;
  readonly verdict: 'correct' | 'wrong';
  readonly reply: string;
}

/** What a judgement depends on; the whole prediction is part of it. */
function judgementKey({ url, model }: ChatEndpoint, { text, gold, rule }: Judged): string {
  return contentKey({ url, model, version: judgePromptVersion, text, gold, rule: ruleJson(rule) });
}

/** A finished answer with gold beside it. */
interface Gradable {
  readonly meta: GoldMeta;
  readonly row: TrialRow;
  readonly rule: MatchRule;
}

function gradable({ meta, row }: Observation, { rules }: Grading): Gradable | undefined {
  if (row?.kind !== 'trial' || row.truncated || typeof meta.gold !== 'string' || typeof meta.rule !== 'object') {
    return undefined;
  }
  const gold = meta as GoldMeta;
  return { meta: gold, row, rule: rules[gold.task] ?? ruleOf(gold) };
}

/** The rows as analysis shall see them: rules replaced, and the judge's verdict on them where it decides. */
export function applyGrading(dir: string, grading: Grading): (observed: readonly Observation[]) => Observation[] {
  const { rules, judge } = grading;
  const said = judge?.decides ? judgements(dir) : undefined;
  return (observed) =>
    observed.map((one): Observation => {
      const { meta, row } = one;
      const task = meta.task as string;
      const replaced = typeof meta.rule === 'object' && Object.hasOwn(rules, task);
      const ruled = replaced ? { ...one, meta: { ...meta, rule: ruleJson(rules[task]!) } } : one;
      const judged = said && gradable(ruled, grading);
      if (!judged) return ruled;
      const { text } = row as TrialRow;
      const key = judgementKey(judge!, { text, gold: judged.meta.gold, rule: judged.rule });
      return { ...ruled, row: { ...judged.row, judged: said.get(key)?.verdict ?? 'failed' } };
    });
}

function judgements(dir: string): ReadonlyMap<string, JudgementRow> {
  return new Map(readLines<JudgementRow>(judgeFile(dir)).map((row) => [row.key, row]));
}

/** Asks the judge about every answer it has not spoken on. A failure is counted and asked again next time. */
export async function askJudge(
  dir: string,
  observed: readonly Observation[],
  grading: Grading,
  options: { readonly onProgress?: (done: number, of: number) => void; readonly waitMs?: number } = {},
): Promise<{ readonly asked: number; readonly failed: number; readonly error: string | null }> {
  const judge = grading.judge!;
  using file = new JsonLines<JudgementRow>(judgeFile(dir));
  const known = new Set(file.loaded.map(({ key }) => key));
  const open = new Map<string, Judged>();
  for (const one of observed) {
    const found = gradable(one, grading);
    if (!found) continue;
    const judged = { text: found.row.text, gold: found.meta.gold, rule: found.rule };
    const key = judgementKey(judge, judged);
    if (!known.has(key)) open.set(key, judged);
  }
  let done = 0;
  let error: string | null = null;
  const step = (): void => options.onProgress?.(++done, open.size);
  const ask = async ([key, judged]: readonly [string, Judged]): Promise<void> => {
    const { system, user } = judgePrompt(judged);
    const messages = [
      { role: 'system' as const, content: system },
      { role: 'user' as const, content: user },
    ];
    const wait = options.waitMs === undefined ? {} : { waitMs: options.waitMs };
    const reply = await chat(judge, messages, { maxTokens: 512, ...wait });
    file.append([{ key, verdict: readJudgement(reply), reply: reply.slice(0, 500) }]);
    step();
  };
  const { failed, gaveUp } = await askAll([...open], 8, ask, (_, cause) => {
    if (!(cause instanceof GalvaniError) || cause.code !== 'NETWORK') throw cause;
    error ??= cause.message;
    step();
  });
  if (gaveUp) error = `${error}; gave up after ${hopeless} failures in a row`;
  return { asked: open.size, failed, error };
}

/** One graded row, for people who check. */
export interface VerdictRow {
  readonly experiment: string;
  readonly key: string;
  readonly label: string;
  readonly model: string;
  readonly task: string;
  readonly item: string;
  readonly gold: string;
  readonly rule: MatchRule;
  /** What was read, and where it stood. */
  readonly answer: string | null;
  readonly how: AnswerSource | null;
  readonly verdict: Verdict;
  /** null: there is no judge; 'failed': it did not say. */
  readonly judge: 'correct' | 'wrong' | 'failed' | null;
}

export function verdictsOf(
  dir: string,
  runs: readonly { readonly experiment: string; readonly observed: readonly Observation[] }[],
  grading: Grading,
): VerdictRow[] {
  const said = grading.judge ? judgements(dir) : undefined;
  return runs.flatMap(({ experiment, observed }) =>
    observed.flatMap((one): VerdictRow[] => {
      const found = gradable(one, grading);
      if (!found) return [];
      const { meta, row, rule } = found;
      const read = extract(row.text, { rule });
      if (!canRead(meta.gold, rule)) {
        throw new GalvaniError(
          'BAD_ARGUMENT',
          `regrade: the rule '${rule.kind}' cannot read the gold answer ${JSON.stringify(meta.gold)} of ${meta.item} (task ${meta.task})`,
        );
      }
      const key = grading.judge && judgementKey(grading.judge, { text: row.text, gold: meta.gold, rule });
      return [
        {
          experiment,
          key: row.key,
          label: row.label,
          model: meta.model,
          task: meta.task,
          item: meta.item,
          gold: meta.gold,
          rule,
          answer: read?.answer ?? null,
          how: read?.how ?? null,
          verdict: match(read?.answer ?? null, meta.gold, rule),
          judge: key === undefined ? null : (said!.get(key)?.verdict ?? 'failed'),
        },
      ];
    }),
  );
}

export interface GradingCell {
  readonly experiment: string;
  readonly task: string;
  readonly rule: string;
  readonly n: number;
  readonly correct: number;
  readonly wrong: number;
  readonly unparsed: number;
  readonly undecided: number;
  /** Where the answers stood, most frequent first. */
  readonly how: readonly { readonly source: string; readonly count: number }[];
}

export interface JudgeAgreement {
  readonly model: string;
  readonly url: string;
  readonly decides: boolean;
  /** Same verdict of rules and judge; 'unparsed' is wrong, and what either did not decide is in `failed`. */
  readonly agreement: RateRecord;
  readonly kappa: number | null;
  readonly onlyRules: number;
  readonly onlyJudge: number;
  readonly disagreements: readonly Pick<VerdictRow, 'label' | 'gold' | 'answer' | 'verdict' | 'judge'>[];
}

export interface GradingResult {
  /** Tasks whose rule was replaced after the run. */
  readonly replaced: readonly string[];
  readonly cells: readonly GradingCell[];
  readonly judge: JudgeAgreement | null;
}

export function summarizeGrading(rows: readonly VerdictRow[], grading: Grading): GradingResult {
  const groups = new Map<string, VerdictRow[]>();
  for (const row of rows) {
    const key = JSON.stringify([row.experiment, row.task]);
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  const cells = [...groups.values()].map((group): GradingCell => {
    const count = (verdict: Verdict): number => group.filter((row) => row.verdict === verdict).length;
    const sources = new Map<string, number>();
    for (const { how } of group) sources.set(how ?? 'nothing read', (sources.get(how ?? 'nothing read') ?? 0) + 1);
    return {
      experiment: group[0]!.experiment,
      task: group[0]!.task,
      rule: [...new Set(group.map(({ rule }) => rule.kind))].join(', '),
      n: group.length,
      correct: count('correct'),
      wrong: count('wrong'),
      unparsed: count('unparsed'),
      undecided: count('undecided'),
      how: [...sources].map(([source, n]) => ({ source, count: n })).sort((a, b) => b.count - a.count),
    };
  });
  return { replaced: Object.keys(grading.rules), cells, judge: agreementOf(rows, grading) };
}

function agreementOf(rows: readonly VerdictRow[], { judge }: Grading): JudgeAgreement | null {
  if (!judge) return null;
  const both = rows.filter((row) => row.judge !== 'failed' && row.verdict !== 'undecided');
  const counts = (rules: boolean, judged: boolean): number =>
    both.filter((row) => (row.verdict === 'correct') === rules && (row.judge === 'correct') === judged).length;
  const [agreed, onlyRules, onlyJudge, neither] = [
    counts(true, true),
    counts(true, false),
    counts(false, true),
    counts(false, false),
  ];
  return {
    model: judge.model,
    url: judge.url,
    decides: judge.decides,
    agreement: asRecord(rate({ successes: agreed + neither, n: both.length, failed: rows.length - both.length })),
    kappa: cohenKappa(agreed, onlyRules, onlyJudge, neither),
    onlyRules,
    onlyJudge,
    disagreements: both
      .filter((row) => (row.verdict === 'correct') !== (row.judge === 'correct'))
      .slice(0, 20)
      .map(({ label, gold, answer, verdict, judge: said }) => ({ label, gold, answer, verdict, judge: said })),
  };
}
