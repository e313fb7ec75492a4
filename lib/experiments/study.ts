/**
 * A study end to end, up to the ledger: opens what its experiments need, plans them, runs them. Everything right of the
 * ledger (analysis, report) is in summary.ts and needs no model.
 */
import { join, resolve } from 'node:path';
import { Engine, engineOptions } from '../engine.js';
import { environment } from '../run/history.js';
import { type Measurement, takeMeasurements } from '../run/measurements.js';
import { packageFile } from '../run/package.js';
import type { Plan } from '../run/plan.js';
import { type ProgressDisplay, silent } from '../run/progress.js';
import type { JsonObject, Observation } from '../run/rows.js';
import { RunDir } from '../run/run-dir.js';
import { addStats, emptyStats, execute, limitsFor } from '../run/runner.js';
import { type Shard, wholeRun } from '../run/shards.js';
import type { RunStats } from '../types.js';
import { eigensolver } from '../weights.js';
import { type ExperimentName, type Study, selectedExperiments } from './study-file.js';
import { prepareStudy } from './study-prepare.js';

export interface StudyRunOptions {
  /** Run directory. */
  readonly out: string;
  readonly only?: readonly ExperimentName[];
  readonly shard?: Shard;
  readonly threads?: number;
  /** Memory for models between two checkpoints; default: the engine's. */
  readonly blendBytes?: number;
  readonly progress?: ProgressDisplay;
  /** Stops at once. */
  readonly signal?: AbortSignal;
  /** Asked between requests; true ends the run after the rows so far are on disk. */
  readonly stopping?: () => boolean;
}

export interface StudyRun {
  readonly dir: string;
  readonly planned: number;
  readonly computed: number;
  readonly skipped: number;
  readonly failed: number;
  /** False when it was stopped before the end. */
  readonly finished: boolean;
  readonly stats: RunStats;
}

/**
 * Runs a study whose paths are resolved (`withPathsFrom`); continues it when the directory holds part of it.
 * @throws what opening checkpoints, reading data and keeping the ledger throw; ABORTED.
 */
export async function runStudy(study: Study, options: StudyRunOptions): Promise<StudyRun> {
  const progress = options.progress ?? silent;
  const selected = selectedExperiments(study, options.only);
  await using engine = await Engine.open(engineOptions(options));
  const prepared = await prepareStudy(engine, study, selected, {
    weights: {
      signal: options.signal,
      threads: options.threads,
      within: (share) => progress.within('of this part', share),
    },
    describe: {
      cache: join(options.out, 'descriptions.jsonl'),
      progress,
      signal: options.signal,
      shard: options.shard,
    },
  });
  const shard = options.shard ?? wholeRun;
  using run = new RunDir(options.out, prepared.record, shard);
  const startMs = Date.now();
  run.note({
    kind: 'start',
    time: new Date(startMs).toISOString(),
    galvani: prepared.record.galvani,
    node: prepared.record.node,
    dependencies: packageFile().dependencies,
    environment: environment(engine, eigensolver(study.experiments.characterize?.device)),
    shard: `${shard.index}/${shard.count}`,
  });
  const total = { planned: 0, computed: 0, skipped: 0, failed: 0, finished: true, stats: emptyStats };

  const runPlan = async (plan: Plan): Promise<Observation[]> => {
    const observed: Observation[] = [];
    if (!total.finished) return observed;
    progress.start(plan.experiment, plan.trials);
    const keys: { key: string; meta: JsonObject }[] = [];
    const summary = await execute({
      engine,
      ledger: run.ledger,
      plan,
      planLog: {
        append: (rows) => {
          run.planLog.append(rows);
          keys.push(...rows);
        },
      },
      fingerprint: prepared.fingerprint,
      limits: limitsFor(prepared.decoder),
      shard,
      progress,
      ...(options.signal ? { signal: options.signal } : {}),
      ...(options.stopping ? { stopping: options.stopping } : {}),
    });
    progress.finish();
    total.planned += summary.planned;
    total.computed += summary.computed;
    total.skipped += summary.skipped;
    total.failed += summary.failed;
    total.finished = summary.finished;
    total.stats = addStats(total.stats, summary.stats);
    return keys.map(({ key, meta }) => ({ key, meta, row: run.ledger.rows.get(key) }));
  };
  const measure = async (title: string, measurements: readonly Measurement[]): Promise<void> => {
    // Comparisons of weights are not split: shard 0 makes them.
    if (!total.finished || shard.index !== 0 || measurements.length === 0) return;
    progress.start(title, measurements.length);
    const { taken, skipped, failed } = await takeMeasurements(measurements, run, {
      onProgress: (done, already) => progress.update({ done, skipped: already }),
      ...(options.stopping ? { stopping: options.stopping } : {}),
    });
    progress.finish();
    total.planned += measurements.length;
    total.computed += taken;
    total.skipped += skipped;
    total.failed += failed;
    if (taken + skipped < measurements.length || options.stopping?.()) total.finished = false;
  };
  for (const step of prepared.steps) await step.run(runPlan, measure);
  const { computed, skipped, failed, finished } = total;
  const seconds = (Date.now() - startMs) / 1000;
  run.note({ kind: 'end', time: new Date().toISOString(), seconds, computed, skipped, failed, finished });
  return { dir: resolve(options.out), ...total };
}
