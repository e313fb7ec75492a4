/**
 * Antialiased bicubic resampling of 8-bit images with Pillow's arithmetic: two passes, horizontal first, coefficients
 * rounded to 22 fractional bits, each pass rounded to 8 bits. Kernel: cubic convolution with a = −0.5 (Keys 1981),
 * stretched by the scale when shrinking.
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
function pass(
  input: Uint8Array,
  output: Uint8Array,
  taps: Taps,
  lines: number,
  layout: { line: number; inStep: number; outLine: number; outStep: number; channels: number },
): void {
  const { first, count, weights, stride } = taps;
  for (let line = 0; line < lines; line++) {
    for (let o = 0; o < first.length; o++) {
      for (let c = 0; c < layout.channels; c++) {
        let sum = 1 << (PRECISION - 1);
        let at = line * layout.line + first[o]! * layout.inStep + c;
        for (let t = 0; t < count[o]!; t++, at += layout.inStep) sum += input[at]! * weights[o * stride + t]!;
        const value = sum >> PRECISION;
        output[line * layout.outLine + o * layout.outStep + c] = value < 0 ? 0 : Math.min(value, 255);
      }
    }
  }
}

/** The image at width × height; the same image when it already has that size. @throws BAD_ARGUMENT */
export function resizeBicubic(image: RgbImage, width: number, height: number): RgbImage {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new GalvaniError('BAD_ARGUMENT', `resize: expected a positive integer size, got ${width}×${height}`);
  }
  let { data } = image;
  if (width !== image.width) {
    const wide = new Uint8Array(width * image.height * 3);
    const layout = { line: image.width * 3, inStep: 3, outLine: width * 3, outStep: 3, channels: 3 };
    pass(data, wide, tapsFor(image.width, width), image.height, layout);
    data = wide;
  }
  if (height !== image.height) {
    const tall = new Uint8Array(width * height * 3);
    // a line is a column of one row's bytes: neighbours are a whole row apart
    const layout = { line: 1, inStep: width * 3, outLine: 1, outStep: width * 3, channels: 1 };
    pass(data, tall, tapsFor(image.height, height), width * 3, layout);
    data = tall;
  }
  return { width, height, data };
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
