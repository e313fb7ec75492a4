/** Tables as CSV (RFC 4180, CRLF): full precision, a rate in seven columns, a gap empty. */

import { type Cell, isRate, type Table } from './document.js';

const rateFields = ['rate', 'low', 'high', 'successes', 'n', 'failed', 'truncated'] as const;

/** Header row of keys, then the rows. A column that holds a Rate anywhere becomes key, key_low, … key_truncated. */
export function tableToCsv(table: Table): string {
  const columns = table.columns.map(({ key }) => ({ key, isRate: table.rows.some((row) => isRate(row[key])) }));
  const header = columns.flatMap((column) =>
    column.isRate
      ? rateFields.map((field) => (field === 'rate' ? column.key : `${column.key}_${field}`))
      : [column.key],
  );
  const lines = table.rows.map((row) =>
    columns.flatMap((column) => {
      const cell = row[column.key];
      if (!column.isRate) return [plain(cell)];
      return rateFields.map((field) => plain(isRate(cell) ? cell[field] : field === 'rate' ? cell : null));
    }),
  );
  return [header, ...lines].map((fields) => `${fields.map(quote).join(',')}\r\n`).join('');
}

function plain(cell: Cell | undefined): string {
  if (cell == null || isRate(cell)) return '';
  if (typeof cell === 'number') return Number.isFinite(cell) ? String(cell) : '';
  return cell;
}

function quote(field: string): string {
  return /[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
}
