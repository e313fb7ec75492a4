/** The report's charts of attention by span and by head. */
import type { ChartBlock } from '../report/document.js';
import { type HeatMapSpec, heatMap } from '../report/heat-map.js';
import { smallMultiples } from '../report/small-multiples.js';
import { type QuerySpan, querySpans, type TextMode } from './attend.js';
import type { AttendResult } from './attend-analyze.js';
import { type HeadMap, headFigures } from './attend-heads.js';
import { changeColumns, chart, column, idOf } from './report-parts.js';

type Texts = { readonly mode: (mode: TextMode) => string; readonly query: Readonly<Record<QuerySpan, string>> };

const spans = [
  ['first', 'first token'],
  ['image', 'image'],
  ['question', 'question'],
  ['think', 'reasoning'],
  ['final', 'answer'],
  ['other', 'system, template'],
] as const;

/** Where all of the attention goes, span by span; rows add up to 1 over the spans. */
export function spanCharts({ cells, models, writer }: AttendResult, texts: Texts): ChartBlock[] {
  const query = querySpans.find((one) => cells.some((cell) => cell.query === one && cell.image.n > 0));
  const shown = cells.filter((cell) => cell.mode === 'same' && cell.query === query && cell.image.n > 0);
  const panels = models.flatMap((model) => {
    const own = shown.filter((cell) => cell.model === model);
    if (own.length === 0) return [];
    const spec: HeatMapSpec = {
      id: idOf('spans', model),
      title: `${model}: attention by layer and span`,
      rows: spans.map(([, label]) => label),
      columns: own.map(({ layer }) => String(layer)),
      values: spans.map(([name]) => own.map((cell) => cell[name].mean)),
      scale: 'sequential',
      format: 'percent',
      valueLabel: 'Share of attention',
      columnLabel: 'Layer',
      min: 0,
      max: 1,
    };
    return [{ title: `${model} (n = ${own[0]!.image.n})`, svg: heatMap(spec) }];
  });
  if (panels.length === 0 || query === undefined) return [];
  return [
    chart(
      'attention-spans',
      'To every span',
      `Where ${texts.query[query]} look, all reading the text of ${writer}; a column adds up to 100 %. Mean over heads, tokens and items.`,
      smallMultiples(panels),
      {
        columns: [
          column('mode', 'Text'),
          column('query', 'From'),
          column('model', 'Model'),
          column('layer', 'Layer', 'number'),
          ...spans.flatMap(([name, label]) => [
            column(name, label, 'number'),
            column(`${name}Low`, 'low', 'number'),
            column(`${name}High`, 'high', 'number'),
          ]),
          column('n', 'n', 'number'),
        ],
        rows: cells
          .filter(({ image }) => image.n > 0)
          .map((cell) => ({
            mode: cell.mode,
            query: cell.query,
            model: cell.model,
            layer: cell.layer,
            ...Object.fromEntries(
              spans.flatMap(([name]) => [
                [name, cell[name].mean],
                [`${name}Low`, cell[name].low],
                [`${name}High`, cell[name].high],
              ]),
            ),
            n: cell.image.n,
          })),
      },
    ),
  ];
}

function pick<T extends Pick<HeadMap, 'mode' | 'query'>>(all: readonly T[]): T[] {
  const own = all.filter(({ mode, query }) => mode === 'same' && query === 'think');
  return own.length > 0 ? own : all.filter(({ mode }) => mode === 'same');
}

export function headCharts({ heads, headShifts, models, writer }: AttendResult, texts: Texts): ChartBlock[] {
  const shown = pick(heads);
  if (shown.length === 0) return [];
  const max = Math.max(...shown.flatMap(({ mass }) => mass.imageSinkFree.flat()));
  const frame = (values: readonly (readonly number[])[]) => ({
    rows: values.map((_, layer) => `layer ${layer}`),
    columns: values[0]!.map((_, head) => `${head}`),
    values,
    columnLabel: 'Head',
  });
  const panels = models.flatMap((model) => {
    const map = shown.find((one) => one.model === model);
    if (!map) return [];
    const svg = heatMap({
      id: idOf('heads', model),
      title: `${model}: attention on the image by head`,
      ...frame(map.mass.imageSinkFree),
      scale: 'sequential',
      format: 'percent',
      valueLabel: 'On the image',
      min: 0,
      max,
    });
    return [{ title: `${model} (n = ${map.n})`, svg }];
  });
  const caption = `${texts.query[shown[0]!.query]} to the image, all reading the text of ${writer}; sinks taken out`;
  const [from, to] = models.slice(-2);
  const changes = headShifts.filter(
    (shift) => shift.figure === 'imageSinkFree' && shift.from === from && shift.to === to,
  );
  const changePanels = (['same', 'own'] as const).flatMap((mode) =>
    querySpans.flatMap((query) => {
      const shift = changes.find((one) => one.mode === mode && one.query === query);
      if (!shift) return [];
      const svg = heatMap({
        id: idOf('head-shift', mode, query),
        title: `${from} → ${to}: change by head`,
        ...frame(shift.difference),
        scale: 'diverging',
        format: 'difference',
        valueLabel: 'Change, points',
      });
      return [{ title: `${texts.query[query]}, ${texts.mode(mode)} (n = ${shift.n})`, svg }];
    }),
  );
  return [
    chart('attention-heads', 'By head', `Mean attention from ${caption}.`, smallMultiples(panels), headTable(heads)),
    ...(changePanels.length > 0
      ? [
          chart(
            'attention-head-shifts',
            `Change by head, ${from} → ${to}`,
            'Paired over items, sinks taken out. The table has bootstrap intervals and p-values of a sign-flip test, ' +
              'Benjamini–Hochberg over all heads; the other spans are in summary.json.',
            smallMultiples(changePanels),
            headShiftTable(headShifts),
          ),
        ]
      : []),
  ];
}

function headTable(heads: AttendResult['heads']) {
  return {
    columns: [
      column('mode', 'Text'),
      column('query', 'From'),
      column('model', 'Model'),
      column('layer', 'Layer', 'number'),
      column('head', 'Head', 'number'),
      ...headFigures.map((name) => column(name, name, 'number')),
      column('n', 'n', 'number'),
    ],
    rows: heads.flatMap(({ mode, query, model, mass, n }) =>
      mass.image.flatMap((row, layer) =>
        row.map((_, head) => ({
          mode,
          query,
          model,
          layer,
          head,
          ...Object.fromEntries(headFigures.map((name) => [name, mass[name][layer]![head]!])),
          n,
        })),
      ),
    ),
  };
}

function headShiftTable(shifts: AttendResult['headShifts']) {
  return {
    columns: [
      column('mode', 'Text'),
      column('query', 'From'),
      column('step', 'Models'),
      column('figure', 'To'),
      column('layer', 'Layer', 'number'),
      column('head', 'Head', 'number'),
      ...changeColumns,
      column('pBh', 'p, BH', 'p'),
      column('n', 'n', 'number'),
    ],
    rows: shifts
      .filter(({ figure }) => figure === 'imageSinkFree')
      .flatMap((shift) =>
        shift.difference.flatMap((row, layer) =>
          row.map((value, head) => ({
            mode: shift.mode,
            query: shift.query,
            step: `${shift.from} → ${shift.to}`,
            figure: shift.figure,
            layer,
            head,
            difference: 100 * value,
            low: 100 * shift.low[layer]![head]!,
            high: 100 * shift.high[layer]![head]!,
            pBh: shift.pBh?.[layer]?.[head] ?? null,
            n: shift.n,
          })),
        ),
      ),
  };
}
