/** What a report is made of, before it is HTML, Markdown or CSV. Data only. */

import type { Rate } from '../types.js';

/** 'rate': a Rate or a number in [0, 1], shown in percent; 'p': a p-value. */
export type ColumnFormat = 'rate' | 'number' | 'text' | 'p';

export interface Column {
  readonly key: string;
  readonly label: string;
  readonly unit?: string;
  /** Default 'text' for strings, 'number' for numbers, 'rate' for rates. */
  readonly format?: ColumnFormat;
  /** Decimal places of numbers; default: four significant digits. */
  readonly digits?: number;
}

/** null and NaN are gaps: shown as a dash, empty in CSV, never a number. */
export type Cell = string | number | null | Rate;

export interface Table {
  readonly columns: readonly Column[];
  readonly rows: readonly Readonly<Record<string, Cell>>[];
}

/** 'finding': drawn from the numbers; 'caution': limits what they show; 'note': an aside. */
export type Tone = 'finding' | 'caution' | 'note';

export interface ProseBlock {
  readonly kind: 'prose';
  /** Plain text; blank lines part paragraphs, `code` and **strong** are marked up. */
  readonly text: string;
  readonly tone?: Tone;
}

export interface ChartBlock {
  readonly kind: 'chart';
  /** Unique in the document: letters, digits, - and _. */
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  /** Markup from one of the chart functions; trusted, put in as it is. */
  readonly svg: string;
  /** The numbers behind the chart. */
  readonly csv?: Table;
}

export interface TableBlock {
  readonly kind: 'table';
  /** Unique in the document: letters, digits, - and _. */
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly table: Table;
}

export type Block = ProseBlock | ChartBlock | TableBlock;

export interface Section {
  readonly id: string;
  readonly title: string;
  readonly lead?: string;
  readonly blocks: readonly Block[];
}

/** One plain sentence of the opening. significant: null where no test was made. */
export interface Answer {
  readonly text: string;
  readonly significant: boolean | null;
}

export interface ReportDocument {
  readonly title: string;
  readonly subtitle: string;
  /** When, as it shall be shown. */
  readonly generated: string;
  readonly answers: readonly Answer[];
  readonly sections: readonly Section[];
  /** Versions, paths, seeds, hashes: name → value. */
  readonly provenance: Readonly<Record<string, string>>;
}

/** True for the Rate record of lib/types.ts. */
export function isRate(cell: Cell | undefined): cell is Rate {
  return typeof cell === 'object' && cell !== null;
}
