/** summary.json as a schema: what docs/summary.schema.json is made from, and what a reader of old summaries checks with. */
import { z } from 'zod';
import { blendComponents, blendRegions } from '../checkpoint/blend.js';
import { nonLayerPolicies, regionNames } from '../checkpoint/graft.js';
import { swapModes } from '../hooks/interventions.js';
import type { Answer } from '../report/document.js';
import type { Json } from '../run/rows.js';
import { taskGroups } from './answers.js';
import { querySpans } from './attend.js';
import { attentionMeasures } from './attend-analyze.js';
import { headFigures } from './attend-heads.js';
import { groupKinds } from './characterize-analyze.js';
import { ablatedParts } from './localize-reasoning.js';
import type { Select } from './measure.js';
import { sights } from './prompter.js';
import { deviations } from './reference.js';
import type { Summary } from './summary.js';

type OneOf<T extends string> = [T, ...T[]];
const oneOf = <T extends string>(values: readonly T[]) => z.enum(values as OneOf<T>);
const json: z.ZodType<Json> = z.union([
  z.null(),
  z.boolean(),
  z.number(),
  z.string(),
  z.array(z.string()),
  z.array(z.number()),
]);

const select: z.ZodType<Select> = z
  .object({ experiment: z.string() })
  .catchall(json)
  .describe(
    'Which rows are behind the number: those of plan.jsonl of this experiment whose meta contains these facts, joined with the ledger by key. `galvani report RUN --rows SELECT` prints them.',
  );
const count = z.int().nonnegative();
const share = z.number().min(0).max(1);

const rate = z
  .strictObject({
    rate: share.nullable().describe('null when nothing could be counted'),
    low: share,
    high: share,
    successes: count,
    n: count.describe('items counted'),
    failed: count.describe('items that failed or have not run; not in n'),
    truncated: count.describe('items whose answer hit the token limit; not in n'),
  })
  .describe('A rate with its 95 % Wilson interval.');

const mean = z
  .strictObject({
    mean: z.number().nullable(),
    low: z.number().nullable(),
    high: z.number().nullable(),
    n: count,
    missing: count.describe('items without a value'),
  })
  .describe('A mean over items with a 95 % percentile bootstrap interval.');

const paired = z
  .strictObject({
    difference: z.number().nullable().describe('after − before, as a share'),
    low: z.number(),
    high: z.number(),
    kept: count.describe('right both times'),
    lost: count.describe('right, then wrong'),
    gained: count.describe('wrong, then right'),
    missed: count.describe('wrong both times'),
    n: count,
    excluded: count,
    p: share.describe('exact McNemar, two-sided'),
    pHolm: share.nullable().describe('adjusted over the family of tests, family-wise'),
    pBh: share.nullable().describe('adjusted for the false discovery rate (Benjamini–Hochberg)'),
    detectable: share.nullable().describe('smallest difference this n could have shown at 80 % power'),
  })
  .describe('Two conditions on the same items; Newcombe’s interval for paired proportions.');

const meanTest = z
  .strictObject({
    mean: z.number().nullable(),
    low: z.number().nullable(),
    high: z.number().nullable(),
    n: count,
    missing: count,
    p: share.nullable().describe('two-sided sign-flip test'),
    pHolm: share.nullable(),
    pBh: share.nullable(),
  })
  .describe('A mean of paired differences with a bootstrap interval and a sign-flip test.');

const region = oneOf(regionNames);
const group = oneOf(taskGroups);
const policy = oneOf(nonLayerPolicies);
const cuts = z.tuple([count, count]);

const controlKind = z
  .enum(['self', 'random'])
  .describe('self: patched with its own values; random: as many layers, drawn at random for every item');

