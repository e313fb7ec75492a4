/** Summary → report: the document, and the files of a run directory (report.html, summary.json, tables/*.csv). */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeAtomic } from '../checkpoint/files.js';
import { tableToCsv } from '../report/csv.js';
import type { Answer, ReportDocument, Section } from '../report/document.js';
import { formatNumber } from '../report/format.js';
import { renderHtml } from '../report/html.js';
import { renderMarkdown } from '../report/markdown.js';
import { attendFindings, attendSection } from './report-attend.js';
import { freezeFindings, freezeSection } from './report-freeze.js';
import { gradingSection } from './report-grading.js';
import { column, prose, tableBlock } from './report-parts.js';
import { reasoningFindings, reasoningSection } from './report-reasoning.js';
import { referenceFindings, referenceSection } from './report-reference.js';
import { transferFindings, transferSection } from './report-transfer.js';
import { controlFindings, visionFindings, visionSection } from './report-vision.js';
import { weightsFindings, weightsSection } from './report-weights.js';
import type { Summary } from './summary.js';

/** Sentences of the opening, in the order of the paper's questions: where, what, whether it transfers, whether it is needed. */
export function findings(summary: Summary): Answer[] {
  const { localizeVision, localizeReasoning, attend, characterize, transfer, freeze, reference } = summary;
  return [
    ...(freeze ? freezeFindings(freeze) : []),
    ...(localizeVision ? visionFindings(localizeVision) : []),
    ...(localizeReasoning ? reasoningFindings(localizeReasoning) : []),
    ...(attend ? attendFindings(attend) : []),
    ...(characterize ? weightsFindings(characterize) : []),
    ...(transfer ? transferFindings(transfer) : []),
    ...(reference ? referenceFindings(reference) : []),
    ...controlFindings(localizeVision, localizeReasoning),
  ];
}

export function reportDocument(summary: Summary, options: { readonly generated: string }): ReportDocument {
  const {
    localizeVision,
    localizeReasoning,
    attend,
    characterize,
    transfer,
    freeze,
    reference,
    grading,
    study,
    models,
  } = summary;
  const sections: Section[] = [
    ...(localizeVision ? [visionSection(localizeVision, summary)] : []),
    ...(localizeReasoning ? [reasoningSection(localizeReasoning, summary)] : []),
    ...(attend ? [attendSection(attend, summary)] : []),
    ...(characterize ? [weightsSection(characterize, summary)] : []),
    ...(transfer ? [transferSection(transfer)] : []),
    ...(freeze ? [freezeSection(freeze)] : []),
    ...(reference ? [referenceSection(reference, summary)] : []),
    ...(grading.cells.length > 0 ? [gradingSection(grading)] : []),
    runSection(summary),
  ];
  return {
    title: study.name,
    subtitle: study.description ?? `What post-training changed in ${models.map(({ name }) => name).join(', ')}`,
    generated: options.generated,
    answers: findings(summary),
    sections,
    provenance: provenance(summary),
  };
}

function runSection({ progress, ledger }: Summary): Section {
  const unfinished = progress.filter(({ missing }) => missing > 0);
  const errors = progress.flatMap(({ experiment, errors: list }) =>
    list.map(({ message, count }) => `${experiment}: ${count} × ${message}`),
  );
  return {
    id: 'run',
    title: 'The run',
    blocks: [
      tableBlock('run-progress', 'Trials and measurements', `Rows of ${ledger.join(', ')}, by experiment.`, {
        columns: [
          column('experiment', 'Experiment'),
          column('planned', 'Planned', 'number'),
          column('done', 'Done', 'number'),
          column('failed', 'Failed', 'number'),
          column('missing', 'Not yet run', 'number'),
        ],
        rows: progress.map(({ errors: _, ...row }) => row),
      }),
      prose(
        'The ledger rows behind a number: `galvani report RUN --rows SELECT`, with SELECT from the last column of the ' +
          'numbers behind a chart, or from `select` in summary.json.',
      ),
      ...(unfinished.length > 0
        ? [
            prose(
              'This run is not finished: the numbers above are of what has run so far, and what is missing counts as failed.',
              'caution',
            ),
          ]
        : []),
      ...(errors.length > 0 ? [prose(`Failures: ${errors.join('; ')}.`, 'caution')] : []),
    ],
  };
}

