/**
 * How every question of a study is put, the same for all its models: a prompt guessed from a model's name (the published
 * scripts do) makes parents and grafts answer different questions.
 */
import { z } from 'zod';

export interface Protocol {
  /** Name of the preset whose texts these are, where the study named one. */
  readonly preset?: string;
  /** Default: the chat template's own. */
  readonly system?: string;
  /** Put before and after every question, with a newline between. */
  readonly prefix?: string;
  readonly suffix?: string;
  /** How a description takes the image's place: {description} and {question}. Default: one line after the other. */
  readonly described?: string;
  /** 'letters' (default): a question with choices lists them as A., B., …; 'none': they only grade. */
  readonly choices?: 'letters' | 'none';
  /** Longest answer in tokens; longer ones are truncated and counted apart. */
  readonly maxTokens: number;
}

const tags =
  'You are a helpful assistant. When the user asks a question, your response must include two parts: first, the reasoning process enclosed in <think>...</think> tags, then the final answer enclosed in <answer>...</answer> tags. Please provide a clear, concise response within <answer> </answer> tags that directly addresses the question.';
const boxed =
  'You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}.';
const askBoxed = 'Please solve the problem step by step and put your answer in one "\\boxed{}".\n';
const described = 'Image Description:\n{description}\n\nQuestion:\n{question}';

/**
 * The prompts the three recipes of arXiv 2602.12395 were evaluated with, from its published scripts. There the user turn
 * demands a box even where the system prompt demands tags; `published-tags` keeps that, the recipes' own rows do not.
 */
export const protocolPresets: Readonly<Record<string, Omit<Protocol, 'maxTokens'>>> = {
  openmmreasoner: { system: tags, described },
  mmr1: { system: tags, described },
  'revisual-r1': { system: boxed, prefix: askBoxed, described },
  'published-tags': { system: tags, prefix: askBoxed, described },
  'published-default': { prefix: askBoxed, described },
};
const presetNames = Object.keys(protocolPresets) as [string, ...string[]];

export const protocolSchema: z.ZodType<Protocol> = z.strictObject({
  preset: z.enum(presetNames).exactOptional(),
  system: z.string().exactOptional(),
  prefix: z.string().exactOptional(),
  suffix: z.string().exactOptional(),
  described: z
    .string()
    .refine((text) => text.includes('{description}') && text.includes('{question}'), {
      error: 'expected {description} and {question} in it',
    })
    .exactOptional(),
  choices: z.enum(['letters', 'none']).exactOptional(),
  maxTokens: z.int().positive().default(256),
});

/** With the preset's texts filled in; the study's own win. The record of a run holds the texts themselves. */
export function resolveProtocol(protocol: Protocol): Protocol {
  return protocol.preset === undefined ? protocol : { ...protocolPresets[protocol.preset], ...protocol };
}

export interface Posed {
  readonly question: string;
  readonly choices?: readonly string[];
  readonly description?: string;
}

/** The text of the user's turn; `description` only where it takes the image's place. */
export function questionText({ question, choices, description }: Posed, protocol: Protocol): string {
  const { prefix, suffix } = protocol;
  const listed =
    choices === undefined || protocol.choices === 'none'
      ? question
      : `${question}\n\nChoices:\n${choices.map((choice, i) => `${String.fromCharCode(65 + i)}. ${bare(choice, i)}`).join('\n')}`;
  const posed =
    description === undefined
      ? [listed]
      : protocol.described === undefined
        ? [description, listed]
        : // Functions, so that "$&" in a text stays what it is.
          [protocol.described.replace('{description}', () => description).replace('{question}', () => listed)];
  return [prefix, ...posed, suffix].filter(Boolean).join('\n');
}

/** Without a label of its own: "A. cat" → "cat". */
function bare(choice: string, index: number): string {
  const label = /^\s*[([]?([A-Za-z])[)\].:]\s+/.exec(choice);
  return label?.[1]?.toUpperCase() === String.fromCharCode(65 + index) ? choice.slice(label[0].length) : choice;
}
