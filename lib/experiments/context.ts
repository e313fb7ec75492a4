/** What a plan knows: the opened models, how questions are put, and the seed of everything drawn. */

import type { QuestionItem } from '../data/items.js';
import type { JsonObject } from '../run/rows.js';
import type { MatchRule } from '../types.js';
import type { Asker } from './prompter.js';

export interface PlanModel {
  readonly name: string;
  /** Decoder layers. */
  readonly layers: number;
  /** Query heads of the decoder. */
  readonly heads: number;
}

/** Runs that show what the instrument does by itself; they run with the rest and stand in every figure they apply to. */
export interface Controls {
  /** Patching a run with its own values: must change nothing. */
  readonly self: boolean;
  /** Random sets of as many layers, drawn anew for every item; for grafts, this many sets per size. 0: none. */
  readonly random: number;
}
export const noControls: Controls = { self: false, random: 0 };
export type ControlKind = 'self' | 'random';

export interface PlanContext {
  readonly prompter: Asker;
  readonly seed: number;
  /** Default: none. */
  readonly controls?: Controls;
}

/** Facts of a graded question that its plan rows carry. */
export interface GoldMeta extends JsonObject {
  readonly model: string;
  readonly task: string;
  readonly item: string;
  readonly gold: string;
  readonly rule: JsonObject;
}

export function goldMeta(model: string, item: QuestionItem): GoldMeta {
  return { model, task: item.task, item: item.id, gold: item.answer, rule: ruleJson(item.rule) };
}

export function ruleJson(rule: MatchRule): JsonObject {
  return { ...rule };
}

/** The rule a plan row carries; written by `ruleJson` of a checked rule. */
export function ruleOf(meta: { readonly rule: JsonObject }): MatchRule {
  return meta.rule as unknown as MatchRule;
}

/** Items of a task kept in order of first appearance. */
export function byTask<T extends { readonly task: string }>(rows: readonly T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const row of rows) {
    const group = groups.get(row.task);
    if (group) group.push(row);
    else groups.set(row.task, [row]);
  }
  return groups;
}
