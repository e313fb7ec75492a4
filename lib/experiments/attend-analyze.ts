/** Attention per layer and model, and its change between models on the same items. */
import type { JsonObject, Observation } from '../run/rows.js';
import { type AttendMeta, attendExperiment, type QuerySpan, querySpans, type TextMode } from './attend.js';
import { type HeadMap, type HeadShift, headMap, headShift } from './attend-heads.js';
import { type AttendedPicture, attendedPictures } from './attend-pictures.js';
import type { LayerAttention, ReducedAttention } from './attend-reduce.js';
import { adjusted, type MeanRecord, meanOf, meanTest, pairedMean, type Select } from './measure.js';

/** Numbers per layer that are compared between models. */
export const attentionMeasures = [
  'image',
  'imageSinkFree',
  'imagePerShare',
  'imageSinkFreePerShare',
  'first',
  'question',
  'think',
  'final',
  'other',
] as const;
export type AttentionFigure = (typeof attentionMeasures)[number];

export interface AttentionCell {
  readonly mode: TextMode;
  readonly query: QuerySpan;
  readonly model: string;
  readonly layer: number;
  readonly image: MeanRecord;
  readonly imageSinkFree: MeanRecord;
  readonly imagePerShare: MeanRecord;
  readonly imageSinkFreePerShare: MeanRecord;
  readonly question: MeanRecord;
  readonly think: MeanRecord;
  readonly final: MeanRecord;
  /** System turn, template and tags. */
  readonly other: MeanRecord;
  readonly first: MeanRecord;
  /** Image keys taken out as sinks, mean over items. */
  readonly sinks: MeanRecord;
  readonly select: Select;
}

export interface AttentionShift {
  readonly mode: TextMode;
  readonly query: QuerySpan;
  readonly from: string;
  readonly to: string;
  readonly layer: number;
  readonly figure: AttentionFigure;
  /** to − from on the same items. */
  readonly difference: MeanRecord;
  /**
   * Bootstrap interval at level 1 − 0.05/layers, for drawing. A percentile bootstrap is too narrow that far out with few
   * items (null studies of 30 items found something in 14 % of curves), so it decides nothing.
   */
  readonly simultaneous: { readonly low: number | null; readonly high: number | null };
  /** Two-sided sign-flip test over items; Holm over the layers of the curve. null without items. */
  readonly p: number | null;
  readonly pHolm: number | null;
  /** pHolm < 0.05. */
  readonly significant: boolean;
}

export interface AttendResult {
  readonly models: readonly string[];
  readonly writer: string;
  readonly cells: readonly AttentionCell[];
  readonly shifts: readonly AttentionShift[];
  readonly heads: readonly HeadMap[];
  readonly headShifts: readonly HeadShift[];
  /** Attention patch by patch for a few items. */
  readonly pictures: readonly AttendedPicture[];
  /** Items for which a model gave no usable text (failed, truncated or empty): they are in no cell of mode `own`. */
  readonly unusable: readonly { readonly model: string; readonly failed: number; readonly truncated: number }[];
}

export function analyzeAttend(
  observed: readonly Observation[],
  texts: readonly Observation[],
  options: { readonly models: readonly string[]; readonly writer: string; readonly seed: number },
  images: readonly Observation[] = [],
): AttendResult {
  const readings = observed.map(({ meta, row }) => ({
    meta: meta as AttendMeta,
    spans: row?.kind === 'trial' ? ((row.reduced ?? {}) as unknown as ReducedAttention) : undefined,
  }));
  const items = [...new Set(texts.map(({ meta }) => String(meta.item)))];
  const cells: AttentionCell[] = [];
  const shifts: AttentionShift[] = [];
  const heads: HeadMap[] = [];
  const headShifts: HeadShift[] = [];
  for (const mode of ['same', 'own'] as const) {
    for (const query of querySpans) {
      const values = new Map<string, readonly (LayerAttention | null)[]>();
      for (const model of options.models) {
        const own = new Map(
          readings
            .filter(({ meta }) => meta.mode === mode && meta.model === model)
            .map(({ meta, spans }) => [meta.item, spans?.[query] ?? null]),
        );
        values.set(
          model,
          items.map((item) => own.get(item) ?? null),
        );
      }
      const select = { experiment: attendExperiment, mode };
      cells.push(
        ...[...values].flatMap(([model, lists]) => modelCells(mode, query, model, lists, select, options.seed)),
      );
      shifts.push(
        ...comparisons(options.models).flatMap(([from, to]) =>
          shiftsBetween({
            mode,
            query,
            from,
            to,
            before: values.get(from)!,
            after: values.get(to)!,
            seed: options.seed,
          }),
        ),
      );
      heads.push(...[...values].flatMap(([model, lists]) => headMap({ mode, query, model }, lists)));
      headShifts.push(
        ...comparisons(options.models).flatMap(([from, to]) =>
          headShift({ mode, query, from, to }, values.get(from)!, values.get(to)!, options.seed),
        ),
      );
    }
  }
  return {
    models: options.models,
    writer: options.writer,
    cells,
    shifts,
    heads,
    headShifts,
    pictures: attendedPictures(images, observed, texts),
    unusable: unusable(texts, options.models),
  };
}

