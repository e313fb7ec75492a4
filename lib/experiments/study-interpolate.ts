/** The step of a study that goes from IN to RL by and by: its models opened, its rooms of memory, its plans. */
import type { Cuts } from '../checkpoint/graft.js';
import type { QuestionItem } from '../data/items.js';
import type { Engine } from '../engine.js';
import { blendFingerprint } from '../run/fingerprint.js';
import type { Plan } from '../run/plan.js';
import type { TaskGroups } from './answers.js';
import type { PlanContext } from './context.js';
import type { TransferStudy } from './study-file.js';
import { planTransfer, type TransferModel, type Variant } from './transfer.js';
import { asTheyFit, type CurveFacts, interpolationCurves, movingText } from './transfer-interpolate.js';

export interface InterpolationParts {
  readonly transfer: TransferStudy & { readonly interpolate: NonNullable<TransferStudy['interpolate']> };
  readonly totalLayers: number;
  readonly cuts: Cuts;
  /** Models of the experiment, opened; points among them are not asked twice. */
  readonly variants: readonly TransferModel[];
  readonly fingerprints: Map<string, string>;
  readonly context: PlanContext;
  readonly items: readonly QuestionItem[];
  readonly groups: TaskGroups;
  /** Items by group, for the power of the tests. */
  readonly sizes: readonly (readonly [group: string, n: number])[];
}

/** Opens the models between the parents; nothing of them is read yet. */
export function prepareInterpolation(
  engine: Engine,
  parts: InterpolationParts,
): {
  readonly curves: readonly CurveFacts[];
  readonly step: {
    readonly experiment: 'transfer';
    readonly text: string;
    readonly families: readonly { readonly what: string; readonly n: number; readonly tests: number }[];
    readonly run: (runPlan: (plan: Plan) => Promise<unknown>) => Promise<void>;
  };
} {
  const { transfer, totalLayers, cuts, variants, fingerprints, context, items, groups, sizes } = parts;
  const fingerprint = (model: string): string => fingerprints.get(model)!;
  // The first of equal ones: `transferReference` of the first policy stands for IN.
  const known = new Map<string, Variant>();
  for (const { opened, meta } of variants) {
    const key = fingerprint(opened);
    if (!known.has(key)) known.set(key, meta);
  }
  const { curves, models } = interpolationCurves(
    transfer.interpolate,
    { in: transfer.in, rl: transfer.rl },
    { totalLayers, cuts },
    (blend) => blendFingerprint(blend, totalLayers, fingerprint),
    known,
  );
  for (const { opened, blend } of models) {
    engine.addBlend(opened, blend);
    fingerprints.set(opened, blendFingerprint(blend, totalLayers, fingerprint));
  }
  const bytesOf = ({ opened }: { readonly opened: string }): number => engine.model(opened).blendBytes ?? 0;
  const rooms = asTheyFit(models, bytesOf, engine.blendBytes.budget);
  const plans = rooms.map((own) => planTransfer(context, { models: own, items, groups }));
  const alphas = (curves[0]?.points ?? []).map(({ alpha }) => alpha);
  const tests = curves.length * (alphas.length - 1);
  const families = sizes.map(([group, n]) => ({ what: `a step from IN to RL against IN, ${group}`, n, tests }));
  const largest = Math.max(0, ...models.map(bytesOf));
  return {
    curves,
    step: {
      experiment: 'transfer',
      text:
        `from ${transfer.in} to ${transfer.rl} in ${curves.map(movingText).join(', ')} (α = ${alphas.join(', ')}): ` +
        `${models.length} more models, up to ${(largest / 2 ** 20).toFixed(1)} MiB of weights each, ` +
        `${rooms.length === 1 ? 'all' : 'as many as fit'} in memory at a time, answer ${items.length} questions`,
      families,
      run: async (runPlan) => {
        for (const plan of plans) await runPlan(plan);
      },
    },
  };
}