const vision = z.strictObject({
  cells: z.array(
    z.strictObject({
      model: z.string(),
      task: z.string(),
      mode: oneOf(swapModes),
      layer: count,
      change: rate.describe('answer differs from the unpatched target run’s'),
      toSource: rate.describe('answer is the unpatched source run’s'),
      correct: rate.describe('answer is still the target’s gold answer'),
      readableChange: rate.describe('change, over pairs whose unpatched answers are both right and different'),
      readableToSource: rate,
      referenceChange: rate.describe('change under the published script’s comparison'),
      logProbDifference: mean.describe(
        'ln p(first token of the target’s gold answer) − ln p(that of the source’s), nats',
      ),
      kl: mean.describe('KL(patched ‖ unpatched) of the first generated token, nats'),
      step: paired.nullable().describe('change at this layer → at the next one; Holm over the layers of the curve'),
      select,
    }),
  ),
  controls: z.array(
    z.strictObject({
      model: z.string(),
      task: z.string(),
      mode: oneOf(swapModes),
      layer: count,
      control: controlKind,
      change: rate,
      test: paired.nullable().describe('change of the control − change of the swap at this layer, same pairs'),
      select,
    }),
  ),
  unpatched: z.array(
    z.strictObject({
      model: z.string(),
      task: z.string(),
      target: rate,
      source: rate,
      readablePairs: count,
      logProbDifference: mean,
      select,
    }),
  ),
  readAt: z.array(z.strictObject({ model: z.string(), task: z.string(), layers: z.array(count) })),
  flaws: z.array(
    z.strictObject({
      task: z.string(),
      kind: z.enum(['same-answer', 'constant-answers', 'placeholder']),
      ids: z.array(z.string()),
      of: count,
    }),
  ),
});

const reasoning = z.strictObject({
  cells: z.array(
    z.strictObject({
      model: z.string(),
      task: z.string(),
      part: z.enum(['none', ...ablatedParts]),
      layer: count.nullable().describe('null: the unablated run'),
      width: count,
      accuracy: rate,
      test: paired.nullable(),
      select,
    }),
  ),
  controls: z.array(
    z.strictObject({
      model: z.string(),
      task: z.string(),
      part: oneOf(ablatedParts),
      control: controlKind,
      width: count,
      accuracy: rate,
      test: paired.nullable(),
      select,
    }),
  ),
});

const mode = z.enum(['same', 'own']);
const query = oneOf(querySpans);
const byHead = z.array(z.array(z.number())).describe('[layer][head]');
const packed = z.strictObject({
  bits: z.union([z.literal(8), z.literal(16)]),
  max: z.number(),
  shape: z.array(count),
  data: z.string().describe('base64, little-endian codes: 0 … 2^bits − 1 for 0 … max'),
});
const attend = z.strictObject({
  models: z.array(z.string()),
  writer: z.string(),
  cells: z.array(
    z.strictObject({
      mode,
      query,
      model: z.string(),
      layer: count,
      image: mean,
      imageSinkFree: mean,
      imagePerShare: mean,
      imageSinkFreePerShare: mean,
      question: mean,
      think: mean,
      final: mean,
      other: mean,
      first: mean,
      sinks: mean,
      select,
    }),
  ),
  shifts: z.array(
    z.strictObject({
      mode,
      query,
      from: z.string(),
      to: z.string(),
      layer: count,
      figure: oneOf(attentionMeasures),
      difference: mean,
      simultaneous: z.strictObject({ low: z.number().nullable(), high: z.number().nullable() }),
      p: share.nullable().describe('two-sided sign-flip test over items'),
      pHolm: share.nullable().describe('Holm over the layers of the curve'),
      significant: z.boolean(),
    }),
  ),
  heads: z.array(
    z.strictObject({ mode, query, model: z.string(), mass: z.record(oneOf(headFigures), byHead), n: count }),
  ),
  headShifts: z.array(
    z.strictObject({
      mode,
      query,
      from: z.string(),
      to: z.string(),
      figure: oneOf(headFigures),
      difference: byHead,
      low: byHead,
      high: byHead,
      pBh: byHead.nullable().describe('sign-flip test over items, Benjamini–Hochberg over all heads'),
      n: count,
    }),
  ),
  pictures: z.array(
    z.strictObject({
      item: z.string(),
      task: z.string(),
      question: z.string(),
      gold: z.string(),
      picture: z.strictObject({ width: count, height: count, type: z.string(), data: z.string() }).nullable(),
      answers: z.array(
        z.strictObject({
          model: z.string(),
          text: z.string(),
          outcome: z.enum(['correct', 'wrong', 'unparsed', 'truncated']).nullable(),
        }),
      ),
      maps: z.array(
        z.strictObject({
          model: z.string(),
          mode,
          writer: z.string(),
          query,
          grid: z.tuple([count, count]).describe('image tokens: rows, columns'),
          mass: packed.describe('[layers, rows, columns] attention per image token'),
          sinks: z.array(z.array(count)).describe('tokens taken out as sinks, by layer'),
        }),
      ),
    }),
  ),
  unusable: z.array(z.strictObject({ model: z.string(), failed: count, truncated: count })),
});

