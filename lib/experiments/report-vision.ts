/** The report's section on where the image is read. */
import type { Answer, ChartBlock, Section } from '../report/document.js';
import { formatP } from '../report/format.js';
import { type LineChartSpec, type LineSeries, lineChart } from '../report/line-chart.js';
import { smallMultiples } from '../report/small-multiples.js';
import { lineTable } from '../report/tables.js';
import type { LocalizeReasoningResult } from './localize-reasoning.js';
import type { LocalizeVisionResult, SwapCell, SwapControl } from './localize-vision-analyze.js';
import {
  answer,
  asRate,
  chart,
  column,
  idOf,
  layerList,
  linePoint,
  meanPoint,
  prose,
  rateText,
  regionMarks,
  rowsCell,
  rowsColumn,
  tableBlock,
  testCells,
  testColumns,
} from './report-parts.js';
import type { Summary } from './summary.js';

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

export function visionSection(result: LocalizeVisionResult, summary: Summary): Section {
  const models = unique(result.cells.map(({ model }) => model));
  const charts = models.flatMap((model) =>
    unique(result.cells.map(({ mode }) => mode)).map((mode) => {
      const own = result.cells.filter((cell) => cell.model === model && cell.mode === mode);
      const controls = result.controls.filter((cell) => cell.model === model && cell.mode === mode);
      return swapChart(model, mode, own, controls, summary);
    }),
  );
  const flaws = result.flaws.map(
    ({ task, kind, ids, of }) => `\`${task}\`: ${flawText[kind]} (${ids.length} of ${of} pairs)`,
  );
  return {
    id: 'vision',
    title: 'Where the image is read',
    lead:
      'Two images, one question. In the patched run the keys and values of the image tokens come from the other image, ' +
      'in the layers shown; if the answer changes, the image was read there. Rates are over pairs, bands are 95 % Wilson intervals.',
    blocks: [
      ...charts,
      ...models.flatMap((model) =>
        goldCharts(
          model,
          result.cells.filter((cell) => cell.model === model),
          summary,
        ),
      ),
      tableBlock(
        'vision-tasks',
        'Unpatched runs and where swapping loses its effect',
        'Readable pairs: both unpatched answers are right and different; elsewhere a change cannot be interpreted. ' +
          'Read in: layers after which a suffix swap changes significantly fewer answers (exact McNemar, Holm over layers).',
        {
          columns: [
            column('model', 'Model'),
            column('task', 'Task'),
            column('target', 'Right on the target image', 'rate'),
            column('source', 'Right on the source image', 'rate'),
            column('readable', 'Readable pairs', 'number'),
            column('readAt', 'Read in'),
          ],
          rows: result.unpatched.map((cell) => {
            const { layers } = result.readAt.find((r) => r.model === cell.model && r.task === cell.task)!;
            return {
              model: cell.model,
              task: cell.task,
              target: asRate(cell.target),
              source: asRate(cell.source),
              readable: cell.readablePairs,
              readAt: layers.length > 0 ? layerList(layers) : null,
            };
          }),
        },
      ),
      ...controlTable(result),
      ...(flaws.length > 0 ? [prose(`Flaws of this set of pairs: ${flaws.join('; ')}.`, 'caution')] : []),
      prose(
        'A suffix swap covers its layer and all later ones, so its curve is cumulative: read where it falls, not where it is high. ' +
          'A single-layer swap can change nothing where a layer only repeats what its neighbours read.',
        'caution',
      ),
    ],
  };
}

/** The two controls against the swaps they stand beside. */
function controlTable({ controls }: LocalizeVisionResult) {
  if (controls.length === 0) return [];
  return [
    tableBlock(
      'vision-controls',
      'Controls of the swaps',
      'Self: keys and values of the image replaced by the run’s own, which must change nothing. Random: as many layers as the ' +
        'swap covers, drawn anew for every pair. The difference is control minus swap on the same pairs (exact McNemar, Holm ' +
        'over the layers of one curve): a random set that does as much as the named layers means that only their number counts.',
      {
        columns: [
          column('model', 'Model'),
          column('task', 'Task'),
          column('mode', 'Mode'),
          column('layer', 'Layer', 'number'),
          column('control', 'Control'),
          column('change', 'Changes', 'rate'),
          ...testColumns,
          rowsColumn,
        ],
        rows: controls.map((cell) => ({
          model: cell.model,
          task: cell.task,
          mode: cell.mode,
          layer: cell.layer,
          control: cell.control,
          change: asRate(cell.change),
          ...testCells(cell.test),
          ...rowsCell(cell.select),
        })),
      },
    ),
  ];
}

