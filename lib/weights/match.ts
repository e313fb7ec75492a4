/** Pairing the tensors of several checkpoints by name, and saying everything that does not fit, at once. */
import { GalvaniError } from '../errors.js';
import { closest } from '../models/names.js';
import type { DType, NativeCheckpoint, TensorKey } from '../native.js';

export const isFloat = (dtype: DType): boolean => dtype.startsWith('F') || dtype === 'BF16';

/**
 * One key per tensor that every checkpoint has in the same shape, sorted by name. `canonicalName`: the name under which
 * checkpoints of different layouts agree.
 * @throws SHAPE_MISMATCH listing every difference: missing tensors with the closest name that is there, shapes, types;
 * BAD_ARGUMENT when two tensors of one checkpoint share a name.
 */
export function matchTensors(
  checkpoints: readonly NativeCheckpoint[],
  canonicalName: (name: string) => string = (name) => name,
): TensorKey[] {
  const tables = checkpoints.map((checkpoint) => tableOf(checkpoint, canonicalName));
  const names = [...new Set(tables.flatMap((table) => [...table.keys()]))].sort();
  // A name that others have too is not a misspelling of a missing one.
  const odd = tables.map((table) => [...table.keys()].filter((name) => !tables.every((other) => other.has(name))));
  const differences: string[] = [];
  const keys: TensorKey[] = [];
  for (const name of names) {
    const stored = tables.map((table) => table.get(name));
    const absent = checkpoints.flatMap((checkpoint, c) => {
      if (stored[c] !== undefined) return [];
      const near = closestName(name, odd[c]!);
      return [`${checkpoint.path}${near === undefined ? '' : ` (closest there: ${near})`}`];
    });
    if (absent.length > 0) {
      differences.push(`${name}: missing in ${absent.join(' and ')}`);
      continue;
    }
    const key: TensorKey = { name, names: stored as string[] };
    const infos = checkpoints.map((checkpoint, c) => checkpoint.info(key.names[c]!));
    const shapes = infos.map((info) => `[${info.shape.join(', ')}]`);
    const kinds = new Set(infos.map((info) => (isFloat(info.dtype) ? 'float' : info.dtype)));
    if (new Set(shapes).size > 1) differences.push(`${name}: shapes ${shapes.join(', ')}`);
    else if (kinds.size > 1) differences.push(`${name}: types ${infos.map((info) => info.dtype).join(', ')}`);
    else keys.push(key);
  }
  if (differences.length === 0) return keys;
  const paths = checkpoints.map((checkpoint) => checkpoint.path).join(', ');
  throw new GalvaniError(
    'SHAPE_MISMATCH',
    `${differences.length} of ${names.length} tensors differ between ${paths}:\n${differences.join('\n')}`,
    { details: { differences } },
  );
}

/** Canonical name → stored name. */
function tableOf(checkpoint: NativeCheckpoint, canonicalName: (name: string) => string): Map<string, string> {
  const table = new Map<string, string>();
  for (const stored of checkpoint.names()) {
    const name = canonicalName(stored);
    const other = table.get(name);
    if (other !== undefined)
      throw new GalvaniError('BAD_ARGUMENT', `${checkpoint.path}: ${other} and ${stored} are both called ${name}`);
    table.set(name, stored);
  }
  return table;
}

/**
 * By edit distance, among the few names that share most of their dot-separated parts: two layouts of a large model
 * differ in a thousand names, and a million edit distances take minutes.
 */
function closestName(name: string, existing: readonly string[]): string | undefined {
  const parts = new Set(name.split('.'));
  const shared = (other: string): number => other.split('.').reduce((sum, part) => sum + (parts.has(part) ? 1 : 0), 0);
  const likely = existing
    .map((other) => [shared(other), other] as const)
    .sort(([a], [b]) => b - a)
    .slice(0, 12)
    .map(([, other]) => other);
  return closest([name], likely);
}
