/** Charts of the weights section that look inside layers: matrices, spectra, geometry, step sizes, heads. */
import type { ChartBlock, Table } from '../report/document.js';
import { heatMap } from '../report/heat-map.js';
import { type LineSeries, lineChart } from '../report/line-chart.js';
import { smallMultiples } from '../report/small-multiples.js';
import type { CharacterizeResult } from './characterize-analyze.js';
import type { MatrixCell, Overlap, SpectrumCurve } from './characterize-detail.js';
import { chart, column, idOf, regionMarks } from './report-parts.js';
import type { Summary } from './summary.js';

const moduleOrder = ['norm1', 'q', 'k', 'v', 'qkv', 'o', 'proj', 'norm2', 'gate', 'up', 'down', 'fc1', 'fc2', 'other'];
const byModule = (a: string, b: string): number =>
  (moduleOrder.indexOf(a) + 1 || 99) - (moduleOrder.indexOf(b) + 1 || 99) || a.localeCompare(b);

/** The step by its models, "in → rl". */
export function stepName(comparison: string, index: number): string {
  const models = comparison.split(' → ');
  return `${models[index]} → ${models[index + 1]}`;
}

/** ‖Δ‖/‖W‖ of every kind of matrix at every depth, one map per step and tower. */
export function matrixMaps({ detail, comparisons }: CharacterizeResult): ChartBlock[] {
  return comparisons.flatMap(({ name, steps }) =>
    (['decoder', 'vision'] as const).flatMap((tower) => {
      const own = detail.matrices.filter((cell) => cell.comparison === name && cell.tower === tower);
      if (own.length === 0) return [];
      return steps.map((step, index) => matrixMap(own, tower, step, index));
    }),
  );
}

function matrixMap(cells: readonly MatrixCell[], tower: MatrixCell['tower'], step: string, index: number): ChartBlock {
  const modules = [...new Set(cells.map(({ module }) => module))].sort(byModule);
  const layers = [...new Set(cells.map(({ layer }) => layer))].sort((a, b) => a - b);
  const at = (module: string, layer: number) => cells.find((cell) => cell.module === module && cell.layer === layer);
  const id = idOf('weights-map', tower, step);
  const percent = (value: number | null | undefined): number | null => (value == null ? null : 100 * value);
  const title = `Relative change by matrix and ${tower === 'decoder' ? 'layer' : 'vision block'}: ${step}`;
  const table: Table = {
    columns: [
      column('module', 'Matrix'),
      column('layer', 'Layer', 'number'),
      column('relative', '‖Δ‖/‖W‖', 'number'),
      column('effective', 'Effective rank', 'number'),
      column('above', 'Values above floor', 'number'),
      column('cosine', 'Cosine of the steps', 'number'),
    ],
    rows: cells.map((cell) => ({
      module: cell.module,
      layer: cell.layer,
      relative: cell.relativeNorm[index]!,
      effective: cell.effectiveRank[index]!,
      above: cell.rankAboveFloor[index]!,
      cosine: cell.cosine,
    })),
  };
  return chart(
    id,
    title,
    'Frobenius norm of the change over that of the weights before it, %; a weight and its bias together.',
    heatMap({
      id,
      title,
      rows: modules,
      columns: layers.map(String),
      values: modules.map((module) => layers.map((layer) => percent(at(module, layer)?.relativeNorm[index]))),
      scale: 'sequential',
      format: 'number',
      valueLabel: '‖Δ‖ / ‖W‖, %',
      columnLabel: tower === 'decoder' ? 'Layer' : 'Block',
    }),
    table,
  );
}

