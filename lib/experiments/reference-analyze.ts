/** What each published deviation does to the conclusion, on the same data. */
import { regions } from '../checkpoint/graft.js';
import { referenceSame } from '../grading/match.js';
import type { JsonObject, Observation } from '../run/rows.js';
import type { CharacterizeResult } from './characterize-analyze.js';
import { byTask, type GoldMeta, ruleOf } from './context.js';
import type { LocalizeVisionResult } from './localize-vision-analyze.js';
import {
  adjusted,
  correctness,
  gradeRow,
  isSignificant,
  pairedTest,
  type RateRecord,
  rateOfFlags,
  type Select,
  type TestRecord,
} from './measure.js';
import { appendExperiment, type DeviationName, promptExperiment } from './reference.js';
import { publishedCorrect } from './reference-grading.js';
import type { TransferResult } from './transfer-analyze.js';

/** One deviation: what the published way says, what the corrected way says, and whether that is the same. */
export interface Verdict {
  readonly deviation: DeviationName;
  readonly published: string;
  readonly corrected: string;
  /** null: this run holds nothing to judge it by; `published` says what is missing. */
  readonly changes: boolean | null;
}

/** Share of answers that a swap from this layer on changes, with the image kept once and appended at every step. */
export interface AppendCell {
  readonly task: string;
  readonly layer: number;
  readonly once: RateRecord;
  readonly appended: RateRecord;
  /** once → appended on the same pairs; over the layers of the task. */
  readonly test: TestRecord | null;
  readonly select: Select;
}

/** A graft against IN, asked alike and asked as its name says. */
export interface PromptCell {
  readonly model: string;
  readonly style: string;
  readonly alike: RateRecord;
  readonly byName: RateRecord;
  readonly alikeTest: TestRecord | null;
  readonly byNameTest: TestRecord | null;
  readonly select: Select;
}

export interface ReferenceResult {
  readonly verdicts: readonly Verdict[];
  readonly append: readonly AppendCell[];
  readonly prompts: readonly PromptCell[];
}

export interface ReferenceSources {
  readonly append: readonly Observation[];
  readonly prompts: readonly Observation[];
  readonly transferRows: readonly Observation[];
  readonly vision: LocalizeVisionResult | null;
  readonly characterize: CharacterizeResult | null;
  readonly transfer: TransferResult | null;
  readonly layers: number;
}

export function analyzeReference(wanted: readonly DeviationName[], sources: ReferenceSources): ReferenceResult {
  const append = appendCells(sources.append);
  const prompts = promptCells(sources.prompts);
  const judges: Readonly<Record<DeviationName, () => Omit<Verdict, 'deviation'>>> = {
    'suffix-as-layer': () => suffixAsLayer(sources.vision),
    'decode-append': () => decodeAppend(append),
    'prompt-by-name': () => promptByName(prompts),
    'decimal-mangling': () =>
      gradedAs(
        sources.transferRows,
        (text, gold) =>
          publishedCorrect(text, gold, { mangle: true, onePercent: false }) ===
          publishedCorrect(text, gold, { mangle: false, onePercent: false }),
        'read as the published regular expression reads them',
      ),
    'one-percent': () =>
      gradedAs(
        sources.transferRows,
        (text, gold) =>
          publishedCorrect(text, gold, { mangle: false, onePercent: true }) ===
          publishedCorrect(text, gold, { mangle: false, onePercent: false }),
        'compared with a tolerance of 1 %',
      ),
    'truncated-wrong': () => truncatedWrong(sources.transferRows),
    'early-donor': () => earlyDonor(sources.transfer),
    thirds: () => thirds(sources.characterize, sources.layers),
    'no-intervals': () => noIntervals(sources.transfer),
  };
  return { verdicts: wanted.map((deviation) => ({ deviation, ...judges[deviation]() })), append, prompts };
}

const absent = (what: string): Omit<Verdict, 'deviation'> => ({
  published: `needs ${what}`,
  corrected: '',
  changes: null,
});

