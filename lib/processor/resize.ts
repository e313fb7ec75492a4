/**
 * Antialiased bicubic resampling of 8-bit images with Pillow's arithmetic: two passes, coefficients rounded to 22
 * fractional bits, each pass rounded to 8 bits. Kernel: cubic convolution with a = −0.5 (Keys 1981), stretched by the
 * scale when shrinking. Bit-equal to Pillow on the fixtures; torch's
 * 8-bit path uses coarser coefficients and differs by one level in about one value of 300.
 */
import { GalvaniError } from '../errors.js';

/** 8-bit RGB rows, top to bottom. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** [height, width, 3] */
  readonly data: Uint8Array;
}

const SUPPORT = 2;
const A = -0.5;
const PRECISION = 22;

/** Cubic convolution kernel; zero outside ±2. */
function cubic(x: number): number {
  const d = Math.abs(x);
  if (d < 1) return ((A + 2) * d - (A + 3)) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * A;
  return 0;
}

/** For each output index: first input index, number of taps, and the taps' fixed-point weights. */
interface Taps {
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly weights: Int32Array;
  readonly stride: number;
}

function tapsFor(from: number, to: number): Taps {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const weights = new Int32Array(to * stride);
  const raw = new Float64Array(stride);
  for (let o = 0; o < to; o++) {
    const center = (o + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    let sum = 0;
    for (let i = start; i < end; i++) {
      const weight = cubic((i - center + 0.5) * (1 / stretch));
      raw[i - start] = weight;
      sum += weight;
    }
    first[o] = start;
    count[o] = end - start;
    for (let t = 0; t < end - start; t++) {
      const weight = (sum === 0 ? raw[t]! : raw[t]! / sum) * (1 << PRECISION);
      weights[o * stride + t] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
  }
  return { first, count, weights, stride };
}

/** One pass along an axis whose neighbours are `step` bytes apart. */
function pass(input: Uint8Array, output: Uint8Array, taps: Taps, lines: Lines): void {
  const { first, count, weights, stride } = taps;
  const { step, channels } = lines;
  for (let line = 0; line < lines.count; line++) {
    for (let o = 0; o < first.length; o++) {
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (PRECISION - 1);
        let at = line * lines.inputLine + first[o]! * step + c;
        for (let t = 0; t < count[o]!; t++, at += step) sum += input[at]! * weights[o * stride + t]!;
        output[line * lines.outputLine + o * step + c] = Math.min(Math.max(sum >> PRECISION, 0), 255);
      }
    }
  }
}

/** How a pass walks the bytes: lines of an image along the resampled axis. */
interface Lines {
  readonly count: number;
  /** Bytes between neighbours on a line. */
  readonly step: number;
  readonly inputLine: number;
  readonly outputLine: number;
  /** Interleaved values per position of a line. */
  readonly channels: number;
}

function resizeWidth(image: RgbImage, width: number): RgbImage {
  if (width === image.width) return image;
  const data = new Uint8Array(width * image.height * 3);
  const lines = { count: image.height, step: 3, inputLine: image.width * 3, outputLine: width * 3, channels: 3 };
  pass(image.data, data, tapsFor(image.width, width), lines);
  return { width, height: image.height, data };
}

function resizeHeight(image: RgbImage, height: number): RgbImage {
  if (height === image.height) return image;
  const row = image.width * 3;
  const data = new Uint8Array(row * height);
  // every byte of a row starts a line of its own down the image
  pass(image.data, data, tapsFor(image.height, height), {
    count: row,
    step: row,
    inputLine: 1,
    outputLine: 1,
    channels: 1,
  });
  return { width: image.width, height, data };
}

/**
 * Which pass comes first; it shows in the rounding. 'horizontal': torch and Pillow up to 12. 'pillow13': vertical when
 * the height loses more than twice what the width loses (observed on 5,000 sizes, not documented).
 */
export type PassOrder = 'horizontal' | 'pillow13';

/** The image at width × height; the same image when it already has that size. @throws BAD_ARGUMENT */
export function resizeBicubic(image: RgbImage, width: number, height: number, order: PassOrder): RgbImage {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new GalvaniError('BAD_ARGUMENT', `resize: expected a positive integer size, got ${width}×${height}`);
  }
  const lost = { height: image.height - height, width: image.width - width };
  const verticalFirst = order === 'pillow13' && lost.height > 0 && lost.height > 2 * lost.width;
  return verticalFirst
    ? resizeWidth(resizeHeight(image, height), width)
    : resizeHeight(resizeWidth(image, width), height);
}

/** Python's round(): halves go to the even neighbour. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Longest side over shortest side that Qwen2-VL's processor takes. */
const MAX_ASPECT = 200;

/**
 * Size nearest to the image's with both sides multiples of `factor`, aspect kept as well as possible, area within
 * [minPixels, maxPixels]. As Qwen2VLImageProcessor's smart resize. @throws BAD_ARGUMENT (aspect ratio)
 */
export function smartResize(
  image: { readonly width: number; readonly height: number },
  limits: { readonly factor: number; readonly minPixels: number; readonly maxPixels: number },
): { width: number; height: number } {
  const { width, height } = image;
  const { factor, minPixels, maxPixels } = limits;
  const aspect = Math.max(width, height) / Math.min(width, height);
  if (aspect > MAX_ASPECT) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `image of ${width}×${height} pixels: expected an aspect ratio of at most ${MAX_ASPECT}, got ${aspect.toFixed(1)}`,
    );
  }
  const nearest = { width: roundHalfEven(width / factor) * factor, height: roundHalfEven(height / factor) * factor };
  const area = nearest.width * nearest.height;
  if (area > maxPixels) {
    const shrink = Math.sqrt((height * width) / maxPixels);
    const shrunk = (side: number) => Math.max(factor, Math.floor(side / shrink / factor) * factor);
    return { width: shrunk(width), height: shrunk(height) };
  }
  if (area < minPixels) {
    const grow = Math.sqrt(minPixels / (height * width));
    const grown = (side: number) => Math.ceil((side * grow) / factor) * factor;
    return { width: grown(width), height: grown(height) };
  }
  return nearest;
}
