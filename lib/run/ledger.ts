/** The append-only ledger: one row per trial, keyed by the trial's content. What is here is never computed again. */

import { JsonLines } from './json-lines.js';
import type { LedgerRow } from './rows.js';

export class Ledger implements Disposable {
  readonly #file: JsonLines<LedgerRow>;
  readonly #rows = new Map<string, LedgerRow>();
  readonly #triedNow = new Set<string>();

  /** Opens or creates the ledger file. @throws LEDGER when it is damaged or in use by another process. */
  constructor(path: string) {
    this.#file = new JsonLines<LedgerRow>(path);
    for (const row of this.#file.loaded) this.#rows.set(row.key, row);
  }

  get path(): string {
    return this.#file.path;
  }

  /** Rows by key, the last one written winning. */
  get rows(): ReadonlyMap<string, LedgerRow> {
    return this.#rows;
  }

  /** True when the key needs no work in this run: it succeeded, or it failed in this very run. */
  settled(key: string): boolean {
    const row = this.#rows.get(key);
    return row !== undefined && (row.kind !== 'failed' || this.#triedNow.has(key));
  }

  /** Rows are on disk when this returns. */
  append(rows: readonly LedgerRow[]): void {
    this.#file.append(rows);
    for (const row of rows) {
      this.#rows.set(row.key, row);
      this.#triedNow.add(row.key);
    }
  }

  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
