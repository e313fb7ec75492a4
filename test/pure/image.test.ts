import { readFileSync } from 'node:fs';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import type { GalvaniError } from '../../lib/errors.js';
import { blackImage, constantImage, decodeImage, noiseImage, shuffledImage } from '../../lib/processor/decode.js';
import { imagePatches, loadImage } from '../../lib/processor/image.js';
import { type ImageSettings, loadImageSettings } from '../../lib/processor/image-settings.js';
import { resizeBicubic, smartResize } from '../../lib/processor/resize.js';
import { fixturePath, readFixtureJson, readFixtureTensors } from '../support/fixture.js';

const pictures = readFixtureTensors('processor/pixels.safetensors');
const image = (file: string) => fixturePath(`images/${file}`);
const settingsOf = (model: string): ImageSettings => loadImageSettings(fixturePath(`models/${model}`))!;

function compare(got: Uint8Array, expected: Float32Array): { mean: number; max: number } {
  expect(got.length).toBe(expected.length);
  let sum = 0;
  let max = 0;
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs(got[i]! - expected[i]!);
    sum += error;
    max = Math.max(max, error);
  }
  return { mean: sum / got.length, max };
}

/** Grey levels that make a mean error of 0.003 after normalisation by the smallest std. */
const MEAN_LEVELS = 0.003 * 0.26130258 * 255;

describe('decoded images equal Pillow', () => {
  const files = [...pictures.keys()].filter((name) => name.startsWith('decoded/')).map((name) => name.slice(8));
  it.each(files)('%s', async (file) => {
    const expected = pictures.get(`decoded/${file}`)!;
    const { data, width, height } = await decodeImage(image(file));
    expect([height, width, 3]).toEqual(expected.shape);
    expect(compare(data, expected.data)).toEqual({ mean: 0, max: 0 });
  });

  it('reads a buffer like its file', async () => {
    const file = image('rgb-32x24.png');
    expect(await decodeImage(readFileSync(file))).toEqual(await decodeImage(file));
  });
});

describe('resized images equal Pillow', () => {
  const names = [...pictures.keys()].filter((name) => name.startsWith('resized/'));
  it.each(names)('%s', (name) => {
    const [, , file] = name.split('/');
    const { shape, data } = pictures.get(name)!;
    const decoded = pictures.get(`decoded/${file}`)!;
    const source = { height: decoded.shape[0]!, width: decoded.shape[1]!, data: Uint8Array.from(decoded.data) };
    expect(compare(resizeBicubic(source, shape[1]!, shape[0]!, 'pillow13').data, data)).toEqual({ mean: 0, max: 0 });
  });

  it.each(names)('%s, decoded by us, at the size we choose', async (name) => {
    const [, model, file] = name.split('/');
    const { shape, data } = pictures.get(name)!;
    const { patchSize, mergeSize, minPixels, maxPixels } = settingsOf(model!);
    const decoded = await decodeImage(image(file!));
    const size = smartResize(decoded, { factor: patchSize * mergeSize, minPixels, maxPixels });
    expect([size.height, size.width]).toEqual(shape.slice(0, 2));
    expect(compare(resizeBicubic(decoded, size.width, size.height, 'pillow13').data, data).mean).toBeLessThanOrEqual(
      MEAN_LEVELS,
    );
  });

  it('leaves an image of the right size alone', async () => {
    const source = noiseImage(16, 8, 1);
    expect(resizeBicubic(source, 16, 8, 'horizontal').data).toBe(source.data);
  });
});

