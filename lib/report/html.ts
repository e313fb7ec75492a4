/** The report as one HTML file: no network, inline style and script, light and dark, screen and paper. */

import { GalvaniError } from '../errors.js';
import { tableToCsv } from './csv.js';
import type { Answer, Block, ReportDocument, Section, Table } from './document.js';
import { escapeHtml } from './format.js';
import { significanceText } from './markdown.js';
import { pageScript } from './page-script.js';
import { pageCss } from './page-style.js';
import { tableHtml } from './tables.js';
import { themeCss } from './theme.js';

// 'none' for everything else: a report that is opened years later on any machine asks nobody for anything.
const policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/** The whole page. BAD_ARGUMENT for an id that is repeated or holds other than letters, digits, - and _. */
export function renderHtml(document: ReportDocument): string {
  requireIds(document);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="generator" content="galvani">
<link rel="icon" href="data:,">
<title>${escapeHtml(document.title)}</title>
<style>${themeCss()}${pageCss}</style>
</head>
<body>
<div class="page">
<div class="top"><span class="brand"><i></i>galvani</span><button type="button" class="theme">Light / dark</button></div>
<header class="title">
<h1>${escapeHtml(document.title)}</h1>
<p class="subtitle">${inline(document.subtitle)}</p>
<p class="generated">${escapeHtml(document.generated)}</p>
</header>
<main>
${answersHtml(document.answers)}
${contentsHtml(document.sections)}
${document.sections.map(sectionHtml).join('\n')}
${provenanceHtml(document.provenance)}
</main>
</div>
<script>${pageScript}</script>
</body>
</html>
`;
}

function answersHtml(answers: readonly Answer[]): string {
  if (answers.length === 0) return '';
  const rows = answers.map((answer) => {
    const kind = answer.significant === null ? 'none' : answer.significant ? 'yes' : 'no';
    const words = significanceText(answer.significant);
    return `<li><p>${inline(answer.text)}</p><span class="verdict ${kind}">${words}</span></li>`;
  });
  return `<div class="answers"><h2>What the numbers say</h2><ol>${rows.join('')}</ol></div>`;
}

function contentsHtml(sections: readonly Section[]): string {
  const entries = [...sections.map(({ id, title }) => ({ id, title })), { id: 'provenance', title: 'Provenance' }];
  const items = entries.map(({ id, title }) => `<li><a href="#${id}">${escapeHtml(title)}</a></li>`);
  return `<nav class="contents" aria-label="Contents"><ol>${items.join('')}</ol></nav>`;
}

function sectionHtml(section: Section): string {
  const lead = section.lead === undefined ? '' : `<p class="lead">${inline(section.lead)}</p>`;
  return `<section id="${section.id}"><h2>${escapeHtml(section.title)}</h2>${lead}\n${section.blocks.map(blockHtml).join('\n')}</section>`;
}

/** Longer tables are folded: a page of tables is not read. */
const longTable = 12;

const toneTitle = { finding: 'Finding', caution: 'Caution', note: 'Note' } as const;

function blockHtml(block: Block): string {
  switch (block.kind) {
    case 'prose': {
      const paragraphs = block.text.split(/\n\s*\n/).map((text) => `<p>${inline(text)}</p>`);
      const tone = block.tone === undefined ? '' : `<span class="tone">${toneTitle[block.tone]}</span>`;
      return `<div class="prose${block.tone === undefined ? '' : ` ${block.tone}`}">${tone}${paragraphs.join('')}</div>`;
    }
    case 'chart': {
      const data =
        block.csv === undefined
          ? ''
          : `<details><summary>Numbers behind this chart</summary>${saveButton(block.id, block.csv)}${tableHtml(block.csv)}</details>`;
      return figure(block, `${block.svg}${data}`);
    }
    case 'table': {
      const { rows } = block.table;
      const whole = `${tableHtml(block.table)}${saveButton(block.id, block.table)}`;
      if (rows.length <= longTable) return figure(block, whole);
      return figure(block, `<details><summary>Table of ${rows.length} rows</summary>${whole}</details>`);
    }
    default:
      return block satisfies never;
  }
}

function figure(
  block: { readonly id: string; readonly title: string; readonly caption: string },
  inner: string,
): string {
  const caption = block.caption === '' ? '' : `<figcaption>${inline(block.caption)}</figcaption>`;
  return `<figure id="${block.id}"><h3>${escapeHtml(block.title)}</h3>${caption}${inner}</figure>`;
}

/** The CSV rides along as a JSON string in a script element of a type that no browser runs. */
function saveButton(id: string, table: Table): string {
  const csv = JSON.stringify(tableToCsv(table)).replaceAll('<', '\\u003c');
  return (
    `<button type="button" class="save" data-csv="${id}-csv" data-name="${id}.csv">Save as CSV</button>` +
    `<script type="application/json" id="${id}-csv">${csv}</script>`
  );
}

function provenanceHtml(provenance: Readonly<Record<string, string>>): string {
  const rows = Object.entries(provenance).map(
    ([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${inline(value)}</dd>`,
  );
  return `<section id="provenance" class="provenance"><h2>Provenance</h2><dl>${rows.join('')}</dl></section>`;
}

/** Escaped text with `code` and **strong**. */
function inline(text: string): string {
  return escapeHtml(text)
    .replace(/`([^`]+)`/g, '<code>$1</code>')
    .replace(/\*\*([^*]+)\*\*/g, '<strong>$1</strong>');
}

function requireIds(document: ReportDocument): void {
  const seen = new Set(['provenance']);
  const blocks = document.sections.flatMap((section) => section.blocks.filter((block) => block.kind !== 'prose'));
  for (const { id } of [...document.sections, ...blocks]) {
    if (!/^[A-Za-z][\w-]*$/.test(id)) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `renderHtml: id must start with a letter and hold only letters, digits, - and _, got ${JSON.stringify(id)}`,
      );
    }
    if (seen.has(id)) throw new GalvaniError('BAD_ARGUMENT', `renderHtml: id ${JSON.stringify(id)} is used twice`);
    seen.add(id);
  }
}
