/** The report as GitHub-flavoured Markdown: sentences and tables; a chart is its numbers. */

import type { Block, ReportDocument, Table } from './document.js';
import { cellText } from './tables.js';

/** The words that stand for an answer's test. */
export function significanceText(significant: boolean | null): string {
  if (significant === null) return 'not tested';
  return significant ? 'significant' : 'not significant';
}

/** The whole document; ends with a newline. */
export function renderMarkdown(document: ReportDocument): string {
  const answers = document.answers.map((a) => `- ${oneLine(a.text)} *(${significanceText(a.significant)})*`);
  const parts = [
    `# ${oneLine(document.title)}`,
    `${oneLine(document.subtitle)}  \n${oneLine(document.generated)}`,
    ...(answers.length > 0 ? [answers.join('\n')] : []),
    ...document.sections.flatMap((section) => [
      `## ${oneLine(section.title)}`,
      ...(section.lead === undefined ? [] : [section.lead]),
      ...section.blocks.flatMap(blockParts),
    ]),
    '## Provenance',
    tableMarkdown({
      columns: [
        { key: 'name', label: 'Name' },
        { key: 'value', label: 'Value' },
      ],
      rows: Object.entries(document.provenance).map(([name, value]) => ({ name, value })),
    }),
  ];
  return `${parts.join('\n\n')}\n`;
}

function blockParts(block: Block): string[] {
  switch (block.kind) {
    case 'prose': {
      const mark = block.tone === 'caution' ? '> **Caution.** ' : block.tone === 'note' ? '> ' : '';
      return [mark === '' ? block.text : mark + block.text.replaceAll('\n', '\n> ')];
    }
    case 'chart':
      return [
        `### ${oneLine(block.title)}`,
        block.caption,
        ...(block.csv === undefined ? [] : [tableMarkdown(block.csv)]),
      ];
    case 'table':
      return [`### ${oneLine(block.title)}`, block.caption, tableMarkdown(block.table)];
    default:
      return block satisfies never;
  }
}

/** A pipe table; numbers are right-aligned. */
export function tableMarkdown(table: Table): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((c) => oneLine(c).replaceAll('|', '\\|')).join(' | ')} |`;
  const head = table.columns.map((c) => (c.unit === undefined ? c.label : `${c.label} (${c.unit})`));
  const align = table.columns.map((c) => ((c.format ?? 'text') === 'text' ? ':--' : '--:'));
  const rows = table.rows.map((row) => table.columns.map((c) => cellText(c, row[c.key])));
  return [line(head), `| ${align.join(' | ')} |`, ...rows.map(line)].join('\n');
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, ' ').trim();
}
