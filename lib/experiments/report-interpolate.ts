/** The part of the transfer section that goes from IN to RL step by step. */
import type { Answer, Block, Table } from '../report/document.js';
import { formatInterval, formatP, formatValue } from '../report/format.js';
import { type LineChartSpec, lineChart } from '../report/line-chart.js';
import { lineTable } from '../report/tables.js';
import type { TaskGroup } from './answers.js';
import { isSignificant, type TestRecord } from './measure.js';
import { groupText } from './report-accuracy.js';
import {
  answer,
  asRate,
  chart,
  column,
  idOf,
  rowsCell,
  rowsColumn,
  tableBlock,
  testCells,
  testColumns,
  transitionColumns,
} from './report-parts.js';
import { movingText } from './transfer-interpolate.js';
import type { Curve, InterpolationResult } from './transfer-interpolate-analyze.js';

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

export function interpolationBlocks(result: InterpolationResult | null): Block[] {
  if (!result || result.curves.length === 0) return [];
  const { curves, models } = result;
  const wholes = curves.some(({ region }) => region === 'whole');
  const outside =
    'Weights of the region are (1 − α)·IN + α·RL, stored as the checkpoints are; all else is IN’s, also the weights outside the layers, ' +
    `so that only the region moves: α = 1 is its graft under policy \`in\`${wholes ? '; “every weight” has no outside' : ''}.`;
  return [
    ...unique(curves.map(({ group }) => group)).map((group) =>
      curveChart(
        group,
        curves.filter((curve) => curve.group === group && curve.measure === 'accuracy'),
        outside,
      ),
    ),
    tableBlock(
      'transfer-bends',
      'Is the path from IN to RL straight',
      'Per item the mean over 0 < α < 1 of y(α) − (1 − α)·y(0) − α·y(1): how far the path lies above the straight line between its ends. A gain ' +
        'above the line comes early on the way, below it late; a loss the other way round. Bootstrap intervals, sign-flip tests, Holm over the curves of one group and measure.',
      bendTable(curves),
    ),
    tableBlock(
      'transfer-interpolation',
      'Every step from IN to RL',
      `${outside} Against IN (α = 0) on the same items: exact McNemar, Newcombe’s interval, Holm over all α and regions of one group and measure.`,
      pointTable(curves, new Map(models.map(({ name, description }) => [name, description]))),
    ),
  ];
}

function curveChart(group: TaskGroup, curves: readonly Curve[], outside: string): Block {
  const alphas = unique(curves.flatMap(({ points }) => points.map(({ alpha }) => alpha))).sort((a, b) => a - b);
  const title = `From IN to RL, ${groupText[group]}`;
  const spec: LineChartSpec = {
    id: idOf('transfer-alpha', group),
    title,
    x: { label: 'α, share of RL', values: alphas },
    y: { label: 'Accuracy minus that of IN, points', format: 'difference' },
    series: curves.map((curve) => ({
      name: movingText(curve),
      points: curve.points.map(({ alpha, test, rate }) =>
        test
          ? { x: alpha, y: test.difference, low: test.low, high: test.high, n: test.n }
          : { x: alpha, y: rate.n > 0 ? 0 : null, low: 0, high: 0, n: rate.n },
      ),
    })),
    references: [{ value: 0, label: 'IN' }],
  };
  return chart(
    spec.id,
    title,
    `${outside} Paired differences on the same items with 95 % intervals (Newcombe).`,
    lineChart(spec),
    lineTable(spec),
  );
}

const points = (value: number | null | undefined): number | null => (value == null ? null : 100 * value);

function bendTable(curves: readonly Curve[]): Table {
  return {
    columns: [
      column('group', 'Group'),
      column('measure', 'Measure'),
      column('moving', 'What moves'),
      column('gain', 'Gain at α = 1, points', 'number', 1),
      column('gainP', 'p, Holm', 'p'),
      column('bend', 'Above the line, points', 'number', 1),
      column('bendLow', 'low', 'number', 1),
      column('bendHigh', 'high', 'number', 1),
      column('bendP', 'p, Holm', 'p'),
      column('n', 'n', 'number'),
    ],
    rows: curves.map((curve) => {
      const end = curve.points.find(({ alpha }) => alpha === 1)?.test;
      const { bend } = curve;
      return {
        group: groupText[curve.group],
        measure: curve.measure,
        moving: movingText(curve),
        gain: points(end?.difference),
        gainP: end?.pHolm ?? null,
        bend: points(bend?.mean),
        bendLow: points(bend?.low),
        bendHigh: points(bend?.high),
        bendP: bend?.pHolm ?? null,
        n: bend?.n ?? null,
      };
    }),
  };
}