describe('the torchvision backend', () => {
  const expected = readFixtureTensors('processor/torchvision.safetensors');
  it.each([...expected.keys()])('%s', async (name) => {
    const [model, file] = name.split('/');
    const { shape, data } = expected.get(name)!;
    const settings = settingsOf(model!);
    expect(settings.backend).toBe('torchvision');
    const decoded = await decodeImage(image(file!));
    const { pixels, grid } = imagePatches(decoded, settings);
    expect(grid[1] * grid[2]).toBe(shape[0]);
    expect(pixels.length).toBe(data.length);
    const { patchSize } = settings;
    if (decoded.width === grid[2] * patchSize && decoded.height === grid[1] * patchSize) {
      expect(pixels).toEqual(data);
    } else {
      const mean = pixels.reduce((sum, value, i) => sum + Math.abs(value - data[i]!), 0) / data.length;
      expect(mean).toBeLessThanOrEqual(0.003);
    }
  });
});

describe('smart resize', () => {
  interface Size {
    height: number;
    width: number;
    factor: number;
    minPixels: number;
    maxPixels: number;
    result: [number, number];
  }
  it('equals transformers', () => {
    const { sizes } = readFixtureJson<{ sizes: Size[] }>('processor/record.json');
    expect(sizes.length).toBeGreaterThan(100);
    for (const size of sizes) {
      const got = smartResize(size, size);
      expect([got.height, got.width], JSON.stringify(size)).toEqual(size.result);
    }
  });

  it('refuses an extreme aspect ratio', () => {
    const limits = { factor: 28, minPixels: 3136, maxPixels: 1e6 };
    expect(() => smartResize({ width: 201, height: 1 }, limits)).toThrow(/201×1 pixels.*at most 200, got 201/);
    expect(() => smartResize({ width: 200, height: 1 }, limits)).not.toThrow();
  });
});

describe('patches', () => {
  const settings = settingsOf('tied-mha');

  it('are rows [channel, time, y, x] with merged patches as neighbours', () => {
    const source = noiseImage(24, 16, 3);
    const plain: ImageSettings = { ...settings, rescale: null, normalize: null };
    const { pixels, grid } = imagePatches(source, plain);
    expect(grid).toEqual([1, 4, 6]);
    const order = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, 12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23];
    const P = 4;
    let at = 0;
    for (const patch of order) {
      const [row, column] = [Math.floor(patch / 6), patch % 6];
      for (let channel = 0; channel < 3; channel++) {
        for (let time = 0; time < 2; time++) {
          for (let y = 0; y < P; y++) {
            for (let x = 0; x < P; x++) {
              const byte = source.data[((row * P + y) * 24 + column * P + x) * 3 + channel];
              if (pixels[at++] !== byte) expect.fail(`patch ${patch} channel ${channel} (${y}, ${x})`);
            }
          }
        }
      }
    }
    expect(at).toBe(pixels.length);
  });

  it('hash the content: equal for equal pixels, different for one different byte or another layout', () => {
    const source = noiseImage(24, 16, 3);
    const changed = { ...source, data: Uint8Array.from(source.data, (byte, i) => (i === 700 ? byte ^ 1 : byte)) };
    const turned = { width: 16, height: 24, data: source.data };
    const hashes = [source, { ...source }, changed, turned].map((picture) => imagePatches(picture, settings).hash);
    expect(hashes[0]).toBe(hashes[1]);
    expect(new Set(hashes).size).toBe(3);
  });

  it('render at a given grid, for a source image at its target’s', async () => {
    const { grid } = await loadImage(image('odd-37x29.jpg'), settings, { grid: [4, 8] });
    expect(grid).toEqual([1, 4, 8]);
    await expect(loadImage(image('odd-37x29.jpg'), settings, { grid: [3, 8] })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
    });
  });

  it('pass through when already cut, unless another grid is wanted', async () => {
    const cut = imagePatches(noiseImage(24, 16, 3), settings);
    expect(await loadImage(cut, settings)).toBe(cut);
    await expect(loadImage(cut, settings, { grid: [2, 2] })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  });

  it('need whole tokens when the checkpoint does not resize', () => {
    const fixed = { ...settings, resize: false };
    expect(imagePatches(noiseImage(24, 16, 3), fixed).grid).toEqual([1, 4, 6]);
    expect(() => imagePatches(noiseImage(25, 16, 3), fixed)).toThrow(/multiples of 8/);
  });
});

