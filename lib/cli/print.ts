/** Results as text for a terminal. */
import type { AccuracyCell } from '../experiments/answers.js';
import type { RateRecord, TestRecord } from '../experiments/measure.js';
import { findings, type ReportFiles } from '../experiments/report.js';
import type { StudyRun } from '../experiments/study.js';
import type { Summary } from '../experiments/summary.js';
import type { PlainResult, PolicyResult } from '../experiments/transfer-analyze.js';
import type { Answer } from '../report/document.js';
import { formatNumber } from '../report/format.js';

/** Columns as wide as their widest cell; the first left, the others right. */
export function textTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd();
  const ruler = widths.map((width) => '─'.repeat(width)).join('  ');
  return [line(header), ruler, ...rows.map(line)].join('\n');
}

const percent = (record: RateRecord | undefined): string =>
  record?.rate == null ? '–' : `${(100 * record.rate).toFixed(0)}`;

/** "92 ±5": the larger half of the Wilson interval. */
const percentWithin = (record: RateRecord | undefined): string =>
  record?.rate == null
    ? '–'
    : `${(100 * record.rate).toFixed(0)} (${(100 * record.low).toFixed(0)}–${(100 * record.high).toFixed(0)})`;

const unique = <T>(values: readonly T[]): T[] => [...new Set(values)];

export function printStudy(
  summary: Summary,
  extra?: { readonly run?: StudyRun; readonly files?: ReportFiles; readonly seconds?: number },
): string {
  const parts = [
    visionText(summary),
    reasoningText(summary),
    attendText(summary),
    weightsText(summary),
    transferText(summary),
    freezeText(summary),
    findingsText(summary),
    runText(summary, extra),
  ];
  return parts.filter((part) => part !== '').join('\n\n');
}

function titled(title: string, body: string): string {
  return `${title}\n${body}`;
}

function visionText({ localizeVision }: Summary): string {
  if (!localizeVision) return '';
  const { cells } = localizeVision;
  return unique(cells.map(({ model, mode }) => `${model}\n${mode}`))
    .map((id) => {
      const [model, mode] = id.split('\n');
      const own = cells.filter((cell) => cell.model === model && cell.mode === mode);
      const layers = unique(own.map(({ layer }) => layer)).sort((a, b) => a - b);
      const rows = unique(own.map(({ task }) => task)).map((task) => {
        const curve = own.filter((cell) => cell.task === task);
        return [
          task,
          ...layers.map((layer) => percent(curve.find((cell) => cell.layer === layer)?.change)),
          `${curve[0]?.change.n ?? 0}`,
        ];
      });
      return titled(
        `Answers changed by swapping the image, % (${model}, ${mode}; by layer)`,
        textTable(['task', ...layers.map(String), 'n'], rows),
      );
    })
    .join('\n\n');
}

function reasoningText({ localizeReasoning }: Summary): string {
  if (!localizeReasoning) return '';
  const { cells } = localizeReasoning;
  return unique(cells.map(({ part }) => part))
    .filter((part) => part !== 'none')
    .map((part) => {
      const own = cells.filter((cell) => cell.part === part);
      const layers = unique(own.map(({ layer }) => layer!)).sort((a, b) => a - b);
      const rows = unique(own.map(({ model, task }) => `${model}\n${task}`)).map((id) => {
        const [model, task] = id.split('\n');
        const curve = own.filter((cell) => cell.model === model && cell.task === task);
        const base = cells.find((cell) => cell.model === model && cell.task === task && cell.part === 'none');
        const at = (layer: number) => {
          const cell = curve.find((one) => one.layer === layer);
          return `${percent(cell?.accuracy)}${cell?.test?.pHolm != null && cell.test.pHolm < 0.05 ? '*' : ' '}`;
        };
        return [`${model} ${task}`, percent(base?.accuracy), ...layers.map(at), `${base?.accuracy.n ?? 0}`];
      });
      return titled(
        `Accuracy without one layer, % (${part}; * differs from the whole model, Holm-adjusted p < 0.05)`,
        textTable(['model task', 'whole', ...layers.map((layer) => `${layer} `), 'n'], rows),
      );
    })
    .join('\n\n');
}

function attendText({ attend, layers }: Summary): string {
  if (!attend) return '';
  const cells = attend.cells.filter(
    ({ mode, query, imageSinkFree }) => mode === 'same' && query === 'think' && imageSinkFree.n > 0,
  );
  if (cells.length === 0) return '';
  const all = Array.from({ length: layers }, (_, layer) => layer);
  const rows = attend.models.map((model) => {
    const own = cells.filter((cell) => cell.model === model);
    const at = (layer: number): string => {
      const mean = own.find((cell) => cell.layer === layer)?.imageSinkFree.mean;
      return mean == null ? '–' : (100 * mean).toFixed(1);
    };
    return [model, ...all.map(at), `${own[0]?.imageSinkFree.n ?? 0}`];
  });
  return titled(
    `Attention of reasoning tokens to the image, % without sinks (all reading the text of ${attend.writer}; by layer)`,
    textTable(['model', ...all.map(String), 'n'], rows),
  );
}

