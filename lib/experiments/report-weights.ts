/** The report's section on the weights: what each step of training changed, and what rounding alone would show. */
import type { Answer, Section } from '../report/document.js';
import { formatNumber, formatP, formatValue } from '../report/format.js';
import { type LineSeries, lineChart } from '../report/line-chart.js';
import { type PointRangeSpec, pointRange } from '../report/point-range.js';
import type { CharacterizeResult, WeightCell, WeightComparison, WeightStep } from './characterize-analyze.js';
import { answer, chart, column, idOf, layerList, prose, regionMarks, tableBlock } from './report-parts.js';
import {
  geometryChart,
  headMaps,
  matrixMaps,
  spectrumCharts,
  stepName,
  stepSizeChart,
} from './report-weights-detail.js';
import type { Summary } from './summary.js';

export function weightsSection(result: CharacterizeResult, summary: Summary): Section {
  return {
    id: 'weights',
    title: 'What changed in the weights',
    lead:
      'Every tensor of the checkpoints is compared, in float32 from the stored type. These numbers have no sampling error; ' +
      'what limits them is rounding: checkpoints are stored in bf16, and rounding alone adds a full-rank residue.',
    blocks: [
      ...energyCharts(result, summary),
      ...matrixMaps(result),
      ...regionChart(result),
      ...spectrumCharts(result),
      ...rankCharts(result, summary),
      ...geometryChart(result, summary),
      ...stepSizeChart(result),
      ...headMaps(result),
      tableBlock(
        'weights-parts',
        'By part of the network',
        'Norms of a part are roots of sums of squares over its tensors. Rounding floor: the Frobenius norm that storing in bf16 alone would give.',
        weightTable(result.cells.filter(({ kind }) => kind === 'whole' || kind === 'region' || kind === 'part')),
      ),
      tableBlock(
        'weights-modules',
        'By kind of matrix',
        'Reference columns are what the published script prints: norms added, and the mean of ‖Δ‖/‖W_in‖.',
        weightTable(result.cells.filter(({ kind }) => kind === 'module' || kind === 'vision module')),
      ),
      ...result.comparisons.map((comparison) =>
        prose(coverageText(comparison), isWhole(comparison) ? 'note' : 'caution'),
      ),
      prose(
        'Stable rank survives rounding when an update’s entries are larger than about 1e-4; effective rank does not. ' +
          'Read ranks against the floor drawn beside them.',
        'caution',
      ),
    ],
  };
}

interface NamedStep {
  readonly name: string;
  readonly comparison: string;
  readonly index: number;
}

/** Every step of every comparison, once. */
function stepsOf({ comparisons }: CharacterizeResult): NamedStep[] {
  return comparisons.flatMap(({ name, steps }) =>
    steps.map((step, index) => ({ name: step, comparison: name, index })),
  );
}

function layerSeries(
  result: CharacterizeResult,
  value: (step: WeightStep) => number | null,
  floor?: (step: WeightStep) => number | null,
): LineSeries[] {
  return stepsOf(result).flatMap(({ name, comparison, index }) => {
    const layers = result.cells.filter((cell) => cell.kind === 'layer' && cell.comparison === comparison);
    const points = (of: (step: WeightStep) => number | null) =>
      layers.map((cell) => ({ x: cell.layer!, y: of(cell.steps[index]!) }));
    const own: LineSeries = { name, points: points(value) };
    // One floor is enough: rounding depends on the weights, which all steps share up to their small changes.
    const isLast = comparison === result.comparisons[0]!.name && index === result.comparisons[0]!.steps.length - 1;
    if (!floor || !isLast || layers.every((cell) => floor(cell.steps[index]!) === null)) return [own];
    return [own, { name: `rounding alone (${name})`, color: 'muted' as const, points: points(floor) }];
  });
}

function energyCharts(result: CharacterizeResult, summary: Summary) {
  const layers = Array.from({ length: summary.layers }, (_, layer) => layer);
  const relative = (of: (step: WeightStep) => number | null) => (step: WeightStep) => {
    const before = step.relativeNorm ? step.frobeniusNorm / step.relativeNorm : null;
    const own = of(step);
    return before === null || own === null ? null : own / before;
  };
  const series = layerSeries(
    result,
    (step) => step.relativeNorm,
    relative((step) => step.floorNorm),
  );
  return [
    chart(
      'weights-energy',
      'Energy of the update per decoder layer',
      'Frobenius norm of the change over that of the weights before it, logarithmic.',
      lineChart({
        id: 'weights-energy',
        title: 'Relative size of the update per layer',
        x: { label: 'Layer', values: layers },
        y: { label: '‖Δ‖ / ‖W‖', format: 'number', scale: 'log' },
        series,
        regions: regionMarks(summary),
      }),
      weightTable(result.cells.filter(({ kind }) => kind === 'layer' || kind === 'vision block')),
    ),
  ];
}

