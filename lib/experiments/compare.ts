/**
 * Two runs beside each other: what differed in what was asked, whether equal trials gave equal texts, and which rates
 * differ, paired on the items both asked. Needs no model.
 */
import { sameAnswer } from '../grading/match.js';
import { canonical } from '../run/key.js';
import type { Json, JsonObject, LedgerRow, Observation } from '../run/rows.js';
import { type RunRecord, readRunRecord } from '../run/run-dir.js';
import { type MergedRun, mergeRun, observations } from '../run/shards.js';
import { independentDifference } from '../stats/independent.js';
import { ruleOf } from './context.js';
import {
  accuracyOf,
  adjusted,
  correctness,
  gradeRow,
  pairedTest,
  type RateRecord,
  type TestRecord,
} from './measure.js';

/** A fact of the two runs that differs; null where a run lacks it. */
export interface Setting {
  readonly what: string;
  readonly a: string | null;
  readonly b: string | null;
}

/** One rate of an experiment in both runs: the share of right answers under the same condition. */
export interface ComparedRate {
  readonly experiment: string;
  /** "model=rl task=dsum part=layer layer=3". */
  readonly condition: string;
  readonly a: RateRecord;
  readonly b: RateRecord;
  /** b − a on the items both have; Holm over the conditions of the experiment. null: no item in common. */
  readonly paired: TestRecord | null;
  /** b − a as of independent samples, where no item is shared. */
  readonly independent: { readonly difference: number; readonly low: number; readonly high: number } | null;
}

export interface Comparison {
  readonly a: string;
  readonly b: string;
  readonly settings: readonly Setting[];
  /** Trials that both runs computed, and how many of them gave another text: more than none means it is not reproducible. */
  readonly shared: {
    readonly trials: number;
    readonly differentTexts: number;
    readonly measurements: number;
    readonly differentValues: number;
  };
  readonly rates: readonly ComparedRate[];
}

/** @throws FILE_NOT_FOUND, BAD_FILE, LEDGER when a directory is no (whole) run */
export function compareRuns(dirA: string, dirB: string): Comparison {
  const [a, b] = [dirA, dirB].map((dir) => ({ record: readRunRecord(dir), run: mergeRun(dir) })) as [Side, Side];
  return {
    a: dirA,
    b: dirB,
    settings: settingsOf(a.record, b.record),
    shared: sharedRows(a.run, b.run),
    rates: ratesOf(a.run, b.run),
  };
}

interface Side {
  readonly record: RunRecord;
  readonly run: MergedRun;
}

function settingsOf(a: RunRecord, b: RunRecord): Setting[] {
  const facts = ({ galvani, node, definition, models, data }: RunRecord): Map<string, string> =>
    new Map([
      ['galvani', galvani],
      ['Node', node],
      ...leaves(definition, '').filter(([path]) => !/^(output|models\.|data\.(items|pairs)$)/.test(path)),
      ...models.map(({ name, fingerprint }) => [`weights of ${name}`, fingerprint] as [string, string]),
      ...Object.entries(data).map(([kind, hash]) => [`content of ${kind}`, hash] as [string, string]),
    ]);
  const [left, right] = [facts(a), facts(b)];
  return [...new Set([...left.keys(), ...right.keys()])]
    .filter((what) => left.get(what) !== right.get(what))
    .map((what) => ({ what, a: left.get(what) ?? null, b: right.get(what) ?? null }));
}

/** Values at the ends of a JSON tree, by path; a list is one value. */
function leaves(value: Json, path: string): [string, string][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [[path, canonical(value)]];
  return Object.entries(value).flatMap(([name, inner]) =>
    leaves(inner as Json, path === '' ? name : `${path}.${name}`),
  );
}

