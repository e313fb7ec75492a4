/** Which rule grades which task, and how a rule is written. */
import { z } from 'zod';
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

/** A rule as data and study files write it. */
export const ruleSchema: z.ZodType<MatchRule> = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('exact') }),
  z.strictObject({ kind: z.literal('yesno') }),
  z.strictObject({
    kind: z.literal('number'),
    tolerance: z.number().nonnegative().exactOptional(),
    relative: z.number().nonnegative().exactOptional(),
    unit: z.string().min(1).exactOptional(),
  }),
  z.strictObject({ kind: z.literal('latex') }),
  z.strictObject({ kind: z.literal('box'), iou: z.number().positive().max(1) }),
  z.strictObject({ kind: z.literal('option'), choices: z.array(z.string()).min(2) }),
]);

/** A line's own `rule` field, checked; undefined when it has none. */
export function ownRule(at: JsonLine): MatchRule | undefined {
  const { rule } = at.value;
  if (rule === undefined) return undefined;
  const parsed = ruleSchema.safeParse(rule);
  if (parsed.success) return parsed.data;
  const [fault] = parsed.error.issues;
  const path = ['rule', ...(fault?.path ?? [])].join('.');
  throw lineError(at, `${path}: ${fault?.message ?? 'not a rule'}, got ${JSON.stringify(rule)}`);
}

/** A list of at least two option texts. */
export function choiceList(at: JsonLine, name: string, value: unknown): readonly string[] {
  if (Array.isArray(value) && value.length >= 2 && value.every((x): x is string => typeof x === 'string')) return value;
  throw lineError(at, `${name}: expected a list of at least two strings, got ${JSON.stringify(value)}`);
}
