/** The report's section on attention: where reasoning and answer tokens look, and how training moved that. */
import type { Answer, ChartBlock, Section } from '../report/document.js';
import { formatNumber, formatValue } from '../report/format.js';
import { lineChart } from '../report/line-chart.js';
import { smallMultiples } from '../report/small-multiples.js';
import { type QuerySpan, querySpans, type TextMode } from './attend.js';
import type { AttendResult, AttentionCell, AttentionFigure, AttentionShift } from './attend-analyze.js';
import { headCharts, spanCharts } from './report-attend-heads.js';
import { pictureBlocks } from './report-attend-pictures.js';
import {
  answer,
  changeColumns,
  chart,
  column,
  idOf,
  layerList,
  meanPoint,
  prose,
  regionMarks,
  rowsCell,
  rowsColumn,
} from './report-parts.js';
import type { Summary } from './summary.js';

const queryText: Readonly<Record<QuerySpan, string>> = { think: 'reasoning tokens', final: 'answer tokens' };
const figureText: Readonly<Partial<Record<AttentionFigure, string>>> = {
  image: 'Attention mass on the image',
  imageSinkFree: 'Attention mass on the image, sinks taken out',
  imagePerShare: 'Mass on the image over its share of keys',
  imageSinkFreePerShare: 'Mass over share of keys, sinks taken out',
};

export function attendSection(result: AttendResult, summary: Summary): Section {
  const modeText = (mode: TextMode): string =>
    mode === 'same' ? `all reading the text of ${result.writer}` : 'each reading its own text';
  const texts = { mode: modeText, query: queryText };
  const charts: ChartBlock[] = [];
  for (const figure of ['image', 'imageSinkFree', 'imageSinkFreePerShare'] as const) {
    const cells = result.cells.filter((cell) => cell[figure].n > 0);
    const panels = (['same', 'own'] as const).flatMap((mode) =>
      querySpans.flatMap((query) => {
        const own = cells.filter((cell) => cell.mode === mode && cell.query === query);
        if (own.length === 0) return [];
        const title = `${queryText[query]}, ${modeText(mode)}`;
        return [
          { title, svg: attentionLines(idOf('attention', figure, mode, query), title, figure, own, result, summary) },
        ];
      }),
    );
    if (panels.length === 0) continue;
    charts.push(
      chart(
        idOf('attention', figure),
        figureText[figure]!,
        captions[figure],
        smallMultiples(panels),
        attentionTable(cells),
      ),
    );
  }
  return {
    id: 'attention',
    title: 'Where reasoning looks',
    lead:
      'For every decoder layer and head, the attention that generated tokens give to the image and the other spans, summed inside the attention kernel. ' +
      'Reading the same text isolates how a model reads; reading its own adds what it writes.',
    blocks: [
      ...charts,
      ...shiftCharts(result, summary, modeText),
      ...spanCharts(result, texts),
      ...headCharts(result, texts),
      ...pictureBlocks(result, texts),
      ...unusableNote(result),
      prose(
        'Attention is not use: a key can be attended to and ignored. Sinks are key 0 and image keys whose received mass is an ' +
          'outlier (modified z-score above 3.5); a patch that is truly looked at can be such an outlier too, so both figures are shown.',
        'caution',
      ),
    ],
  };
}

const captions = {
  image: 'Mean over heads, tokens and items; bands are 95 % bootstrap intervals over items.',
  imageSinkFree: 'The image without its sink keys, as a share of the mass that is on no sink.',
  imagePerShare: '1 is what uniform attention over the visible keys would give.',
  imageSinkFreePerShare: '1 is what uniform attention over the visible keys that are no sinks would give.',
};

function attentionLines(
  id: string,
  title: string,
  figure: AttentionFigure,
  cells: readonly AttentionCell[],
  { models }: AttendResult,
  summary: Summary,
): string {
  const isShare = figure === 'image' || figure === 'imageSinkFree';
  return lineChart({
    id,
    title,
    x: { label: 'Layer', values: Array.from({ length: summary.layers }, (_, layer) => layer) },
    y: { label: isShare ? 'Attention mass' : 'Times uniform', min: 0, format: isShare ? 'percent' : 'number' },
    series: models.map((model) => ({
      name: model,
      points: cells.filter((cell) => cell.model === model).map((cell) => meanPoint(cell.layer, cell[figure])),
    })),
    regions: regionMarks(summary),
    ...(isShare ? {} : { references: [{ value: 1, label: 'uniform' }] }),
  });
}

function attentionTable(cells: readonly AttentionCell[]) {
  const figures = [
    'image',
    'imageSinkFree',
    'imagePerShare',
    'imageSinkFreePerShare',
    'question',
    'think',
    'final',
    'other',
    'first',
    'sinks',
  ] as const;
  return {
    columns: [
      column('mode', 'Text'),
      column('query', 'From'),
      column('model', 'Model'),
      column('layer', 'Layer', 'number'),
      ...figures.flatMap((figure) => [
        column(figure, figure, 'number'),
        column(`${figure}Low`, 'low', 'number'),
        column(`${figure}High`, 'high', 'number'),
      ]),
      column('n', 'n', 'number'),
      column('missing', 'Without this span', 'number'),
      rowsColumn,
    ],
    rows: cells.map((cell) => ({
      mode: cell.mode,
      query: cell.query,
      model: cell.model,
      layer: cell.layer,
      ...Object.fromEntries(
        figures.flatMap((figure) => [
          [figure, cell[figure].mean],
          [`${figure}Low`, cell[figure].low],
          [`${figure}High`, cell[figure].high],
        ]),
      ),
      n: cell.image.n,
      missing: cell.image.missing,
      ...rowsCell(cell.select),
    })),
  };
}

