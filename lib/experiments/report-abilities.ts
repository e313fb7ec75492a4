/** The report's sections on transfer (grafts) and necessity (freezing). */
import { type BarChartSpec, barChart } from '../report/bar-chart.js';
import type { Answer, ChartBlock, Section, Table } from '../report/document.js';
import { formatValue } from '../report/format.js';
import { heatMap } from '../report/heat-map.js';
import { type PointRangeSpec, pointRange } from '../report/point-range.js';
import { barTable, pointTable } from '../report/tables.js';
import { type AbilityCell, type AbilityMeasure, type AccuracyCell, type TaskGroup, taskGroups } from './answers.js';
import type { FreezeResult } from './freeze.js';
import { isSignificant } from './measure.js';
import type { Sight } from './prompter.js';
import {
  answer,
  asRate,
  barValue,
  chart,
  column,
  prose,
  rateText,
  rowsCell,
  rowsColumn,
  tableBlock,
  testCells,
  testColumns,
  testText,
  transitionColumns,
} from './report-parts.js';
import { type TransferResult, transferReference } from './transfer.js';

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

const measureText: Readonly<Record<AbilityMeasure, string>> = {
  M_vis: 'right with the image and wrong with a black one',
  M_v2r: 'right with the image and right with a description instead',
  M_rea: 'right on text-only reasoning',
};
const groupText: Readonly<Record<TaskGroup, string>> = {
  vision: 'vision',
  visualReasoning: 'visual reasoning',
  textReasoning: 'text reasoning',
};

export function transferSection(result: TransferResult): Section {
  const measures = unique(result.abilities.map(({ measure }) => measure));
  const models = result.models.map(({ name }) => name);
  const spec: BarChartSpec = {
    id: 'transfer-abilities',
    title: 'Ability measures of the eight models',
    groups: models,
    series: measures.map((measure) => ({
      name: measure,
      values: models.map((model) => {
        const cell = result.abilities.find((one) => one.measure === measure && one.model === model);
        return cell ? barValue(cell.rate) : { value: null };
      }),
    })),
    value: { label: 'Share of items', min: 0, max: 1, format: 'percent' },
  };
  return {
    id: 'transfer',
    title: 'Does a part of RL carry its gains',
    lead:
      `Blocks of layers of the two parents, early:mid:late, cut at layers ${result.cuts.join(' and ')}, combined by views. ` +
      `Weights outside the decoder layers follow the policy \`${result.policy}\`, which is part of what is compared.`,
    blocks: [
      chart(
        'transfer-abilities',
        'The three ability measures',
        `${measures.map((measure) => `${measure}: ${measureText[measure]}`).join('; ')}. Whiskers are 95 % Wilson intervals.`,
        barChart(spec),
        barTable(spec),
      ),
      tableBlock(
        'transfer-measures',
        'Ability measures against IN',
        'Exact McNemar on the same items, Holm over the seven other models of one measure.',
        abilityTable(result),
      ),
      tableBlock(
        'transfer-models',
        'Where every part comes from',
        `Policy ${result.policy}: it decides vision tower, projector, embeddings, final norm and head, and confounds early with late blocks.`,
        {
          columns: [column('name', 'Model'), column('description', 'Donors')],
          rows: result.models.map(({ name, description }) => ({ name, description })),
        },
      ),
      tableBlock(
        'transfer-conditions',
        'What the measures are made of',
        'Accuracy of each model under each condition. A measure whose condition no model can answer says nothing about the models.',
        conditionTable(result),
      ),
      accuracyMap(
        'transfer-accuracy',
        'Plain accuracy by task',
        'With the image where there is one. The numbers behind it hold the tests against IN on the same items (exact McNemar, Holm over the seven other models of one task).',
        result.accuracy,
      ),
    ],
  };
}

function abilityTable({ abilities, policy }: TransferResult) {
  return {
    columns: [
      column('measure', 'Measure'),
      column('model', 'Model'),
      column('policy', 'Policy'),
      column('rate', 'Share', 'rate'),
      ...testColumns,
      ...transitionColumns,
    ],
    rows: abilities.map((cell) => ({
      measure: cell.measure,
      model: cell.model,
      policy,
      rate: asRate(cell.rate),
      ...testCells(cell.test),
    })),
  };
}

function conditionTable({ conditions }: TransferResult): Table {
  const columns = unique(conditions.map(({ group, sight }) => `${group}\n${sight}`));
  const title = (id: string): string => {
    const [group, sight] = id.split('\n') as [TaskGroup, Sight];
    return `${groupText[group]}: ${sightText[sight]}`;
  };
  return {
    columns: [column('model', 'Model'), ...columns.map((id) => column(id, title(id), 'rate'))],
    rows: unique(conditions.map(({ model }) => model)).map((model) => ({
      model,
      ...Object.fromEntries(
        conditions
          .filter((cell) => cell.model === model)
          .map((cell) => [`${cell.group}\n${cell.sight}`, asRate(cell.accuracy)]),
      ),
    })),
  };
}

