/** From a span's name to token rows. */
import { GalvaniError } from '../errors.js';
import type { Prompt, Range, SpanRef } from '../types.js';

/** What a prompt must offer for its spans to be resolved. */
export type SpannedPrompt = Pick<Prompt, 'ids' | 'spans'>;

/**
 * Names every prompt has beside its own:
 * `all` every row, generated rows included; `prompt` the prompt's rows; `generated` the rows after it;
 * `first` row 0 (the usual attention sink); `last` the last prompt row, whose logits choose the first token.
 */
function builtIn(prompt: SpannedPrompt): Record<string, readonly Range[]> {
  const n = prompt.ids.length;
  return {
    all: [[0, Number.POSITIVE_INFINITY]],
    prompt: [[0, n]],
    generated: [[n, Number.POSITIVE_INFINITY]],
    first: [[0, 1]],
    last: [[n - 1, n]],
  };
}

/** Names that `resolveSpan` accepts for this prompt. */
export function spanNames(prompt: SpannedPrompt): string[] {
  return [...new Set([...Object.keys(prompt.spans), ...Object.keys(builtIn(prompt))])];
}

export function hasSpan(prompt: SpannedPrompt, name: string): boolean {
  return (
    Object.hasOwn(builtIn(prompt), name) || (Object.hasOwn(prompt.spans, name) && rowCount(prompt.spans[name]!) > 0)
  );
}

/** Rows in the ranges; Infinity when one of them is open. */
export function rowCount(ranges: readonly Range[]): number {
  return ranges.reduce((sum, [start, end]) => sum + (end - start), 0);
}

/**
 * Sorted, disjoint, non-empty row ranges of a span.
 * @param where names the caller in the message, e.g. "interventions[2].rows".
 * @throws BAD_ARGUMENT for an unknown or empty span (the message lists the spans that exist) or a malformed range.
 */
export function resolveSpan(prompt: SpannedPrompt, ref: SpanRef, where = 'span'): readonly Range[] {
  if (typeof ref === 'string') {
    const fixed = builtIn(prompt);
    // `all` and friends mean the same in every prompt, whatever the processor called its own spans.
    const own = Object.hasOwn(prompt.spans, ref) ? prompt.spans[ref] : undefined;
    const ranges = Object.hasOwn(fixed, ref) ? fixed[ref] : own;
    if (ranges === undefined || rowCount(ranges) === 0) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `${where}: this prompt has no span '${ref}'; it has ${spanNames(prompt).sort().join(', ')}`,
        { details: { span: ref, spans: spanNames(prompt) } },
      );
    }
    return merge(ranges);
  }
  for (const [start, end] of ref) {
    const whole = Number.isInteger(start) && (Number.isInteger(end) || end === Number.POSITIVE_INFINITY);
    if (!whole || start < 0 || end < start) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `${where}: expected [start, end) with 0 ≤ start ≤ end, got [${start}, ${end})`,
      );
    }
    if (end !== Number.POSITIVE_INFINITY && start < prompt.ids.length && end > prompt.ids.length) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `${where}: [${start}, ${end}) crosses the end of the prompt (${prompt.ids.length} rows); end it there or leave it open (Infinity)`,
      );
    }
  }
  const merged = merge(ref);
  if (merged.length === 0) throw new GalvaniError('BAD_ARGUMENT', `${where}: the range is empty`);
  return merged;
}

function merge(ranges: readonly Range[]): readonly Range[] {
  const sorted = ranges.filter(([start, end]) => end > start).sort((a, b) => a[0] - b[0]);
  const out: [number, number][] = [];
  for (const [start, end] of sorted) {
    const last = out.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else out.push([start, end]);
  }
  return out;
}

/**
 * The row ranges left when `holes` are taken out of `ranges`; both sorted and disjoint.
 * Used to take sink keys out of a span.
 */
export function withoutRows(ranges: readonly Range[], holes: readonly Range[]): readonly Range[] {
  const out: Range[] = [];
  for (const [start, end] of ranges) {
    let from = start;
    for (const [holeStart, holeEnd] of holes) {
      if (holeEnd <= from || holeStart >= end) continue;
      if (holeStart > from) out.push([from, holeStart]);
      from = Math.max(from, holeEnd);
    }
    if (from < end) out.push([from, end]);
  }
  return out;
}