const optional = z.number().nullable();
const weightStep = z.strictObject({
  frobeniusNorm: z.number(),
  relativeNorm: optional,
  maxAbs: z.number(),
  moments: z
    .strictObject({ mean: z.number(), std: z.number(), skewness: optional, kurtosis: optional })
    .nullable()
    .describe('of the entries of Δ; kurtosis 3 = normal'),
  ulpHistogram: z.array(count).describe('changed entries by |Δ| in bf16 steps of the weight: bin b from 2^(b−8)'),
  unchangedFraction: optional,
  belowHalfUlpFraction: optional,
  matrices: count,
  stableRank: optional,
  participationRatio: optional,
  effectiveRank: optional,
  rowSpread: optional.describe('1 = ‖Δ‖² lies evenly over rows, near 0 = in a few'),
  columnSpread: optional,
  rankAboveFloor: optional,
  effectiveRankAboveFloor: optional,
  floorNorm: optional,
  floorStableRank: optional,
  floorEffectiveRank: optional,
  referenceNormSum: z.number(),
  referenceRelativeMean: optional,
});
const overlap = z
  .strictObject({ left: share, right: share })
  .describe('mean squared cosine of the angles between leading singular subspaces');
const weightDetail = z.strictObject({
  matrices: z.array(
    z.strictObject({
      comparison: z.string(),
      tower: z.enum(['decoder', 'vision']),
      layer: count,
      module: z.string(),
      relativeNorm: z.array(optional),
      effectiveRank: z.array(optional),
      rankAboveFloor: z.array(optional),
      cosine: optional,
    }),
  ),
  curves: z.array(
    z.strictObject({
      comparison: z.string(),
      step: count,
      module: z.string(),
      matrices: count,
      places: z.array(count),
      values: z.array(z.number()),
      floor: z.array(z.number()).nullable(),
      edge: optional,
    }),
  ),
  geometry: z.array(
    z.strictObject({
      comparison: z.string(),
      layer: count,
      matrices: count,
      steps: overlap.nullable(),
      weights: z.array(overlap.nullable()),
      chance: overlap,
    }),
  ),
  heads: z.array(
    z.strictObject({
      comparison: z.string(),
      step: count,
      layers: z.array(z.strictObject({ layer: count, shares: z.array(z.number()) })),
    }),
  ),
});
const characterize = z.strictObject({
  detail: weightDetail,
  comparisons: z.array(
    z.strictObject({
      name: z.string(),
      models: z.array(z.string()),
      steps: z.array(z.string()),
      coverage: z.strictObject({
        tensors: count,
        elements: count,
        compared: count,
        comparedElements: count,
        notFloat: z.array(z.string()),
        nonFinite: count,
      }),
      failed: z.array(z.strictObject({ part: z.string(), error: z.string() })),
      depthTrend: z.array(z.strictObject({ correlation: z.number(), p: share, layers: count }).nullable()),
    }),
  ),
  cells: z.array(
    z.strictObject({
      comparison: z.string(),
      kind: z.enum(groupKinds),
      group: z.string(),
      layer: count.nullable(),
      tensors: count,
      elements: count,
      steps: z.array(weightStep),
      cosine: optional,
      signAgreement: optional,
      select,
    }),
  ),
  regionShares: z.array(
    z.strictObject({
      comparison: z.string(),
      step: z.string(),
      region,
      layers: count,
      share: share.describe('of the decoder layers’ squared change'),
      even: share.describe('what an even spread would give'),
      randomLow: share.describe('central 95 % of random sets of as many layers'),
      randomHigh: share,
      p: share,
      pHolm: share.nullable(),
      pBh: share.nullable(),
    }),
  ),
});

