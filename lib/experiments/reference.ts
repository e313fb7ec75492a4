/**
 * Reference mode: the published protocol, bugs included, each switchable, run on the same data as the corrected one. What
 * needs runs of its own is planned here; the rest is read from the runs of the other experiments (reference-analyze.ts).
 */
import { paperGrafts } from '../checkpoint/graft.js';
import type { QuestionItem, SwapPair } from '../data/items.js';
import { layerRange, swapImage } from '../hooks/interventions.js';
import { type Bundle, bundleOrFailure, type Plan, type PlannedTrial } from '../run/plan.js';
import type { Intervention, Prompt } from '../types.js';
import { type GoldMeta, goldMeta, type PlanContext, type PlanModel, ruleJson } from './context.js';
import type { Asker } from './prompter.js';

export const appendExperiment = 'reference-append';
export const promptExperiment = 'reference-prompts';

/** One per deviation of the published scripts from what they are described to do. */
export const deviations = [
  'suffix-as-layer', // a swap of layer l and all after it is reported as layer l
  'decode-append', // every decode step appends the whole source image to the caches again
  'prompt-by-name', // the prompt is chosen by a substring of the model's name
  'decimal-mangling', // "3.14" is read as option "3" with text "14"
  'one-percent', // numbers within 1 % count as equal
  'truncated-wrong', // an answer cut off at the limit is wrong
  'early-donor', // weights outside the layers follow the early block, unsaid
  'thirds', // regions are ⌊L/3⌋ and ⌊2L/3⌋: 9, 9 and 10 of 28 layers
  'no-intervals', // any difference of two rates is a finding
] as const;
export type DeviationName = (typeof deviations)[number];

/**
 * The published decode, exactly: after t steps the image stands t + 1 times in the caches of the swapped layers, and k copies
 * of a key weigh k times in the softmax, which is ln k added to its score. (test/native/reference-decode.test.ts makes the copies.)
 * @param maxTokens of the generation: a record for every decode step.
 */
export function appendedCopies(target: Prompt, layers: readonly number[], maxTokens: number): Intervention[] {
  const start = target.ids.length;
  return layerRange(1, maxTokens).map((step) => ({
    site: 'attn_logits',
    op: 'add',
    layers,
    rows: [[start + step - 1, start + step]],
    keys: ['image'],
    value: Math.log(step + 1),
    phase: 'decode',
  }));
}

/** The published swap sweep: suffix swaps, with the image appended at every decode step. The rest is localize-vision's. */
export function planReferenceAppend(
  { prompter }: PlanContext,
  { model, pairs }: { readonly model: PlanModel; readonly pairs: readonly SwapPair[] },
): Plan {
  const { name, layers } = model;
  return {
    experiment: appendExperiment,
    trials: pairs.length * (2 + 2 * layers),
    bundles: async function* () {
      for (const pair of pairs) yield await appendBundle(prompter, name, layers, pair);
    },
  };
}

function appendBundle(prompter: Asker, model: string, layers: number, pair: SwapPair): Promise<Bundle> {
  const { question } = pair;
  const generate = { maxTokens: prompter.protocol.maxTokens };
  const meta = {
    model,
    task: pair.task,
    pair: pair.id,
    targetGold: pair.targetAnswer,
    sourceGold: pair.sourceAnswer,
    rule: ruleJson(pair.rule),
  };
  const fact = (role: string, extra: object = {}) => ({
    label: `${appendExperiment} ${model} ${pair.id} ${role}`,
    meta: { ...meta, role: role.split(' ')[0]!, ...extra },
  });
  return bundleOrFailure(
    pair.id,
    () => [fact('target')],
    async () => {
      const target = await prompter.ask({ question, image: pair.targetImage });
      const source = await prompter.ask({ question, image: pair.sourceImage });
      const plain = (role: 'target' | 'source', prompt: Prompt): PlannedTrial => ({
        trial: { id: role, prompt, model, generate },
        ...fact(role),
      });
      return [
        plain('target', target),
        plain('source', source),
        ...layerRange(0, layers).flatMap((layer): PlannedTrial[] => {
          const swap = swapImage({ source: 'source', mode: 'suffix', layer, totalLayers: layers });
          const append = appendedCopies(target, layerRange(layer, layers), generate.maxTokens);
          return [
            {
              trial: { id: `once ${layer}`, prompt: target, model, interventions: swap, generate },
              ...fact(`once ${layer}`, { layer }),
            },
            {
              trial: { id: `appended ${layer}`, prompt: target, model, interventions: [...swap, ...append], generate },
              ...fact(`appended ${layer}`, { layer }),
            },
          ];
        }),
      ];
    },
  );
}

/** A way of asking, as the published scripts choose it. */
export type PromptStyle = 'plain' | 'boxed' | 'reasoner';

/** The published rule: by substrings of the model's name, in this order. "early" and "world" contain "rl". */
export function styleOf(name: string): PromptStyle {
  const lower = name.toLowerCase();
  if (lower.includes('revisual')) return 'boxed';
  return lower.includes('reasoner') || lower.includes('rl') ? 'reasoner' : 'plain';
}

/** The name the published scripts give a graft: its recipe as a sentence. Parents keep the name of their checkpoint. */
export function publishedName(graft: string, parents: { readonly in: string; readonly rl: string }): string {
  const blocks = paperGrafts[graft];
  if (!blocks) return graft;
  if (new Set(blocks).size === 1) return parents[blocks[0]];
  const places = ['early', 'middle', 'final'];
  return blocks.map((donor, i) => `${parents[donor]} ${places[i]} 1/3`).join(' + ');
}

export interface StyledGraft {
  /** Name under which the graft is opened, and in tables. */
  readonly model: string;
  readonly style: PromptStyle;
}

interface StyledMeta extends GoldMeta {
  readonly style: PromptStyle;
}

/** The eight grafts, each asked in the way its published name would make the scripts ask. */
export function planReferencePrompts(
  askers: Readonly<Record<PromptStyle, Asker>>,
  { grafts, items }: { readonly grafts: readonly StyledGraft[]; readonly items: readonly QuestionItem[] },
): Plan {
  const trials = [...grafts, ...grafts.map(({ model }): StyledGraft => ({ model, style: 'plain' }))];
  return {
    experiment: promptExperiment,
    trials: items.length * trials.length,
    bundles: async function* () {
      for (const item of items) {
        const facts = ({ model, style }: StyledGraft, common: boolean) => {
          const meta: StyledMeta = { ...goldMeta(model, item), style, asked: common ? 'alike' : 'by name' };
          return { label: `${promptExperiment} ${model} ${item.id} ${style}`, meta };
        };
        yield await bundleOrFailure(
          item.id,
          () => trials.map((graft, i) => facts(graft, i >= grafts.length)),
          () =>
            Promise.all(
              trials.map(async (graft, i): Promise<PlannedTrial> => {
                const common = i >= grafts.length;
                const asker = askers[graft.style];
                const prompt = await asker.ask(item);
                const generate = { maxTokens: asker.protocol.maxTokens };
                const id = `${graft.model} ${common ? 'alike' : 'by name'}`;
                return { trial: { id, prompt, model: graft.model, generate }, ...facts(graft, common) };
              }),
            ),
        );
      }
    },
  };
}
