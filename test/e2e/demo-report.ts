/** A document with every kind of block and chart. Its numbers are made up by a formula; it shows layout, no finding. */

import { barChart, rateBar } from '../../lib/report/bar-chart.js';
import type { ReportDocument } from '../../lib/report/document.js';
import { heatMap } from '../../lib/report/heat-map.js';
import { type LineChartSpec, lineChart, ratePoint } from '../../lib/report/line-chart.js';
import { pointRange } from '../../lib/report/point-range.js';
import { scatterChart } from '../../lib/report/scatter-chart.js';
import { smallMultiples } from '../../lib/report/small-multiples.js';
import { barTable, heatTable, lineTable, pointTable } from '../../lib/report/tables.js';
import { seededRandom } from '../../lib/stats/random.js';
import { rate } from '../../lib/stats/rates.js';

const random = seededRandom(11);
const layers = Array.from({ length: 28 }, (_, i) => i);
const tasks = ['Counting', 'OCR', 'Grounding', 'Recognition'];
const regions = [
  { from: 0, to: 8, label: 'early' },
  { from: 9, to: 17, label: 'mid' },
  { from: 18, to: 27, label: 'late' },
];
const bump = (layer: number, centre: number, width: number): number => Math.exp(-(((layer - centre) / width) ** 2));
const drawn = (share: number, n: number): number =>
  Math.min(n, Math.max(0, Math.round(n * (share + 0.04 * (random.uniform() - 0.5)))));

const change: LineChartSpec = {
  id: 'change',
  title: 'Answer change rate when the image is swapped from a layer on',
  x: { label: 'Layer', values: layers },
  y: { label: 'Share of pairs whose answer changes', format: 'percent', min: 0, max: 1 },
  regions,
  series: tasks.map((name, t) => ({
    name,
    points: layers
      // Grounding has two layers without data: the line must break there.
      .filter((layer) => !(t === 2 && (layer === 13 || layer === 14)))
      .map((layer) =>
        ratePoint(layer, rate({ successes: drawn(1 / (1 + Math.exp((layer - 8 - 4 * t) / 2)), 75), n: 75 })),
      ),
  })),
};
const skipping: LineChartSpec = {
  id: 'skip',
  title: 'Accuracy with one layer skipped',
  x: { label: 'Skipped layer', values: layers },
  y: { label: 'Right answers', format: 'percent' },
  interval: 'whisker',
  references: [{ value: 0.72, label: 'nothing skipped: 72.0%' }],
  series: [
    {
      name: 'Visual reasoning',
      points: layers.map((layer) =>
        ratePoint(
          layer,
          rate({ successes: drawn(0.72 - 0.6 * bump(layer, 1, 2) - 0.2 * bump(layer, 20, 3), 200), n: 200 }),
        ),
      ),
    },
  ],
};
const energy: LineChartSpec = {
  id: 'energy',
  title: 'Size of the update per layer',
  x: { label: 'Layer', values: layers },
  y: { label: 'Relative Frobenius norm', format: 'number', scale: 'log' },
  series: [
    { name: 'SFT (base to IN)', points: layers.map((x) => ({ x, y: 0.02 + 0.01 * bump(x, 24, 6) })) },
    { name: 'RL (IN to RL)', points: layers.map((x) => ({ x, y: 0.0009 + 0.0008 * bump(x, 19, 5) })) },
    { name: 'Rounding alone', color: 'muted', points: layers.map((x) => ({ x, y: 0.00032 + 0.00001 * (x % 3) })) },
  ],
};
const grafts = ['IN', 'RL', 'IN:RL:RL', 'RL:IN:IN', 'IN:IN:RL', 'RL:RL:IN', 'IN:RL:IN', 'RL:IN:RL'];
const graftChart = {
  id: 'grafts',
  title: 'Ability of the eight grafts',
  groups: grafts,
  series: ['Vision (M_vis)', 'Vision to reasoning (M_v2r)', 'Text reasoning (M_rea)'].map((name, s) => ({
    name,
    values: grafts.map((_, g) =>
      s === 2 && g === 6
        ? { value: null }
        : rateBar(rate({ successes: drawn(0.35 + 0.12 * s + 0.05 * (g % 4), 400), n: 400 })),
    ),
  })),
  value: { label: 'Share of items', format: 'percent', min: 0, max: 1 },
} as const;
const differences = {
  id: 'gain',
  title: 'What RL changed, and what more SFT would have changed',
  rows: ['Visual reasoning', 'Chains of arithmetic', 'Counting', 'Recognition', 'Grounding'].flatMap((label, i) =>
    ['RL − IN', 'more SFT − IN'].map((group, g) => {
      const centre = [0.19, 0.18, -0.008, -0.088, -0.005][i]! * (g === 0 ? 1 : 0.1);
      return i === 4 && g === 1
        ? { label, group, estimate: null }
        : { label, group, estimate: centre, low: centre - 0.025, high: centre + 0.025, n: 1000 };
    }),
  ),
  value: { label: 'Difference of accuracy, percentage points', format: 'difference' },
} as const;
const heads = Array.from({ length: 12 }, (_, h) => String(h));
const mass = {
  id: 'mass',
  title: 'Attention that reasoning tokens give to the image, RL − IN',
  rows: layers.map((layer) => `Layer ${layer}`),
  columns: heads,
  values: layers.map((layer) =>
    heads.map((_, h) =>
      layer === 11 && h > 8 ? null : 0.12 * bump(layer, 16, 6) * Math.cos(h) + 0.01 * (random.uniform() - 0.5),
    ),
  ),
  scale: 'diverging',
  format: 'difference',
  valueLabel: 'Change of attention mass, percentage points',
  columnLabel: 'Head',
} as const;
const compact = {
  id: 'compact',
  title: 'Share of source answers, task by mode',
  rows: tasks,
  columns: ['suffix', 'single', 'window of 3', 'prefix'],
  values: tasks.map((_, t) => [0.9 - 0.1 * t, 0.12 * t, t === 3 ? null : 0.3 + 0.1 * t, 0.05]),
  scale: 'sequential',
  format: 'percent',
  valueLabel: 'Source rate',
  min: 0,
  max: 1,
} as const;
const stages = ['base', 'IN', 'RL'];
const small = tasks.map((title, t) => ({
  title,
  svg: lineChart({
    id: `mass-${title}`,
    title: `Attention mass on the image: ${title}`,
    x: { label: 'Layer', values: layers },
    y: { label: 'Mass', format: 'percent', min: 0, max: 0.6 },
    series: stages.map((name, s) => ({
      name,
      color: (['muted', 0, 1] as const)[s]!,
      points: layers.map((x) => {
        const y = 0.1 + (0.2 + 0.05 * s) * bump(x, 12 + 3 * t, 5);
        return { x, y, low: y - 0.02, high: y + 0.02 };
      }),
    })),
  }),
}));