const accuracy = z.strictObject({
  model: z.string(),
  group,
  task: z.string().nullable().describe('null: the whole group'),
  accuracy: rate,
  test: paired.nullable(),
  select,
});
const measures = {
  abilities: z.array(
    z.strictObject({
      measure: z.enum(['M_vis', 'M_v2r', 'M_rea']),
      model: z.string(),
      rate,
      test: paired.nullable(),
      select,
    }),
  ),
  seeing: z
    .array(
      z.strictObject({
        model: z.string(),
        seeing: paired.describe('black → image: M_vis corrected for chance'),
        test: meanTest.nullable().describe('per item (image − black), minus the same of IN'),
        select,
      }),
    )
    .describe('What seeing adds beyond chance.'),
  accuracy: z.array(accuracy),
  conditions: z.array(z.strictObject({ model: z.string(), group, sight: oneOf(sights), accuracy: rate, select })),
};
const regionEffect = z.strictObject({
  player: z.enum([...regionNames, 'rest']).describe('rest: the weights outside the decoder layers'),
  shapley: meanTest.describe('mean effect over all orders of exchanging the parts; the parts add up to RL − IN'),
  share: optional.describe('of the gain; null where the gain is not significant'),
  added: paired.describe('the part from RL put into IN, against IN'),
  takenOut: paired.describe('RL, against RL with the part from IN'),
  both: meanTest.describe('per item the mean of the two'),
  group,
  select,
});
const interpolation = z.strictObject({
  models: z.array(z.strictObject({ name: z.string(), description: z.string() })),
  curves: z.array(
    z.strictObject({
      group,
      measure: z.enum(['accuracy', 'M_vis', 'M_v2r', 'M_rea']),
      region: oneOf(blendRegions),
      component: oneOf(blendComponents),
      points: z.array(
        z.strictObject({
          alpha: z.number().describe('share of RL in what moves'),
          model: z.string(),
          rate,
          test: paired
            .nullable()
            .describe('against α = 0; Holm over all α, regions and components of one group and measure'),
          select,
        }),
      ),
      bend: meanTest
        .nullable()
        .describe(
          'mean over 0 < α < 1 of y(α) − (1 − α)·y(0) − α·y(1), per item: how far the path lies above a straight line',
        ),
    }),
  ),
});
const transfer = z.strictObject({
  cuts,
  policies: z.array(
    z.strictObject({
      policy,
      models: z.array(z.strictObject({ name: z.string(), description: z.string() })),
      ...measures,
      regions: z.array(regionEffect),
      random: z.array(
        z.strictObject({
          group,
          layers: z.array(count),
          added: paired,
          takenOut: paired,
          both: meanTest,
          select,
        }),
      ),
    }),
  ),
  fourParts: z.array(regionEffect),
  interpolation: interpolation.nullable(),
  plain: z.strictObject({ models: z.array(z.string()), ...measures }).nullable(),
});
const freeze = z.strictObject({
  before: z.string(),
  full: z.string(),
  controls: z.array(z.string()),
  frozen: z.array(z.strictObject({ model: z.string(), region })),
  checks: z.array(
    z.strictObject({
      model: z.string(),
      before: z.string(),
      region,
      frozen: count,
      changedInside: z.array(z.string()),
      free: count,
      unchangedOutside: z.array(z.string()),
    }),
  ),
  failedChecks: z.array(z.strictObject({ model: z.string(), error: z.string() })),
  againstBefore: z.array(accuracy),
  againstFull: z.array(accuracy),
});