describe('constructed images', () => {
  it('are black, of one colour, or noise that a seed repeats', () => {
    expect(blackImage(3, 2).data).toEqual(new Uint8Array(18));
    expect([...constantImage(2, 1, [1, 2, 3]).data]).toEqual([1, 2, 3, 1, 2, 3]);
    expect(noiseImage(8, 8, 5)).toEqual(noiseImage(8, 8, 5));
    expect(noiseImage(8, 8, 5).data).not.toEqual(noiseImage(8, 8, 6).data);
    const mean = noiseImage(64, 64, 1).data.reduce((a, b) => a + b, 0) / (64 * 64 * 3);
    expect(Math.abs(mean - 127.5)).toBeLessThan(3); // std of the mean: 74 / sqrt(12288) = 0.67
    expect(() => blackImage(0, 4)).toThrow(/0×4/);
  });

  it('shuffle tiles: the same tiles in another order, the border kept', () => {
    const source = noiseImage(10, 8, 2);
    const shuffled = shuffledImage(source, 4, 9);
    const tiles = ({ data }: { data: Uint8Array }) =>
      [0, 1].flatMap((row) =>
        [0, 1].map((column) =>
          Array.from({ length: 48 }, (_, i) => {
            const [y, x] = [Math.floor(i / 12), i % 12];
            return data[((row * 4 + y) * 10 + column * 4) * 3 + x];
          }).join(),
        ),
      );
    expect(tiles(shuffled)).not.toEqual(tiles(source));
    expect(tiles(shuffled).sort()).toEqual(tiles(source).sort());
    for (let y = 0; y < 8; y++) {
      expect(shuffled.data.subarray((y * 10 + 8) * 3, (y + 1) * 30)).toEqual(
        source.data.subarray((y * 10 + 8) * 3, (y + 1) * 30),
      );
    }
  });
});

describe('hostile images', () => {
  const settings = settingsOf('tied-mha');
  const failure = async (source: string | Uint8Array) =>
    (await loadImage(source, settings).then(
      () => expect.fail('expected an error'),
      (error) => error,
    )) as GalvaniError;

  it('missing file', async () => {
    const error = await failure('/nowhere/picture.png');
    expect(error.code).toBe('FILE_NOT_FOUND');
    expect(error.message).toContain('/nowhere/picture.png');
  });

  it.each([
    ['text', Buffer.from('this is not an image')],
    ['nothing', Buffer.alloc(0)],
    ['a truncated PNG', readFileSync(image('rgb-84x84.png')).subarray(0, 4000)],
    ['a truncated JPEG', readFileSync(image('large-150x90.jpg')).subarray(0, 1500)],
    ['a truncated WebP', readFileSync(image('odd-61x47.webp')).subarray(0, 300)],
  ])('%s', async (_, bytes) => {
    const error = await failure(bytes);
    expect(error.code).toBe('BAD_FILE');
    expect(error.message).toContain(`image buffer of ${bytes.length} bytes`);
  });

  it('a file that is no image', async () => {
    const error = await failure(fixturePath('README.md'));
    expect(error.code).toBe('BAD_FILE');
    expect(error.message).toContain('README.md');
  });

  it('a ribbon', async () => {
    const ribbon = await sharp({ create: { width: 1000, height: 4, channels: 3, background: 'red' } })
      .png()
      .toBuffer();
    const error = await failure(ribbon);
    expect(error.code).toBe('BAD_ARGUMENT');
    expect(error.message).toContain('1000×4');
  });

  it('pixels that do not fill their size', () => {
    expect(() => imagePatches({ width: 8, height: 8, data: new Uint8Array(10) }, settings)).toThrow(
      /192 bytes.*got 10/,
    );
  });
});
