/** Everything a checkpoint folder says about turning messages and images into model input. */
import { resolve } from 'node:path';
import { type ChatTemplate, loadChatTemplate } from './chat-template.js';
import { type ImageBackend, type ImageSettings, loadImageSettings } from './image-settings.js';
import { loadTokenizer, type Tokenizer } from './tokenizer.js';

export interface Processor {
  readonly dir: string;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** undefined: a text-only checkpoint. */
  readonly images: ImageSettings | undefined;
  /** The placeholder a template prints per image. */
  readonly imageToken: string;
  /** undefined when the vocabulary lacks it. */
  readonly imageTokenId: number | undefined;
}

/** Qwen2-VL's placeholder; its processor knows no other. */
const IMAGE_TOKEN = '<|image_pad|>';

export interface ProcessorOptions {
  /** Default 'torchvision'. */
  readonly imageBackend?: ImageBackend;
}

/** Loads tokenizer, chat template and image settings of a folder. @throws FILE_NOT_FOUND, BAD_CONFIG, UNSUPPORTED */
export function loadProcessor(dir: string, options: ProcessorOptions = {}): Processor {
  const root = resolve(dir);
  const tokenizer = loadTokenizer(root);
  return {
    dir: root,
    tokenizer,
    template: loadChatTemplate(root),
    images: loadImageSettings(root, options.imageBackend),
    imageToken: IMAGE_TOKEN,
    imageTokenId: tokenizer.tokenId(IMAGE_TOKEN),
  };
}