/** Singular values of the update beside rounding alone, by kind of matrix. */
export function spectrumCharts({ detail, comparisons }: CharacterizeResult): ChartBlock[] {
  const [main] = comparisons;
  if (!main || detail.curves.length === 0) return [];
  const own = detail.curves.filter(({ comparison }) => comparison === main.name);
  const modules = [...new Set(own.map(({ module }) => module))].sort(byModule);
  // On half doublings, as curvePlaces are; the last value may share the place of the one before and then replaces it.
  const place = (rank: number): number => Math.round(2 * Math.log2(rank)) / 2;
  const line = (name: string, { places }: SpectrumCurve, values: readonly number[], muted = false): LineSeries => ({
    name,
    ...(muted ? { color: 'muted' as const } : {}),
    points: places.flatMap((rank, i) =>
      i + 1 < places.length && place(places[i + 1]!) === place(rank)
        ? []
        : [{ x: place(rank), y: values[i]! > 0 ? values[i]! : null }],
    ),
  });
  const charts = modules.map((module) => {
    const curves = own.filter((curve) => curve.module === module).sort((a, b) => a.step - b.step);
    const last = curves.at(-1)!;
    const series = [
      ...curves.map((curve) => line(stepName(curve.comparison, curve.step), curve, curve.values)),
      ...(last.floor ? [line('rounding alone (last step)', last, last.floor, true)] : []),
    ].filter(({ points }) => points.some(({ y }) => y !== null));
    return { module, curves, series };
  });
  const drawn = charts.filter(({ series }) => series.length > 0);
  if (drawn.length === 0) return [];
  return [
    chart(
      'weights-spectra',
      'Singular values of the update by kind of matrix',
      'Medians over the decoder layers, both axes logarithmic. Above the grey line a direction is more than rounding; a ' +
        'few large values followed by the grey line are an update of low rank.',
      smallMultiples(
        drawn.map(({ module, curves, series }) => ({
          title: module,
          svg: lineChart({
            id: idOf('weights-spectra', module),
            title: `Singular values of the update of ${module}`,
            x: {
              label: 'log₂ of the value’s rank (0: the largest)',
              values: [...new Set(curves.flatMap(({ places }) => places.map(place)))].sort((a, b) => a - b),
            },
            y: { label: 'Singular value', format: 'number', scale: 'log' },
            series,
            height: 230,
          }),
        })),
      ),
      {
        columns: [
          column('step', 'Step'),
          column('module', 'Matrix'),
          column('matrices', 'Matrices', 'number'),
          column('place', 'Rank of the value', 'number'),
          column('value', 'Singular value', 'number'),
          column('floor', 'From rounding alone', 'number'),
          column('edge', 'Largest from rounding', 'number'),
        ],
        rows: detail.curves.flatMap((curve) =>
          curve.places.map((rank, i) => ({
            step: stepName(curve.comparison, curve.step),
            module: curve.module,
            matrices: curve.matrices,
            place: rank,
            value: curve.values[i]!,
            floor: curve.floor?.[i] ?? null,
            edge: curve.edge,
          })),
        ),
      },
    ),
  ];
}

/** Directions: the steps beside each other and beside the weights. */
export function geometryChart(result: CharacterizeResult, summary: Summary): ChartBlock[] {
  const { detail, comparisons, cells } = result;
  const [main] = comparisons;
  const own = detail.geometry.filter(({ comparison }) => comparison === main?.name);
  if (!main || own.length === 0) return [];
  const both = (overlap: Overlap | null): number | null => (overlap ? (overlap.left + overlap.right) / 2 : null);
  const points = (value: (layer: (typeof own)[number]) => number | null) =>
    own.map((layer) => ({ x: layer.layer, y: value(layer) }));
  const cosine = (layer: number): number | null =>
    cells.find((cell) => cell.comparison === main.name && cell.kind === 'layer' && cell.layer === layer)?.cosine ??
    null;
  const series: LineSeries[] = [
    ...(main.steps.length === 2
      ? [
          { name: 'cosine of the two changes', points: points(({ layer }) => cosine(layer)) },
          { name: 'leading subspaces of the two changes', points: points(({ steps }) => both(steps)) },
        ]
      : []),
    ...main.steps.map((step, index) => ({
      name: `leading subspaces of ${step} and of the weights before`,
      points: points(({ weights }) => both(weights[index]!)),
    })),
    { name: 'subspaces by chance', color: 'muted' as const, points: points(({ chance }) => both(chance)) },
  ];
  return [
    chart(
      'weights-geometry',
      'Geometry of the update per decoder layer',
      'Cosine of the changes as vectors; and mean squared cosine of the principal angles between leading singular subspaces, ' +
        'averaged over the layer’s matrices and both sides: 1 = the same directions, grey = what random directions would give.',
      lineChart({
        id: 'weights-geometry',
        title: 'Geometry of the update per layer',
        x: { label: 'Layer', values: Array.from({ length: summary.layers }, (_, layer) => layer) },
        y: { label: 'Cosine, or overlap of subspaces', format: 'number' },
        series,
        regions: regionMarks(summary),
      }),
      {
        columns: [
          column('layer', 'Layer', 'number'),
          column('matrices', 'Matrices', 'number'),
          column('cosine', 'Cosine of the changes', 'number'),
          column('stepsLeft', 'Changes, output side', 'number'),
          column('stepsRight', 'Changes, input side', 'number'),
          ...main.steps.flatMap((step, index) => [
            column(`left${index}`, `${step} and weights, output side`, 'number'),
            column(`right${index}`, `${step} and weights, input side`, 'number'),
          ]),
          column('chanceLeft', 'Chance, output side', 'number'),
          column('chanceRight', 'Chance, input side', 'number'),
        ],
        rows: own.map(({ layer, matrices, steps, weights, chance }) => ({
          layer,
          matrices,
          cosine: cosine(layer),
          stepsLeft: steps?.left ?? null,
          stepsRight: steps?.right ?? null,
          ...Object.fromEntries(
            weights.flatMap((overlap, index) => [
              [`left${index}`, overlap?.left ?? null],
              [`right${index}`, overlap?.right ?? null],
            ]),
          ),
          chanceLeft: chance.left,
          chanceRight: chance.right,
        })),
      },
    ),
  ];
}

