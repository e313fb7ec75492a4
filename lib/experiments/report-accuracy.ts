/** Accuracy by model and task: the map and the table behind it, for grafts and for frozen runs. */
import type { ChartBlock, Table } from '../report/document.js';
import { heatMap } from '../report/heat-map.js';
import type { AccuracyCell, TaskGroup } from './answers.js';
import {
  asRate,
  chart,
  column,
  rowsCell,
  rowsColumn,
  testCells,
  testColumns,
  transitionColumns,
} from './report-parts.js';

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

export const groupText: Readonly<Record<TaskGroup, string>> = {
  vision: 'vision',
  visualReasoning: 'visual reasoning',
  textReasoning: 'text reasoning',
};

/** Models × tasks at a glance; the full table with tests is behind it. */
export function accuracyMap(id: string, title: string, caption: string, cells: readonly AccuracyCell[]): ChartBlock {
  const tasks = unique(cells.flatMap(({ task }) => (task === null ? [] : [task])));
  const models = unique(cells.map(({ model }) => model));
  const svg = heatMap({
    id,
    title,
    rows: models,
    columns: tasks,
    values: models.map((model) =>
      tasks.map((task) => cells.find((cell) => cell.model === model && cell.task === task)?.accuracy.rate ?? null),
    ),
    scale: 'sequential',
    format: 'percent',
    valueLabel: 'Accuracy',
    min: 0,
    max: 1,
  });
  return chart(id, title, caption, svg, accuracyTable(cells));
}

function accuracyTable(cells: readonly AccuracyCell[]): Table {
  return {
    columns: [
      column('group', 'Group'),
      column('task', 'Task'),
      column('model', 'Model'),
      column('accuracy', 'Accuracy', 'rate'),
      ...testColumns,
      ...transitionColumns,
      rowsColumn,
    ],
    rows: cells.map((cell) => ({
      group: groupText[cell.group],
      task: cell.task ?? 'all',
      model: cell.model,
      accuracy: asRate(cell.accuracy),
      ...testCells(cell.test),
      ...rowsCell(cell.select),
    })),
  };
}
