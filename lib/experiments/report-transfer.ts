/** The report's section on transfer: what the grafts can do, and what every region contributes. */
import { type BarChartSpec, barChart } from '../report/bar-chart.js';
import type { Answer, Block, Section, Table } from '../report/document.js';
import { formatInterval, formatValue } from '../report/format.js';
import { type PointRangeSpec, pointRange } from '../report/point-range.js';
import { barTable, pointTable } from '../report/tables.js';
import type { AbilityCell, AbilityMeasure, TaskGroup } from './answers.js';
import { isSignificant } from './measure.js';
import type { Sight } from './prompter.js';
import { accuracyMap, groupText } from './report-accuracy.js';
import { interpolationBlocks, interpolationFindings } from './report-interpolate.js';
import {
  answer,
  asRate,
  barValue,
  chart,
  column,
  rateText,
  rowsCell,
  rowsColumn,
  tableBlock,
  testCells,
  testColumns,
  testText,
  transitionColumns,
} from './report-parts.js';
import { effectBlocks, effectFindings } from './report-region-effects.js';
import { transferReference } from './transfer.js';
import type { PlainResult, PolicyResult, TransferResult } from './transfer-analyze.js';

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

const measureText: Readonly<Record<AbilityMeasure, string>> = {
  M_vis: 'right with the image and wrong with a black one',
  M_v2r: 'right with the image and right with a description instead',
  M_rea: 'right on text-only reasoning',
};

export function transferSection(result: TransferResult): Section {
  const [first, ...others] = result.policies as [PolicyResult, ...PolicyResult[]];
  return {
    id: 'transfer',
    title: 'Does a part of RL carry its gains',
    lead:
      `Blocks of layers of the two parents, early:mid:late, cut at layers ${result.cuts.join(' and ')}, combined by views. ` +
      `Weights outside the decoder layers follow the policy \`${first.policy}\`${others.length > 0 ? ` (and ${others.map(({ policy }) => policy).join(', ')} for comparison)` : ''}, which is part of what is compared.`,
    blocks: [
      abilityChart(
        'transfer-abilities',
        'The three ability measures',
        first,
        first.models.map(({ name }) => name),
      ),
      ...effectBlocks(result),
      ...interpolationBlocks(result.interpolation),
      ...policyChart(result),
      tableBlock(
        'transfer-measures',
        'Ability measures against IN',
        'Exact McNemar on the same items, Holm over the seven other models of one measure and policy; with the transition table (right both times, lost, gained, wrong twice).',
        abilityTable(result.policies),
      ),
      ...seeingTable(result),
      tableBlock(
        'transfer-models',
        'Where every part comes from',
        'The policy decides vision tower, projector, embeddings, final norm and head, and confounds early with late blocks.',
        {
          columns: [column('policy', 'Policy'), column('name', 'Model'), column('description', 'Donors')],
          rows: result.policies.flatMap(({ policy, models }) => models.map((model) => ({ policy, ...model }))),
        },
      ),
      tableBlock(
        'transfer-conditions',
        'What the measures are made of',
        'Accuracy of each model under each condition. A measure whose condition no model can answer says nothing about the models.',
        conditionTable(result),
      ),
      ...result.policies.map((policy, index) =>
        accuracyMap(
          index === 0 ? 'transfer-accuracy' : `transfer-accuracy-${policy.policy}`,
          result.policies.length === 1 ? 'Plain accuracy by task' : `Plain accuracy by task, policy ${policy.policy}`,
          'With the image where there is one. The numbers behind it hold the tests against IN on the same items (exact McNemar, Holm over the seven other models of one task).',
          policy.accuracy,
        ),
      ),
      ...plainBlocks(result.plain),
    ],
  };
}

function abilityChart(
  id: string,
  title: string,
  { abilities }: Pick<PolicyResult, 'abilities'>,
  models: readonly string[],
): Block {
  const measures = unique(abilities.map(({ measure }) => measure));
  const spec: BarChartSpec = {
    id,
    title,
    groups: models,
    series: measures.map((measure) => ({
      name: measure,
      values: models.map((model) => {
        const cell = abilities.find((one) => one.measure === measure && one.model === model);
        return cell ? barValue(cell.rate) : { value: null };
      }),
    })),
    value: { label: 'Share of items', min: 0, max: 1, format: 'percent' },
  };
  const caption = measures.map((measure) => `${measure}: ${measureText[measure]}`).join('; ');
  return chart(id, title, `${caption}. Whiskers are 95 % Wilson intervals.`, barChart(spec), barTable(spec));
}

