/** galvani generate: one answer of one checkpoint. */
import { Command } from 'commander';
import { Engine } from '../engine.js';
import { GalvaniError } from '../errors.js';
import { skipLayer } from '../hooks/interventions.js';
import { buildPrompt } from '../processor/prompt.js';
import { nonNegativeInteger, positiveInteger, print } from './shared.js';

interface GenerateOptions {
  readonly prompt: string;
  readonly image?: string[];
  readonly system?: string;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly seed: number;
  readonly skipLayer?: number[];
  readonly threads?: number;
  readonly json?: boolean;
}

export function generateCommand(): Command {
  return new Command('generate')
    .description('answer one question, with or without images')
    .argument('<dir>', 'checkpoint folder (Hugging Face, Qwen2.5-VL)')
    .requiredOption('--prompt <text>', 'the question')
    .option('--image <paths...>', 'image files, put before the question')
    .option('--system <text>', "system prompt (default: the chat template's own)")
    .option('--max-tokens <n>', 'longest answer', positiveInteger, 256)
    .option('--temperature <t>', '0 is greedy', numberOption, 0)
    .option('--top-p <p>', 'nucleus sampling', numberOption)
    .option('--top-k <k>', 'sample among the k likeliest', positiveInteger)
    .option('--seed <n>', 'seed of sampling', nonNegativeInteger, 0)
    .option('--skip-layer <layers...>', 'decoder layers that add nothing', (text: string, all: number[] = []) => [
      ...all,
      nonNegativeInteger(text),
    ])
    .option('--threads <n>', 'threads that compute (default: all)', positiveInteger)
    .option('--json', 'print text, tokens and log-probabilities as JSON')
    .addHelpText(
      'after',
      '\nExample:\n  galvani generate lab/checkpoints/rl --image lab/data/images/a000.png --prompt "sum of digits ?"',
    )
    .action(generate);
}

async function generate(dir: string, options: GenerateOptions): Promise<void> {
  await using engine = await Engine.open(options.threads === undefined ? {} : { threads: options.threads });
  await engine.addModel('model', dir);
  const { prompt: question, image, system } = options;
  const prompt = await buildPrompt(engine.processor('model'), {
    question,
    ...(image ? { images: image } : {}),
    ...(system === undefined ? {} : { system }),
  });
  const { maxTokens, temperature, topP, topK, seed } = options;
  const { outcomes } = await engine.run([
    {
      id: 'answer',
      prompt,
      model: 'model',
      ...(options.skipLayer ? { interventions: skipLayer(options.skipLayer) } : {}),
      generate: {
        maxTokens,
        temperature,
        seed,
        ...(topP === undefined ? {} : { topP }),
        ...(topK === undefined ? {} : { topK }),
      },
    },
  ]);
  const [outcome] = outcomes;
  if (!outcome?.ok) throw outcome?.error ?? new GalvaniError('INTERNAL', 'the engine returned no outcome');
  const { text, tokens, logprobs, truncated } = outcome.result;
  if (options.json) {
    print(JSON.stringify({ prompt: prompt.text, text, tokens: [...tokens], logprobs: [...logprobs], truncated }));
    return;
  }
  print(text);
  if (truncated) process.stderr.write(`cut off after ${maxTokens} tokens; --max-tokens raises the limit\n`);
}

function numberOption(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new GalvaniError('BAD_ARGUMENT', `expected a number, got '${text}'`);
  return value;
}
