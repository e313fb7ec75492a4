/** Swapped runs → rates per layer, beside what the swap does by itself and in random layers. */
import type { PairFlaw } from '../data/items.js';
import { referenceSame, sameAnswer } from '../grading/match.js';
import type { SwapMode } from '../hooks/interventions.js';
import type { Observation } from '../run/rows.js';
import type { MatchRule } from '../types.js';
import { byTask, type ControlKind, ruleOf } from './context.js';
import { type SwapMeta, visionExperiment } from './localize-vision.js';
import {
  accuracyOf,
  adjusted,
  type Graded,
  gradeRow,
  isSignificant,
  type MeanRecord,
  meanOf,
  pairedTest,
  type RateRecord,
  rateOfFlags,
  type Select,
  type TestRecord,
} from './measure.js';

/** One (model, task, mode, layer). */
export interface SwapCell {
  readonly model: string;
  readonly task: string;
  readonly mode: SwapMode;
  readonly layer: number;
  /** Answer differs from the unpatched target run's. */
  readonly change: RateRecord;
  /** Answer is the unpatched source run's. */
  readonly toSource: RateRecord;
  /** Answer is still the target's gold answer. */
  readonly correct: RateRecord;
  /** The first two over pairs whose unpatched answers are both right and different: elsewhere a change cannot be read. */
  readonly readableChange: RateRecord;
  readonly readableToSource: RateRecord;
  /** `change` under the published script's comparison of whole texts. */
  readonly referenceChange: RateRecord;
  /** ln p(first token of the target's gold) − ln p(first token of the source's), at the first answer token, nats. */
  readonly logProbDifference: MeanRecord;
  /** KL(patched ‖ unpatched) of the first answer token, nats. */
  readonly kl: MeanRecord;
  /** `change` at this layer against the next one, on the same pairs; Holm over the layers of this curve. */
  readonly step: TestRecord | null;
  readonly select: Select;
}

/** What the same swap does by itself (`self`), or in as many random layers (`random`). */
export interface SwapControl {
  readonly model: string;
  readonly task: string;
  readonly mode: SwapMode;
  readonly layer: number;
  readonly control: ControlKind;
  readonly change: RateRecord;
  /** `change` of the control against the swap at these layers, on the same pairs; over the layers of this curve. */
  readonly test: TestRecord | null;
  readonly select: Select;
}

export interface UnpatchedCell {
  readonly model: string;
  readonly task: string;
  readonly target: RateRecord;
  readonly source: RateRecord;
  /** Pairs whose two unpatched answers are right and different. */
  readonly readablePairs: number;
  readonly logProbDifference: MeanRecord;
  readonly select: Select;
}

export interface LocalizeVisionResult {
  readonly cells: readonly SwapCell[];
  readonly controls: readonly SwapControl[];
  readonly unpatched: readonly UnpatchedCell[];
  /**
   * Layers between which swapping loses its effect (suffix: a significant fall of `change` from this layer to the
   * next), that is, layers where the image is read.
   */
  readonly readAt: readonly { readonly model: string; readonly task: string; readonly layers: readonly number[] }[];
  readonly flaws: readonly PairFlaw[];
}

type PairRows = { readonly meta: SwapMeta; readonly graded: Graded; readonly rule: MatchRule };