const controlText = { self: 'control: own values', random: 'control: as many random layers' } as const;

const flawText = {
  'same-answer': 'both images have the same answer, no swap can change it',
  'constant-answers': 'every pair goes from the same answer to the same other one, so a bias looks like an effect',
  placeholder: 'the prompt carried a literal <image>, taken out here',
} as const;

const modeText = {
  suffix: 'layer l and all after it',
  single: 'layer l alone',
  window: 'a window of layers from l on',
  prefix: 'layer l and all before it',
} as const;

function swapChart(
  model: string,
  mode: SwapCell['mode'],
  cells: readonly SwapCell[],
  controls: readonly SwapControl[],
  summary: Summary,
) {
  const tasks = unique(cells.map(({ task }) => task));
  const layers = unique(cells.map(({ layer }) => layer)).sort((a, b) => a - b);
  const multiples = tasks.map((task) => {
    const own = cells.filter((cell) => cell.task === task);
    const series: LineSeries[] = [
      { name: 'answer changes', points: own.map((cell) => linePoint(cell.layer, cell.change)) },
      {
        name: 'becomes the source’s answer (readable pairs)',
        points: own.map((cell) => linePoint(cell.layer, cell.readableToSource)),
      },
      { name: 'still right', color: 'muted', points: own.map((cell) => linePoint(cell.layer, cell.correct)) },
      ...unique(controls.map(({ control }) => control)).map((control) => ({
        name: controlText[control],
        points: controls
          .filter((cell) => cell.task === task && cell.control === control)
          .map((cell) => linePoint(cell.layer, cell.change)),
      })),
    ];
    return {
      title: task,
      svg: lineChart({
        id: idOf('swap', model, mode, task),
        title: `${task}: swapping in ${modeText[mode]}`,
        x: { label: 'Layer', values: layers },
        y: { label: 'Share of pairs', min: 0, max: 1, format: 'percent' },
        series,
        regions: regionMarks(summary),
      }),
    };
  });
  return chart(
    idOf('swap', model, mode),
    `${model}: image swapped in ${modeText[mode]}`,
    'Each panel is a task. Bands are 95 % Wilson intervals; cut-off and failed runs are in no rate and are counted in the table.' +
      (controls.length > 0
        ? ' The controls show how many answers change when nothing should, or when the layers do not matter.'
        : ''),
    smallMultiples(multiples),
    swapTable(cells),
  );
}

/** The continuous measure: it moves before answers flip. */
function goldCharts(model: string, cells: readonly SwapCell[], summary: Summary): ChartBlock[] {
  const own = cells.filter(({ mode, logProbDifference }) => mode === 'suffix' && logProbDifference.n > 0);
  if (own.length === 0) return [];
  const spec: LineChartSpec = {
    id: idOf('gold', model),
    title: `${model}: preference for the target’s gold answer under suffix swaps`,
    x: { label: 'Layer', values: unique(own.map(({ layer }) => layer)).sort((a, b) => a - b) },
    y: { label: 'Log-probability difference, nats', format: 'number' },
    series: unique(own.map(({ task }) => task)).map((task) => ({
      name: task,
      points: own.filter((cell) => cell.task === task).map((cell) => meanPoint(cell.layer, cell.logProbDifference)),
    })),
    regions: regionMarks(summary),
    references: [{ value: 0, label: 'no preference' }],
  };
  return [
    chart(
      idOf('gold', model),
      `${model}: preference for the target’s over the source’s gold answer`,
      'Log-probability of the first token of the target’s gold answer minus that of the source’s, at the first generated token, ' +
        'suffix swaps; pairs whose gold answers start with the same token are left out. Bands are 95 % bootstrap intervals. ' +
        'Says little for tasks whose answers open with a chain of thought.',
      lineChart(spec),
      lineTable(spec),
    ),
  ];
}