function pointTable(curves: readonly Curve[], descriptions: ReadonlyMap<string, string>): Table {
  return {
    columns: [
      column('group', 'Group'),
      column('measure', 'Measure'),
      column('moving', 'What moves'),
      column('alpha', 'α', 'number'),
      column('rate', 'Share', 'rate'),
      ...testColumns,
      ...transitionColumns,
      column('model', 'Weights'),
      rowsColumn,
    ],
    rows: curves.flatMap((curve) =>
      curve.points.map(({ alpha, model, rate, test, select }) => ({
        group: groupText[curve.group],
        measure: curve.measure,
        moving: movingText(curve),
        alpha,
        rate: asRate(rate),
        ...testCells(test),
        model: descriptions.get(model) ?? model,
        ...rowsCell(select),
      })),
    ),
  };
}

/** The group with the clearest steps, curve by curve; nothing where no step is significant. */
export function interpolationFindings(result: InterpolationResult | null): Answer[] {
  const preferred: readonly TaskGroup[] = ['visualReasoning', 'textReasoning', 'vision'];
  const moved = (result?.curves ?? []).filter(
    ({ measure, points: steps }) => measure === 'accuracy' && steps.some(({ test }) => isSignificant(test)),
  );
  const group = preferred.find((one) => moved.some((curve) => curve.group === one));
  if (group === undefined) return [];
  const own = moved.filter((curve) => curve.group === group);
  return [
    answer(
      `From IN to RL by steps of α (all else IN’s; Holm over all steps), in ${groupText[group]}: ${own.map(stepsText).join('; ')}. ${bendText(own)}`.trim(),
      true,
    ),
  ];
}

/** "early is significantly better than IN first at α = 0.5 (+12.0 points …), at α = 1 by …". */
function stepsText(curve: Curve): string {
  const significant = curve.points.filter(({ test, alpha }) => alpha > 0 && isSignificant(test));
  const first = significant[0] ?? curve.points.find(({ test }) => isSignificant(test))!;
  const end = curve.points.find(({ alpha }) => alpha === 1);
  const direction = (first.test!.difference ?? 0) > 0 ? 'better' : 'worse';
  const atEnd = end?.test && first.alpha < 1 ? `, at α = 1 by ${differenceText(end.test)}` : '';
  return `${movingText(curve)} is significantly ${direction} than IN first at α = ${first.alpha} (${differenceText(first.test!)})${atEnd}`;
}

function differenceText({ difference, low, high }: TestRecord): string {
  return `${formatValue(difference, 'difference')} points ${formatInterval(low, high, 'difference')}`;
}

function bendText(curves: readonly Curve[]): string {
  const bent = curves.filter(({ bend }) => isSignificant(bend));
  if (bent.length === 0) {
    return curves.some(({ bend }) => bend?.p != null)
      ? `No path departs significantly from the straight line between its ends.`
      : '';
  }
  return bent
    .map((curve) => {
      const { mean, low, high, pHolm } = curve.bend!;
      const p = formatP(pHolm);
      return (
        `The path of ${movingText(curve)} lies ${(mean ?? 0) > 0 ? 'above' : 'below'} the straight line between its ends ` +
        `(${formatValue(mean, 'difference')} points ${formatInterval(low, high, 'difference')}, Holm-adjusted p ${p.startsWith('<') ? p : `= ${p}`}): ` +
        `the change comes ${isEarly(curve) ? 'early' : 'late'} on the way.`
      );
    })
    .join(' ');
}

/** A gain above its line comes early, and so does a loss below it. */
function isEarly({ bend, points: steps }: Curve): boolean {
  const end = steps.find(({ alpha }) => alpha === 1)?.test?.difference ?? 0;
  return (bend?.mean ?? 0) > 0 === end >= 0;
}