/** Both intervals in one place would hide each other: the drawing has the simultaneous one, the table both. */
function shiftCharts(result: AttendResult, summary: Summary, modeText: (mode: TextMode) => string): ChartBlock[] {
  const shifts = result.shifts.filter(({ figure, difference }) => figure === 'imageSinkFree' && difference.n > 0);
  const steps = [...new Set(shifts.map(({ from, to }) => `${from} → ${to}`))];
  const panels = (['same', 'own'] as const).flatMap((mode) =>
    querySpans.flatMap((query) => {
      const own = shifts.filter((shift) => shift.mode === mode && shift.query === query);
      if (own.length === 0) return [];
      const title = `${queryText[query]}, ${modeText(mode)}`;
      const svg = lineChart({
        id: idOf('shift', mode, query),
        title: `Change of attention to the image: ${title}`,
        x: { label: 'Layer', values: Array.from({ length: summary.layers }, (_, layer) => layer) },
        y: { label: 'Change, points of attention mass', format: 'difference' },
        series: steps.map((step) => ({
          name: step,
          points: own
            .filter(({ from, to }) => `${from} → ${to}` === step)
            .map(({ layer, difference, simultaneous }) => ({
              x: layer,
              y: difference.mean,
              ...simultaneous,
              n: difference.n,
            })),
        })),
        regions: regionMarks(summary),
        references: [{ value: 0, label: 'no change' }],
      });
      return [{ title, svg }];
    }),
  );
  if (panels.length === 0) return [];
  return [
    chart(
      'attention-shifts',
      'Change of attention to the image between models',
      'Paired over items, sinks taken out. Bands: bootstrap at level 1 − 0.05/layers. A shift counts as significant by a sign-flip test ' +
        'over items, Holm-adjusted over the layers of its curve; the bands are too narrow for that with few items.',
      smallMultiples(panels),
      shiftTable(result.shifts),
    ),
  ];
}

function shiftTable(shifts: readonly AttentionShift[]) {
  return {
    columns: [
      column('mode', 'Text'),
      column('query', 'From'),
      column('step', 'Models'),
      column('figure', 'To'),
      column('layer', 'Layer', 'number'),
      ...changeColumns,
      column('jointLow', 'jointly low', 'number', 2),
      column('jointHigh', 'high', 'number', 2),
      column('n', 'n', 'number'),
      column('p', 'p', 'p'),
      column('pHolm', 'p, Holm', 'p'),
      column('significant', 'Significant'),
    ],
    // Ratios to uniform attention are no points of mass; they are in summary.json.
    rows: shifts
      .filter(({ difference, figure }) => difference.n > 0 && !figure.endsWith('PerShare'))
      .map((shift) => ({
        mode: shift.mode,
        query: shift.query,
        step: `${shift.from} → ${shift.to}`,
        figure: shift.figure,
        layer: shift.layer,
        difference: points(shift.difference.mean),
        low: points(shift.difference.low),
        high: points(shift.difference.high),
        jointLow: points(shift.simultaneous.low),
        jointHigh: points(shift.simultaneous.high),
        n: shift.difference.n,
        p: shift.p,
        pHolm: shift.pHolm,
        significant: shift.significant ? 'yes' : 'no',
      })),
  };
}

const points = (value: number | null): number | null => (value === null ? null : 100 * value);

function unusableNote({ unusable }: AttendResult) {
  const some = unusable.filter(({ failed, truncated }) => failed + truncated > 0);
  if (some.length === 0) return [];
  const list = some.map(({ model, failed, truncated }) => `${model}: ${failed} failed or empty, ${truncated} cut off`);
  return [prose(`Items without a usable text: ${list.join('; ')}. They are left out, not counted as zero.`, 'caution')];
}

/** The last step of training, reasoning tokens, same text. */
export function attendFindings({ shifts, models, writer }: AttendResult): Answer[] {
  const [from, to] = models.slice(-2);
  return (['same', 'own'] as const).flatMap((mode) => {
    const all = shifts.filter(
      (shift) => shift.mode === mode && shift.from === from && shift.to === to && shift.figure === 'imageSinkFree',
    );
    const query = (['think', 'final'] as const).find((one) => all.some((s) => s.query === one && s.difference.n > 0));
    const own = all.filter((shift) => shift.query === query);
    if (query === undefined) return [];
    const up = own.filter(({ significant, difference }) => significant && difference.mean! > 0);
    const down = own.filter(({ significant, difference }) => significant && difference.mean! < 0);
    const reading = mode === 'same' ? `Reading the same text (${writer}’s)` : 'Each reading its own text';
    const start = `${reading}, ${queryText[query]} of \`${to}\``;
    if (up.length + down.length === 0) {
      return [
        answer(
          `${start} give the image no significantly different attention than \`${from}\`’s in any layer (n = ${own[0]!.difference.n}).`,
          false,
        ),
      ];
    }
    const largest = [...up, ...down].reduce((a, b) =>
      Math.abs(b.difference.mean!) > Math.abs(a.difference.mean!) ? b : a,
    );
    const { mean, low, high, n } = largest.difference;
    const parts = [
      up.length > 0 ? `more attention in ${layerList(up.map(({ layer }) => layer))}` : '',
      down.length > 0 ? `less${up.length > 0 ? '' : ' attention'} in ${layerList(down.map(({ layer }) => layer))}` : '',
    ].filter(Boolean);
    const text =
      `${start} give the image ${parts.join(' and ')} than \`${from}\`’s; largest in layer ${largest.layer}: ` +
      `${formatValue(mean, 'difference', 2)} points (${formatValue(low, 'difference', 2)}, ${formatValue(high, 'difference', 2)}) of attention mass (n = ${formatNumber(n)}, sinks taken out).`;
    return [answer(text, true)];
  });
}