/** The document. */
export const demoReport: ReportDocument = {
  title: 'What post-training changed inside a small vision-language model',
  subtitle:
    'Made-up numbers that show the layout: where vision and reasoning sit, what RL changed, whether it transfers, whether it is necessary.',
  generated: 'Layout sample, 23 November 2026',
  answers: [
    {
      text: 'RL raises visual reasoning by 19.0 points over its starting point (95% interval 16.5 to 21.5, 1,000 paired questions).',
      significant: true,
    },
    {
      text: 'Counting differs by −0.8 points (−3.3 to 1.7): with 1,000 questions a change under 3.6 points could not have been seen.',
      significant: false,
    },
    { text: 'The image is read in layers 5 to 19; OCR lets go of it last.', significant: null },
  ],
  sections: [
    {
      id: 'where',
      title: 'Where vision and reasoning sit',
      lead: 'The image’s keys and values of another picture are put in, from one layer on. As long as the answer changes, the model still had to look.',
      blocks: [
        {
          kind: 'chart',
          id: 'change',
          title: change.title,
          caption: 'Bands are 95% Wilson intervals, 75 pairs a task. Grounding was not measured at layers 13 and 14.',
          svg: lineChart(change),
          csv: lineTable(change),
        },
        {
          kind: 'prose',
          tone: 'caution',
          text: 'Suffix swaps are cumulative: a high rate at layer 3 says that something **at or after** layer 3 reads the image. Recognition pairs always go from `yes` to `no`, so a bias towards `no` would look the same.',
        },
        {
          kind: 'chart',
          id: 'skip',
          title: skipping.title,
          caption: 'Whiskers are 95% Wilson intervals, 200 questions, the same for every layer.',
          svg: lineChart(skipping),
          csv: lineTable(skipping),
        },
        {
          kind: 'chart',
          id: 'compact',
          title: compact.title,
          caption: 'A hatched cell was not measured.',
          svg: heatMap(compact),
          csv: heatTable(compact),
        },
      ],
    },
    {
      id: 'what',
      title: 'What RL changed',
      lead: 'Weight updates of both stages, beside what storing weights in bfloat16 changes by itself.',
      blocks: [
        {
          kind: 'chart',
          id: 'energy',
          title: energy.title,
          caption: 'Root of the summed squares over all matrices of a layer, divided by the norm before the update.',
          svg: lineChart(energy),
          csv: lineTable(energy),
        },
        {
          kind: 'chart',
          id: 'attention',
          title: 'Attention mass on the image, by task',
          caption: 'Mean over heads and reasoning tokens; bands are 95% bootstrap intervals.',
          svg: smallMultiples(small),
        },
        {
          kind: 'chart',
          id: 'mass',
          title: mass.title,
          caption: 'Same teacher-forced text for both models.',
          svg: heatMap(mass),
          csv: heatTable(mass),
        },
        {
          kind: 'chart',
          id: 'ranks',
          title: 'Stable rank against update size',
          caption: 'One point a matrix.',
          svg: scatterChart({
            id: 'ranks',
            title: 'Stable rank against update size',
            x: { label: 'Frobenius norm', format: 'number', scale: 'log' },
            y: { label: 'Stable rank', format: 'number', min: 0 },
            series: ['SFT', 'RL'].map((name, s) => ({
              name,
              points: layers.map((l) => ({
                x: (s === 0 ? 1 : 0.05) * (0.5 + random.uniform()),
                y: 4 + 20 * random.uniform() * (s === 0 ? 1 : 0.5),
                label: `layer ${l}`,
              })),
            })),
          }),
        },
      ],
    },
    {
      id: 'transfer',
      title: 'Whether it transfers',
      blocks: [
        {
          kind: 'chart',
          id: 'grafts',
          title: graftChart.title,
          caption:
            'Early:mid:late blocks by donor; everything outside the decoder comes from the early donor. 400 items a measure.',
          svg: barChart(graftChart),
          csv: barTable(graftChart),
        },
        {
          kind: 'chart',
          id: 'gain',
          title: differences.title,
          caption: 'Paired differences with 95% Newcombe intervals.',
          svg: pointRange(differences),
          csv: pointTable(differences),
        },
        {
          kind: 'table',
          id: 'paired',
          title: 'The same comparison as a table',
          caption: 'p: exact McNemar, Holm-adjusted over the rows.',
          table: {
            columns: [
              { key: 'task', label: 'Task' },
              { key: 'before', label: 'IN' },
              { key: 'after', label: 'RL' },
              { key: 'lost', label: 'Lost', format: 'number' },
              { key: 'gained', label: 'Gained', format: 'number' },
              { key: 'p', label: 'p', format: 'p' },
            ],
            rows: [
              {
                task: 'Visual reasoning',
                before: rate({ successes: 728, n: 1000 }),
                after: rate({ successes: 921, n: 990, truncated: 8, failed: 2 }),
                lost: 12,
                gained: 205,
                p: 1e-30,
              },
              {
                task: 'Counting',
                before: rate({ successes: 828, n: 1000 }),
                after: rate({ successes: 820, n: 1000 }),
                lost: 40,
                gained: 32,
                p: 0.41,
              },
              {
                task: 'Grounding',
                before: rate({ successes: 0, n: 0, failed: 5 }),
                after: rate({ successes: 693, n: 1000 }),
                lost: null,
                gained: null,
                p: null,
              },
            ],
          },
        },
        { kind: 'prose', tone: 'finding', text: 'The gain survives in IN:RL:RL.' },
        {
          kind: 'prose',
          tone: 'note',
          text: 'Three seeds would be needed before a claim about one third of the layers.',
        },
        {
          kind: 'prose',
          text: 'Plain prose stands between figures.\n\nIt may have paragraphs, `code` and **weight**.',
        },
      ],
    },
  ],
  provenance: {
    galvani: '0.1.0',
    'checkpoint IN': 'sha256 5f2b9c0e8d7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c',
    seed: '777',
    ledger: '`runs/study/ledger.jsonl`, 12,400 rows',
  },
};

/** Visible marks that every chart of the demo must have, in either drawing. */
export const demoMarks: Readonly<Record<string, number>> = {
  change: 28 * 4 - 2,
  skip: 28,
  compact: 16,
  energy: 28 * 3,
  attention: 4 * 28 * 3,
  mass: 28 * 12,
  ranks: 56,
  grafts: 24,
  gain: 9,
};