/** Models that are no grafts, by the same measures. */
function plainBlocks(plain: PlainResult | null): Block[] {
  if (!plain) return [];
  return [
    abilityChart('plain-abilities', 'Ability measures of further models', plain, [transferReference, ...plain.models]),
    accuracyMap(
      'plain-accuracy',
      'Plain accuracy of further models by task',
      'The numbers behind it hold the tests against IN on the same items (exact McNemar, Holm over the models of one task).',
      plain.accuracy,
    ),
  ];
}

/** The same graft under every policy: what moves here is the work of the weights outside the layers. */
function policyChart({ policies }: TransferResult): Block[] {
  if (policies.length < 2) return [];
  const group = wholeGroup(policies[0]!);
  const spec: PointRangeSpec = {
    id: 'transfer-policies',
    title: `Accuracy in ${groupText[group]} minus that of IN, by policy`,
    rows: policies[0]!.models
      .filter(({ name }) => name !== transferReference)
      .flatMap(({ name }) =>
        policies.map(({ policy, accuracy }) => {
          const test = wholeCell(accuracy, group, name)?.test;
          return {
            label: name,
            group: `policy ${policy}`,
            estimate: test?.difference ?? null,
            low: test?.low ?? null,
            high: test?.high ?? null,
            n: test?.n ?? null,
          };
        }),
      ),
    value: { label: 'Difference of accuracy, points', format: 'difference' },
    reference: { value: 0 },
  };
  return [
    chart(
      'transfer-policies',
      'What the policy does',
      'The same blocks with other donors for vision tower, projector, embeddings, final norm and head; against the IN of the same policy, ' +
        '95 % intervals (Newcombe). Under `in` and `rl` IN and RL keep one donor there, so blocks alone differ.',
      pointRange(spec),
      pointTable(spec),
    ),
  ];
}

/** Visual reasoning where there is some, else the first group that was asked. */
function wholeGroup({ accuracy }: PolicyResult): TaskGroup {
  const groups = unique(accuracy.map(({ group }) => group));
  return groups.includes('visualReasoning') ? 'visualReasoning' : groups[0]!;
}

function wholeCell(accuracy: PolicyResult['accuracy'], group: TaskGroup, model: string) {
  const own = accuracy.filter((cell) => cell.group === group && cell.model === model);
  return own.find(({ task }) => task === null) ?? own[0];
}

function abilityTable(policies: readonly PolicyResult[]): Table {
  return {
    columns: [
      column('measure', 'Measure'),
      column('model', 'Model'),
      column('policy', 'Policy'),
      column('rate', 'Share', 'rate'),
      ...testColumns,
      ...transitionColumns,
      rowsColumn,
    ],
    rows: policies.flatMap(({ policy, abilities }) =>
      abilities.map((cell) => ({
        measure: cell.measure,
        model: cell.model,
        policy,
        rate: asRate(cell.rate),
        ...testCells(cell.test),
        ...rowsCell(cell.select),
      })),
    ),
  };
}

/** M_vis corrected for chance. */
function seeingTable({ policies, plain }: TransferResult): Block[] {
  const rows = [
    ...policies.flatMap(({ policy, seeing }) => seeing.map((cell) => ({ policy: policy as string | null, cell }))),
    ...(plain?.seeing ?? []).filter(({ model }) => model !== transferReference).map((cell) => ({ policy: null, cell })),
  ];
  if (rows.length === 0) return [];
  const points = (value: number | null | undefined): number | null => (value == null ? null : 100 * value);
  return [
    tableBlock(
      'transfer-seeing',
      'M_vis corrected for chance',
      'A model that guesses is right with the image and wrong with a black one by luck, and as often the other way round. The difference of ' +
        'the two, which is accuracy with the image minus accuracy with a black one, is zero for a guesser. Gained: right only with the image ' +
        '(M_vis); lost: right only with the black one. Against IN: mean difference per item with a bootstrap interval and a sign-flip test, Holm over the models.',
      {
        columns: [
          column('policy', 'Policy'),
          column('model', 'Model'),
          ...testColumns,
          ...transitionColumns,
          column('against', 'Against IN, points', 'number', 1),
          column('againstLow', 'low', 'number', 1),
          column('againstHigh', 'high', 'number', 1),
          column('againstP', 'p, Holm', 'p'),
        ],
        rows: rows.map(({ policy, cell }) => ({
          policy,
          model: cell.model,
          ...testCells(cell.seeing),
          against: points(cell.test?.mean),
          againstLow: points(cell.test?.low),
          againstHigh: points(cell.test?.high),
          againstP: cell.test?.pHolm ?? null,
        })),
      },
    ),
  ];
}