/** @param flaws of the set of pairs, found when it was read (they are facts of the data, not of a run). */
export function analyzeLocalizeVision(
  observed: readonly Observation[],
  options: { readonly seed: number; readonly flaws?: readonly PairFlaw[] },
): LocalizeVisionResult {
  const rows = observed.map(({ meta, row }): PairRows & { task: string } => {
    const swap = meta as SwapMeta;
    const rule = ruleOf(swap);
    return { meta: swap, rule, task: swap.task, graded: gradeRow(row, swap.targetGold, rule) };
  });
  const cells: SwapCell[] = [];
  const controls: SwapControl[] = [];
  const unpatched: UnpatchedCell[] = [];
  for (const model of unique(rows.map(({ meta }) => meta.model))) {
    for (const [task, own] of byTask(rows.filter(({ meta }) => meta.model === model))) {
      const base = unpatchedRuns(own);
      const select = { experiment: visionExperiment, model, task };
      unpatched.push(unpatchedCell(model, task, base, select, options.seed));
      for (const mode of unique(own.flatMap(({ meta }) => (meta.role === 'patched' ? [meta.mode as SwapMode] : [])))) {
        const input = { model, task, mode, base, own, select, seed: options.seed };
        const { cells: drawn, changes } = curve(input);
        cells.push(...drawn);
        controls.push(...controlCurves(input, changes));
      }
    }
  }
  const readAt = unpatched.map(({ model, task }) => ({
    model,
    task,
    layers: cells
      .filter((cell) => cell.model === model && cell.task === task && cell.mode === 'suffix')
      .filter(({ step }) => isSignificant(step) && (step!.difference ?? 0) < 0)
      .map(({ layer }) => layer),
  }));
  return { cells, controls, unpatched, readAt, flaws: options.flaws ?? [] };
}

interface Unpatched {
  readonly target: PairRows | undefined;
  readonly source: Graded | undefined;
  readonly readable: boolean;
}

function unpatchedRuns(rows: readonly PairRows[]): Map<string, Unpatched> {
  const runs = new Map<string, Unpatched>();
  for (const pair of unique(rows.map(({ meta }) => meta.pair))) {
    const find = (role: string) => rows.find(({ meta }) => meta.pair === pair && meta.role === role);
    const target = find('target');
    const sourceRow = find('source');
    // The source run is graded against its own gold; the meta's order is the target's.
    const source = sourceRow && gradeRow(sourceRow.graded.row, sourceRow.meta.sourceGold, sourceRow.rule);
    const readable =
      target?.graded.outcome === 'correct' &&
      source?.outcome === 'correct' &&
      !sameAnswer(target.graded.answer, source.answer, target.rule);
    runs.set(pair, { target, source, readable });
  }
  return runs;
}

function unpatchedCell(
  model: string,
  task: string,
  base: ReadonlyMap<string, Unpatched>,
  select: Select,
  seed: number,
): UnpatchedCell {
  const runs = [...base.values()];
  return {
    model,
    task,
    target: accuracyOf(runs.map(({ target }) => target?.graded.outcome ?? 'failed')),
    source: accuracyOf(runs.map(({ source }) => source?.outcome ?? 'failed')),
    readablePairs: runs.filter(({ readable }) => readable).length,
    logProbDifference: meanOf(
      runs.map(({ target }) => (target ? logProbDifference(target) : null)),
      seed,
    ),
    select: { ...select, role: 'target' },
  };
}

interface CurveInput {
  readonly model: string;
  readonly task: string;
  readonly mode: SwapMode;
  readonly base: ReadonlyMap<string, Unpatched>;
  readonly own: readonly PairRows[];
  readonly select: Select;
  readonly seed: number;
}

type Changes = ReadonlyMap<number, readonly (boolean | null)[]>;