/** "linux 6.1 x64 · AMD EPYC · 2 threads, avx512 · 1.4 minutes in 2 runs", one per kind of machine. */
function machines(history: Summary['history']): string {
  const seconds = history.reduce((sum, row) => sum + (row.kind === 'end' ? row.seconds : 0), 0);
  const starts = history.flatMap((row) => (row.kind === 'start' ? [row] : []));
  const kinds = new Set(
    starts.map(({ environment: { system, cpu, threads, isa, eigensolver } }) =>
      [system, cpu, `${threads} threads, ${isa}`, ...(eigensolver ? [`spectra by ${eigensolver}`] : [])].join(' · '),
    ),
  );
  const runs = `${formatNumber(seconds / 60, 2)} minutes in ${starts.length} ${starts.length === 1 ? 'run' : 'runs'}`;
  return [...kinds, runs].join(' · ');
}

function provenance(summary: Summary): Record<string, string> {
  const { study, models, cuts, layers, ledger, data, history, galvani, node } = summary;
  const { protocol } = study;
  return {
    ...Object.fromEntries(models.map(({ name, dir, fingerprint }) => [`model ${name}`, `${dir} · ${fingerprint}`])),
    'decoder layers': `${layers}, regions cut at ${cuts.join(' and ')}`,
    protocol: [
      protocol.preset ? `preset ${protocol.preset}` : '',
      `system: ${protocol.system ?? 'the template’s own'}`,
      protocol.prefix ? `before: ${protocol.prefix}` : '',
      protocol.suffix ? `after: ${protocol.suffix}` : '',
      `at most ${protocol.maxTokens} tokens, greedy`,
    ]
      .filter(Boolean)
      .join(' · '),
    ...Object.fromEntries(Object.entries(data).map(([kind, hash]) => [`data: ${kind}`, hash])),
    seed: String(study.seed),
    ...(history.length > 0 ? { computed: machines(history) } : {}),
    ledger: ledger.join(', '),
    versions: `galvani ${galvani}, Node ${node}`,
  };
}

export interface ReportFiles {
  readonly html: string;
  readonly markdown: string;
  readonly summary: string;
  readonly tables: readonly string[];
}

/** Writes the report beside the ledger; every file is replaced whole. @throws IO */
export function writeReport(dir: string, summary: Summary, options: { readonly generated?: string } = {}): ReportFiles {
  const generated = options.generated ?? new Date().toISOString().slice(0, 16).replace('T', ' ').concat(' UTC');
  const document = reportDocument(summary, { generated });
  const files = {
    html: join(dir, 'report.html'),
    markdown: join(dir, 'report.md'),
    summary: join(dir, 'summary.json'),
  };
  writeAtomic(files.html, renderHtml(document));
  writeAtomic(files.markdown, renderMarkdown(document));
  writeAtomic(files.summary, `${JSON.stringify({ ...summary, findings: document.answers }, null, 1)}\n`);
  return { ...files, tables: writeTables(join(dir, 'tables'), document) };
}

function writeTables(folder: string, document: ReportDocument): string[] {
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(folder)) if (name.endsWith('.csv')) rmSync(join(folder, name));
  return document.sections.flatMap(({ blocks }) =>
    blocks.flatMap((block) => {
      const table = block.kind === 'table' ? block.table : block.kind === 'chart' ? block.csv : undefined;
      if (!table || block.kind === 'prose') return [];
      const path = join(folder, `${block.id}.csv`);
      writeAtomic(path, tableToCsv(table));
      return [path];
    }),
  );
}
