/** The report on two runs. */
import type { Answer, ReportDocument, Section } from '../report/document.js';
import { formatP } from '../report/format.js';
import { type PointRangeSpec, pointRange } from '../report/point-range.js';
import { pointTable } from '../report/tables.js';
import type { ComparedRate, Comparison } from './compare.js';
import { isSignificant } from './measure.js';
import {
  answer,
  asRate,
  chart,
  column,
  prose,
  rateText,
  tableBlock,
  testCells,
  testColumns,
  testText,
  transitionColumns,
} from './report-parts.js';

/** Differences drawn in the chart; the table behind it has all. */
const shown = 40;

export function compareDocument(comparison: Comparison, generated: string): ReportDocument {
  const { a, b } = comparison;
  return {
    title: 'Two runs compared',
    subtitle: `A: ${a} · B: ${b} · every difference is B − A`,
    generated,
    answers: compareFindings(comparison),
    sections: [settingsSection(comparison), ratesSection(comparison)],
    provenance: { A: a, B: b },
  };
}

export function compareFindings({ settings, shared, rates }: Comparison): Answer[] {
  const { trials, differentTexts, measurements, differentValues } = shared;
  const significant = rates.filter(({ paired }) => isSignificant(paired));
  const largest = [...significant].sort((x, y) => Math.abs(y.paired!.difference!) - Math.abs(x.paired!.difference!))[0];
  const paired = rates.filter((rate) => rate.paired !== null);
  const smallest = Math.min(...paired.map((rate) => rate.paired!.pHolm ?? 1));
  return [
    answer(
      settings.length === 0
        ? 'The two runs asked the same: study, weights, questions and versions agree.'
        : `The two runs differ in ${settings.length} settings: ${settings
            .slice(0, 6)
            .map(({ what }) => what)
            .join(', ')}${settings.length > 6 ? ', …' : ''}.`,
      null,
    ),
    answer(
      trials + measurements === 0
        ? 'They have no trial in common.'
        : `Of ${trials} trials and ${measurements} measurements that both computed, ${differentTexts} gave another text and ${differentValues} another value` +
            `${differentTexts + differentValues === 0 ? ': the runs reproduce each other.' : ' — **equal work gave unequal results**; look at versions and hardware.'}`,
      null,
    ),
    ...(paired.length === 0
      ? []
      : [
          answer(
            largest
              ? `${significant.length} of ${paired.length} rates differ; most: ${largest.experiment} ${largest.condition}, A ${rateText(largest.a)}, B ${rateText(largest.b)}: ${testText(largest.paired!)}.`
              : `None of ${paired.length} rates differs significantly on the items both asked (smallest Holm-adjusted p ${formatP(smallest)}).`,
            largest !== undefined,
          ),
        ]),
  ];
}

function settingsSection({ settings, shared }: Comparison): Section {
  return {
    id: 'asked',
    title: 'What was asked',
    blocks: [
      settings.length === 0
        ? prose('Nothing differs: study, weights, questions and versions are the same.')
        : tableBlock('settings', 'Settings that differ', 'A dash: the run does not have it.', {
            columns: [column('what', 'Setting'), column('a', 'A'), column('b', 'B')],
            rows: settings.map((row) => ({ ...row })),
          }),
      prose(
        `Both runs computed ${shared.trials} trials of equal content (prompt, image, weights, interventions, options); ${shared.differentTexts} of them gave another text. ` +
          'On a CPU there should be none, whatever the number of threads.',
        shared.differentTexts > 0 ? 'caution' : 'note',
      ),
    ],
  };
}

function ratesSection({ rates }: Comparison): Section {
  if (rates.length === 0) {
    return {
      id: 'outcomes',
      title: 'What came out',
      blocks: [prose('The runs have no condition in common.', 'caution')],
    };
  }
  const size = ({ paired, independent }: ComparedRate): number =>
    Math.abs(paired?.difference ?? independent?.difference ?? 0);
  const largest = [...rates].sort((x, y) => size(y) - size(x)).slice(0, shown);
  const spec: PointRangeSpec = {
    id: 'differences',
    title: 'Differences of accuracy, B − A',
    rows: largest.map(({ experiment, condition, paired, independent }) => ({
      label: condition,
      group: experiment,
      estimate: paired?.difference ?? independent?.difference ?? null,
      low: paired?.low ?? independent?.low ?? null,
      high: paired?.high ?? independent?.high ?? null,
      n: paired?.n ?? null,
    })),
    value: { label: 'Difference, points', format: 'difference' },
    reference: { value: 0 },
  };
  return {
    id: 'outcomes',
    title: 'What came out',
    lead: 'Share of right answers under the same condition, paired on the items that both runs asked.',
    blocks: [
      chart(
        'differences',
        rates.length > shown ? `The ${shown} largest of ${rates.length} differences` : 'All differences',
        'Newcombe’s 95 % intervals, not adjusted for their number. The largest of many are large by chance too: see the adjusted p.',
        pointRange(spec),
        pointTable(spec),
      ),
      tableBlock(
        'rates-all',
        'All conditions',
        'Exact McNemar on shared items; Holm and Benjamini–Hochberg over the conditions of one experiment. Without shared items: Newcombe’s interval for independent proportions.',
        {
          columns: [
            column('experiment', 'Experiment'),
            column('condition', 'Condition'),
            column('a', 'A', 'rate'),
            column('b', 'B', 'rate'),
            ...testColumns,
            ...transitionColumns,
          ],
          rows: rates.map(({ experiment, condition, a, b, paired, independent }) => ({
            experiment,
            condition,
            a: asRate(a),
            b: asRate(b),
            ...testCells(paired),
            ...(independent
              ? { difference: 100 * independent.difference, low: 100 * independent.low, high: 100 * independent.high }
              : {}),
          })),
        },
      ),
    ],
  };
}
