/** The report's section on the published protocol: the same data, each of its deviations by itself. */
import type { Answer, Block, Section } from '../report/document.js';
import { lineChart } from '../report/line-chart.js';
import { smallMultiples } from '../report/small-multiples.js';
import type { DeviationName } from './reference.js';
import type { AppendCell, ReferenceResult } from './reference-analyze.js';
import {
  answer,
  asRate,
  chart,
  column,
  idOf,
  linePoint,
  prose,
  regionMarks,
  rowsCell,
  rowsColumn,
  tableBlock,
  testCells,
  testColumns,
} from './report-parts.js';
import type { Summary } from './summary.js';

const deviationText: Readonly<Record<DeviationName, string>> = {
  'suffix-as-layer': 'A swap of layer l and all after it is reported as “layer l”, and the largest change as the peak',
  'decode-append': 'Every decode step appends the whole source image to the caches again',
  'prompt-by-name': 'The prompt is chosen by a substring of the model’s name (“early” contains “rl”)',
  'decimal-mangling': 'A character, a separator and the rest are read as an option: “3.14” becomes “14”',
  'one-percent': 'Numbers within 1 % count as equal: 2005 for 2004',
  'truncated-wrong': 'An answer cut off at the token limit counts as wrong',
  'early-donor': 'Vision tower, projector, embeddings, norm and head silently follow the early block',
  thirds: 'Regions are thirds of the layers (9, 9 and 10 of 28) and nothing else is tried',
  'no-intervals': 'Rates of 100 items are compared without intervals or tests',
};

export function referenceSection(result: ReferenceResult, summary: Summary): Section {
  return {
    id: 'reference',
    title: 'What the published protocol would have concluded',
    lead:
      'The published scripts deviate in several ways from what they are described to do. Each deviation is reproduced here by itself, on the ' +
      'checkpoints and questions of this study, beside the corrected procedure.',
    blocks: [
      tableBlock(
        'reference-verdicts',
        'Deviation by deviation',
        '“Changes the conclusion” is about this data; a deviation that changes nothing here may change much elsewhere.',
        {
          columns: [
            column('deviation', 'Deviation'),
            column('published', 'The published way says'),
            column('corrected', 'The corrected way says'),
            column('changes', 'Changes the conclusion'),
          ],
          rows: result.verdicts.map(({ deviation, published, corrected, changes }) => ({
            deviation: deviationText[deviation],
            published: changes === null ? `not in this study: ${published}` : published,
            corrected,
            changes: changes === null ? null : changes ? 'yes' : 'no',
          })),
        },
      ),
      ...appendBlocks(result.append, summary),
      ...promptBlocks(result),
      prose(
        'k copies of a key weigh k times in the softmax, so the appended caches are reproduced exactly by adding ln k to the scores of the image. ' +
          'Which checkpoints and questions the published numbers come from is not reproduced here.',
      ),
    ],
  };
}

function appendBlocks(cells: readonly AppendCell[], summary: Summary): Block[] {
  const tasks = [...new Set(cells.map(({ task }) => task))];
  if (tasks.length === 0) return [];
  const panels = tasks.map((task) => {
    const own = cells.filter((cell) => cell.task === task);
    const svg = lineChart({
      id: idOf('append', task),
      title: `${task}: answers changed by swapping the image from a layer on`,
      x: { label: 'Layer', values: own.map(({ layer }) => layer) },
      y: { label: 'Share of pairs', min: 0, max: 1, format: 'percent' },
      series: [
        {
          name: 'image appended at every decode step (published)',
          points: own.map((cell) => linePoint(cell.layer, cell.appended)),
        },
        { name: 'image kept once (corrected)', points: own.map((cell) => linePoint(cell.layer, cell.once)) },
      ],
      regions: regionMarks(summary),
    });
    return { title: task, svg };
  });
  return [
    chart(
      'reference-append',
      'The decode bug: the image appended at every step',
      'Published comparison of whole texts, suffix swaps. Short answers are mostly decided before the bug sets in; long ones are not. Bands are 95 % Wilson intervals.',
      smallMultiples(panels),
      {
        columns: [
          column('task', 'Task'),
          column('layer', 'Layer', 'number'),
          column('once', 'Image kept once', 'rate'),
          column('appended', 'Image appended', 'rate'),
          ...testColumns,
          rowsColumn,
        ],
        rows: cells.map((cell) => ({
          task: cell.task,
          layer: cell.layer,
          once: asRate(cell.once),
          appended: asRate(cell.appended),
          ...testCells(cell.test),
          ...rowsCell(cell.select),
        })),
      },
    ),
  ];
}

function promptBlocks({ prompts }: ReferenceResult): Block[] {
  if (prompts.length === 0) return [];
  return [
    tableBlock(
      'reference-prompts',
      'The prompt bug: grafts asked by name',
      'The same grafts on the same questions, asked alike and asked as a substring of the published name decides. Differences are against IN (exact McNemar, Holm over the models of one column).',
      {
        columns: [
          column('model', 'Model'),
          column('style', 'Style by name'),
          column('alike', 'Asked alike', 'rate'),
          ...testColumns.map((one) => ({ ...one, key: `alike-${one.key}` })),
          column('byName', 'Asked by name', 'rate'),
          ...testColumns.map((one) => ({ ...one, key: `named-${one.key}` })),
          rowsColumn,
        ],
        rows: prompts.map((cell) => ({
          model: cell.model,
          style: cell.style,
          alike: asRate(cell.alike),
          ...Object.fromEntries(
            Object.entries(testCells(cell.alikeTest)).map(([key, value]) => [`alike-${key}`, value]),
          ),
          byName: asRate(cell.byName),
          ...Object.fromEntries(
            Object.entries(testCells(cell.byNameTest)).map(([key, value]) => [`named-${key}`, value]),
          ),
          ...rowsCell(cell.select),
        })),
      },
    ),
  ];
}

export function referenceFindings({ verdicts }: ReferenceResult): Answer[] {
  const judged = verdicts.filter(({ changes }) => changes !== null);
  const changing = judged.filter(({ changes }) => changes);
  if (judged.length === 0) return [];
  const names = changing.map(({ deviation }) => deviation);
  return [
    answer(
      `Of ${judged.length} deviations of the published protocol, reproduced one by one on this data, ${changing.length} change what is concluded` +
        `${names.length > 0 ? `: ${names.join(', ')}` : ''}.`,
      null,
    ),
  ];
}
