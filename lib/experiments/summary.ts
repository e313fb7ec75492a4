/**
 * Right of the ledger: a run directory → one summary of everything measured. Needs no model. summary.json is this
 * object; docs/summary.schema.json describes it.
 */
import type { Cuts, Region } from '../checkpoint/graft.js';
import type { PairFlaw } from '../data/items.js';
import { type HistoryRow, readHistory } from '../run/history.js';
import type { JsonObject, Observation } from '../run/rows.js';
import { type RunModel, readRunRecord } from '../run/run-dir.js';
import { type MergedRun, mergeRun, observations } from '../run/shards.js';
import type { TaskGroups } from './answers.js';
import { attendExperiment, textsExperiment } from './attend.js';
import { type AttendResult, analyzeAttend } from './attend-analyze.js';
import { picturesExperiment } from './attend-pictures.js';
import { characterizeExperiment } from './characterize.js';
import { analyzeCharacterize, type CharacterizeResult } from './characterize-analyze.js';
import { analyzeFreeze, type FreezeResult, freezeCheckExperiment, freezeExperiment } from './freeze.js';
import { applyGrading, type GradingResult, readGrading, summarizeGrading, verdictsOf } from './grading.js';
import { analyzeLocalizeReasoning, type LocalizeReasoningResult, reasoningExperiment } from './localize-reasoning.js';
import { visionExperiment } from './localize-vision.js';
import { analyzeLocalizeVision, type LocalizeVisionResult } from './localize-vision-analyze.js';
import type { Protocol } from './prompter.js';
import { appendExperiment, promptExperiment } from './reference.js';
import { analyzeReference, type ReferenceResult } from './reference-analyze.js';
import type { Study } from './study-file.js';
import { transferExperiment } from './transfer.js';
import { analyzeTransfer, type TransferFacts, type TransferResult } from './transfer-analyze.js';

/** How far one experiment of the run has come. */
export interface ExperimentProgress {
  readonly experiment: string;
  /** Trials and measurements planned so far. */
  readonly planned: number;
  readonly done: number;
  readonly failed: number;
  /** Planned and not yet run: the run was stopped. */
  readonly missing: number;
  /** The failures' messages with how often each occurs, most frequent first, at most five. */
  readonly errors: readonly { readonly message: string; readonly count: number }[];
}

export interface Summary {
  readonly format: 1;
  readonly galvani: string;
  readonly node: string;
  readonly study: {
    readonly name: string;
    readonly description: string | null;
    readonly seed: number;
    readonly protocol: Protocol;
    readonly groups: TaskGroups;
  };
  readonly models: readonly RunModel[];
  /** Decoder layers. */
  readonly layers: number;
  readonly cuts: Cuts;
  readonly regions: readonly Region[];
  readonly ledger: readonly string[];
  /** Content hashes of the questions read, by kind. */
  readonly data: Readonly<Record<string, string>>;
  /** When work on the run began and ended, with what, and on which machines. */
  readonly history: readonly HistoryRow[];
  readonly progress: readonly ExperimentProgress[];
  readonly grading: GradingResult;
  readonly localizeVision: LocalizeVisionResult | null;
  readonly localizeReasoning: LocalizeReasoningResult | null;
  readonly attend: AttendResult | null;
  readonly characterize: CharacterizeResult | null;
  readonly transfer: TransferResult | null;
  readonly freeze: FreezeResult | null;
  /** The published protocol beside the corrected one. */
  readonly reference: ReferenceResult | null;
}

interface Facts {
  readonly layers: number;
  readonly cuts: Cuts;
  readonly regions: readonly Region[];
  /** Absent while no experiment has read questions. */
  readonly groups?: TaskGroups;
  readonly flaws?: readonly PairFlaw[];
  readonly transfer?: TransferFacts;
}