/** How far entries moved, in steps of bf16. */
export function stepSizeChart({ cells, comparisons }: CharacterizeResult): ChartBlock[] {
  const rows = comparisons.flatMap(({ name, steps }) => {
    const whole = cells.find((cell) => cell.comparison === name && cell.kind === 'whole');
    return whole ? steps.map((step, index) => ({ step, whole, sums: whole.steps[index]! })) : [];
  });
  if (rows.length === 0) return [];
  const bins = Array.from({ length: 16 }, (_, bin) => bin - 8);
  const share = (value: number, elements: number): number | null => (elements > 0 ? value / elements : null);
  return [
    chart(
      'weights-steps',
      'How far entries moved',
      'Share of all entries of the model whose change is this many bf16 steps of the weight, by powers of two (the ends are open). ' +
        'Entries that did not change are in none: see the share that is bit-identical in the tables.',
      lineChart({
        id: 'weights-steps',
        title: 'How far entries moved',
        x: { label: 'log₂ of |Δ| in bf16 steps', values: bins },
        y: { label: 'Share of entries', format: 'percent', min: 0 },
        series: rows.map(({ step, whole, sums }) => ({
          name: step,
          points: bins.map((x, bin) => ({ x, y: share(sums.ulpHistogram[bin]!, whole.elements) })),
        })),
      }),
      {
        columns: [
          column('step', 'Step'),
          column('bin', 'log₂ steps, from', 'number'),
          column('share', 'Entries', 'rate'),
        ],
        rows: rows.flatMap(({ step, whole, sums }) =>
          bins.map((bin, i) => ({ step, bin, share: share(sums.ulpHistogram[i]!, whole.elements) })),
        ),
      },
    ),
  ];
}

/** Which query heads carry the change. */
export function headMaps({ detail, comparisons }: CharacterizeResult): ChartBlock[] {
  const [main] = comparisons;
  return detail.heads
    .filter(({ comparison }) => comparison === main?.name)
    .map(({ comparison, step, layers }) => {
      const name = stepName(comparison, step);
      const id = idOf('weights-heads', name);
      const title = `Share of the query heads in the change: ${name}`;
      const heads = Math.max(...layers.map(({ shares }) => shares.length));
      return chart(
        id,
        title,
        'How much more (blue) or less (red) of its layer’s ‖Δ‖² in the query projection a head has than an even share; from twice ' +
          'the even share on the colour is full.',
        heatMap({
          id,
          title,
          rows: layers.map(({ layer }) => String(layer)),
          columns: Array.from({ length: heads }, (_, head) => String(head)),
          values: layers.map(({ shares }) => shares.map((value) => value - 1)),
          scale: 'diverging',
          format: 'percent',
          valueLabel: 'Above or below an even share, %',
          rowLabel: 'Layer',
          columnLabel: 'Head',
          min: -1,
          max: 1,
        }),
        {
          columns: [
            column('layer', 'Layer', 'number'),
            column('head', 'Head', 'number'),
            column('share', 'Share × heads', 'number'),
          ],
          rows: layers.flatMap(({ layer, shares }) => shares.map((share, head) => ({ layer, head, share }))),
        },
      );
    });
}
