/**
 * Values of parameters as recipes write them: a scalar; a list, read as a gradient over layers; or a list of
 * {filter, value}, of which the first whose filter occurs in the tensor's name holds. The same rules as mergekit's.
 */
import { GalvaniError } from '../errors.js';
import type { MergeParameter } from './methods.js';

export type Scalar = number | boolean | string;
export type ScalarOrGradient = Scalar | readonly Scalar[];
export interface Condition {
  readonly filter?: string | null | undefined;
  readonly value: ScalarOrGradient;
}
export type Setting = ScalarOrGradient | Condition | readonly Condition[];
export type Settings = Readonly<Record<string, Setting>>;

/** Where in the model a value is asked for. */
export interface Position {
  /** Stored name of the tensor; filters look into it. */
  readonly name: string;
  /** 0 to 1 along the layers of its slice; 0 for tensors of no layer. */
  readonly depth: number;
}

function scalar(parameter: MergeParameter, value: Scalar, where: string): number {
  if (parameter.type === 'flag') {
    if (typeof value === 'boolean') return value ? 1 : 0;
    if (value === 0 || value === 1) return value;
    if (value === 'true' || value === 'false') return value === 'true' ? 1 : 0;
  } else {
    // YAML 1.1 writers spell 1e-5 as a string
    const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
    if (typeof number === 'number' && Number.isFinite(number)) return number;
  }
  const expected = parameter.type === 'flag' ? 'true or false' : 'a number';
  throw new GalvaniError(
    'BAD_CONFIG',
    `${where}: ${parameter.name}: expected ${expected}, got ${JSON.stringify(value)}`,
  );
}

function gradient(parameter: MergeParameter, values: readonly Scalar[], depth: number, where: string): number {
  const numbers = values.map((value) => scalar(parameter, value, where));
  const last = numbers.length - 1;
  const at = depth * last;
  const from = Math.floor(at);
  if (parameter.type === 'flag') return numbers[from]!;
  const share = at - from;
  return (1 - share) * numbers[from]! + share * numbers[Math.min(last, from + 1)]!;
}

const isCondition = (value: unknown): value is Condition =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** undefined when no condition holds. */
function evaluate(parameter: MergeParameter, setting: Setting, at: Position, where: string): number | undefined {
  if (isCondition(setting)) return evaluate(parameter, [setting], at, where);
  if (!Array.isArray(setting)) return scalar(parameter, setting as Scalar, where);
  const items = setting as readonly (Scalar | Condition)[];
  if (items.length === 0) return undefined;
  if (!items.some(isCondition)) return gradient(parameter, items as readonly Scalar[], at.depth, where);
  for (const item of items) {
    if (!isCondition(item)) {
      throw new GalvaniError('BAD_CONFIG', `${where}: ${parameter.name}: a list mixes values and {filter, value}`);
    }
    const { filter } = item;
    if (filter == null || filter === '*' || at.name.includes(filter)) {
      return evaluate(parameter, item.value, at, where);
    }
  }
  return undefined;
}

/** The value in the first scope that has one, else the default; null when the parameter may be left out and is. */
export function resolveParameter(
  parameter: MergeParameter,
  scopes: readonly (Settings | undefined)[],
  at: Position,
  where: string,
): number | null {
  for (const scope of scopes) {
    const setting = scope?.[parameter.name];
    if (setting === undefined || setting === null) continue;
    const value = evaluate(parameter, setting, at, where);
    if (value !== undefined) return value;
  }
  const fallback = parameter.default;
  if (fallback === undefined) {
    throw new GalvaniError('BAD_CONFIG', `${where}: parameter ${parameter.name} is not given for tensor ${at.name}`);
  }
  return fallback === null ? null : Number(fallback);
}
