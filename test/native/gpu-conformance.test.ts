/**
 * The emulator against the PTX ISA's tables and against what hardware answered: native/ops/gpu/conformance runs one
 * instruction per case. Records of hardware are test/fixtures/gpu/*.json, made by bench/gpu/check.sh on a machine with
 * a GPU; while there are none, this test says so and the emulator rests on the documents alone.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fixturePath } from '../support/fixture.js';
import { answers, differences } from '../support/gpu-conformance.js';
import { buildNativeTests, hasCmake, nativeFolder } from '../support/native-executable.js';

/** One answer of hardware; bench/gpu/conformance.py writes a list of them. `input`, `output`: gzip, base64, 32-bit words. */
interface HardwareRecord {
  readonly case: string;
  readonly instruction: string;
  readonly compare: string;
  readonly device: string;
  readonly compute: string;
  readonly driver: string;
  readonly date: string;
  readonly input: string;
  readonly output: string;
}
interface Case {
  readonly name: string;
  readonly compare: string;
  readonly ran: string;
}

const names = Object.keys(answers);
const recorded = readdirSync(fixturePath('gpu')).filter((name) => name.endsWith('.json'));
if (!hasCmake()) console.warn('GPU conformance tests skipped: cmake is not installed');
if (recorded.length === 0)
  console.warn(
    'GPU conformance: nothing has been recorded on hardware yet; the emulator is checked against the PTX ISA',
  );

const words = (bytes: Buffer) => new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const unzip = (text: string) => words(gunzipSync(Buffer.from(text, 'base64')));

describe.skipIf(!hasCmake())('conformance of the emulated instructions', () => {
  const folder = mkdtempSync(join(tmpdir(), 'galvani-conformance-'));
  const run = (args: string[], env: Record<string, string> = {}, input?: Buffer) =>
    spawnSync(`${nativeFolder}/gpu_conformance`, args, { env: { ...process.env, ...env }, input, maxBuffer: 1 << 26 });
  let cases = new Map<string, Case>();

  beforeAll(() => {
    buildNativeTests(['gpu_conformance']);
    const lines = run(['list']).stdout.toString().trim().split('\n');
    cases = new Map(lines.map((line) => JSON.parse(line) as Case).map((entry) => [entry.name, entry]));
  }, 900_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('has an answer of its own for every case', () => {
    expect([...cases.keys()]).toEqual(names);
    expect(cases.get('mma')!.ran).toBe('emulated');
  });

  // Schedules decide when asynchronous work lands, never what it computes.
  for (const schedule of ['0', '1', '2', '7'])
    it(`agrees with the PTX ISA, schedule ${schedule}`, () => {
      const { status, stderr } = run(['record', folder], { GALVANI_SCHEDULE: schedule });
      expect(stderr.toString()).toBe('');
      expect(status).toBe(0);
      for (const name of names) {
        const input = words(readFileSync(join(folder, `${name}.in`)));
        const got = words(readFileSync(join(folder, `${name}.out`)));
        const expected = answers[name]!(input);
        expect(differences(cases.get(name)!.compare, got, expected.words, expected.sizes), name).toEqual([]);
      }
    });

  it('would notice a wrong map', () => {
    const of = (name: string) => words(readFileSync(join(folder, `${name}.in`)));
    const wrong: [string, (input: Uint32Array) => void, string][] = [
      ['ldsm4', () => undefined, 'ldsm4t'], // transposed
      ['wgmma_ss_slice', (head) => (head[3] = 512), 'wgmma_ss_slice'], // stride offset
      ['wgmma_rs_slice', (head) => (head[2] = 1024), 'wgmma_rs_slice'], // leading offset
      ['wgmma_rs_slice', (head) => (head[1] = 0), 'wgmma_rs_slice'], // the first slice
      ['tma_beyond', (head) => (head[1] = 2), 'tma_beyond'], // one row off
    ];
    for (const [name, spoil, other] of wrong) {
      const input = of(name);
      spoil(input);
      const got = words(readFileSync(join(folder, `${name}.out`)));
      expect(differences('bits', got, answers[other]!(input).words), name).not.toEqual([]);
    }
  });

  it('refuses what it cannot run', () => {
    expect(run(['run', 'nonsense']).status).toBe(2);
    const short = run(['run', 'mma'], {}, Buffer.alloc(8));
    expect(short.status).toBe(2);
    expect(short.stderr.toString()).toMatch(/^mma: expected 320 words on stdin/);
  });

  const records = recorded.flatMap(
    (file) => JSON.parse(readFileSync(fixturePath(`gpu/${file}`), 'utf8')) as HardwareRecord[],
  );
  for (const record of records) {
    it(`${record.case} answers as ${record.device} did (${record.date.slice(0, 10)})`, () => {
      const input = unzip(record.input);
      const hardware = unzip(record.output);
      const { stdout, stderr } = run(['run', record.case], {}, Buffer.from(input.buffer));
      expect(stderr.toString()).toBe('');
      const { compare } = cases.get(record.case)!;
      const expected = answers[record.case]!(input);
      expect(differences(compare, words(stdout), hardware, expected.sizes), 'emulator').toEqual([]);
      expect(differences(compare, expected.words, hardware, expected.sizes), 'PTX ISA').toEqual([]);
    });
  }
});