/** @throws FILE_NOT_FOUND, BAD_FILE, LEDGER when the directory is no (whole) run. */
export function summarize(dir: string): Summary {
  const record = readRunRecord(dir);
  const run = mergeRun(dir);
  const study = record.definition as unknown as Study;
  const facts = record.facts as unknown as Facts;
  const { seed } = study;
  const grading = readGrading(dir);
  const graded = applyGrading(dir, grading);
  const of = (experiment: string): Observation[] => graded(observations(run, experiment));
  const when = <T>(experiment: string, analyze: (rows: Observation[]) => T): T | null => {
    const rows = of(experiment);
    return rows.length === 0 ? null : analyze(rows);
  };
  const { attend, freeze, reference } = study.experiments;
  const localizeVision = when(visionExperiment, (rows) =>
    analyzeLocalizeVision(rows, { seed, flaws: facts.flaws ?? [] }),
  );
  const characterize = when(characterizeExperiment, (rows) =>
    analyzeCharacterize(rows, { regions: facts.regions, seed }),
  );
  const transfer = facts.transfer
    ? when(transferExperiment, (rows) => analyzeTransfer(rows, { ...facts.transfer!, seed }))
    : null;
  return {
    format: 1,
    galvani: record.galvani,
    node: record.node,
    study: {
      name: study.name,
      description: study.description ?? null,
      seed,
      protocol: study.protocol,
      groups: facts.groups ?? { vision: [], visualReasoning: [], textReasoning: [] },
    },
    models: record.models,
    layers: facts.layers,
    cuts: facts.cuts,
    regions: facts.regions,
    ledger: run.files,
    data: record.data,
    history: readHistory(dir),
    progress: progressOf(run),
    grading: summarizeGrading(verdictsOf(dir, observedByExperiment(run), grading), grading),
    localizeVision,
    localizeReasoning: when(reasoningExperiment, (rows) => analyzeLocalizeReasoning(rows)),
    attend: attend
      ? when(attendExperiment, (rows) =>
          analyzeAttend(rows, of(textsExperiment), { ...attend, seed }, of(picturesExperiment)),
        )
      : null,
    characterize,
    transfer,
    freeze: freeze
      ? when(freezeExperiment, (rows) =>
          analyzeFreeze(rows, of(freezeCheckExperiment), {
            before: freeze.before,
            full: freeze.full,
            controls: freeze.controls,
            frozen: Object.entries(freeze.frozen).map(([model, region]) => ({ model, region })),
          }),
        )
      : null,
    reference: reference
      ? analyzeReference(reference.deviations, {
          append: of(appendExperiment),
          prompts: of(promptExperiment),
          transferRows: of(transferExperiment).filter(({ meta }) => meta.variant !== 'blend'),
          vision: localizeVision,
          characterize,
          transfer,
          layers: facts.layers,
        })
      : null,
  };
}

/** All plan rows with their results, by experiment. */
export function observedByExperiment(run: MergedRun): { experiment: string; observed: Observation[] }[] {
  const experiments = [...new Set(run.plan.map(({ experiment }) => experiment))];
  return experiments.map((experiment) => ({ experiment, observed: observations(run, experiment) }));
}

function progressOf(run: MergedRun): ExperimentProgress[] {
  return [...new Set(run.plan.map(({ experiment }) => experiment))].map((experiment) => {
    const rows = observations(run, experiment).map(({ row }) => row);
    const failures = rows.flatMap((row) => (row?.kind === 'failed' ? [row.error.message] : []));
    const counts = new Map<string, number>();
    for (const message of failures) counts.set(message, (counts.get(message) ?? 0) + 1);
    return {
      experiment,
      planned: rows.length,
      done: rows.filter((row) => row !== undefined && row.kind !== 'failed').length,
      failed: failures.length,
      missing: rows.filter((row) => row === undefined).length,
      errors: [...counts]
        .map(([message, count]) => ({ message, count }))
        .sort((a, b) => b.count - a.count)
        .slice(0, 5),
    };
  });
}

/** The observations whose experiment and meta contain `select`: the rows behind a number of the summary. */
export function rowsBehind(dir: string, select: JsonObject): Observation[] {
  const { experiment, ...facts } = select;
  const run = mergeRun(dir);
  const matches = ({ meta }: Observation): boolean =>
    Object.entries(facts).every(([name, value]) => JSON.stringify(meta[name]) === JSON.stringify(value));
  return observations(run, String(experiment)).filter(matches);
}
