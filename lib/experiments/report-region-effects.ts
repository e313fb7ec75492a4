/** What every region contributes, beside random sets of as many layers. */
import type { Answer, Block, Table } from '../report/document.js';
import { formatInterval, formatP, formatValue } from '../report/format.js';
import { type PointRangeSpec, pointRange } from '../report/point-range.js';
import { pointTable } from '../report/tables.js';
import type { TaskGroup } from './answers.js';
import { isSignificant, type MeanTestRecord } from './measure.js';
import type { Player } from './region-effects.js';
import { groupText } from './report-accuracy.js';
import {
  answer,
  chart,
  column,
  layerList,
  rowsCell,
  rowsColumn,
  tableBlock,
  testCells,
  testColumns,
} from './report-parts.js';
import type { PolicyResult, RegionEffect, TransferResult } from './transfer-analyze.js';

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];
const partText = (player: Player): string => (player === 'rest' ? 'weights outside the layers' : player);

export function effectBlocks({ policies, fourParts }: TransferResult): Block[] {
  const [first] = policies as [PolicyResult, ...PolicyResult[]];
  if (first.regions.length === 0) return [];
  const groups = unique(first.regions.map(({ group }) => group));
  const spec: PointRangeSpec = {
    id: 'transfer-regions',
    title: 'Effect of taking a part from RL',
    rows: groups.flatMap((group) => [
      ...first.regions
        .filter((effect) => effect.group === group)
        .map(({ player, both }) => ({
          label: `${partText(player)}, ${groupText[group]}`,
          group: 'the region',
          ...estimate(both),
        })),
      ...first.random
        .filter((effect) => effect.group === group)
        .map(({ layers, both }) => ({
          label: `${layerList(layers)}, ${groupText[group]}`,
          group: 'control: random layers',
          ...estimate(both),
        })),
    ]),
    value: { label: 'Change of accuracy, points', format: 'difference' },
    reference: { value: 0 },
  };
  return [
    chart(
      'transfer-regions',
      'What each region contributes',
      'Mean of two paired differences on the same items: the part from RL put into IN, and taken out of RL. 95 % bootstrap intervals. ' +
        'Random sets hold as many layers as a region: a region that does no more than they do is not special for its place.',
      pointRange(spec),
      pointTable(spec),
    ),
    tableBlock(
      'transfer-effects',
      'Effects of the parts',
      'Shapley: mean effect over all orders of exchanging the parts, from all grafts of one policy; the parts add up to RL − IN. Its p is a sign-flip ' +
        'test, added and taken out are exact McNemar tests; all are Holm-adjusted over the parts. The share of the gain is left out where the gain is not significant.',
      effectTable(
        policies.flatMap(({ policy, regions }) => regions.map((effect) => ({ policy: policy as string, effect }))),
      ),
    ),
    ...(fourParts.length > 0
      ? [
          tableBlock(
            'transfer-four-parts',
            'With the weights outside the layers as a fourth part',
            'From the sixteen combinations of policies `in` and `rl`: what the vision tower, projector, embeddings, norm and head contribute by themselves.',
            effectTable(fourParts.map((effect) => ({ policy: 'in and rl', effect }))),
          ),
        ]
      : []),
    ...(first.random.length > 0
      ? [
          tableBlock(
            'transfer-random',
            'Control: random layers',
            `As many random layers as a region has, policy ${first.policy}; added to IN and taken out of RL (exact McNemar, Holm over the sets).`,
            {
              columns: [
                column('group', 'Group'),
                column('layers', 'Layers'),
                ...meanColumns,
                ...testColumns.map((one) => ({ ...one, key: `added-${one.key}`, label: `added: ${one.label}` })),
                ...testColumns.map((one) => ({ ...one, key: `out-${one.key}`, label: `taken out: ${one.label}` })),
                rowsColumn,
              ],
              rows: first.random.map(({ group, layers, both, added, takenOut, select }) => ({
                group: groupText[group],
                layers: layers.join(', '),
                ...meanCells(both),
                ...prefixed('added-', testCells(added)),
                ...prefixed('out-', testCells(takenOut)),
                ...rowsCell(select),
              })),
            },
          ),
        ]
      : []),
  ];
}

function estimate({ mean, low, high, n }: MeanTestRecord) {
  return { estimate: mean, low, high, n };
}

