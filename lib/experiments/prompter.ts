/** From a question to the prompt every model of a study gets, under each condition of what can be seen. */
import { GalvaniError } from '../errors.js';
import { blackImage, decodeImage, noiseImage, shuffledImage } from '../processor/decode.js';
import { loadImage } from '../processor/image.js';
import type { Processor } from '../processor/processor.js';
import { buildPrompt } from '../processor/prompt.js';
import type { PixelPatches, Prompt } from '../types.js';
import { type Protocol, questionText } from './protocol.js';

export type { Protocol } from './protocol.js';

/**
 * What can be seen (METHODS §1d): the image; a black one of its size; none; a black one and a text that describes the
 * image; uniform noise of its size; the image's patches in random order.
 */
export type Sight = 'image' | 'black' | 'none' | 'description' | 'noise' | 'shuffled';
export const sights: readonly Sight[] = ['image', 'black', 'none', 'description', 'noise', 'shuffled'];

export interface Asked {
  readonly question: string;
  /** Path of the image file. */
  readonly image?: string;
  /** All of them, where there are several. */
  readonly images?: readonly string[];
  readonly choices?: readonly string[];
  readonly description?: string;
}

export interface AskOptions {
  readonly sight?: Sight;
  /** Teacher-forced assistant text. */
  readonly answer?: string;
  /** Patches (height, width) to render the image at. */
  readonly grid?: readonly [height: number, width: number];
}

/** Turns questions into prompts; Prompter does, tests use a fake. */
export interface Asker {
  readonly protocol: Protocol;
  ask(asked: Asked, options?: AskOptions): Promise<Prompt>;
  /** Token ids of a text as it stands at the start of an answer. */
  tokens(text: string): Int32Array;
}

const keptImages = 256;
const keptPrompts = 512;

export class Prompter implements Asker {
  readonly processor: Processor;
  readonly protocol: Protocol;
  readonly #seed: number;
  readonly #images = new Map<string, Promise<PixelPatches>>();
  readonly #prompts = new Map<string, Promise<Prompt>>();

  /** @param seed of noise and shuffling. */
  constructor(processor: Processor, protocol: Protocol, seed = 0) {
    this.processor = processor;
    this.protocol = protocol;
    this.#seed = seed;
  }

  /**
   * The prompt; equal questions give the same object, by which the engine knows shared work.
   * @throws BAD_ARGUMENT when the condition needs a description or an image that the question lacks.
   */
  ask(asked: Asked, options: AskOptions = {}): Promise<Prompt> {
    const identity = JSON.stringify([asked, options]);
    return remembered(this.#prompts, keptPrompts, identity, () => this.#build(asked, options));
  }

  tokens(text: string): Int32Array {
    return this.processor.tokenizer.encode(text);
  }

  async #build(asked: Asked, { sight = 'image', answer, grid }: AskOptions): Promise<Prompt> {
    const { question, choices, image, images, description } = asked;
    const { system } = this.protocol;
    if (sight === 'description' && description === undefined) {
      throw new GalvaniError('BAD_ARGUMENT', `question '${question}' has no description, which this condition needs`);
    }
    const posed = {
      question,
      ...(choices ? { choices } : {}),
      ...(sight === 'description' ? { description: description! } : {}),
    };
    const paths = sight === 'none' ? [] : (images ?? (image === undefined ? [] : [image]));
    const shown = await Promise.all(paths.map((path) => this.#image(path, sight, grid)));
    return buildPrompt(
      this.processor,
      { ...(system === undefined ? {} : { system }), question: questionText(posed, this.protocol), images: shown },
      answer === undefined ? {} : { answer },
    );
  }

  #image(path: string, sight: Sight, grid: readonly [number, number] | undefined): Promise<PixelPatches> {
    return remembered(this.#images, keptImages, JSON.stringify([path, sight, grid]), async () => {
      const { images } = this.processor;
      if (!images) throw new GalvaniError('UNSUPPORTED', `${this.processor.dir}: this checkpoint reads no images`);
      const decoded = await decodeImage(path);
      const { width, height } = decoded;
      const options = grid ? { grid } : {};
      switch (sight) {
        case 'image':
          return loadImage(decoded, images, options);
        case 'black':
        case 'description':
          return loadImage(blackImage(width, height), images, options);
        case 'noise':
          return loadImage(noiseImage(width, height, this.#seed), images, options);
        case 'shuffled':
          return loadImage(shuffledImage(decoded, images.patchSize * images.mergeSize, this.#seed), images, options);
        case 'none':
          throw new GalvaniError('INTERNAL', 'the condition none has no image');
        default:
          return sight satisfies never;
      }
    });
  }
}

/** A small memory: the oldest entry leaves. A failure is not remembered. */
function remembered<T>(memory: Map<string, Promise<T>>, size: number, key: string, make: () => Promise<T>): Promise<T> {
  const known = memory.get(key);
  if (known) return known;
  const made = make();
  memory.set(key, made);
  made.catch(() => memory.delete(key));
  if (memory.size > size) memory.delete(memory.keys().next().value!);
  return made;
}
