/**
 * Content identity of a checkpoint folder, the same on every machine and after copying. Folders up to 1 GiB are hashed
 * whole. Larger ones: their headers, and of every tensor the first and the middle 4 KiB; two checkpoints that differ
 * only elsewhere would be taken for one, which training steps do not produce.
 */
import { createHash, type Hash } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { GalvaniError } from '../errors.js';

const wholeLimit = 2 ** 30;
const chunk = 1 << 22;
const sample = 4096;

/** Files beside the weights that change what the model computes. The tokenizer shows in the prompts' ids. */
const settings = ['config.json', 'generation_config.json'];

/** 128-bit hexadecimal hash. @throws FILE_NOT_FOUND when the folder holds no safetensors file. */
export function folderFingerprint(dir: string): string {
  const shards = listFolder(dir).filter((name) => name.endsWith('.safetensors'));
  if (shards.length === 0) throw new GalvaniError('FILE_NOT_FOUND', `${dir}: no *.safetensors file here`);
  const total = shards.reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  const hash = createHash('sha256');
  for (const name of settings) {
    if (listFolder(dir).includes(name)) hash.update(`${name}\n`).update(readFileSync(join(dir, name)));
  }
  for (const name of shards) {
    hash.update(`\n${name}\n`);
    hashShard(hash, join(dir, name), total <= wholeLimit);
  }
  return hash.digest('hex').slice(0, 32);
}

/** Of one safetensors file: every byte up to 64 MiB, the same sample beyond. 128 bits, hexadecimal. */
export function fileFingerprint(path: string): string {
  const hash = createHash('sha256');
  hashShard(hash, path, statSync(path).size <= 2 ** 26);
  return hash.digest('hex').slice(0, 32);
}

/** SHA-256 of every byte, as sha256sum and the Hub give it. */
export async function fileSha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: chunk })) hash.update(piece as Buffer);
  return hash.digest('hex');
}

function listFolder(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch (cause) {
    throw new GalvaniError('FILE_NOT_FOUND', `${dir}: no such checkpoint folder`, { cause });
  }
}

function hashShard(hash: Hash, path: string, whole: boolean): void {
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    hash.update(`${size}\n`);
    const read = (start: number, length: number): void => {
      const buffer = Buffer.alloc(Math.max(0, Math.min(length, size - start)));
      hash.update(buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, start)));
    };
    if (whole) {
      for (let at = 0; at < size; at += chunk) read(at, chunk);
      return;
    }
    const first = Buffer.alloc(8);
    readSync(fd, first, 0, 8, 0);
    const header = Number(first.readBigUInt64LE());
    if (header > size - 8) throw new GalvaniError('BAD_FILE', `${path}: the header is longer than the file`);
    read(0, 8 + header);
    const text = Buffer.alloc(header);
    readSync(fd, text, 0, header, 8);
    for (const [begin, end] of tensorOffsets(text.toString('utf8'), path)) {
      read(8 + header + begin, Math.min(sample, end - begin));
      read(8 + header + begin + Math.floor((end - begin) / 2), Math.min(sample, Math.ceil((end - begin) / 2)));
    }
  } finally {
    closeSync(fd);
  }
}

function tensorOffsets(header: string, path: string): [number, number][] {
  try {
    const entries = Object.entries(JSON.parse(header) as Record<string, { data_offsets?: [number, number] }>);
    return entries.flatMap(([name, { data_offsets }]) =>
      name === '__metadata__' || !data_offsets ? [] : [data_offsets],
    );
  } catch (cause) {
    throw new GalvaniError('BAD_FILE', `${path}: the header is not JSON`, { cause });
  }
}