const sightText: Readonly<Record<Sight, string>> = {
  image: 'image',
  black: 'black image',
  none: 'text only',
  description: 'black image and description',
  noise: 'noise',
  shuffled: 'shuffled patches',
};

/** Models × tasks at a glance; the full table with tests is behind it. */
function accuracyMap(id: string, title: string, caption: string, cells: readonly AccuracyCell[]): ChartBlock {
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

/** Below this accuracy under a measure's second condition in every model, the measure is at its floor. */
const floorAccuracy = 0.1;

/** Why a measure cannot separate the models, or '' when it can. */
function floorNote(measure: AbilityMeasure, { conditions }: TransferResult): string {
  if (measure !== 'M_v2r') return '';
  const told = conditions.filter(({ sight, group }) => sight === 'description' && group === 'visualReasoning');
  const best = Math.max(...told.map(({ accuracy }) => accuracy.rate ?? 0));
  if (told.length === 0 || best >= floorAccuracy) return '';
  return (
    ` No model answers from a description (at best ${formatValue(best, 'percent')}), so this measure cannot separate them; ` +
    'see plain accuracy on visual reasoning instead.'
  );
}

export function transferFindings(result: TransferResult): Answer[] {
  const { abilities, accuracy } = result;
  const whole = accuracy.filter(
    ({ group, task }) =>
      group === 'visualReasoning' && (task === null || !accuracy.some((c) => c.group === group && c.task === null)),
  );
  const plain = comparison(
    'Plain accuracy on visual reasoning',
    whole.map(({ model, accuracy: rate, test }) => ({ model, rate, test })),
    result,
  );
  const measures = unique(abilities.map(({ measure }) => measure)).flatMap((measure) =>
    comparison(
      `${measure} (${measureText[measure]})`,
      abilities.filter((cell) => cell.measure === measure),
      result,
      floorNote(measure, result),
    ),
  );
  return [...plain, ...measures];
}

/** IN against RL, and which grafts carry a gain. */
function comparison(
  what: string,
  cells: readonly Pick<AbilityCell, 'model' | 'rate' | 'test'>[],
  { policy }: TransferResult,
  floor = '',
): Answer[] {
  const find = (model: string) => cells.find((cell) => cell.model === model);
  const [start, rl] = [find(transferReference), find('RL')];
  if (!start || !rl?.test) return [];
  const gain = rl.test.difference ?? 0;
  const significant = isSignificant(rl.test);
  const first =
    `${what}: IN ${rateText(start.rate)}, RL ${rateText(rl.rate)}; ` +
    `${testText(rl.test)}${significant ? '' : ', not significant'}.`;
  if (!significant || gain <= 0) return [answer(first + floor, significant)];
  const carrying = cells.filter(
    ({ model, test }) => model !== 'RL' && isSignificant(test) && (test?.difference ?? 0) > 0,
  );
  const best = [...carrying].sort((a, b) => b.test!.difference! - a.test!.difference!).slice(0, 3);
  const named = best.map(
    ({ model, test }) =>
      `${model} (${formatValue(test!.difference! / gain, 'percent', 0)} of the gain; ${testText(test!)})`,
  );
  const second =
    best.length === 0
      ? ' No graft is significantly better than IN.'
      : ` Of the six grafts (policy \`${policy}\`) ${carrying.length} ${carrying.length === 1 ? 'is' : 'are'} significantly better than IN: ` +
        `${carrying.length > best.length ? 'most ' : ''}${named.join(', ')}.`;
  return [answer(first + second + floor, true)];
}

export function freezeSection(result: FreezeResult): Section {
  const groups = taskGroups.filter((group) => result.againstFull.some((cell) => cell.group === group));
  const whole = (cells: readonly AccuracyCell[], group: TaskGroup, model: string) => {
    const own = cells.filter((cell) => cell.group === group && cell.model === model);
    return own.find(({ task }) => task === null) ?? own[0];
  };
  const spec = (
    cells: readonly AccuracyCell[],
    id: string,
    title: string,
    models: readonly string[],
  ): PointRangeSpec => ({
    id,
    title,
    rows: models.flatMap((model) =>
      groups.map((group) => {
        const test = whole(cells, group, model)?.test;
        return {
          label: model,
          group: groupText[group],
          estimate: test?.difference ?? null,
          low: test?.low ?? null,
          high: test?.high ?? null,
          n: test?.n ?? null,
        };
      }),
    ),
    value: { label: 'Difference of accuracy, points', format: 'difference' },
    reference: { value: 0 },
  });
  const frozen = result.frozen.map(({ model }) => model);
  const toFull = spec(result.againstFull, 'freeze-full', `Accuracy minus that of ${result.full}`, frozen);
  const toBefore = spec(result.againstBefore, 'freeze-before', `Accuracy minus that of ${result.before}`, [
    ...result.controls,
    result.full,
    ...frozen,
  ]);
  return {
    id: 'freezing',
    title: 'Was a region necessary',
    lead:
      `Runs that held a third of the decoder layers fixed during RL, beside the run that trained everything (\`${result.full}\`) ` +
      `and the checkpoint it started from (\`${result.before}\`).`,
    blocks: [
      ...(result.checks.length + result.failedChecks.length > 0
        ? [
            tableBlock(
              'freeze-checks',
              'Did the freeze hold',
              'Stored bytes compared: every tensor of the frozen region must be equal, and only those need be.',
              {
                columns: [
                  column('model', 'Run'),
                  column('region', 'Frozen region'),
                  column('frozen', 'Tensors in it', 'number'),
                  column('changed', 'of those changed', 'number'),
                  column('free', 'Tensors outside', 'number'),
                  column('unchanged', 'of those unchanged', 'number'),
                  column('verdict', 'Verdict'),
                ],
                rows: [
                  ...result.checks.map((check) => ({
                    model: check.model,
                    region: check.region,
                    frozen: check.frozen,
                    changed: check.changedInside.length,
                    free: check.free,
                    unchanged: check.unchangedOutside.length,
                    verdict: check.changedInside.length === 0 ? 'held: Δ = 0 there' : 'did not hold',
                  })),
                  ...result.failedChecks.map(({ model, error }) => ({
                    model,
                    region: null,
                    verdict: `not checked: ${error}`,
                  })),
                ],
              },
            ),
          ]
        : []),
      ...(frozen.length > 0
        ? [
            chart(
              'freeze-full',
              `Against ${result.full}`,
              'Paired differences with 95 % intervals (Newcombe).',
              pointRange(toFull),
              pointTable(toFull),
            ),
          ]
        : []),
      chart(
        'freeze-before',
        `Against ${result.before}`,
        'Paired differences with 95 % intervals (Newcombe).',
        pointRange(toBefore),
        pointTable(toBefore),
      ),
      accuracyMap(
        'freeze-accuracy',
        'Accuracy by task',
        `The numbers behind it hold the tests against \`${result.full}\` on the same items (exact McNemar, Holm over the models of one task).`,
        result.againstFull,
      ),
      prose(
        'Intervals and tests are over test items of one training run each. Two seeds of the same recipe also differ; ' +
          'a claim about freezing needs several seeds. Freezing also removes the region’s share of trainable weights.',
        'caution',
      ),
    ],
  };
}

export function freezeFindings(result: FreezeResult): Answer[] {
  const answers: Answer[] = [];
  for (const check of result.checks) {
    if (check.changedInside.length > 0) {
      answers.push(
        answer(
          `The freeze of \`${check.model}\` did not hold: ${check.changedInside.length} of ${check.frozen} tensors of its ${check.region} region changed.`,
          null,
        ),
      );
    }
  }
  const held = result.checks.filter(({ changedInside }) => changedInside.length === 0);
  if (held.length > 0) {
    const elsewhere = held.map(({ unchangedOutside }) => unchangedOutside.length);
    answers.push(
      answer(
        `The freezes held: in ${held.map(({ model }) => `\`${model}\``).join(', ')} every tensor of the frozen region is bit for bit that of \`${result.before}\`` +
          `${elsewhere.every((n) => n === 0) ? ', and every other tensor changed' : ` (and outside it ${elsewhere.join(', ')} tensors are unchanged too)`}.`,
        null,
      ),
    );
  }
  const group = (['visualReasoning', 'textReasoning', 'vision'] as const).find((one) =>
    result.againstBefore.some((cell) => cell.group === one),
  );
  if (!group) return answers;
  const of = (cells: readonly AccuracyCell[], model: string) => {
    const own = cells.filter((cell) => cell.group === group && cell.model === model);
    return own.find(({ task }) => task === null) ?? own[0];
  };
  const [before, full] = [of(result.againstBefore, result.before), of(result.againstBefore, result.full)];
  if (before && full?.test) {
    const controls = result.controls.flatMap((control) => {
      const cell = of(result.againstBefore, control);
      return cell?.test ? [`the control \`${control}\` ${rateText(cell.accuracy)} (${testText(cell.test)})`] : [];
    });
    answers.unshift(
      answer(
        `In ${groupText[group]}, \`${result.before}\` is right on ${rateText(before.accuracy)} and \`${result.full}\` on ${rateText(full.accuracy)}: ${testText(full.test)}` +
          `${controls.length > 0 ? `; ${controls.join('; ')}` : ''}.`,
        isSignificant(full.test),
      ),
    );
  }
  for (const { model, region } of result.frozen) {
    const cell = of(result.againstFull, model);
    if (!cell?.test) continue;
    const significant = isSignificant(cell.test);
    const direction = (cell.test.difference ?? 0) < 0 ? 'costs' : 'does not cost';
    answers.push(
      answer(
        `Holding the ${region} region fixed ${significant ? direction : 'makes no significant difference to'} ${significant ? '' : 'RL in '}${groupText[group]}` +
          `${significant ? ` accuracy` : ''}: ${rateText(cell.accuracy)} against ${of(result.againstFull, result.full) ? rateText(of(result.againstFull, result.full)!.accuracy) : '–'} (${testText(cell.test)})` +
          `${significant ? '' : `; a difference below ${formatValue(cell.test.detectable, 'percent').replace('%', ' points')} would have been missed`}.`,
        significant,
      ),
    );
  }
  return answers;
}
