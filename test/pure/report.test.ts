import { describe, expect, test } from 'vitest';
import { barChart, rateBar } from '../../lib/report/bar-chart.js';
import { tableToCsv } from '../../lib/report/csv.js';
import type { ReportDocument, Table } from '../../lib/report/document.js';
import {
  formatInterval,
  formatNumber,
  formatP,
  formatRate,
  formatTick,
  formatValue,
  powerOfTen,
  slug,
} from '../../lib/report/format.js';
import { heatMap } from '../../lib/report/heat-map.js';
import { renderHtml } from '../../lib/report/html.js';
import { lineChart, ratePoint } from '../../lib/report/line-chart.js';
import { renderMarkdown } from '../../lib/report/markdown.js';
import { pointRange } from '../../lib/report/point-range.js';
import { makeScale, niceStep, textWidth, thinned, wrapText } from '../../lib/report/scale.js';
import { scatterChart } from '../../lib/report/scatter-chart.js';
import { smallMultiples } from '../../lib/report/small-multiples.js';
import { barTable, heatTable, lineTable, pointTable } from '../../lib/report/tables.js';
import { rate } from '../../lib/stats/rates.js';
import { demoReport } from '../e2e/demo-report.js';

/** Occurrences in the wide drawing only. */
const inWide = (markup: string, pattern: RegExp): number => {
  const wide = markup
    .split('<svg class="wide"')
    .slice(1)
    .map((part) => part.split('<svg class="narrow"')[0]!);
  return wide.reduce((sum, part) => sum + (part.match(pattern)?.length ?? 0), 0);
};
const hostile = '<img src=x onerror="alert(1)"> & \'quoted\'';

describe('numbers as text', () => {
  test('values, gaps and signs', () => {
    expect(formatValue(0.532, 'percent')).toBe('53.2%');
    expect(formatValue(0.0412, 'difference')).toBe('+4.1');
    expect(formatValue(-0.0412, 'difference')).toBe('−4.1');
    expect(formatValue(0.0001, 'difference')).toBe('0.0');
    expect(formatValue(-0.0001, 'difference')).toBe('0.0');
    for (const gap of [null, undefined, Number.NaN, Number.POSITIVE_INFINITY])
      expect(formatValue(gap, 'percent')).toBe('–');
    expect(formatNumber(0)).toBe('0');
    expect(formatNumber(Math.PI)).toBe('3.142');
    expect(formatNumber(2.5)).toBe('2.5');
    expect(formatNumber(1000.04)).toBe('1000');
    expect(formatNumber(12345)).toBe('12\u2009345');
    expect(formatNumber(-7)).toBe('−7');
    expect(formatNumber(0.00025)).toBe('2.5×10⁻⁴');
    expect(formatNumber(2e6)).toBe('2×10⁶');
    expect(formatNumber(1.5, 2)).toBe('1.50');
    expect(powerOfTen(1e-4, 1)).toBe('10⁻⁴');
    expect(formatP(0.0004)).toBe('< 0.001');
    expect(formatP(0.0499)).toBe('0.050');
    expect(formatP(null)).toBe('–');
    expect(formatInterval(0.1, 0.2, 'percent')).toBe('(10.0–20.0)');
    expect(formatInterval(-0.1, 0.2, 'difference')).toBe('(−10.0, +20.0)');
    expect(formatInterval(null, 0.2, 'percent')).toBe('');
  });

  test('a rate says n and what was left out; an empty one is a dash', () => {
    expect(formatRate(rate({ successes: 50, n: 100, failed: 2, truncated: 1 }))).toBe(
      '50.0% (40.4–59.6), n = 100, 2 failed, 1 truncated',
    );
    expect(formatRate(rate({ successes: 0, n: 0, failed: 3 }))).toBe('–, 3 failed');
  });

  test('ticks have the decimals of their step', () => {
    expect([0, 0.25, 0.5].map((v) => formatTick(v, 0.25, 'percent'))).toEqual(['0%', '25%', '50%']);
    expect(formatTick(0.025, 0.025, 'percent')).toBe('2.5%');
    expect(formatTick(0.1 + 0.2, 0.1, 'number')).toBe('0.3');
    expect(formatTick(2.5, 2.5, 'number')).toBe('2.5');
    expect(formatTick(0.1, 0.1, 'difference')).toBe('+10');
    expect(formatTick(-0.1, 0.1, 'difference')).toBe('−10');
  });
});