function conditionTable({ policies, plain }: TransferResult): Table {
  const all = [
    ...policies.map(({ policy, conditions }) => ({ policy: policy as string | null, conditions })),
    ...(plain
      ? [{ policy: null, conditions: plain.conditions.filter(({ model }) => plain.models.includes(model)) }]
      : []),
  ];
  const columns = unique(all.flatMap(({ conditions }) => conditions.map(({ group, sight }) => `${group}\n${sight}`)));
  const title = (id: string): string => {
    const [group, sight] = id.split('\n') as [TaskGroup, Sight];
    return `${groupText[group]}: ${sightText[sight]}`;
  };
  return {
    columns: [
      column('policy', 'Policy'),
      column('model', 'Model'),
      ...columns.map((id) => column(id, title(id), 'rate')),
    ],
    rows: all.flatMap(({ policy, conditions }) =>
      unique(conditions.map(({ model }) => model)).map((model) => ({
        policy,
        model,
        ...Object.fromEntries(
          conditions
            .filter((cell) => cell.model === model)
            .map((cell) => [`${cell.group}\n${cell.sight}`, asRate(cell.accuracy)]),
        ),
      })),
    ),
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

/** Below this accuracy under a measure's second condition in every model, the measure is at its floor. */
const floorAccuracy = 0.1;

/** Why a measure cannot separate the models, or '' when it can. */
function floorNote(measure: AbilityMeasure, { conditions }: PolicyResult): string {
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
  const [first] = result.policies;
  if (!first) return [];
  const { abilities, accuracy, seeing } = first;
  const whole = accuracy.filter(
    ({ group, task }) =>
      group === 'visualReasoning' && (task === null || !accuracy.some((c) => c.group === group && c.task === null)),
  );
  const plain = comparison(
    'Plain accuracy on visual reasoning',
    whole.map(({ model, accuracy: rate, test }) => ({ model, rate, test })),
    first,
  );
  const measures = unique(abilities.map(({ measure }) => measure)).flatMap((measure) =>
    comparison(
      `${measure} (${measureText[measure]})`,
      abilities.filter((cell) => cell.measure === measure),
      first,
      floorNote(measure, first),
    ),
  );
  const rl = seeing.find(({ model }) => model === 'RL');
  const start = seeing.find(({ model }) => model === transferReference);
  const corrected =
    start && rl?.test
      ? [
          answer(
            `Corrected for chance, seeing is worth ${formatValue(start.seeing.difference, 'difference')} points to IN ${formatInterval(start.seeing.low, start.seeing.high, 'difference')} ` +
              `and ${formatValue(rl.seeing.difference, 'difference')} to RL: ${isSignificant(rl.test) ? 'different' : 'no significant difference'} ` +
              `(${formatValue(rl.test.mean, 'difference')} points ${formatInterval(rl.test.low ?? 0, rl.test.high ?? 0, 'difference')}, n = ${rl.test.n}).`,
            isSignificant(rl.test),
          ),
        ]
      : [];
  return [
    ...plain,
    ...effectFindings(result),
    ...interpolationFindings(result.interpolation),
    ...measures,
    ...corrected,
  ];
}

/** IN against RL, and which grafts carry a gain. */
function comparison(
  what: string,
  cells: readonly Pick<AbilityCell, 'model' | 'rate' | 'test'>[],
  { policy }: PolicyResult,
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
