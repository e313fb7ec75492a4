/** Which rule grades which task. */

import type { MatchRule } from '../types.js';
import { type JsonLine, lineError } from './jsonl.js';

/** IoU from which two boxes count as the same, where the data name none. */
export const defaultIou = 0.5;

const ruleByTask: Readonly<Record<string, MatchRule>> = {
  count: { kind: 'number' },
  counting: { kind: 'number' },
  arith: { kind: 'number' },
  chain: { kind: 'number' },
  dsum: { kind: 'number' },
  diff: { kind: 'number' },
  math: { kind: 'number' },
  recog: { kind: 'yesno' },
  recognition: { kind: 'yesno' },
  ocr: { kind: 'exact' },
};

/** The rule of a task by its name; 'exact' for a name that is not in the table. */
export function defaultRule(task: string): MatchRule {
  return Object.hasOwn(ruleByTask, task) ? ruleByTask[task]! : { kind: 'exact' };
}

/** A line's own `rule` field, checked; undefined when it has none. */
export function ownRule(at: JsonLine): MatchRule | undefined {
  const rule = at.value.rule;
  if (rule === undefined) return undefined;
  const fields = typeof rule === 'object' && rule !== null ? (rule as Readonly<Record<string, unknown>>) : {};
  const { kind, choices, tolerance, iou } = fields;
  switch (kind) {
    case 'exact':
    case 'yesno':
      return { kind };
    case 'number':
      if (tolerance === undefined) return { kind };
      if (typeof tolerance === 'number' && tolerance >= 0) return { kind, tolerance };
      throw lineError(at, `rule.tolerance: expected a number of at least 0, got ${JSON.stringify(tolerance)}`);
    case 'box':
      if (typeof iou === 'number' && iou > 0 && iou <= 1) return { kind, iou };
      throw lineError(at, `rule.iou: expected a number in (0, 1], got ${JSON.stringify(iou)}`);
    case 'option':
      return { kind, choices: choiceList(at, 'rule.choices', choices) };
    default:
      throw lineError(
        at,
        `rule: expected an object whose kind is exact, option, number, yesno or box, got ${JSON.stringify(rule)}`,
      );
  }
}

/** A list of at least two option texts. */
export function choiceList(at: JsonLine, name: string, value: unknown): readonly string[] {
  if (Array.isArray(value) && value.length >= 2 && value.every((x): x is string => typeof x === 'string')) return value;
  throw lineError(at, `${name}: expected a list of at least two strings, got ${JSON.stringify(value)}`);
}