function sharedRows(a: MergedRun, b: MergedRun): Comparison['shared'] {
  const counts = { trials: 0, differentTexts: 0, measurements: 0, differentValues: 0 };
  for (const [key, row] of a.rows) {
    const other = b.rows.get(key);
    if (row.kind === 'trial' && other?.kind === 'trial') {
      counts.trials += 1;
      if (row.text !== other.text || row.truncated !== other.truncated) counts.differentTexts += 1;
    }
    if (row.kind === 'measure' && other?.kind === 'measure') {
      counts.measurements += 1;
      if (canonical(row.value) !== canonical(other.value)) counts.differentValues += 1;
    }
  }
  return counts;
}

/** Facts of one item, which do not name a condition. */
const itemFacts = new Set(['item', 'pair', 'gold', 'rule', 'targetGold', 'sourceGold', 'scored', 'layers', 'group']);

interface Condition {
  readonly text: string;
  readonly graded: Map<string, { readonly row: LedgerRow | undefined; readonly meta: JsonObject }>;
}

/** Graded observations of an experiment, by condition and item. */
function conditionsOf(run: MergedRun, experiment: string): Map<string, Condition> {
  const conditions = new Map<string, Condition>();
  for (const { meta, row } of observations(run, experiment)) {
    const item = meta.item ?? meta.pair;
    if (typeof item !== 'string' || goldOf(meta) === undefined) continue;
    const facts = Object.entries(meta).filter(([name]) => !itemFacts.has(name));
    const text = facts
      .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
      .join(' ');
    const condition = conditions.get(text) ?? { text, graded: new Map() };
    condition.graded.set(item, { row, meta });
    conditions.set(text, condition);
  }
  return conditions;
}

/** The gold answer of the image that was shown. */
function goldOf(meta: Observation['meta']): string | undefined {
  const gold = meta.role === 'source' ? meta.sourceGold : (meta.gold ?? meta.targetGold);
  return typeof gold === 'string' ? gold : undefined;
}

function ratesOf(a: MergedRun, b: MergedRun): ComparedRate[] {
  const experiments = [...new Set([...a.plan, ...b.plan].map(({ experiment }) => experiment))];
  return experiments.flatMap((experiment) => {
    const [left, right] = [conditionsOf(a, experiment), conditionsOf(b, experiment)];
    const cells = [...left].flatMap(([text, one]) => {
      const other = right.get(text);
      return other ? [compared(experiment, one, other)] : [];
    });
    const tests = adjusted(cells.map(({ paired }) => paired));
    return cells.map((cell, i) => ({ ...cell, paired: tests[i] ?? null }));
  });
}

function compared(experiment: string, a: Condition, b: Condition): ComparedRate {
  const outcomes = (side: Condition, items: readonly string[]) =>
    items.map((item) => {
      const { row, meta } = side.graded.get(item)!;
      return gradeRow(row, goldOf(meta)!, ruleOf(meta as { rule: JsonObject })).outcome;
    });
  // An item counts as the same only while its gold answer is: an edited question is another question.
  const common = [...a.graded.keys()].filter((item) => {
    const [one, other] = [a.graded.get(item), b.graded.get(item)];
    return other !== undefined && sameGold(one!.meta, other.meta);
  });
  const rates = [a, b].map((side) => accuracyOf(outcomes(side, [...side.graded.keys()]))) as [RateRecord, RateRecord];
  const paired =
    common.length > 0 ? pairedTest(outcomes(a, common).map(correctness), outcomes(b, common).map(correctness)) : null;
  const apart = paired === null && rates[0].n > 0 && rates[1].n > 0 ? independentDifference(rates[0], rates[1]) : null;
  return {
    experiment,
    condition: a.text,
    a: rates[0],
    b: rates[1],
    paired,
    independent: apart && { difference: apart.difference, low: apart.low, high: apart.high },
  };
}

function sameGold(a: JsonObject, b: JsonObject): boolean {
  const [one, other] = [goldOf(a)!, goldOf(b)!];
  return one === other || sameAnswer(one, other, ruleOf(a as { rule: JsonObject }));
}
