/** How a checkpoint wants its images: preprocessor_config.json of any transformers version. */
import { join } from 'node:path';
import { z } from 'zod';
import { readOptionalJson } from '../checkpoint/json-file.js';
import { GalvaniError } from '../errors.js';

/**
 * Whose arithmetic: transformers has two image processors that differ in the last bits. 'torchvision' is the one it
 * takes when torchvision is installed (AutoProcessor of Qwen2.5-VL needs it); 'pillow' is its fallback.
 */
export type ImageBackend = 'torchvision' | 'pillow';

export interface ImageSettings {
  readonly backend: ImageBackend;
  /** Side of a patch in pixels. */
  readonly patchSize: number;
  /** Frames per patch; a still image is repeated. */
  readonly temporalPatchSize: number;
  /** Patches per side of one image token. */
  readonly mergeSize: number;
  /** Bounds of the area in pixels. */
  readonly minPixels: number;
  readonly maxPixels: number;
  readonly resize: boolean;
  /** Factor from 0…255, or null: none. */
  readonly rescale: number | null;
  /** Per channel, after rescaling, or null: none. */
  readonly normalize: { readonly mean: readonly number[]; readonly std: readonly number[] } | null;
}

const pixels = z.int().positive();
const channels = z
  .union([z.number(), z.array(z.number()).length(3)])
  .transform((v) => (Array.isArray(v) ? v : [v, v, v]));

const schema = z.looseObject({
  patch_size: pixels.default(14),
  temporal_patch_size: pixels.default(2),
  merge_size: pixels.default(2),
  min_pixels: pixels.nullish(),
  max_pixels: pixels.nullish(),
  size: z
    .looseObject({
      shortest_edge: pixels.nullish(),
      longest_edge: pixels.nullish(),
      min_pixels: pixels.nullish(),
      max_pixels: pixels.nullish(),
    })
    .nullish(),
  do_resize: z.boolean().nullish(),
  do_rescale: z.boolean().nullish(),
  do_normalize: z.boolean().nullish(),
  do_convert_rgb: z.boolean().nullish(),
  resample: z.int().nullish(),
  rescale_factor: z.number().positive().nullish(),
  image_mean: channels.nullish(),
  image_std: channels.nullish(),
});

/** CLIP's statistics (Radford et al. 2021), the default of Qwen2-VL's processor. */
const clipMean = [0.48145466, 0.4578275, 0.40821073];
const clipStd = [0.26862954, 0.26130258, 0.27577711];
const BICUBIC = 3;

/** The nested object of processor_config.json (transformers 5), else preprocessor_config.json. */
function findConfig(dir: string): { value: unknown; path: string } | undefined {
  const nestedPath = join(dir, 'processor_config.json');
  const nested = readOptionalJson(nestedPath)?.image_processor;
  if (nested !== undefined) return { value: nested, path: nestedPath };
  const path = join(dir, 'preprocessor_config.json');
  const value = readOptionalJson(path);
  return value === undefined ? undefined : { value, path };
}

/** undefined when the folder has no image processor (text-only). @throws BAD_CONFIG, UNSUPPORTED */
export function loadImageSettings(dir: string, backend: ImageBackend = 'torchvision'): ImageSettings | undefined {
  const found = findConfig(dir);
  if (!found) return undefined;
  const result = schema.safeParse(found.value);
  if (!result.success) {
    const reason = z.prettifyError(result.error).replaceAll('\n', ' ');
    throw new GalvaniError('BAD_CONFIG', `${found.path}: ${reason}`);
  }
  const config = result.data;
  if (config.resample != null && config.resample !== BICUBIC) {
    throw new GalvaniError('UNSUPPORTED', `${found.path}: resample ${config.resample}; expected ${BICUBIC} (bicubic)`);
  }
  // min_pixels beside size wins, as in transformers
  const minPixels = config.min_pixels ?? config.size?.shortest_edge ?? config.size?.min_pixels ?? 56 * 56;
  const maxPixels = config.max_pixels ?? config.size?.longest_edge ?? config.size?.max_pixels ?? 28 * 28 * 1280;
  if (minPixels > maxPixels) {
    throw new GalvaniError('BAD_CONFIG', `${found.path}: min_pixels ${minPixels} exceeds max_pixels ${maxPixels}`);
  }
  return {
    backend,
    patchSize: config.patch_size,
    temporalPatchSize: config.temporal_patch_size,
    mergeSize: config.merge_size,
    minPixels,
    maxPixels,
    resize: config.do_resize ?? true,
    rescale: (config.do_rescale ?? true) ? (config.rescale_factor ?? 1 / 255) : null,
    normalize:
      (config.do_normalize ?? true) ? { mean: config.image_mean ?? clipMean, std: config.image_std ?? clipStd } : null,
  };
}
