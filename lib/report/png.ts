/** A PNG of 8-bit RGBA pixels, for maps too large to be drawn cell by cell (PNG specification, third edition). */
import { crc32, deflateSync } from 'node:zlib';

const signature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const rgba8 = [8, 6, 0, 0, 0]; // bits per channel, RGBA, deflate, adaptive filtering, not interlaced

/** `rgba`: (height, width, 4). */
export function encodePng(width: number, height: number, rgba: Uint8Array): Buffer {
  const lines = Buffer.alloc(height * (1 + 4 * width)); // each line begins with its filter: none
  for (let y = 0; y < height; y++)
    lines.set(rgba.subarray(4 * width * y, 4 * width * (y + 1)), y * (1 + 4 * width) + 1);
  const size = Buffer.alloc(8);
  size.writeUInt32BE(width, 0);
  size.writeUInt32BE(height, 4);
  const header = Buffer.concat([size, Buffer.from(rgba8)]);
  return Buffer.concat([
    Buffer.from(signature),
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(lines, { level: 9 })),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(name: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(name, 'latin1'), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc32(body) >>> 0, body.length + 4);
  return out;
}
