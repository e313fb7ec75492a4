/** Decoded image → the pixel patches the vision tower reads, as Qwen2VLImageProcessor makes them. */
import { createHash } from 'node:crypto';
import { GalvaniError } from '../errors.js';
import type { PixelPatches } from '../types.js';
import { decodeImage } from './decode.js';
import type { ImageSettings } from './image-settings.js';
import { type RgbImage, resizeBicubic, smartResize } from './resize.js';

/** A path, an encoded file in memory, a decoded image, or patches made before. */
export type ImageSource = string | Uint8Array | RgbImage | PixelPatches;

export interface ImageOptions {
  /** Override the checkpoint's bounds of the area in pixels. */
  readonly minPixels?: number;
  readonly maxPixels?: number;
  /** Patches in (height, width): render at exactly this grid, e.g. a source image at its target's. */
  readonly grid?: readonly [height: number, width: number];
}

function isPatches(source: ImageSource): source is PixelPatches {
  return typeof source === 'object' && 'grid' in source;
}

function targetSize(
  image: RgbImage,
  settings: ImageSettings,
  options: ImageOptions,
): { width: number; height: number } {
  const { patchSize, mergeSize } = settings;
  const factor = patchSize * mergeSize;
  if (options.grid) {
    const [rows, columns] = options.grid;
    const ok = (n: number) => Number.isInteger(n) && n > 0 && n % mergeSize === 0;
    if (!ok(rows) || !ok(columns)) {
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `grid: expected positive multiples of the merge size ${mergeSize}, got ${rows}×${columns} patches`,
      );
    }
    return { width: columns * patchSize, height: rows * patchSize };
  }
  if (settings.resize) {
    return smartResize(image, {
      factor,
      minPixels: options.minPixels ?? settings.minPixels,
      maxPixels: options.maxPixels ?? settings.maxPixels,
    });
  }
  if (image.width % factor !== 0 || image.height % factor !== 0) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `image of ${image.width}×${image.height} pixels: the checkpoint does not resize; expected sides that are ` +
        `multiples of ${factor}`,
    );
  }
  return image;
}

/** float32 value of one byte: Pillow's backend rescales in float64, then subtracts and divides in float32. */
function pillowValue(byte: number, rescale: number | null, mean: number, std: number): number {
  const scaled = Math.fround(rescale === null ? byte : byte * rescale);
  return Math.fround(Math.fround(scaled - Math.fround(mean)) / Math.fround(std));
}

/** torchvision's backend folds the factor into mean and std, all in float32. */
function torchvisionValue(byte: number, rescale: number | null, mean: number, std: number): number {
  const unfold = rescale === null ? 1 : Math.fround(1 / rescale);
  const shift = Math.fround(Math.fround(mean) * unfold);
  return Math.fround(Math.fround(byte - shift) / Math.fround(Math.fround(std) * unfold));
}

/** float32 value of each byte per channel, [3, 256]. */
function pixelTable({ backend, rescale, normalize }: ImageSettings): Float32Array {
  const table = new Float32Array(3 * 256);
  const value = backend === 'pillow' ? pillowValue : torchvisionValue;
  for (let channel = 0; channel < 3; channel++) {
    for (let byte = 0; byte < 256; byte++) {
      table[channel * 256 + byte] = normalize
        ? value(byte, rescale, normalize.mean[channel]!, normalize.std[channel]!)
        : pillowValue(byte, rescale, 0, 1);
    }
  }
  return table;
}

/**
 * Cuts an image whose sides are multiples of patch · merge into rows [channel, time, y, x] of one patch each. Patches
 * that merge into one image token are neighbours: order (token row, token column, row in token, column in token).
 */
function patchify(image: RgbImage, settings: ImageSettings): Float32Array {
  const { patchSize, temporalPatchSize, mergeSize } = settings;
  const rows = image.height / patchSize;
  const columns = image.width / patchSize;
  const table = pixelTable(settings);
  const pixels = new Float32Array(rows * columns * 3 * temporalPatchSize * patchSize * patchSize);
  const plane = patchSize * patchSize;
  let at = 0;
  for (let tokenRow = 0; tokenRow < rows; tokenRow += mergeSize) {
    for (let tokenColumn = 0; tokenColumn < columns; tokenColumn += mergeSize) {
      for (let inner = 0; inner < mergeSize * mergeSize; inner++) {
        const y0 = (tokenRow + Math.floor(inner / mergeSize)) * patchSize;
        const x0 = (tokenColumn + (inner % mergeSize)) * patchSize;
        for (let channel = 0; channel < 3; channel++) {
          const first = at;
          for (let y = y0; y < y0 + patchSize; y++) {
            let from = (y * image.width + x0) * 3 + channel;
            for (let x = 0; x < patchSize; x++, from += 3) pixels[at++] = table[channel * 256 + image.data[from]!]!;
          }
          for (let t = 1; t < temporalPatchSize; t++, at += plane) pixels.copyWithin(at, first, first + plane);
        }
      }
    }
  }
  return pixels;
}

function contentHash(image: RgbImage, settings: ImageSettings): string {
  const { backend, patchSize, temporalPatchSize, mergeSize, rescale, normalize } = settings;
  const about = { backend, patchSize, temporalPatchSize, mergeSize, rescale, normalize, width: image.width };
  return createHash('sha256').update(JSON.stringify(about)).update(image.data).digest('hex').slice(0, 32);
}

/** Resizes, normalises and cuts a decoded image. @throws BAD_ARGUMENT */
export function imagePatches(image: RgbImage, settings: ImageSettings, options: ImageOptions = {}): PixelPatches {
  if (image.data.length !== image.width * image.height * 3) {
    throw new GalvaniError(
      'SHAPE_MISMATCH',
      `image of ${image.width}×${image.height} pixels: expected ${image.width * image.height * 3} bytes of RGB, got ` +
        `${image.data.length}`,
    );
  }
  const { width, height } = targetSize(image, settings, options);
  const resized = resizeBicubic(image, width, height, settings.backend === 'pillow' ? 'pillow13' : 'horizontal');
  return {
    pixels: patchify(resized, settings),
    grid: [1, height / settings.patchSize, width / settings.patchSize],
    hash: contentHash(resized, settings),
  };
}

/** Any image source as patches. @throws FILE_NOT_FOUND, BAD_FILE, BAD_ARGUMENT */
export async function loadImage(
  source: ImageSource,
  settings: ImageSettings,
  options: ImageOptions = {},
): Promise<PixelPatches> {
  if (typeof source === 'string' || source instanceof Uint8Array) {
    return imagePatches(await decodeImage(source), settings, options);
  }
  if (!isPatches(source)) return imagePatches(source, settings, options);
  const [, rows, columns] = source.grid;
  if (options.grid && (options.grid[0] !== rows || options.grid[1] !== columns)) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `grid: expected ${options.grid.join('×')} patches, but the image is already cut into ${rows}×${columns}`,
    );
  }
  return source;
}