const meanColumns = [
  column('mean', 'Effect, points', 'number', 1),
  column('meanLow', 'low', 'number', 1),
  column('meanHigh', 'high', 'number', 1),
  column('meanP', 'p, Holm', 'p'),
  column('meanN', 'n', 'number'),
];

function meanCells({ mean, low, high, pHolm, n }: MeanTestRecord) {
  const points = (value: number | null): number | null => (value === null ? null : 100 * value);
  return { mean: points(mean), meanLow: points(low), meanHigh: points(high), meanP: pHolm, meanN: n };
}

function prefixed<T>(prefix: string, cells: Record<string, T>): Record<string, T> {
  return Object.fromEntries(Object.entries(cells).map(([key, value]) => [`${prefix}${key}`, value]));
}

function effectTable(rows: readonly { readonly policy: string; readonly effect: RegionEffect }[]): Table {
  return {
    columns: [
      column('policy', 'Policy'),
      column('group', 'Group'),
      column('part', 'Part'),
      ...meanColumns.map((one) => (one.key === 'mean' ? { ...one, label: 'Shapley, points' } : one)),
      column('share', 'Share of the gain', 'number', 2),
      column('added', 'Added to IN, points', 'number', 1),
      column('addedP', 'p, Holm', 'p'),
      column('takenOut', 'Taken out of RL, points', 'number', 1),
      column('takenOutP', 'p, Holm', 'p'),
      rowsColumn,
    ],
    rows: rows.map(({ policy, effect }) => ({
      policy,
      group: groupText[effect.group],
      part: partText(effect.player),
      ...meanCells(effect.shapley),
      share: effect.share,
      added: effect.added.difference === null ? null : 100 * effect.added.difference,
      addedP: effect.added.pHolm,
      takenOut: effect.takenOut.difference === null ? null : 100 * effect.takenOut.difference,
      takenOutP: effect.takenOut.pHolm,
      ...rowsCell(effect.select),
    })),
  };
}

/** One sentence on the group that RL improved most clearly: which regions carry the gain. */
export function effectFindings({ policies, fourParts }: TransferResult): Answer[] {
  const [first] = policies;
  if (!first) return [];
  const preferred: readonly TaskGroup[] = ['visualReasoning', 'textReasoning', 'vision'];
  const group = preferred.find((one) => first.regions.some((effect) => effect.group === one && effect.share !== null));
  const own = first.regions.filter((effect) => effect.group === group);
  if (group === undefined || own.length === 0) return [];
  const part = ({ player, shapley, share }: RegionEffect): string =>
    `${partText(player)} ${formatValue(shapley.mean, 'difference')} points ${formatInterval(shapley.low ?? 0, shapley.high ?? 0, 'difference')}` +
    `${share === null ? '' : `, ${formatValue(share, 'percent', 0)} of the gain`}, p ${relation(shapley.pHolm)}`;
  const carrying = own.filter(({ shapley }) => isSignificant(shapley));
  const random = first.random.filter((effect) => effect.group === group);
  const best = [...own].sort((a, b) => (b.both.mean ?? 0) - (a.both.mean ?? 0))[0]!;
  const beaten = random.filter(({ both }) => (both.mean ?? 0) >= (best.both.mean ?? 0)).length;
  const control =
    random.length === 0
      ? ''
      : ` Put into IN and taken out of RL, ${best.player} is worth ${formatValue(best.both.mean, 'difference')} points; ${random.length} random ` +
        `${random.length === 1 ? 'set' : 'sets'} of as many layers ${random.map(({ both }) => formatValue(both.mean, 'difference')).join(', ')}` +
        `${beaten > 0 ? ', so its place is not shown to be special' : ''}.`;
  const rest = fourParts.find((effect) => effect.group === group && effect.player === 'rest');
  const outside = rest
    ? ` The weights outside the layers carry ${part({ ...rest, player: 'rest' }).replace('weights outside the layers ', '')}.`
    : '';
  return [
    answer(
      `In ${groupText[group]}, ${carrying.length === 0 ? 'no single region carries RL’s gain significantly' : `RL’s gain is carried by ${carrying.map(({ player }) => player).join(', ')}`} ` +
        `(all eight grafts, policy \`${first.policy}\`): ${own.map(part).join('; ')}.${outside}${control}`,
      carrying.length > 0,
    ),
  ];
}

function relation(p: number | null): string {
  const text = formatP(p);
  return text.startsWith('<') ? text : `= ${text}`;
}