function weightsText({ characterize, layers }: Summary): string {
  if (!characterize) return '';
  const all = Array.from({ length: layers }, (_, layer) => layer);
  const rows = characterize.comparisons.flatMap(({ name, steps }) =>
    steps.map((step, index) => {
      const at = (layer: number): string => {
        const cell = characterize.cells.find(
          (one) => one.comparison === name && one.kind === 'layer' && one.layer === layer,
        );
        const relative = cell?.steps[index]?.relativeNorm;
        return relative == null ? '–' : formatNumber(100 * relative, 2);
      };
      return [step, ...all.map(at)];
    }),
  );
  return titled('Relative size of the update ‖Δ‖/‖W‖, % (by layer)', textTable(['step', ...all.map(String)], rows));
}

function transferText({ transfer }: Summary): string {
  if (!transfer) return '';
  const marked = (record: RateRecord | undefined, test: TestRecord | null | undefined): string =>
    `${percentWithin(record)}${test?.pHolm != null && test.pHolm < 0.05 ? '*' : ' '}`;
  const table = (
    title: string,
    first: string,
    names: readonly string[],
    result: PlainResult | PolicyResult,
  ): string => {
    const measures = unique(result.abilities.map(({ measure }) => measure));
    const groups = unique(result.accuracy.map(({ group }) => group));
    const rows = names.map((name) => [
      name,
      ...measures.map((measure) => {
        const cell = result.abilities.find((one) => one.model === name && one.measure === measure);
        return marked(cell?.rate, cell?.test);
      }),
      ...groups.map((group) => {
        const own = result.accuracy.filter((one) => one.model === name && one.group === group);
        const cell = own.find(({ task }) => task === null) ?? own[0];
        return marked(cell?.accuracy, cell?.test);
      }),
    ]);
    const columns = [...measures.map((measure) => `${measure} `), ...groups.map((group) => `${group} `)];
    return titled(title, textTable([first, ...columns], rows));
  };
  const note = '* differs from IN, Holm-adjusted p < 0.05';
  return [
    ...transfer.policies.map((result) =>
      table(
        `Grafts, % with 95 % interval (policy ${result.policy}; ${note})`,
        'early:mid:late',
        result.models.map(({ name }) => name),
        result,
      ),
    ),
    ...(transfer.plain
      ? [
          table(
            `Further models, % with 95 % interval (${note})`,
            'model',
            ['IN', ...transfer.plain.models],
            transfer.plain,
          ),
        ]
      : []),
  ].join('\n\n');
}

function freezeText({ freeze }: Summary): string {
  if (!freeze) return '';
  const cells = freeze.againstFull;
  const groups = unique(cells.map(({ group }) => group));
  const whole = (model: string, group: string): AccuracyCell | undefined => {
    const own = cells.filter((cell) => cell.model === model && cell.group === group);
    return own.find(({ task }) => task === null) ?? own[0];
  };
  const rows = unique(cells.map(({ model }) => model)).map((model) => [
    model,
    ...groups.map((group) => {
      const cell = whole(model, group);
      const mark = cell?.test?.pHolm != null && cell.test.pHolm < 0.05 ? '*' : ' ';
      return `${percentWithin(cell?.accuracy)}${mark}`;
    }),
  ]);
  return titled(
    `Accuracy, % with 95 % interval (* differs from ${freeze.full}, Holm-adjusted p < 0.05)`,
    textTable(['model', ...groups.map((group) => `${group} `)], rows),
  );
}

function findingsText(summary: Summary): string {
  const all = findings(summary);
  return all.length === 0 ? '' : titled('What the numbers say', findingsList(all));
}

/** Numbered sentences, each with its verdict. */
export function findingsList(answers: readonly Answer[]): string {
  return answers
    .map(({ text, significant }, i) => {
      const verdict = significant === null ? '' : significant ? ' [significant]' : ' [not significant]';
      return wrap(`${i + 1}. ${text.replaceAll('`', '').replaceAll('**', '')}${verdict}`, 110, '   ');
    })
    .join('\n');
}

export function wrap(text: string, width: number, indent: string): string {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + word.length + 1 > width) {
      lines.push(line);
      line = indent + word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].join('\n');
}

function runText(
  { progress }: Summary,
  extra?: { readonly run?: StudyRun; readonly files?: ReportFiles; readonly seconds?: number },
): string {
  const total = progress.reduce(
    (sum, { planned, failed, missing }) => ({
      planned: sum.planned + planned,
      failed: sum.failed + failed,
      missing: sum.missing + missing,
    }),
    { planned: 0, failed: 0, missing: 0 },
  );
  const lines = [`${total.planned} trials and measurements, ${total.failed} failed, ${total.missing} not yet run`];
  const stats = extra?.run?.stats;
  if (extra?.run && extra.seconds !== undefined) {
    lines.push(
      `${extra.run.computed} computed in ${extra.seconds.toFixed(1)} s, ${extra.run.skipped} taken from the ledger or shared`,
    );
  }
  if (stats && stats.naiveLayerRows > 0) {
    const saved = stats.naiveLayerRows / Math.max(1, stats.prefillLayerRows);
    lines.push(`shared prefixes: ${saved.toFixed(1)} times fewer layer-rows in prefill than one trial at a time`);
  }
  if (extra?.files)
    lines.push(
      `report: ${extra.files.html}`,
      `data:   ${extra.files.summary}, ${extra.files.tables.length} tables as CSV`,
    );
  return lines.join('\n');
}

/** "3.1 MB", decimal. */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let at = 0;
  let value = bytes;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${at === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[at]}`;
}