function suffixAsLayer(vision: LocalizeVisionResult | null): Omit<Verdict, 'deviation'> {
  const cells = vision?.cells.filter(({ mode }) => mode === 'suffix') ?? [];
  if (!vision || cells.length === 0) return absent('localize.vision with mode suffix');
  const rows = vision.readAt.map(({ model, task, layers }) => {
    const curve = cells.filter((cell) => cell.model === model && cell.task === task);
    const peak = curve.reduce((a, b) => ((b.referenceChange.rate ?? -1) > (a.referenceChange.rate ?? -1) ? b : a));
    return { task, peak: peak.layer, layers };
  });
  return {
    published: `peak layer (largest change): ${rows.map(({ task, peak }) => `${task} ${peak}`).join(', ')}`,
    corrected: `read in (significant fall of the cumulative curve): ${rows.map(({ task, layers }) => `${task} ${layers.length > 0 ? layers.join('+') : 'not found'}`).join(', ')}`,
    changes: rows.some(({ peak, layers }) => layers.length > 0 && !layers.includes(peak)),
  };
}

function appendCells(observed: readonly Observation[]): AppendCell[] {
  return [...byTask(observed.map((row) => ({ ...row, task: String(row.meta.task) })))].flatMap(([task, own]) => {
    const texts = new Map(own.map(({ meta, row }) => [`${meta.pair} ${meta.role} ${meta.layer ?? ''}`, { meta, row }]));
    const pairs = [...new Set(own.map(({ meta }) => String(meta.pair)))];
    const changed = (role: string, layer: number) =>
      pairs.map((pair): boolean | null => {
        const [target, run] = [texts.get(`${pair} target `), texts.get(`${pair} ${role} ${layer}`)];
        if (target?.row?.kind !== 'trial' || run?.row?.kind !== 'trial') return null;
        // The published comparison of whole texts; an answer that never ends is a changed answer there.
        return !referenceSame(run.row.text, target.row.text);
      });
    const layers = [...new Set(own.flatMap(({ meta }) => (typeof meta.layer === 'number' ? [meta.layer] : [])))].sort(
      (a, b) => a - b,
    );
    const curves = layers.map((layer) => ({
      layer,
      once: changed('once', layer),
      appended: changed('appended', layer),
    }));
    const tests = adjusted(curves.map(({ once, appended }) => pairedTest(once, appended)));
    return curves.map(({ layer, once, appended }, i) => ({
      task,
      layer,
      once: rateOfFlags(once),
      appended: rateOfFlags(appended),
      test: tests[i] ?? null,
      select: { experiment: appendExperiment, task, layer },
    }));
  });
}

function decodeAppend(cells: readonly AppendCell[]): Omit<Verdict, 'deviation'> {
  if (cells.length === 0) return absent('experiments.reference.swap');
  const moved = cells.filter(({ test }) => isSignificant(test));
  const largest = [...cells].sort((a, b) => Math.abs(b.test?.difference ?? 0) - Math.abs(a.test?.difference ?? 0))[0]!;
  const percent = (rate: number | null): string => (rate === null ? '–' : `${(100 * rate).toFixed(0)} %`);
  return {
    published: `largest deviation in ${largest.task}, layer ${largest.layer}: ${percent(largest.appended.rate)} of the answers change`,
    corrected: `with the image kept once ${percent(largest.once.rate)}; ${moved.length} of ${cells.length} points of the curves differ significantly`,
    changes: moved.length > 0,
  };
}

