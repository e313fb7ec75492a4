/** The questions and pairs of a study: read, checked, described, drawn. */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { type DatasetSource, readDatasets } from '../data/dataset.js';
import { type QuestionItem, readPairs, type SwapPair, subsetPerTask } from '../data/items.js';
import type { TrialRunner } from '../engine.js';
import { GalvaniError } from '../errors.js';
import { canRead } from '../grading/extract.js';
import { contentKey } from '../run/key.js';
import type { ProgressDisplay } from '../run/progress.js';
import type { Shard } from '../run/shards.js';
import { groupOf, groupsOf, type TaskGroups } from './answers.js';
import { type DescriptionSource, describeItems } from './describe.js';
import { requireTasks } from './localize-vision.js';
import type { Asker } from './prompter.js';
import type { ExperimentName, Study } from './study-file.js';

export interface StudyData {
  readonly items: readonly QuestionItem[];
  readonly pairs: readonly SwapPair[];
  readonly groups: TaskGroups;
  /** Files the questions came from. */
  readonly sources: readonly DatasetSource[];
}

export async function readData(study: Study, selected: readonly ExperimentName[]): Promise<StudyData> {
  const { data, experiments } = study;
  const rules = { rules: data.rules };
  const published = selected.includes('reference') ? experiments.reference : undefined;
  const needsPairs =
    (selected.includes('localize') && experiments.localize?.vision !== undefined) || published?.swap !== undefined;
  const needsItems =
    (selected.includes('localize') && experiments.localize?.reasoning !== undefined) ||
    (['attend', 'transfer', 'freeze'] as const).some((name) => selected.includes(name)) ||
    published?.prompts !== undefined;
  const { items, sources } = needsItems ? await readDatasets(data.items!, rules) : { items: [], sources: [] };
  const pairs = needsPairs ? await readPairs(data.pairs!, rules) : [];
  requireReadableGold(items);
  return { items, pairs, groups: data.groups ?? groupsOf(items), sources };
}

/** Before hours of computing, not after: gold that its own rule cannot read would stop the analysis. */
function requireReadableGold(items: readonly QuestionItem[]): void {
  const wrong = items.filter(({ answer, rule }) => !canRead(answer, rule));
  const [first] = wrong;
  if (first === undefined) return;
  const which = wrong.slice(0, 5).map(({ id }) => id);
  throw new GalvaniError(
    'BAD_FILE',
    `items: the rule '${first.rule.kind}' cannot read the gold answer ${JSON.stringify(first.answer)} of ${first.id}; ` +
      `so with ${wrong.length} of ${items.length} items: ${which.join(', ')}${wrong.length > 5 ? ', …' : ''}`,
  );
}

export interface Describing {
  /** JSON lines that keep what was written. */
  readonly cache: string;
  readonly engine: TrialRunner;
  readonly asker: Asker;
  readonly fingerprint: (model: string) => string;
  readonly progress: ProgressDisplay;
  readonly signal?: AbortSignal | undefined;
  readonly shard?: Shard | undefined;
}

/** Fills in descriptions where the study says how. The groups stay those of the items as they were read. */
export async function describeData(study: Study, data: StudyData, options: Describing): Promise<StudyData> {
  const source = study.data.descriptions;
  if (source === undefined || data.items.length === 0) return data;
  const { cache, engine, asker, fingerprint, progress, signal, shard } = options;
  if (!('file' in source) && shard && shard.count > 1) {
    throw new GalvaniError(
      'BAD_CONFIG',
      'data.descriptions: shards would each write their own; write them once with `galvani describe` and name its file',
    );
  }
  const wanted = describedBy(source, data.groups);
  progress.start('describe', data.items.filter(wanted).length);
  mkdirSync(dirname(cache), { recursive: true });
  const items = await describeItems(data.items, wanted, {
    source,
    cache,
    engine,
    asker,
    fingerprint,
    onProgress: (done) => progress.update({ done }),
    ...(signal ? { signal } : {}),
  });
  progress.finish();
  return { ...data, items };
}

/** A stand-in where descriptions are yet to be written: what a plan counts and times is then what a run will do. */
export function describeLater(study: Study, data: StudyData): { data: StudyData; toDescribe: number } {
  const source = study.data.descriptions;
  if (source === undefined) return { data, toDescribe: 0 };
  const wanted = describedBy(source, data.groups);
  let lacking = 0;
  const items = data.items.map((item) => {
    if (item.description !== undefined || item.image === undefined || !wanted(item)) return item;
    lacking++;
    return { ...item, description: 'A description of this image is yet to be written.' };
  });
  return { data: { ...data, items }, toDescribe: 'file' in source ? 0 : lacking };
}

function describedBy(source: DescriptionSource, groups: TaskGroups): (item: QuestionItem) => boolean {
  const tasks = ('tasks' in source && source.tasks) || groups.visualReasoning;
  return ({ task }) => tasks.includes(task);
}

export function inGroups({ items, groups }: StudyData, wanted: readonly (keyof TaskGroups)[]): QuestionItem[] {
  return items.filter((item) => {
    const group = groupOf(item, groups);
    return group !== undefined && wanted.includes(group);
  });
}

/** A seeded subset as run.json records it: which items, of how many. */
export interface DrawnSubset {
  readonly seed: number;
  readonly of: number;
  readonly ids: readonly string[];
}

interface Draw {
  readonly tasks?: readonly string[] | undefined;
  readonly itemsPerTask?: number | undefined;
}
export type Drawer = <T extends { readonly id: string; readonly task: string }>(
  experiment: string,
  found: readonly T[],
  draw: Draw,
) => readonly T[];

/**
 * Draws the items of an experiment and records what it drew in `subsets`.
 * @param shuffled puts them in random order.
 * @throws BAD_ARGUMENT when a wanted task has no item, or nothing is left.
 */
export function drawer(seed: number, subsets: Record<string, DrawnSubset>, shuffled: boolean): Drawer {
  return <T extends { readonly id: string; readonly task: string }>(
    experiment: string,
    found: readonly T[],
    { tasks, itemsPerTask }: Draw,
  ): readonly T[] => {
    requireTasks(found, tasks ?? []);
    const own = tasks ? found.filter(({ task }) => tasks.includes(task)) : found;
    if (own.length === 0) throw new GalvaniError('BAD_ARGUMENT', 'items: none fits this experiment; name its tasks');
    const inOrder = (items: readonly T[]): readonly T[] => {
      const order = ({ id }: T): string => contentKey([seed, id]);
      return shuffled ? [...items].sort((a, b) => (order(a) < order(b) ? -1 : 1)) : items;
    };
    if (itemsPerTask === undefined) return inOrder(own);
    const { items, ids, of } = subsetPerTask(own, itemsPerTask, seed);
    subsets[experiment] = { seed, of, ids };
    return inOrder(items);
  };
}
