/** What a study will do before it does it: trials, time and memory from a short sample, and what its n can show. */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readFolder } from '../checkpoint/folder.js';
import { Engine, engineOptions } from '../engine.js';
import { fromNative } from '../errors.js';
import { Ledger } from '../run/ledger.js';
import type { Plan } from '../run/plan.js';
import { type ProgressDisplay, silent } from '../run/progress.js';
import type { Observation } from '../run/rows.js';
import { execute, limitsFor } from '../run/runner.js';
import { minimumDetectableDifference, pairsNeeded } from '../stats/power.js';
import { type ExperimentName, type Study, selectedExperiments } from './study-file.js';
import { type PreparedStudy, prepareStudy, type TestFamily } from './study-prepare.js';

export interface PreviewOptions {
  readonly only?: readonly ExperimentName[];
  readonly threads?: number;
  readonly blendBytes?: number;
  /** Seconds of sampling per part. 0: nothing is run, and no time is given. Default 5. */
  readonly sampleSeconds?: number;
  readonly progress?: ProgressDisplay;
}

export interface PreviewPart {
  readonly experiment: ExperimentName;
  readonly text: string;
  /** Trials; for a part that depends on answers not yet given, scaled up from the sample. */
  readonly trials: number;
  readonly measurements: number;
  /** Trials run in the sample, and how long they took. */
  readonly sampled: number;
  /** null: not sampled, or not one request ended within the time. */
  readonly seconds: number | null;
  /** Largest KV memory of the sample's requests, bytes. */
  readonly kvBytes: number;
  /** Failures in the sample, each message once. */
  readonly errors: readonly string[];
}

/** What n pairs can show with 80 % power at 5 %, alone and as the strictest of a Holm family. */
export interface PowerRow extends TestFamily {
  readonly experiment: ExperimentName;
  /** Smallest detectable difference when half, or a fifth, of the pairs differ; null: none. */
  readonly alone: { readonly half: number | null; readonly fifth: number | null };
  readonly adjusted: { readonly half: number | null; readonly fifth: number | null };
  /** Pairs needed to find ten points in the family when a fifth of the pairs differ. */
  readonly forTenPoints: number;
}

export interface Preview {
  readonly name: string;
  readonly parts: readonly PreviewPart[];
  readonly power: readonly PowerRow[];
  readonly models: readonly { readonly name: string; readonly bytes: number }[];
  /** Texts that a model or an endpoint writes before anything else; not in the times. */
  readonly descriptions: number;
}

/** @param study with resolved paths. @throws what opening checkpoints and reading data throw */
export async function previewStudy(study: Study, options: PreviewOptions = {}): Promise<Preview> {
  const { sampleSeconds = 5, progress = silent } = options;
  const selected = selectedExperiments(study, options.only);
  await using engine = await Engine.open(engineOptions(options));
  const prepared = await prepareStudy(engine, study, selected, { shuffled: true });
  const parts: PreviewPart[] = [];
  for (const step of prepared.steps) {
    const part = { trials: 0, measurements: 0, sampled: 0, seconds: 0 as number | null, kvBytes: 0 };
    const errors = new Set<string>();
    let scale = 1;
    await step.run(
      async (plan) => {
        progress.start(plan.experiment, plan.trials);
        const sample = sampleSeconds > 0 ? await samplePlan(engine, prepared, plan, sampleSeconds) : nothing;
        progress.finish();
        const trials = Math.round(plan.trials * (plan.isFollowUp ? scale : 1));
        for (const message of sample.errors) errors.add(message);
        part.trials += trials;
        part.sampled += sample.planned;
        part.kvBytes = Math.max(part.kvBytes, sample.kvBytes);
        if (sample.planned === 0) part.seconds = null;
        else if (part.seconds !== null) part.seconds += (sample.seconds / sample.planned) * trials;
        if (sample.planned > 0) scale *= plan.trials / sample.planned;
        return sample.observed;
      },
      async (_, measurements) => {
        part.measurements += measurements.length;
      },
    );
    if (part.trials === 0 && part.measurements > 0) part.seconds = null;
    parts.push({ experiment: step.experiment, text: step.text, ...part, errors: [...errors] });
  }
  return {
    name: study.name,
    parts,
    descriptions: prepared.toDescribe,
    power: prepared.steps.flatMap(({ experiment, families }) => families.map((family) => powerOf(experiment, family))),
    models: prepared.record.models.map(({ name, dir }) => ({
      name,
      bytes: readFolder(dir).weightFiles.reduce((sum, path) => sum + statSync(path).size, 0),
    })),
  };
}

interface Sample {
  readonly planned: number;
  readonly seconds: number;
  readonly kvBytes: number;
  readonly errors: readonly string[];
  readonly observed: Observation[];
}
const nothing: Sample = { planned: 0, seconds: 0, kvBytes: 0, errors: [], observed: [] };

/** Runs a plan for a while in a ledger of its own, which is thrown away. */
async function samplePlan(
  engine: Engine,
  { fingerprint, decoder }: PreparedStudy,
  plan: Plan,
  seconds: number,
): Promise<Sample> {
  const folder = mkdtempSync(join(tmpdir(), 'galvani-plan-'));
  const startMs = Date.now();
  const keys: { key: string; meta: Observation['meta'] }[] = [];
  try {
    using ledger = new Ledger(join(folder, 'ledger.jsonl'));
    try {
      const { planned, stats } = await execute({
        engine,
        ledger,
        plan,
        planLog: { append: (rows) => void keys.push(...rows) },
        fingerprint,
        // Small requests, so that the end of the time is noticed.
        limits: { ...limitsFor(decoder), trials: 128 },
        stopping: () => Date.now() - startMs > 1000 * seconds,
        signal: AbortSignal.timeout(4000 * seconds),
      });
      const observed = keys.map(({ key, meta }) => ({ key, meta, row: ledger.rows.get(key) }));
      const failed = observed.flatMap(({ row }) => (row?.kind === 'failed' ? [row.error.message] : []));
      const done = observed.filter(({ row }) => row !== undefined).length;
      const errors = [...new Set(failed)].slice(0, 3);
      return {
        planned: Math.min(planned, done),
        seconds: (Date.now() - startMs) / 1000,
        kvBytes: stats.kvBytes,
        errors,
        observed,
      };
    } catch (cause) {
      if ((cause as Error).name === 'TimeoutError' || fromNative(cause).code === 'ABORTED') return nothing;
      throw cause;
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function powerOf(experiment: ExperimentName, family: TestFamily): PowerRow {
  const { n, tests } = family;
  const detectable = (alpha: number) => ({
    half: minimumDetectableDifference({ n, discordance: 0.5, alpha }),
    fifth: minimumDetectableDifference({ n, discordance: 0.2, alpha }),
  });
  const alpha = 0.05 / Math.max(1, tests);
  return {
    experiment,
    ...family,
    alone: detectable(0.05),
    adjusted: detectable(alpha),
    forTenPoints: pairsNeeded({ effect: 0.1, discordance: 0.2, alpha }),
  };
}