describe('scales', () => {
  const scale = (values: (number | null)[], more: object = {}) =>
    makeScale({ values, format: 'number', from: 0, to: 100, count: 5, ...more });

  test('nice ticks enclose the data, which map linearly', () => {
    expect([0.011, 0.13, 3, 7, 20].map(niceStep)).toEqual([0.02, 0.2, 5, 10, 20]);
    const s = scale([3, 97]);
    expect(s.ticks.map((t) => t.value)).toEqual([0, 20, 40, 60, 80, 100]);
    expect(s.at(50)).toBe(50);
    expect(scale([95, 97]).min).toBeGreaterThan(90);
    expect(scale([-3, 5]).ticks.some((t) => t.value === 0)).toBe(true);
    expect(scale([0.2, 0.97], { format: 'percent' }).max).toBe(1);
  });

  test('empty, constant and hostile data still give an axis', () => {
    for (const values of [[], [null], [Number.NaN], [5], [0], [-2, -2], [1e-30], [1e300]]) {
      const s = scale(values);
      expect(s.max).toBeGreaterThan(s.min);
      expect(Number.isFinite(s.at((s.min + s.max) / 2))).toBe(true);
      expect(s.ticks.length).toBeLessThan(20);
    }
  });

  test('logarithmic', () => {
    const s = scale([0.0004, 0.03, 0], { kind: 'log' });
    expect([s.min, s.max].map((v) => Math.round(Math.log10(v)))).toEqual([-4, -1]);
    expect(s.at(s.min)).toBe(0);
    expect(s.at(s.max)).toBeCloseTo(100, 9);
    expect(s.at(Math.sqrt(s.min * s.max))).toBeCloseTo(50, 9);
    expect(scale([2, 9], { kind: 'log' }).ticks.length).toBeGreaterThan(2);
    expect(scale([0, -1], { kind: 'log' }).ticks.length).toBeGreaterThan(1);
  });

  test('labels are thinned and wrapped', () => {
    expect(thinned(28, 9, 20)).toEqual([0, 4, 8, 12, 16, 20, 24]);
    expect(thinned(0, 9, 20)).toEqual([]);
    const lines = wrapText('a rather long category name', 12, 80, 2);
    expect(lines).toHaveLength(2);
    for (const line of lines) expect(textWidth(line, 12)).toBeLessThanOrEqual(80);
    expect(wrapText('IN:RL:RL', 12, 200, 2)).toEqual(['IN:RL:RL']);
  });
});

