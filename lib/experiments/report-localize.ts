/** The report's sections on where: image swapping and layer ablation. */
import type { Answer, ChartBlock, Section } from '../report/document.js';
import { formatP, formatValue } from '../report/format.js';
import { type LineChartSpec, type LineSeries, lineChart } from '../report/line-chart.js';
import { smallMultiples } from '../report/small-multiples.js';
import { lineTable } from '../report/tables.js';
import { type AblationCell, allTasks, type LocalizeReasoningResult } from './localize-reasoning.js';
import type { LocalizeVisionResult, SwapCell } from './localize-vision.js';
import { isSignificant } from './measure.js';
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
      return swapChart(model, mode, own, summary);
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
      ...(flaws.length > 0 ? [prose(`Flaws of this set of pairs: ${flaws.join('; ')}.`, 'caution')] : []),
      prose(
        'A suffix swap covers its layer and all later ones, so its curve is cumulative: read where it falls, not where it is high. ' +
          'A single-layer swap can change nothing where a layer only repeats what its neighbours read.',
        'caution',
      ),
    ],
  };
}

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

function swapChart(model: string, mode: SwapCell['mode'], cells: readonly SwapCell[], summary: Summary) {
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
    'Each panel is a task. Bands are 95 % Wilson intervals; cut-off and failed runs are in no rate and are counted in the table.',
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

function relation(p: number | null): string {
  const text = formatP(p);
  return text.startsWith('<') ? text : `= ${text}`;
}

export function reasoningSection(result: LocalizeReasoningResult, summary: Summary): Section {
  const models = unique(result.cells.map(({ model }) => model));
  const parts = unique(result.cells.map(({ part }) => part)).filter((part) => part !== 'none');
  const tasks = unique(result.cells.map(({ task }) => task));
  const charts = parts.map((part) => {
    const own = result.cells.filter((cell) => cell.part === part);
    const layers = unique(own.flatMap(({ layer }) => (layer === null ? [] : [layer]))).sort((a, b) => a - b);
    const multiples = tasks.map((task) => {
      const unablated = (model: string): number =>
        result.cells.find((cell) => cell.model === model && cell.task === task && cell.part === 'none')?.accuracy
          .rate ?? 0;
      return {
        title: task,
        svg: lineChart({
          id: idOf('skip', part, task),
          title: `${task}: accuracy without ${partText[part as 'layer']}`,
          x: { label: 'Layer left out', values: layers },
          y: { label: 'Accuracy', min: 0, max: 1, format: 'percent' },
          series: models.map((model) => ({
            name: model,
            points: own
              .filter((cell) => cell.model === model && cell.task === task && cell.layer !== null)
              .map((cell) => linePoint(cell.layer!, cell.accuracy)),
          })),
          references: models.map((model) => ({ value: unablated(model), label: `${model}, nothing left out` })),
          regions: regionMarks(summary),
        }),
      };
    });
    return chart(
      idOf('skip', part),
      `Accuracy without ${partText[part as 'layer']}`,
      'Each panel is a task; bands are 95 % Wilson intervals. Cut-off answers are in no rate and are counted in the table.',
      smallMultiples(multiples),
      ablationTable(own, true),
    );
  });
  return {
    id: 'reasoning',
    title: 'Which layers reasoning needs',
    lead: 'One layer at a time adds nothing to the residual stream, and the same questions are asked again.',
    blocks: [
      ...charts,
      tableBlock(
        'reasoning-layers',
        'Accuracy by layer left out',
        'Against the unablated run on the same items: exact McNemar, Holm over the layers of one model and task. ' +
          'Detectable: the smallest difference that this n would have shown with 80 % power.',
        ablationTable(
          result.cells.filter(({ task }) => tasks.length === 1 || task === allTasks),
          false,
        ),
      ),
      prose(
        'An answer cut off at the token limit is counted apart, not as wrong: when leaving out a layer makes a model ' +
          'babble, look at the cut-off count beside the accuracy.',
        'caution',
      ),
    ],
  };
}

const partText = {
  layer: 'the layer',
  attn: 'what its attention adds',
  mlp: 'what its MLP adds',
} as const;

function ablationTable(cells: readonly AblationCell[], withRows: boolean) {
  return {
    columns: [
      column('model', 'Model'),
      column('task', 'Task'),
      column('part', 'Left out'),
      column('layer', 'Layer', 'number'),
      column('accuracy', 'Accuracy', 'rate'),
      ...testColumns,
      ...(withRows ? [rowsColumn] : []),
    ],
    rows: cells.map((cell) => ({
      model: cell.model,
      task: cell.task,
      part: cell.part === 'none' ? 'nothing' : cell.part,
      layer: cell.layer,
      accuracy: asRate(cell.accuracy),
      ...testCells(cell.test),
      ...(withRows ? rowsCell(cell.select) : {}),
    })),
  };
}

export function reasoningFindings(result: LocalizeReasoningResult): Answer[] {
  return unique(result.cells.map(({ model }) => model)).flatMap((model) => {
    const tasks = unique(result.cells.map(({ task }) => task));
    const task = tasks.includes(allTasks) ? allTasks : tasks[0]!;
    const own = result.cells.filter((cell) => cell.model === model && cell.task === task);
    const base = own.find(({ part }) => part === 'none');
    const layers = own.filter(({ part }) => part === 'layer');
    if (!base || layers.length === 0) return [];
    const needed = layers.filter(({ test }) => isSignificant(test) && test!.difference! < 0);
    const rest = layers.filter((cell) => !needed.includes(cell));
    const graded = layers.filter(({ accuracy }) => accuracy.rate !== null);
    const worst =
      graded.length > 0 ? graded.reduce((a, b) => (b.accuracy.rate! < a.accuracy.rate! ? b : a)) : undefined;
    const over = task === allTasks ? `${tasks.length - 1} reasoning tasks together` : `\`${task}\``;
    const detectable = Math.max(...rest.map(({ test }) => test?.detectable ?? 0));
    const text =
      `On ${over}, \`${model}\` is right on ${rateText(base.accuracy)}. Leaving out one layer lowers that significantly for ` +
      `${needed.length} of ${layers.length} layers${needed.length > 0 ? ` (${layerList(needed.map(({ layer }) => layer!))})` : ''}` +
      `${worst ? `, most for layer ${worst.layer}: ${rateText(worst.accuracy)}` : ''}.` +
      (rest.length > 0
        ? ` For ${layerList(rest.map(({ layer }) => layer!))} no effect was found; one below about ${formatValue(detectable, 'percent').replace('%', ' points')} would have been missed.`
        : '');
    return [answer(text, needed.length > 0)];
  });
}
