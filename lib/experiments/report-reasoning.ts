/** The report's section on which layers reasoning needs. */
import type { Answer, Section } from '../report/document.js';
import { formatValue } from '../report/format.js';
import { lineChart } from '../report/line-chart.js';
import { smallMultiples } from '../report/small-multiples.js';
import { type AblationCell, allTasks, type LocalizeReasoningResult } from './localize-reasoning.js';
import { isSignificant } from './measure.js';
import {
  answer,
  asRate,
  chart,
  column,
  idOf,
  layerList,
  linePoint,
  prose,
  rateText,
  regionMarks,
  rowsCell,
  rowsColumn,
  tableBlock,
  testCells,
  testColumns,
  transitionColumns,
} from './report-parts.js';
import type { Summary } from './summary.js';

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

export function reasoningSection(result: LocalizeReasoningResult, summary: Summary): Section {
  const models = unique(result.cells.map(({ model }) => model));
  const parts = unique(result.cells.map(({ part }) => part)).filter((part) => part !== 'none');
  const tasks = unique(result.cells.map(({ task }) => task));
  const charts = parts.map((part) => {
    const own = result.cells.filter((cell) => cell.part === part);
    const layers = unique(own.flatMap(({ layer }) => (layer === null ? [] : [layer]))).sort((a, b) => a - b);
    const multiples = tasks.map((task) => {
      const unablated = (model: string): number | null =>
        result.cells.find((cell) => cell.model === model && cell.task === task && cell.part === 'none')?.accuracy
          .rate ?? null;
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
          references: [
            ...models.flatMap((model) => {
              const value = unablated(model);
              return value === null ? [] : [{ value, label: 'nothing left out', series: model }];
            }),
            ...result.controls
              .filter((cell) => cell.part === part && cell.task === task && cell.accuracy.rate !== null)
              // A control that changes nothing, as it must, would lie on the line of nothing left out.
              .filter((cell) => cell.control !== 'self' || cell.accuracy.rate !== unablated(cell.model))
              .map((cell) => ({
                value: cell.accuracy.rate!,
                label: `control: ${ablationControl[cell.control]}`,
                series: cell.model,
              })),
          ],
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
      ...ablationControls(result),
      prose(
        'An answer cut off at the token limit is counted apart, not as wrong: when leaving out a layer makes a model ' +
          'babble, look at the cut-off count beside the accuracy.',
        'caution',
      ),
    ],
  };
}

const ablationControl = { self: 'own outputs', random: 'random layers' } as const;

function ablationControls({ controls }: LocalizeReasoningResult) {
  if (controls.length === 0) return [];
  return [
    tableBlock(
      'reasoning-controls',
      'Controls of the ablations',
      'Self: every output replaced by the run’s own, which must change nothing. Random: as many layers as are left out at once, ' +
        'drawn anew for every question. Against the unablated run on the same items (exact McNemar, Holm over the controls of one model and task).',
      {
        columns: [
          column('model', 'Model'),
          column('task', 'Task'),
          column('part', 'Left out'),
          column('control', 'Control'),
          column('width', 'Layers', 'number'),
          column('accuracy', 'Accuracy', 'rate'),
          ...testColumns,
          rowsColumn,
        ],
        rows: controls.map((cell) => ({
          model: cell.model,
          task: cell.task,
          part: cell.part,
          control: cell.control,
          width: cell.width,
          accuracy: asRate(cell.accuracy),
          ...testCells(cell.test),
          ...rowsCell(cell.select),
        })),
      },
    ),
  ];
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
      ...(withRows ? transitionColumns : []),
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
