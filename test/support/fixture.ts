/** Reads the fixture tensors. A few plain lines on purpose: independent of the reader under test. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface FixtureTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Absolute path of test/fixtures/<relative>. */
export function fixturePath(relative: string): string {
  return fileURLToPath(new URL(`../fixtures/${relative}`, import.meta.url));
}

export function readFixtureJson<T>(relative: string): T {
  return JSON.parse(readFileSync(fixturePath(relative), 'utf8')) as T;
}

/** Every float32 or uint8 tensor of a safetensors file, by name, as float32. */
export function readFixtureTensors(relative: string): Map<string, FixtureTensor> {
  const file = readFileSync(fixturePath(relative));
  const headerEnd = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, headerEnd)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, FixtureTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const bytes = file.subarray(headerEnd + entry.data_offsets[0], headerEnd + entry.data_offsets[1]);
    const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    if (entry.dtype !== 'F32' && entry.dtype !== 'U8') throw new Error(`${name}: fixture dtype ${entry.dtype}`);
    const data = entry.dtype === 'F32' ? new Float32Array(copy) : Float32Array.from(new Uint8Array(copy));
    tensors.set(name, { shape: entry.shape, data });
  }
  return tensors;
}

/** One case of parity/<model>.json. */
export interface ParityCase {
  readonly name: string;
  readonly messages: readonly {
    readonly role: string;
    readonly content: string | readonly ({ type: 'image'; image: string } | { type: 'text'; text: string })[];
  }[];
  readonly text: string;
  readonly ids: number[];
  /** [3][n] */
  readonly positions: number[][];
  readonly grids: [number, number, number][];
  readonly logitsRows: number[];
  readonly greedy: number[];
}

export interface ParityRecord {
  readonly model: string;
  readonly cases: ParityCase[];
  /** Names of two cases that transformers ran as one left-padded batch, and their greedy tokens. */
  readonly batch: { readonly cases: string[]; readonly greedy: number[][] };
}

/** One trial of hooks/<model>.json. `interventions` are records of lib/types.ts, see test/fixtures/README.md. */
export interface HookTrial {
  readonly id: string;
  readonly interventions: readonly Record<string, unknown>[];
  readonly logitsRows: number[];
  readonly greedy?: number[];
}

export interface HookRecord {
  readonly model: string;
  readonly messages: ParityCase['messages'];
  readonly sourceMessages: ParityCase['messages'];
  readonly rows: number;
  readonly spans: Readonly<Record<'image' | 'question' | 'system', [number, number][]>>;
  readonly nextPosition: number;
  readonly trials: HookTrial[];
}

/** The checkpoints below test/fixtures/models. */
export const fixtureModels = ['tied-mha', 'untied-gqa', 'untied-gqa-sharded-bf16', 'tied-mqa-bf16'] as const;
