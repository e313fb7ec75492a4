/** Data sets known by name: where they lie on the Hub and what their fields mean. A new one is one row. */
import type { Mapping } from './mapping.js';

export interface Preset {
  readonly about: string;
  readonly hub: HubFile;
  readonly map: Mapping;
}

/** A file of a data set on the Hugging Face Hub. */
export interface HubFile {
  readonly repo: string;
  readonly file: string;
  /** Branch, tag or commit. Default: main. */
  readonly revision?: string | undefined;
}

export type PresetName = 'mathvista-testmini' | 'math-500' | 'gsm8k';

export const presets: Readonly<Record<PresetName, Preset>> = {
  'mathvista-testmini': {
    about: 'MathVista testmini, 1000 questions with images (Lu et al., arXiv 2310.02255); task: its category',
    hub: { repo: 'AI4Math/MathVista', file: 'data/testmini-00000-of-00001-725687bf7a18d64b.parquet' },
    map: {
      id: 'pid',
      task: 'metadata.category',
      images: 'decoded_image',
      question: 'question',
      choices: 'choices',
      answer: 'answer',
      answerType: 'answer_type',
      rules: {
        text: { kind: 'exact' },
        integer: { kind: 'number' },
        float: { kind: 'number' },
        list: { kind: 'latex' },
      },
      precision: 'precision',
      unit: 'unit',
    },
  },
  'math-500': {
    about: 'MATH-500, text only (Hendrycks et al., arXiv 2103.03874; the 500 of Lightman et al., arXiv 2305.20050)',
    hub: { repo: 'HuggingFaceH4/MATH-500', file: 'test.jsonl' },
    map: { id: 'unique_id', task: 'subject', question: 'problem', answer: 'answer', rule: { kind: 'latex' } },
  },
  gsm8k: {
    about: 'GSM8K test, 1319 questions, text only (Cobbe et al., arXiv 2110.14168)',
    hub: { repo: 'openai/gsm8k', file: 'main/test-00000-of-00001.parquet' },
    map: {
      id: 'gsm8k-{row}',
      question: 'question',
      answer: 'answer',
      answerAfter: '####',
      rule: { kind: 'number' },
    },
  },
};
export const presetNames: readonly PresetName[] = Object.keys(presets) as PresetName[];