function promptCells(observed: readonly Observation[]): PromptCell[] {
  if (observed.length === 0) return [];
  const models = [...new Set(observed.map(({ meta }) => String(meta.model)))];
  const items = [...new Set(observed.map(({ meta }) => String(meta.item)))];
  const found = new Map(observed.map((one) => [`${one.meta.model}\n${one.meta.item}\n${one.meta.asked}`, one]));
  const right = (model: string, asked: string) =>
    items.map((item): boolean | null => {
      const one = found.get(`${model}\n${item}\n${asked}`);
      if (!one) return null;
      const meta = one.meta as GoldMeta;
      return correctness(gradeRow(one.row, meta.gold, ruleOf(meta)).outcome);
    });
  const tests = (asked: string) =>
    adjusted(models.map((model) => (model === 'IN' ? null : pairedTest(right('IN', asked), right(model, asked)))));
  const [alike, byName] = [tests('alike'), tests('by name')];
  return models.map((model, i) => ({
    model,
    style: String(observed.find(({ meta }) => meta.model === model && meta.asked === 'by name')?.meta.style ?? 'plain'),
    alike: rateOfFlags(right(model, 'alike')),
    byName: rateOfFlags(right(model, 'by name')),
    alikeTest: alike[i] ?? null,
    byNameTest: byName[i] ?? null,
    select: { experiment: promptExperiment, model },
  }));
}

function promptByName(cells: readonly PromptCell[]): Omit<Verdict, 'deviation'> {
  if (cells.length === 0) return absent('experiments.reference.prompts');
  const better = (pick: (cell: PromptCell) => TestRecord | null): string[] =>
    cells.flatMap((cell) => {
      const test = pick(cell);
      return isSignificant(test) ? [`${cell.model} ${(test?.difference ?? 0) > 0 ? 'better' : 'worse'}`] : [];
    });
  const [named, alike] = [better((cell) => cell.byNameTest), better((cell) => cell.alikeTest)];
  const styles = cells.map(({ model, style }) => `${model} ${style}`).join(', ');
  return {
    published: `asked by name (${styles}), against IN: ${named.join(', ') || 'no difference'}`,
    corrected: `all asked alike: ${alike.join(', ') || 'no difference'}`,
    changes: named.join() !== alike.join(),
  };
}

/** Finished answers of the grafts, with their gold. */
function answersOf(observed: readonly Observation[]): { text: string; gold: string; meta: JsonObject }[] {
  return observed.flatMap(({ meta, row }) =>
    row?.kind === 'trial' && !row.truncated && typeof meta.gold === 'string'
      ? [{ text: row.text, gold: meta.gold, meta }]
      : [],
  );
}

function gradedAs(
  observed: readonly Observation[],
  same: (text: string, gold: string) => boolean,
  how: string,
): Omit<Verdict, 'deviation'> {
  const answers = answersOf(observed);
  if (answers.length === 0) return absent('experiments.transfer');
  const different = answers.filter(({ text, gold }) => !same(text, gold)).length;
  return {
    published: `${different} of ${answers.length} answers get another verdict when they are ${how}`,
    corrected:
      different === 0 ? 'this data has no answer on which the rules differ' : 'read and compared as they stand',
    changes: different > 0,
  };
}

/** Which grafts differ from IN when answers that were cut off count as wrong, and when they are left out. */
function truncatedWrong(observed: readonly Observation[]): Omit<Verdict, 'deviation'> {
  const policy = observed.find(({ meta }) => meta.variant === 'block')?.meta.policy;
  const own = observed.filter(
    ({ meta }) =>
      meta.variant === 'block' && meta.policy === policy && meta.sight !== 'black' && meta.sight !== 'description',
  );
  if (own.length === 0) return absent('experiments.transfer');
  const models = [...new Set(own.map(({ meta }) => String(meta.model)))];
  const items = [...new Set(own.map(({ meta }) => String(meta.item)))];
  const at = new Map(own.map((one) => [`${one.meta.model}\n${one.meta.item}`, one]));
  const cut = own.filter(({ row }) => row?.kind === 'trial' && row.truncated).length;
  const differing = (cutIsWrong: boolean): string[] => {
    const right = (model: string) =>
      items.map((item): boolean | null => {
        const one = at.get(`${model}\n${item}`);
        if (!one) return null;
        const meta = one.meta as GoldMeta;
        const { outcome } = gradeRow(one.row, meta.gold, ruleOf(meta));
        return cutIsWrong && outcome === 'truncated' ? false : correctness(outcome);
      });
    const start = right('IN');
    const tests = adjusted(models.map((model) => (model === 'IN' ? null : pairedTest(start, right(model)))));
    return models.filter((_, i) => isSignificant(tests[i] ?? null));
  };
  const [wrong, apart] = [differing(true), differing(false)];
  return {
    published: `${cut} of ${own.length} answers were cut off and count as wrong; over all tasks ${wrong.length} grafts differ from IN`,
    corrected: `left out and counted apart; ${apart.length} differ`,
    changes: wrong.join() !== apart.join(),
  };
}

