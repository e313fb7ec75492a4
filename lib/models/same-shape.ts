/** Models whose layers can stand in for each other's. */
import { GalvaniError } from '../errors.js';
import type { ModelConfig } from './family.js';

interface Shaped {
  readonly name: string;
  readonly config: ModelConfig;
}

/** @throws SHAPE_MISMATCH listing what differs */
export function requireSameShape(a: Shaped, b: Shaped): void {
  const shape = ({ config: { decoder, vision } }: Shaped): Record<string, unknown> => ({
    ...Object.fromEntries(Object.entries(decoder).map(([key, value]) => [`decoder.${key}`, value])),
    ...Object.fromEntries(Object.entries(vision ?? {}).map(([key, value]) => [`vision.${key}`, value])),
  });
  const [left, right] = [shape(a), shape(b)];
  const keys = [...new Set([...Object.keys(left), ...Object.keys(right)])];
  const different = keys.filter((key) => JSON.stringify(left[key]) !== JSON.stringify(right[key]));
  if (different.length === 0) return;
  const list = different.map((key) => `${key} ${JSON.stringify(left[key])} ≠ ${JSON.stringify(right[key])}`);
  throw new GalvaniError('SHAPE_MISMATCH', `'${a.name}' and '${b.name}' differ in architecture: ${list.join('; ')}`);
}
