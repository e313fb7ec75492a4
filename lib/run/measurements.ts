/** Measurements that need no run of a model (a tensor's delta, a freeze check), kept in the same ledger. */
import { fromNative } from '../errors.js';
import { contentKey } from './key.js';
import type { Ledger } from './ledger.js';
import type { Json, JsonObject } from './rows.js';
import type { PlanLog } from './runner.js';

export interface Measurement {
  readonly experiment: string;
  readonly label: string;
  readonly meta: JsonObject;
  /** Everything that decides the value: fingerprints, tensor names, options. Hashed into the key. */
  readonly identity: Json;
  readonly measure: () => Promise<Json>;
}

export interface MeasureOptions {
  /** `done` includes the `skipped` ones, which the ledger had. */
  readonly onProgress?: (done: number, skipped: number) => void;
  /** Asked between measurements: true ends after the one under way. */
  readonly stopping?: () => boolean;
}

/** Takes the measurements the ledger lacks, one after another; a failure is a row. @throws ABORTED, CLOSED, IO, LEDGER */
export async function takeMeasurements(
  measurements: readonly Measurement[],
  run: { readonly ledger: Ledger; readonly planLog?: PlanLog },
  { onProgress, stopping }: MeasureOptions = {},
): Promise<{ readonly taken: number; readonly skipped: number; readonly failed: number }> {
  const counts = { taken: 0, skipped: 0, failed: 0 };
  const keys = measurements.map(({ experiment, identity }) => contentKey({ experiment, identity }));
  // The whole plan first: a run that is stopped knows what is missing.
  run.planLog?.append(measurements.map(({ experiment, meta }, i) => ({ experiment, key: keys[i]!, meta })));
  for (const [i, { label, measure }] of measurements.entries()) {
    const key = keys[i]!;
    if (run.ledger.settled(key)) counts.skipped += 1;
    else {
      if (stopping?.()) break;
      counts.taken += 1;
      try {
        run.ledger.append([{ kind: 'measure', key, label, value: await measure() }]);
      } catch (cause) {
        const { code, message } = fromNative(cause);
        if (code === 'ABORTED' || code === 'CLOSED' || code === 'IO' || code === 'LEDGER') throw cause;
        counts.failed += 1;
        run.ledger.append([{ kind: 'failed', key, label, error: { code, message } }]);
      }
    }
    onProgress?.(i + 1, counts.skipped);
  }
  return counts;
}
