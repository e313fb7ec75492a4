/** Image files and constructed images → 8-bit RGB. */
import { existsSync } from 'node:fs';
import sharp from 'sharp';
import { GalvaniError } from '../errors.js';
import type { RgbImage } from './resize.js';

const BLACK_KEY = 255;

/** Bands of one pixel as stored → RGB, as Pillow's convert('RGB'): alpha is dropped, grey repeated. */
function toRgb(bytes: Uint8Array, channels: number, cmyk: boolean): Uint8Array {
  if (channels === 3) return bytes;
  const count = bytes.length / channels;
  const rgb = new Uint8Array(count * 3);
  for (let i = 0; i < count; i++) {
    const at = i * channels;
    for (let c = 0; c < 3; c++) {
      rgb[3 * i + c] = cmyk ? inkToLight(bytes[at + c]!, bytes[at + 3]!) : bytes[channels < 3 ? at : at + c]!;
    }
  }
  return rgb;
}

/** (1 − ink)(1 − black) in 8 bits, without a colour profile. */
function inkToLight(ink: number, black: number): number {
  const light = BLACK_KEY - black;
  return Math.max(0, light - Math.round((ink * light) / BLACK_KEY));
}

/**
 * Decodes a PNG, JPEG, WebP, GIF (first frame), TIFF or AVIF file or buffer the way transformers' load_image does:
 * EXIF orientation applied, colour profiles ignored, alpha dropped (not composited). 16-bit samples keep their high
 * byte (Pillow clips 16-bit grey instead).
 * @throws FILE_NOT_FOUND, BAD_FILE naming the file
 */
export async function decodeImage(source: string | Uint8Array): Promise<RgbImage> {
  const where = typeof source === 'string' ? source : `image buffer of ${source.byteLength} bytes`;
  if (typeof source === 'string' && !existsSync(source)) {
    throw new GalvaniError('FILE_NOT_FOUND', `${source}: no such image file`, { details: { path: source } });
  }
  try {
    const { space } = await sharp(source).metadata();
    const cmyk = space === 'cmyk';
    let image = sharp(source, { failOn: 'error', ignoreIcc: true }).autoOrient();
    if (cmyk) image = image.pipelineColourspace('cmyk').toColourspace('cmyk');
    const { data, info } = await image.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: toRgb(data, info.channels, cmyk) };
  } catch (cause) {
    throw new GalvaniError('BAD_FILE', `${where}: cannot be decoded as an image: ${(cause as Error).message}`, {
      cause,
      details: { path: where },
    });
  }
}

function requireSize(width: number, height: number): void {
  if (Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0) return;
  throw new GalvaniError('BAD_ARGUMENT', `image size: expected positive integers, got ${width}×${height}`);
}

/** An image of one colour, 0…255 per channel. @throws BAD_ARGUMENT */
export function constantImage(
  width: number,
  height: number,
  colour: readonly [red: number, green: number, blue: number],
): RgbImage {
  requireSize(width, height);
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < data.length; i++) data[i] = colour[i % 3]!;
  return { width, height, data };
}

/** All zeros: the "nothing to see" control of METHODS §1d. @throws BAD_ARGUMENT */
export function blackImage(width: number, height: number): RgbImage {
  return constantImage(width, height, [0, 0, 0]);
}

/** Uniform 32-bit integers from a seed (splitmix32-style mixing); equal on every machine. */
function randomIntegers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let x = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
    return (x ^ (x >>> 15)) >>> 0;
  };
}

/** Independent uniform bytes. @throws BAD_ARGUMENT */
export function noiseImage(width: number, height: number, seed: number): RgbImage {
  requireSize(width, height);
  const next = randomIntegers(seed);
  const data = Uint8Array.from({ length: width * height * 3 }, () => next() >>> 24);
  return { width, height, data };
}

/**
 * The image's tiles of `tile` × `tile` pixels in a random order: same statistics, no layout. Rows and columns beyond
 * the last whole tile stay. @throws BAD_ARGUMENT
 */
export function shuffledImage(image: RgbImage, tile: number, seed: number): RgbImage {
  const { width, height } = image;
  requireSize(tile, tile);
  const across = Math.floor(width / tile);
  const total = across * Math.floor(height / tile);
  const order = Int32Array.from({ length: total }, (_, i) => i);
  const next = randomIntegers(seed);
  for (let i = total - 1; i > 0; i--) {
    const j = Math.floor((next() / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  const data = Uint8Array.from(image.data);
  const start = (index: number) => (Math.floor(index / across) * tile * width + (index % across) * tile) * 3;
  for (let i = 0; i < total; i++) {
    for (let row = 0; row < tile; row++) {
      const from = start(order[i]!) + row * width * 3;
      data.set(image.data.subarray(from, from + tile * 3), start(i) + row * width * 3);
    }
  }
  return { width, height, data };
}

/** An image for the eye, encoded small: at most `side` pixels on its longer side; PNG when tiny, else JPEG. */
export async function smallPicture(
  { width, height, data }: RgbImage,
  side: number,
): Promise<{ width: number; height: number; type: 'image/png' | 'image/jpeg'; data: string }> {
  const image = sharp(data, { raw: { width, height, channels: 3 } });
  const type = width * height <= 128 * 128 ? 'image/png' : 'image/jpeg';
  if (Math.max(width, height) > side) image.resize(side, side, { fit: 'inside' });
  const encoded = type === 'image/png' ? image.png() : image.jpeg({ quality: 82 });
  return { width, height, type, data: (await encoded.toBuffer()).toString('base64') };
}
