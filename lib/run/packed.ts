/** Non-negative numbers in few bytes, for what a ledger keeps many of: fixed point, base64. */
import { GalvaniError } from '../errors.js';
import type { JsonObject } from './rows.js';

export interface Packed extends JsonObject {
  /** Bits per number. A number is off by at most max / 2 / (2^bits − 1). */
  readonly bits: 8 | 16;
  /** The largest number. */
  readonly max: number;
  /** Row-major; the last index runs fastest. */
  readonly shape: readonly number[];
  /** Codes 0 … 2^bits − 1 for 0 … max, little-endian, base64. */
  readonly data: string;
}

/**
 * @param max end of the scale; give it where equal numbers of two lists must stay equal.
 * @throws BAD_ARGUMENT for a negative or non-finite number, or a shape of another size
 */
export function pack(
  values: ArrayLike<number>,
  shape: readonly number[],
  bits: 8 | 16,
  max: number = largest(values),
): Packed {
  const size = shape.reduce((product, n) => product * n, 1);
  if (size !== values.length) {
    throw new GalvaniError('BAD_ARGUMENT', `pack: shape [${shape.join(', ')}] holds ${size}, got ${values.length}`);
  }
  for (let i = 0; i < size; i += 1) {
    const value = values[i]!;
    if (!(value >= 0 && value <= max && max < Number.POSITIVE_INFINITY)) {
      throw new GalvaniError('BAD_ARGUMENT', `pack: expected finite numbers from 0 to ${max}, got ${value} at ${i}`);
    }
  }
  const top = 2 ** bits - 1;
  const bytes = Buffer.alloc((size * bits) / 8);
  for (let i = 0; i < size; i += 1) {
    const code = max === 0 ? 0 : Math.round((values[i]! / max) * top);
    if (bits === 8) bytes.writeUInt8(code, i);
    else bytes.writeUInt16LE(code, 2 * i);
  }
  return { bits, max, shape, data: bytes.toString('base64') };
}

function largest(values: ArrayLike<number>): number {
  let max = 0;
  for (let i = 0; i < values.length; i += 1) if (values[i]! > max) max = values[i]!;
  return max;
}

/** @throws BAD_FILE when the data do not fill the shape */
export function unpack({ bits, max, shape, data }: Packed): Float64Array {
  const bytes = Buffer.from(data, 'base64');
  const size = shape.reduce((product, n) => product * n, 1);
  if (bytes.length * 8 !== size * bits) {
    throw new GalvaniError('BAD_FILE', `packed numbers: expected ${(size * bits) / 8} bytes, got ${bytes.length}`);
  }
  const step = max / (2 ** bits - 1);
  return Float64Array.from({ length: size }, (_, i) => step * (bits === 8 ? bytes[i]! : bytes.readUInt16LE(2 * i)));
}
