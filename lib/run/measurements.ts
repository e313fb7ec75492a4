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

/** Takes the measurements the ledger lacks, one after another; a failure is a row. @throws ABORTED, CLOSED */
export async function takeMeasurements(
  measurements: readonly Measurement[],
  run: { readonly ledger: Ledger; readonly planLog?: PlanLog },
  onProgress?: (done: number) => void,
): Promise<{ readonly taken: number; readonly failed: number }> {
  let taken = 0;
  let failed = 0;
  for (const [i, { experiment, label, meta, identity, measure }] of measurements.entries()) {
    const key = contentKey({ experiment, identity });
    run.planLog?.append([{ experiment, key, meta }]);
    if (!run.ledger.settled(key)) {
      taken += 1;
      try {
        run.ledger.append([{ kind: 'measure', key, label, value: await measure() }]);
      } catch (cause) {
        const { code, message } = fromNative(cause);
        if (code === 'ABORTED' || code === 'CLOSED' || code === 'IO' || code === 'LEDGER') throw cause;
        failed += 1;
        run.ledger.append([{ kind: 'failed', key, label, error: { code, message } }]);
      }
    }
    onProgress?.(i + 1);
  }
  return { taken, failed };
}