function curve({ model, task, mode, base, own, select, seed }: CurveInput): { cells: SwapCell[]; changes: Changes } {
  const patched = own.filter(({ meta }) => meta.role === 'patched' && meta.mode === mode);
  const layers = unique(patched.map(({ meta }) => meta.layer as number)).sort((a, b) => a - b);
  const changes: (boolean | null)[][] = [];
  const cells = layers.map((layer): Omit<SwapCell, 'step'> => {
    const at = new Map(patched.flatMap((row) => (row.meta.layer === layer ? [[row.meta.pair, row] as const] : [])));
    const runs = [...base].map(([pair, unpatchedRun]) => ({ run: at.get(pair), ...unpatchedRun }));
    const compare = (same: (a: Graded, b: Graded, rule: MatchRule) => boolean, with_: 'target' | 'source') =>
      runs.map(({ run, target, source }): boolean | null => {
        const other = with_ === 'target' ? target?.graded : source;
        if (!run || !usable(run.graded) || !other || !usable(other)) return null;
        return same(run.graded, other, run.rule);
      });
    const sameRead = (a: Graded, b: Graded, rule: MatchRule): boolean => sameAnswer(a.answer, b.answer, rule);
    const change = compare((a, b, rule) => !sameRead(a, b, rule), 'target');
    const toSource = compare(sameRead, 'source');
    const reference = compare((a, b) => !referenceSame(a.row!.text, b.row!.text), 'target');
    changes.push(change);
    const readable = (flags: readonly (boolean | null)[]) => flags.filter((_, i) => runs[i]!.readable);
    const cut = runs.map(({ run }) => run?.graded.outcome === 'truncated');
    const asRate = (flags: readonly (boolean | null)[], cuts: readonly boolean[]): RateRecord =>
      rateOfFlags(flags, flags.filter((flag, i) => flag === null && cuts[i]).length);
    return {
      model,
      task,
      mode,
      layer,
      change: asRate(change, cut),
      toSource: asRate(toSource, cut),
      correct: accuracyOf(runs.map(({ run }) => run?.graded.outcome ?? 'failed')),
      readableChange: asRate(
        readable(change),
        cut.filter((_, i) => runs[i]!.readable),
      ),
      readableToSource: asRate(
        readable(toSource),
        cut.filter((_, i) => runs[i]!.readable),
      ),
      referenceChange: asRate(reference, cut),
      logProbDifference: meanOf(
        runs.map(({ run }) => (run ? logProbDifference(run) : null)),
        seed,
      ),
      kl: meanOf(
        runs.map(({ run }) => run?.graded.row?.score?.kl ?? null),
        seed,
      ),
      select: { ...select, role: 'patched', mode, layer },
    };
  });
  const steps = adjusted(changes.slice(1).map((next, i) => pairedTest(changes[i]!, next)));
  return {
    cells: cells.map((cell, i) => ({ ...cell, step: steps[i] ?? null })),
    changes: new Map(layers.map((layer, i) => [layer, changes[i]!])),
  };
}

function controlCurves({ model, task, mode, base, own, select }: CurveInput, swapped: Changes): SwapControl[] {
  const rows = own.filter(({ meta }) => meta.role === 'control' && meta.mode === mode);
  return unique(rows.map(({ meta }) => meta.control as ControlKind)).flatMap((control) => {
    const layers = unique(rows.map(({ meta }) => meta.layer as number)).sort((a, b) => a - b);
    const curves = layers.map((layer) => {
      const at = new Map(
        rows.flatMap((row) =>
          row.meta.layer === layer && row.meta.control === control ? [[row.meta.pair, row] as const] : [],
        ),
      );
      const change = [...base].map(([pair, { target }]): boolean | null => {
        const run = at.get(pair);
        if (!run || !usable(run.graded) || !target || !usable(target.graded)) return null;
        return !sameAnswer(run.graded.answer, target.graded.answer, run.rule);
      });
      const cut = [...base.keys()].filter((pair) => at.get(pair)?.graded.outcome === 'truncated').length;
      return { layer, change, cut };
    });
    const tests = adjusted(curves.map(({ layer, change }) => pairedTest(swapped.get(layer) ?? [], change)));
    return curves.map(({ layer, change, cut }, i) => ({
      model,
      task,
      mode,
      layer,
      control,
      change: rateOfFlags(change, Math.min(cut, change.filter((flag) => flag === null).length)),
      test: tests[i] ?? null,
      select: { ...select, role: 'control', control, mode, layer },
    }));
  });
}

function usable(graded: Graded): boolean {
  return graded.outcome !== 'failed' && graded.outcome !== 'truncated';
}

function logProbDifference({ meta, graded }: PairRows): number | null {
  const scores = graded.row?.score?.logprobs;
  return meta.scored && scores?.length === 2 ? scores[0]! - scores[1]! : null;
}

function unique<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}
