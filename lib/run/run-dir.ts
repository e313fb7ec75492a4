/**
 * A run directory: run.json (what was asked, of which models), plan.jsonl (what each ledger key means), ledger.jsonl
 * (results). With shards each process has its own plan and ledger file; reading merges them.
 */
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeAtomic } from '../checkpoint/files.js';
import { GalvaniError } from '../errors.js';
import type { HistoryRow } from './history.js';
import { JsonLines } from './json-lines.js';
import { contentKey } from './key.js';
import { Ledger } from './ledger.js';
import type { Json, JsonObject, PlanRow } from './rows.js';
import type { PlanLog } from './runner.js';
import { planIdentity, type Shard, shardFile, wholeRun } from './shards.js';

export interface RunModel {
  readonly name: string;
  readonly dir: string;
  readonly fingerprint: string;
  /** Decoder layers. */
  readonly layers: number;
}

export interface RunRecord {
  readonly format: 1;
  readonly galvani: string;
  readonly node: string;
  /** The study as it was asked, defaults filled in. */
  readonly definition: JsonObject;
  readonly models: readonly RunModel[];
  /** Content hashes of the questions read, by kind: 'items', 'pairs'. */
  readonly data: Readonly<Record<string, string>>;
  /** What the report needs and no row carries, such as region cuts. */
  readonly facts: JsonObject;
}

export function readRunRecord(dir: string): RunRecord {
  const path = join(dir, 'run.json');
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new GalvaniError('FILE_NOT_FOUND', `${path}: not found; ${dir} is not a run directory`, { cause });
  }
  let record: RunRecord;
  try {
    record = JSON.parse(text) as RunRecord;
  } catch (cause) {
    throw new GalvaniError('BAD_FILE', `${path}: not JSON`, { cause });
  }
  if (record.format !== 1) {
    throw new GalvaniError('BAD_FILE', `${path}: expected format 1, got ${String(record.format)}`);
  }
  return record;
}

/**
 * The record of a run that asks another part of the same study: models and facts of both. Undefined when the question
 * changed: another definition, other weights under the same name, or edited questions.
 */
function joined(before: RunRecord, now: RunRecord): RunRecord | undefined {
  if (contentKey(before.definition) !== contentKey(now.definition)) return undefined;
  const known = new Map(before.models.map((model) => [model.name, model]));
  for (const model of now.models) {
    const old = known.get(model.name);
    if (old && old.fingerprint !== model.fingerprint) return undefined;
    known.set(model.name, model);
  }
  for (const [kind, hash] of Object.entries(now.data)) {
    if (before.data[kind] !== undefined && before.data[kind] !== hash) return undefined;
  }
  return {
    ...now,
    data: { ...before.data, ...now.data },
    models: [...known.values()],
    facts: { ...before.facts, ...now.facts },
  };
}

export class RunDir implements Disposable {
  readonly dir: string;
  readonly ledger: Ledger;
  readonly planLog: PlanLog;
  readonly #plan: JsonLines<PlanRow>;
  readonly #shard: Shard;

  /**
   * Opens a run directory for writing, creating it when needed. Another part of the same study adds to it. A changed
   * question (definition, weights or data) drops this shard's plan rows but keeps the ledger: what was computed for the same
   * trial is never computed again.
   * @throws LEDGER when another process writes the same shard or a file is damaged.
   */
  constructor(dir: string, record: RunRecord, shard: Shard = wholeRun) {
    this.dir = dir;
    this.#shard = shard;
    mkdirSync(dir, { recursive: true });
    const planPath = join(dir, shardFile('plan', shard));
    this.ledger = new Ledger(join(dir, shardFile('ledger', shard)));
    try {
      const before = existingRecord(dir);
      const kept = before && joined(before, record);
      if (!kept) rmSync(planPath, { force: true });
      writeAtomic(join(dir, 'run.json'), `${JSON.stringify(kept ?? record, null, 2)}\n`);
      this.#plan = new JsonLines<PlanRow>(planPath);
    } catch (cause) {
      this.ledger.close();
      throw cause;
    }
    const known = new Set(this.#plan.loaded.map(planIdentity));
    this.planLog = {
      append: (rows) => {
        const fresh = rows.filter((row) => !known.has(planIdentity(row)));
        for (const row of fresh) known.add(planIdentity(row));
        this.#plan.append(fresh);
      },
    };
  }

  /** Notes when work on the directory began and ended, and on what machine. */
  note(row: HistoryRow): void {
    using file = new JsonLines<HistoryRow>(join(this.dir, shardFile('history', this.#shard)));
    file.append([row]);
  }

  close(): void {
    this.#plan.close();
    this.ledger.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function existingRecord(dir: string): RunRecord | undefined {
  try {
    return readRunRecord(dir);
  } catch (cause) {
    if (cause instanceof GalvaniError && cause.code === 'FILE_NOT_FOUND') return undefined;
    throw cause;
  }
}

/** Fails early when a value that goes into run.json could not be read back as it is. */
export function asJson(value: unknown): Json {
  return JSON.parse(JSON.stringify(value)) as Json;
}