/** Neighbours in the order of training, and first against last. */
function comparisons(models: readonly string[]): [string, string][] {
  const pairs = models.slice(1).map((model, i): [string, string] => [models[i]!, model]);
  if (models.length > 2) pairs.push([models[0]!, models.at(-1)!]);
  return pairs;
}

function layerCount(lists: readonly (LayerAttention | null)[]): number {
  return lists.find((value) => value !== null)?.image.length ?? 0;
}

function modelCells(
  mode: TextMode,
  query: QuerySpan,
  model: string,
  lists: readonly (LayerAttention | null)[],
  select: Select,
  seed: number,
): AttentionCell[] {
  return Array.from({ length: layerCount(lists) }, (_, layer): AttentionCell => {
    const mean = (name: Exclude<keyof LayerAttention, 'tokens' | 'byHead' | 'map'>): MeanRecord =>
      meanOf(
        lists.map((value) => value?.[name][layer] ?? null),
        seed,
      );
    return {
      mode,
      query,
      model,
      layer,
      image: mean('image'),
      imageSinkFree: mean('imageSinkFree'),
      imagePerShare: mean('imagePerShare'),
      imageSinkFreePerShare: mean('imageSinkFreePerShare'),
      question: mean('question'),
      think: mean('think'),
      final: mean('final'),
      other: mean('other'),
      first: mean('first'),
      sinks: mean('sinks'),
      select: { ...select, model },
    };
  });
}

function shiftsBetween(input: {
  readonly mode: TextMode;
  readonly query: QuerySpan;
  readonly from: string;
  readonly to: string;
  readonly before: readonly (LayerAttention | null)[];
  readonly after: readonly (LayerAttention | null)[];
  readonly seed: number;
}): AttentionShift[] {
  const { mode, query, from, to, before, after, seed } = input;
  const layers = Math.min(layerCount(before), layerCount(after));
  return attentionMeasures.flatMap((figure) => {
    const curve = Array.from({ length: layers }, (_, layer) => {
      const at = (lists: readonly (LayerAttention | null)[]) => lists.map((value) => value?.[figure][layer] ?? null);
      const [from_, to_] = [at(before), at(after)];
      const differences = from_.map((value, i) => (value === null || to_[i] == null ? null : to_[i] - value));
      const { low, high } = pairedMean(from_, to_, seed, 1 - 0.05 / layers);
      return { layer, test: meanTest(differences, seed), simultaneous: { low, high } };
    });
    const tests = adjusted(curve.map(({ test }) => test));
    return curve.map(({ layer, simultaneous }, i): AttentionShift => {
      const { p, pHolm, pBh: _, ...difference } = tests[i]!;
      return {
        mode,
        query,
        from,
        to,
        layer,
        figure,
        difference,
        simultaneous,
        p,
        pHolm,
        significant: pHolm !== null && pHolm < 0.05,
      };
    });
  });
}

function unusable(texts: readonly Observation[], models: readonly string[]): AttendResult['unusable'] {
  return models.map((model) => {
    const own = texts.filter(({ meta }: { meta: JsonObject }) => meta.model === model);
    const truncated = own.filter(({ row }) => row?.kind === 'trial' && row.truncated).length;
    const failed = own.filter(({ row }) => row?.kind !== 'trial' || (!row.truncated && row.text.trim() === '')).length;
    return { model, failed, truncated };
  });
}