function swapTable(cells: readonly SwapCell[]) {
  return {
    columns: [
      column('model', 'Model'),
      column('task', 'Task'),
      column('mode', 'Mode'),
      column('layer', 'Layer', 'number'),
      column('change', 'Changes', 'rate'),
      column('toSource', 'Becomes source’s', 'rate'),
      column('correct', 'Still right', 'rate'),
      column('readableChange', 'Changes, readable pairs', 'rate'),
      column('readableToSource', 'Becomes source’s, readable pairs', 'rate'),
      column('referenceChange', 'Changes, published comparison', 'rate'),
      column('logProbDifference', 'Log-prob. difference, nats', 'number'),
      column('logProbN', 'its n', 'number'),
      column('kl', 'KL to unpatched, nats', 'number'),
      column('klN', 'its n', 'number'),
      column('stepP', 'p of the step to the next layer, Holm', 'p'),
      rowsColumn,
    ],
    rows: cells.map((cell) => ({
      model: cell.model,
      task: cell.task,
      mode: cell.mode,
      layer: cell.layer,
      change: asRate(cell.change),
      toSource: asRate(cell.toSource),
      correct: asRate(cell.correct),
      readableChange: asRate(cell.readableChange),
      readableToSource: asRate(cell.readableToSource),
      referenceChange: asRate(cell.referenceChange),
      logProbDifference: cell.logProbDifference.mean,
      logProbN: cell.logProbDifference.n,
      kl: cell.kl.mean,
      klN: cell.kl.n,
      stepP: cell.step?.pHolm ?? null,
      ...rowsCell(cell.select),
    })),
  };
}

/** One sentence per task of the last model: the largest significant fall of the suffix curve. */
export function visionFindings(result: LocalizeVisionResult): Answer[] {
  const model = result.unpatched.at(-1)?.model;
  return result.readAt
    .filter((read) => read.model === model)
    .flatMap(({ task, layers }) => {
      const curve = result.cells.filter((cell) => cell.model === model && cell.task === task && cell.mode === 'suffix');
      const [first] = curve;
      if (!first) return [];
      const falls = curve.filter(({ layer }) => layers.includes(layer));
      if (falls.length === 0) {
        const why =
          first.change.rate === null
            ? `no answer of a swapped run could be compared (${first.change.truncated} cut off, ${first.change.failed} failed)`
            : `swapping all layers changes ${rateText(first.change)} of the answers, and no step from one layer to the next is significant`;
        return [answer(`Where \`${model}\` reads the image for \`${task}\` cannot be told: ${why}.`, false)];
      }
      const steepest = falls.reduce((a, b) => (b.step!.difference! < a.step!.difference! ? b : a));
      const next = curve.find(({ layer }) => layer === steepest.layer + 1)!;
      const text =
        `For \`${task}\`, \`${model}\` reads the image in ${layerList(layers)}: swapped from layer ${steepest.layer} on, ` +
        `the answer changes for ${rateText(steepest.change)}; from layer ${next.layer} on, for ${rateText(next.change)} ` +
        `(Holm-adjusted p ${relation(steepest.step!.pHolm)}).`;
      return [answer(text, true)];
    });
}

/** Whether patching a run with itself changed anything: the instrument's own error, over both probes. */
export function controlFindings(
  vision: LocalizeVisionResult | null,
  reasoning: LocalizeReasoningResult | null,
): Answer[] {
  const swaps = (vision?.controls ?? []).filter(({ control }) => control === 'self');
  const ablations = (reasoning?.controls ?? []).filter(({ control }) => control === 'self');
  if (swaps.length + ablations.length === 0) return [];
  const changed =
    swaps.reduce((sum, { change }) => sum + change.successes, 0) +
    ablations.reduce((sum, { test }) => sum + (test ? test.lost + test.gained : 0), 0);
  const compared =
    swaps.reduce((sum, { change }) => sum + change.n, 0) + ablations.reduce((sum, { test }) => sum + (test?.n ?? 0), 0);
  return [
    answer(
      changed === 0
        ? `Patching runs with their own values changed none of ${compared} answers: the instrument adds nothing of its own.`
        : `Patching runs with their own values changed ${changed} of ${compared} answers: **the instrument is not neutral here**, and no effect of that size can be read.`,
      null,
    ),
  ];
}

function relation(p: number | null): string {
  const text = formatP(p);
  return text.startsWith('<') ? text : `= ${text}`;
}