describe('a gap is never a number', () => {
  const rates = [rate({ successes: 0, n: 10 }), rate({ successes: 0, n: 0, failed: 10 })];

  test('line: no mark, and the line breaks', () => {
    const points = [0, 1, 2, 3, 4].map((x) => ratePoint(x, rates[x === 2 ? 1 : 0]!));
    const spec = {
      id: 'l',
      title: 't',
      x: { label: 'Layer', values: [0, 1, 2, 3, 4, 5] },
      y: { label: 'y', format: 'percent' },
      series: [{ name: 'A b', points }],
    } as const;
    const markup = lineChart(spec);
    expect(inWide(markup, /class="mark point/g)).toBe(4);
    expect(inWide(markup, /class="mark [^"]*series-a-b/g)).toBe(4);
    expect(inWide(markup, /<path class="line /g)).toBe(2);
    expect(inWide(markup, /<path class="band /g)).toBe(2);
    expect(lineTable(spec).rows.map((r) => r.value)).toEqual([0, 0, null, 0, 0, null]);
    expect(markup).not.toMatch(/NaN|undefined/);
  });

  test('bar: hatched, not of length zero', () => {
    const spec = {
      id: 'b',
      title: 't',
      groups: ['g', 'h'],
      series: [{ name: 's', values: rates.map(rateBar) }],
      value: { label: 'v', format: 'percent' },
    } as const;
    const markup = barChart(spec);
    expect(inWide(markup, /class="mark bar/g)).toBe(1);
    expect(inWide(markup, /class="mark gap/g)).toBe(1);
    expect(markup).toContain('h: not measured, n = 0');
    expect(barTable(spec).rows.map((r) => r.value)).toEqual([0, null]);
    expect(markup).not.toMatch(/NaN|undefined/);
  });

  test('heat map: hatched, not the colour of zero', () => {
    const spec = {
      id: 'h',
      title: 't',
      rows: ['r'],
      columns: ['a', 'b', 'c'],
      values: [[0, null, Number.NaN]],
      scale: 'sequential',
      format: 'percent',
      valueLabel: 'v',
    } as const;
    const markup = heatMap(spec);
    expect(inWide(markup, /class="mark cell gap"/g)).toBe(2);
    expect(inWide(markup, /class="mark cell q/g)).toBe(1);
    expect(markup).toContain('no data');
    expect(heatTable(spec).rows).toEqual([{ row: 'r', c0: 0, c1: null, c2: Number.NaN }]);
    expect(markup).not.toMatch(/NaN|undefined/);
  });

  test('forest plot and scatter: no point', () => {
    const spec = {
      id: 'p',
      title: 't',
      rows: [
        { label: 'a', estimate: 0, low: -0.1, high: 0.1 },
        { label: 'b', estimate: null },
      ],
      value: { label: 'v', format: 'difference' },
    } as const;
    expect(inWide(pointRange(spec), /class="mark point/g)).toBe(1);
    expect(pointTable(spec).rows.map((r) => r.value)).toEqual([0, null]);
    const axis = { label: 'x', format: 'number' } as const;
    const points = [
      { x: 1, y: 2 },
      { x: null, y: 2 },
      { x: 1, y: Number.NaN },
    ];
    const scatter = scatterChart({ id: 's', title: 't', x: axis, y: axis, series: [{ name: 'n', points }] });
    expect(inWide(scatter, /class="mark point/g)).toBe(1);
    expect(scatter).not.toMatch(/NaN|undefined/);
  });

  test('charts without any data draw an axis and no mark', () => {
    const empty = lineChart({
      id: 'e',
      title: 't',
      x: { label: 'x', values: [] },
      y: { label: 'y', format: 'number' },
      series: [],
    });
    expect(empty).not.toMatch(/NaN|Infinity|class="mark/);
  });
});

describe('tables', () => {
  const table: Table = {
    columns: [
      { key: 'name', label: 'Name' },
      { key: 'score', label: 'Score', unit: '%' },
      { key: 'p', label: 'p', format: 'p' },
    ],
    rows: [
      { name: 'a "b", c', score: rate({ successes: 1, n: 4, failed: 1, truncated: 2 }), p: 0.00001 },
      { name: 'x | y\nz', score: null, p: null },
      { name: '', score: 0.5, p: Number.NaN },
    ],
  };

  test('CSV: quoted, full precision, a rate in seven columns, gaps empty', () => {
    const lines = tableToCsv(table).split('\r\n');
    expect(lines[0]).toBe('name,score,score_low,score_high,score_successes,score_n,score_failed,score_truncated,p');
    const { low, high } = rate({ successes: 1, n: 4 });
    expect(lines[1]).toBe(`"a ""b"", c",0.25,${low},${high},1,4,1,2,0.00001`);
    expect(lines[2]).toBe('"x | y\nz",,,,,,,,');
    expect(lines[3]).toBe(',0.5,,,,,,,');
    expect(lines[4]).toBe('');
  });

  test('Markdown: answers with their tests, charts as numbers, pipes escaped', () => {
    const text = renderMarkdown({
      title: 'T',
      subtitle: 's',
      generated: 'g',
      answers: [
        { text: 'one', significant: true },
        { text: 'two', significant: false },
        { text: 'three', significant: null },
      ],
      sections: [
        {
          id: 'a',
          title: 'A',
          blocks: [
            { kind: 'table', id: 't', title: 'Table', caption: 'c', table },
            { kind: 'prose', text: 'mind', tone: 'caution' },
          ],
        },
      ],
      provenance: { seed: '7' },
    });
    expect(text).toContain('- one *(significant)*\n- two *(not significant)*\n- three *(not tested)*');
    expect(text).toContain('| a "b", c | 25.0% (4.6–69.9), n = 4, 1 failed, 2 truncated | < 0.001 |');
    expect(text).toContain('| x \\| y z | – | – |');
    expect(text).toContain('> **Caution.** mind');
    expect(text).toContain('| seed | 7 |');
  });
});

describe('HTML', () => {
  const document = (more: Partial<ReportDocument>): ReportDocument => ({
    title: 'T',
    subtitle: 's',
    generated: 'g',
    answers: [],
    sections: [],
    provenance: {},
    ...more,
  });

  test('asks the network for nothing', () => {
    const html = renderHtml(demoReport);
    expect(html).not.toMatch(/(?:src|href)="(?!#|data:)/);
    expect(html).not.toMatch(/@import|url\((?!#)/);
    expect(html).toContain("default-src 'none'");
    expect(html).not.toMatch(/\bNaN\b|undefined/);
  });

  test('text stays text, wherever it comes from', () => {
    const svg = lineChart({
      id: 'c',
      title: hostile,
      x: { label: hostile, values: [0] },
      y: { label: hostile, format: 'number' },
      regions: [{ from: 0, to: 0, label: hostile }],
      references: [{ value: 1, label: hostile }],
      series: [
        { name: hostile, points: [{ x: 0, y: 1 }] },
        { name: 'b', points: [] },
      ],
    });
    const bars = barChart({
      id: 'b',
      title: hostile,
      groups: [hostile],
      series: [{ name: hostile, values: [{ value: 1 }] }],
      value: { label: hostile, format: 'number' },
      reference: { value: 1, label: hostile },
    });
    const heat = heatMap({
      id: 'h',
      title: hostile,
      rows: [hostile],
      columns: [hostile],
      values: [[1]],
      scale: 'diverging',
      format: 'number',
      valueLabel: hostile,
    });
    const points = pointRange({
      id: 'p',
      title: hostile,
      rows: [{ label: hostile, group: hostile, estimate: 1 }],
      value: { label: hostile, format: 'number' },
    });
    const table = { columns: [{ key: 'a', label: hostile, unit: hostile }], rows: [{ a: `${hostile}</script>` }] };
    const html = renderHtml(
      document({
        title: hostile,
        subtitle: hostile,
        generated: hostile,
        answers: [{ text: hostile, significant: true }],
        sections: [
          {
            id: 'a',
            title: hostile,
            lead: hostile,
            blocks: [
              {
                kind: 'chart',
                id: 'c',
                title: hostile,
                caption: hostile,
                svg: smallMultiples([{ title: hostile, svg: svg + bars + heat + points }]),
                csv: table,
              },
              { kind: 'prose', text: hostile },
              { kind: 'table', id: 't', title: hostile, caption: hostile, table },
            ],
          },
        ],
        provenance: { [hostile]: hostile },
      }),
    );
    expect(html).not.toContain('<img');
    expect(html.match(/<\/script>/g)).toHaveLength(3);
  });

  test('long tables are folded, sentences may wrap, names may not', () => {
    const page = (rows: readonly string[]): string => {
      const table = { columns: [{ key: 'a', label: 'A' }], rows: rows.map((text) => ({ a: text })) };
      const block = { kind: 'table' as const, id: 't', title: 'T', caption: '', table };
      return renderHtml({ ...demoReport, sections: [{ id: 's', title: 'S', blocks: [block] }] });
    };
    const short = page(Array.from({ length: 12 }, () => 'rl-frozen-early'));
    expect(short).not.toContain('<summary>');
    expect(short).not.toContain('class="sentences"');
    expect(page(Array.from({ length: 13 }, () => 'a'))).toContain('<summary>Table of 13 rows</summary>');
    expect(page(['a deviation of the published scripts, told in a sentence'])).toContain('<table class="sentences">');
  });

  test('reference lines of one label are named once and have the colours of their series', () => {
    const svg = lineChart({
      id: 'r',
      title: 'r',
      x: { label: 'Layer', values: [0, 1] },
      y: { label: 'Accuracy', format: 'percent' },
      series: ['in', 'rl'].map((name) => ({ name, points: [{ x: 0, y: 0.1 }] })),
      references: [
        { value: 0.4, label: 'nothing left out', series: 'in' },
        { value: 0.8, label: 'nothing left out', series: 'rl' },
        { value: 0.2, label: 'control' },
      ],
    });
    expect(inWide(svg, />nothing left out</g)).toBe(1);
    expect(inWide(svg, /class="reference dash-0 of series-in c0"/g)).toBe(1);
    expect(inWide(svg, /class="reference dash-0 of series-rl c1"/g)).toBe(1);
    expect(inWide(svg, /class="reference dash-1"/g)).toBe(1);
    expect(inWide(svg, /class="reference-sample/g)).toBe(2);
  });

  test('ids are checked', () => {
    const prose = { kind: 'prose', text: 'x' } as const;
    expect(() => renderHtml(document({ sections: [{ id: 'a b', title: 't', blocks: [prose] }] }))).toThrow(/"a b"/);
    const twice = [1, 2].map(() => ({ id: 'a', title: 't', blocks: [prose] }));
    expect(() => renderHtml(document({ sections: twice }))).toThrow(/"a" is used twice/);
  });

  test('names become classes', () => {
    expect(slug('M_vis (a/b)')).toBe('m-vis-a-b');
    expect(slug('→')).toBe('x');
  });

  test('a legend that all small charts share is shown once', () => {
    const one = (names: string[]): string =>
      lineChart({
        id: 'm',
        title: 't',
        x: { label: 'x', values: [0] },
        y: { label: 'y', format: 'number' },
        series: names.map((name) => ({ name, points: [{ x: 0, y: 1 }] })),
      });
    const legends = (markup: string): number => markup.match(/class="legend"/g)?.length ?? 0;
    const pair = (a: string[], b: string[]): string =>
      smallMultiples([
        { title: '1', svg: one(a) },
        { title: '2', svg: one(b) },
      ]);
    expect(legends(pair(['p', 'q'], ['p', 'q']))).toBe(1);
    expect(legends(pair(['p', 'q'], ['p', 'r']))).toBe(2);
  });
});