function rankCharts(result: CharacterizeResult, summary: Summary) {
  const layers = Array.from({ length: summary.layers }, (_, layer) => layer);
  const kinds = [
    {
      id: 'stable',
      title: 'Stable rank of the update',
      value: (s: WeightStep) => s.stableRank,
      floor: (s: WeightStep) => s.floorStableRank,
    },
    {
      id: 'effective',
      title: 'Effective rank of the update',
      value: (s: WeightStep) => s.effectiveRank,
      floor: (s: WeightStep) => s.floorEffectiveRank,
    },
  ];
  return kinds.flatMap(({ id, title, value, floor }) => {
    const series = layerSeries(result, value, floor);
    if (series.every(({ points }) => points.every(({ y }) => y === null))) return [];
    return [
      chart(
        idOf('weights', id, 'rank'),
        `${title} per decoder layer`,
        'Mean over the layer’s matrices; grey is the rank that rounding alone would show.',
        lineChart({
          id: idOf('weights', id, 'rank'),
          title,
          x: { label: 'Layer', values: layers },
          y: { label: 'Rank', format: 'number', min: 0 },
          series,
          regions: regionMarks(summary),
        }),
        weightTable(result.cells.filter(({ kind }) => kind === 'layer')),
      ),
    ];
  });
}

function regionChart({ regionShares }: CharacterizeResult) {
  if (regionShares.length === 0) return [];
  const spec: PointRangeSpec = {
    id: 'weights-regions',
    title: 'Share of the update in each region, beside random sets of layers',
    rows: regionShares.flatMap((cell) => [
      { label: `${cell.region}, ${cell.step}`, group: 'the region', estimate: cell.share, n: cell.layers },
      {
        label: `${cell.region}, ${cell.step}`,
        group: 'control: as many random layers',
        estimate: cell.even,
        low: cell.randomLow,
        high: cell.randomHigh,
        n: cell.layers,
      },
    ]),
    value: { label: 'Share of ‖Δ‖² of the decoder layers', format: 'percent', min: 0 },
    reference: null,
  };
  return [
    chart(
      'weights-regions',
      'Does the update sit in a region',
      'Share of the squared change of all decoder layers that lies in each region. Bars of the control: the central 95 % of 10,000 ' +
        'random sets of as many layers; n is their number. Layers are taken as exchangeable, which neighbours are not quite.',
      pointRange(spec),
      {
        columns: [
          column('step', 'Step'),
          column('region', 'Region'),
          column('layers', 'Layers', 'number'),
          column('share', 'Share', 'number'),
          column('even', 'Even spread', 'number'),
          column('randomLow', 'Random sets, low', 'number'),
          column('randomHigh', 'high', 'number'),
          column('p', 'p', 'p'),
          column('pHolm', 'p, Holm', 'p'),
          column('pBh', 'p, BH', 'p'),
        ],
        rows: regionShares.map(({ comparison: _, ...cell }) => ({ ...cell })),
      },
    ),
  ];
}

function weightTable(cells: readonly WeightCell[]) {
  return {
    columns: [
      column('step', 'Step'),
      column('group', 'Part'),
      column('tensors', 'Tensors', 'number'),
      column('norm', '‖Δ‖', 'number'),
      column('relative', '‖Δ‖/‖W‖', 'number'),
      column('unchanged', 'Bit-identical', 'rate'),
      column('below', 'Below ½ bf16 step', 'rate'),
      column('std', 'Std of Δ', 'number'),
      column('kurtosis', 'Kurtosis of Δ', 'number'),
      column('rowSpread', 'Spread over rows', 'number'),
      column('columnSpread', 'over columns', 'number'),
      column('stable', 'Stable rank', 'number'),
      column('participation', 'Participation ratio', 'number'),
      column('effective', 'Effective rank', 'number'),
      column('floor', 'Rounding floor ‖·‖', 'number'),
      column('floorStable', 'its stable rank', 'number'),
      column('floorEffective', 'its effective rank', 'number'),
      column('above', 'Values above floor', 'number'),
      column('cosine', 'Cosine of the steps', 'number'),
      column('signs', 'Equal signs', 'rate'),
      column('referenceSum', 'Reference: Σ‖Δ‖', 'number'),
      column('referenceRelative', 'Reference: mean ‖Δ‖/‖W_in‖', 'number'),
    ],
    rows: cells.flatMap((cell) =>
      cell.steps.map((step, index) => ({
        step: stepName(cell.comparison, index),
        group: cell.kind.startsWith('vision') ? `vision ${cell.group}` : cell.group,
        tensors: cell.tensors,
        norm: step.frobeniusNorm,
        relative: step.relativeNorm,
        unchanged: step.unchangedFraction,
        below: step.belowHalfUlpFraction,
        std: step.moments?.std ?? null,
        kurtosis: step.moments?.kurtosis ?? null,
        rowSpread: step.rowSpread,
        columnSpread: step.columnSpread,
        stable: step.stableRank,
        participation: step.participationRatio,
        effective: step.effectiveRank,
        floor: step.floorNorm,
        floorStable: step.floorStableRank,
        floorEffective: step.floorEffectiveRank,
        above: step.rankAboveFloor,
        cosine: cell.cosine,
        signs: cell.signAgreement,
        referenceSum: step.referenceNormSum,
        referenceRelative: step.referenceRelativeMean,
      })),
    ),
  };
}