function earlyDonor(transfer: TransferResult | null): Omit<Verdict, 'deviation'> {
  const early = transfer?.policies.find(({ policy }) => policy === 'early');
  if (!transfer || !early || transfer.fourParts.length === 0)
    return absent('experiments.transfer with policies early, in and rl');
  const group = ['visualReasoning', 'textReasoning', 'vision'].find((one) =>
    early.regions.some((effect) => effect.group === one),
  )!;
  const points = (value: number | null | undefined): string => `${(100 * (value ?? 0)).toFixed(1)} points`;
  const block = early.regions.find((effect) => effect.group === group && effect.player === 'early')!;
  const parts = transfer.fourParts.filter((effect) => effect.group === group);
  const own = parts.find(({ player }) => player === 'early')!;
  const rest = parts.find(({ player }) => player === 'rest')!;
  return {
    published: `the early block is worth ${points(block.shapley.mean)}`,
    corrected: `its layers are worth ${points(own.shapley.mean)}, the weights outside the layers ${points(rest.shapley.mean)}${isSignificant(rest.shapley) ? '' : ' (not significant)'}`,
    changes: isSignificant(rest.shapley),
  };
}

/** The last step's largest region by share of the update, under thirds and under the second published partition. */
function thirds(characterize: CharacterizeResult | null, layers: number): Omit<Verdict, 'deviation'> {
  const [main] = characterize?.comparisons ?? [];
  const cells = characterize?.cells.filter((cell) => cell.comparison === main?.name && cell.kind === 'layer') ?? [];
  if (!main || cells.length !== layers) return absent('experiments.characterize');
  const energies = cells.map((cell) => cell.steps.at(-1)!.frobeniusNorm ** 2);
  const total = energies.reduce((sum, value) => sum + value, 0);
  // The paper's second partition of 28 layers is 8, 12 and 8.
  const wide = Math.max(1, Math.round((8 / 28) * layers));
  const largest = (cuts: readonly [number, number]): { name: string; text: string } => {
    const shares = regions(layers, cuts).map(({ name, start, end }) => ({
      name,
      share: energies.slice(start, end).reduce((sum, value) => sum + value, 0) / total,
    }));
    const top = shares.reduce((a, b) => (b.share > a.share ? b : a));
    return { name: top.name, text: `${top.name} (${shares.map(({ share }) => (100 * share).toFixed(0)).join('/')} %)` };
  };
  const first = largest([Math.floor(layers / 3), Math.floor((2 * layers) / 3)]);
  const second = largest([wide, layers - wide]);
  return {
    published: `under thirds most of the update ${main.steps.at(-1)} lies in ${first.text}`,
    corrected: `under ${wide}/${layers - 2 * wide}/${wide} in ${second.text}; per layer there is no such choice`,
    changes: first.name !== second.name,
  };
}

function noIntervals(transfer: TransferResult | null): Omit<Verdict, 'deviation'> {
  const tests =
    transfer?.policies.flatMap(({ abilities }) => abilities.flatMap(({ test }) => (test ? [test] : []))) ?? [];
  if (tests.length === 0) return absent('experiments.transfer');
  const different = tests.filter(({ difference }) => difference !== null && difference !== 0).length;
  const significant = tests.filter((test) => isSignificant(test)).length;
  return {
    published: `${different} of ${tests.length} ability measures of grafts differ from IN’s`,
    corrected: `${significant} do so significantly (exact McNemar, Holm)`,
    changes: different !== significant,
  };
}