const reference = z.strictObject({
  verdicts: z.array(
    z.strictObject({
      deviation: z.enum(deviations),
      published: z.string(),
      corrected: z.string(),
      changes: z.boolean().nullable().describe('null: this run holds nothing to judge it by'),
    }),
  ),
  append: z.array(
    z.strictObject({
      task: z.string(),
      layer: count,
      once: rate,
      appended: rate,
      test: paired.nullable(),
      select,
    }),
  ),
  prompts: z.array(
    z.strictObject({
      model: z.string(),
      style: z.string(),
      alike: rate,
      byName: rate,
      alikeTest: paired.nullable(),
      byNameTest: paired.nullable(),
      select,
    }),
  ),
});

const history = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('start'),
    time: z.string(),
    galvani: z.string(),
    node: z.string(),
    dependencies: z.record(z.string(), z.string()),
    environment: z.strictObject({
      system: z.string(),
      cpu: z.string(),
      cores: count,
      memoryBytes: count,
      threads: count,
      isa: z.string(),
      eigensolver: z.string().exactOptional(),
    }),
    shard: z.string(),
  }),
  z.strictObject({
    kind: z.literal('end'),
    time: z.string(),
    seconds: z.number(),
    computed: count,
    skipped: count,
    failed: count,
    finished: z.boolean(),
  }),
]);

const grading = z.strictObject({
  replaced: z.array(z.string()),
  cells: z.array(
    z.strictObject({
      experiment: z.string(),
      task: z.string(),
      rule: z.string(),
      n: count,
      correct: count,
      wrong: count,
      unparsed: count,
      undecided: count,
      how: z.array(z.strictObject({ source: z.string(), count })),
    }),
  ),
  judge: z
    .strictObject({
      model: z.string(),
      url: z.string(),
      decides: z.boolean(),
      agreement: rate,
      kappa: z.number().nullable(),
      onlyRules: count,
      onlyJudge: count,
      disagreements: z.array(
        z.strictObject({
          label: z.string(),
          gold: z.string(),
          answer: z.string().nullable(),
          verdict: z.enum(['correct', 'wrong', 'unparsed', 'undecided']),
          judge: z.enum(['correct', 'wrong', 'failed']).nullable(),
        }),
      ),
    })
    .nullable(),
});

/** What summary.json holds: the summary, and the sentences of the report's opening. */
export interface SummaryFile extends Summary {
  readonly findings: readonly Answer[];
}

export const summarySchema: z.ZodType<SummaryFile> = z.strictObject({
  format: z.literal(1),
  galvani: z.string(),
  node: z.string(),
  study: z.strictObject({
    name: z.string(),
    description: z.string().nullable(),
    seed: count,
    protocol: z.strictObject({
      preset: z.string().exactOptional(),
      system: z.string().exactOptional(),
      prefix: z.string().exactOptional(),
      suffix: z.string().exactOptional(),
      described: z.string().exactOptional(),
      choices: z.enum(['letters', 'none']).exactOptional(),
      maxTokens: count,
    }),
    groups: z.strictObject({
      vision: z.array(z.string()),
      visualReasoning: z.array(z.string()),
      textReasoning: z.array(z.string()),
    }),
  }),
  models: z.array(z.strictObject({ name: z.string(), dir: z.string(), fingerprint: z.string(), layers: count })),
  layers: count,
  cuts,
  regions: z.array(z.strictObject({ name: region, start: count, end: count })),
  ledger: z.array(z.string()),
  data: z.record(z.string(), z.string()).describe('content hashes of the questions read'),
  history: z.array(history).describe('when work on the run began and ended, and on which machines'),
  progress: z.array(
    z.strictObject({
      experiment: z.string(),
      planned: count,
      done: count,
      failed: count,
      missing: count,
      errors: z.array(z.strictObject({ message: z.string(), count })),
    }),
  ),
  grading,
  localizeVision: vision.nullable(),
  localizeReasoning: reasoning.nullable(),
  attend: attend.nullable(),
  characterize: characterize.nullable(),
  transfer: transfer.nullable(),
  freeze: freeze.nullable(),
  reference: reference.nullable(),
  findings: z.array(
    z.strictObject({ text: z.string(), significant: z.boolean().nullable().describe('null: no test was made') }),
  ),
});

/** JSON Schema (2020-12) of summary.json. */
export function summaryJsonSchema(): object {
  return z.toJSONSchema(summarySchema, { reused: 'ref' });
}