function isWhole({ coverage, failed }: WeightComparison): boolean {
  return (
    failed.length === 0 && coverage.compared + coverage.notFloat.length === coverage.tensors && coverage.nonFinite === 0
  );
}

function coverageText({ name, coverage, failed }: WeightComparison): string {
  const share = formatValue(coverage.elements > 0 ? coverage.comparedElements / coverage.elements : null, 'percent', 2);
  const parts = [
    `**Coverage of ${name}:** ${coverage.compared} of ${coverage.tensors} tensors, ${share} of ${formatNumber(coverage.elements)} entries.`,
    coverage.notFloat.length > 0 ? `Not of a floating type: ${coverage.notFloat.join(', ')}.` : '',
    coverage.nonFinite > 0 ? `${coverage.nonFinite} entries are NaN or infinite and in no figure.` : '',
    failed.length > 0 ? `Failed: ${failed.map(({ part, error }) => `${part} (${error})`).join('; ')}.` : '',
  ];
  return parts.filter(Boolean).join(' ');
}

export function weightsFindings({ comparisons, cells }: CharacterizeResult): Answer[] {
  const [main] = comparisons;
  if (!main) return [];
  const decoder = cells.find(
    (cell) => cell.comparison === main.name && cell.kind === 'part' && cell.group === 'decoder',
  );
  if (!decoder) return [];
  const answers: Answer[] = [];
  const [first, second] = decoder.steps;
  if (first && second && first.frobeniusNorm > 0) {
    const ratio = second.frobeniusNorm / first.frobeniusNorm;
    answers.push(
      answer(
        `The step ${main.steps[1]} moved the decoder’s weights by ${formatValue(second.relativeNorm, 'percent', 2)} of their norm, ` +
          `${formatNumber(ratio, 3)} times as far as ${main.steps[0]} (${formatValue(first.relativeNorm, 'percent', 2)}); the two changes have a cosine of ` +
          `${formatNumber(decoder.cosine ?? 0, 2)}. These are exact figures of these checkpoints, not estimates.`,
        null,
      ),
    );
  }
  answers.push(...untouchedLayers(main, cells));
  const last = decoder.steps.at(-1)!;
  const trend = main.depthTrend.at(-1);
  if (trend != null) {
    const significant = trend.p < 0.05;
    const direction = significant
      ? trend.correlation > 0
        ? 'rises with depth'
        : 'falls with depth'
      : 'has no clear trend with depth';
    answers.push(
      answer(
        `The relative size of ${main.steps.at(-1)} ${direction} (rank correlation with the layer index ` +
          `${formatNumber(trend.correlation, 2)} over ${trend.layers} layers, permutation p ${relation(trend.p)}).`,
        significant,
      ),
    );
  }
  if (last.floorNorm !== null) {
    const share = last.floorNorm / last.frobeniusNorm;
    answers.push(
      answer(
        `Of that last step ${formatValue(last.unchangedFraction, 'percent')} of the decoder’s entries are bit for bit unchanged; rounding alone would give a ` +
          `change of ${formatValue(share, 'percent')} of its norm, so ranks ${share > 0.3 ? 'are dominated by rounding and should not be read' : 'are to be read beside the rounding floor'}.`,
        null,
      ),
    );
  }
  return answers;
}

/** A step that left some layers bit for bit as they were is told by name. */
function untouchedLayers(main: WeightComparison, cells: readonly WeightCell[]): Answer[] {
  const layers = cells.filter((cell) => cell.comparison === main.name && cell.kind === 'layer');
  return main.steps.flatMap((step, index) => {
    const changed = layers.filter((cell) => cell.steps[index]!.unchangedFraction !== 1).map(({ layer }) => layer!);
    if (changed.length === layers.length) return [];
    const text =
      changed.length === 0
        ? `The step ${step} left every decoder layer bit for bit as it was.`
        : `The step ${step} changed ${layerList(changed)}; the other ${layers.length - changed.length} decoder layers are bit for bit as they were.`;
    return [answer(text, null)];
  });
}

function relation(p: number): string {
  const text = formatP(p);
  return text.startsWith('<') ? text : `= ${text}`;
}
