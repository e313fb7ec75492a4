/** The commands as a user types them, on the lab's checkpoints with the real engine. */
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Inspection } from '../../lib/checkpoint/inspect.js';
import { openCheckpoint, writeSafetensors } from '../../lib/checkpoint/safetensors.js';
import { program, run } from '../../lib/cli/program.js';
import { summarySchema } from '../../lib/experiments/summary-schema.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const lab = (path: string): string => join(root, 'lab', path);
const main = join(root, 'dist', 'cli', 'main.js');
const [base, sft] = [lab('checkpoints/base'), lab('checkpoints/in')];
const items = lab('data/eval.jsonl');
const pairs = lab('data/pairs.jsonl');

let work: string;
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), 'galvani-cli-'));
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

function galvani(...args: string[]): { code: number | null; out: string; err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    cwd: work,
    encoding: 'utf8',
    maxBuffer: 2 ** 27,
  });
  return { code: status, out: stdout, err: stderr };
}

/** The same in this process: starting Node for every message would cost minutes. */
async function inProcess(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const text = { out: '', err: '' };
  const into = (name: 'out' | 'err') => (chunk: unknown) => {
    text[name] += String(chunk);
    return true;
  };
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation(into('out')),
    vi.spyOn(process.stderr, 'write').mockImplementation(into('err')),
  ];
  const [cwd, exitCode] = [process.cwd(), process.exitCode];
  process.chdir(work);
  try {
    const code = await run(['node', 'galvani', ...args]);
    return { code, ...text };
  } finally {
    process.chdir(cwd);
    process.exitCode = exitCode;
    for (const spy of spies) spy.mockRestore();
  }
}

/** summary.json of a run, checked against its schema. */
function summaryOf(dir: string) {
  const parsed = summarySchema.safeParse(JSON.parse(readFileSync(join(work, dir, 'summary.json'), 'utf8')));
  expect(parsed.error?.issues ?? []).toEqual([]);
  return parsed.data!;
}

test('every command has a description, --json, and help on its options', () => {
  const commands = [
    'generate',
    'localize',
    'attend',
    'characterize',
    'transfer',
    'merge',
    'extract-lora',
    'freeze',
    'init',
    'plan',
    'describe',
    'study',
    'report',
    'regrade',
    'inspect',
    'doctor',
  ];
  const root_ = program();
  expect(root_.commands.map((command) => command.name())).toEqual(commands);
  for (const command of root_.commands.flatMap((one) => (one.commands.length > 0 ? one.commands : [one]))) {
    expect(command.description().length).toBeGreaterThan(20);
    expect(command.options.map(({ long }) => long)).toContain('--json');
    for (const option of command.options) expect(option.description.length, option.flags).toBeGreaterThan(5);
  }
  const help = galvani('localize', '--help');
  expect(help.code).toBe(0);
  expect(help.out).toMatch(/^Usage: galvani localize \[options\] <dir>[\s\S]*Examples:/);
});

test('doctor says what is in use', () => {
  const { code, out } = galvani('doctor', '--json');
  expect(code).toBe(0);
  const found = JSON.parse(out);
  expect(found).toMatchObject({ node: process.versions.node, napi: process.versions.napi, problem: null });
  expect(['portable', 'avx2', 'avx512']).toContain(found.addon.isa);
  expect(found.addon.cuda.reason.length).toBeGreaterThan(5);
  expect(galvani('doctor').out).toMatch(/code path +(portable|avx2|avx512)/);
});

test('generate answers a question about an image, and an intervention changes it', () => {
  const [row] = readFileSync(items, 'utf8')
    .split('\n')
    .filter((line) => line.includes('"ocr-000"'))
    .map((line) => JSON.parse(line));
  const ask = ['generate', sft, '--image', lab(`data/${row.image}`), '--prompt', row.question, '--max-tokens', '8'];
  const { code, out } = galvani(...ask);
  expect(code).toBe(0);
  expect(out.trim()).toBe(row.answer);
  const full = JSON.parse(galvani(...ask, '--json').out);
  expect(full).toMatchObject({ text: row.answer, truncated: false });
  expect(full.logprobs).toHaveLength(full.tokens.length);
  expect(Math.max(...full.logprobs)).toBeLessThanOrEqual(0);
  expect(galvani(...ask, '--skip-layer', '0').out.trim()).not.toBe(row.answer);
});

describe('errors a person can act on', () => {
  test.each([
    [['localize', 'nowhere', '--data', pairs], /nowhere: no such checkpoint folder \[FILE_NOT_FOUND\]/],
    [['localize', base], /give --data \(image pairs\), --items \(questions\), or both/],
    [['localize', base, '--data', 'nowhere.jsonl'], /nowhere\.jsonl: no such file/],
    [['localize', base, '--data', pairs, '--tasks', 'count,magic'], /no item of magic; the data has count, ocr/],
    [['localize', base, '--data', pairs, '--mode', 'all'], /Allowed choices are suffix, single, window, prefix/],
    [['localize', base, '--data', pairs, '--shard', '4/4'], /expected i\/n with 0 ≤ i < n/],
    [['localize', base, '--data', pairs, '--max-tokens', '0'], /expected a whole number of at least 1/],
    [['attend', base, base, '--items', items], /given twice/],
    [['transfer', base, sft, '--items', items, '--alphas', '0.5,half'], /expected finite numbers separated by commas/],
    [['transfer', base, sft, '--items', items, '--alphas', 'NaN'], /expected finite numbers separated by commas/],
    [['transfer', base, sft, '--items', items, '--regions', 'middle'], /"early"\|"mid"\|"late"\|"layers"\|"whole"/],
    [
      ['transfer', base, sft, '--items', items, '--regions', 'whole', '--components', 'mlp'],
      /region 'whole' goes with component 'all'/,
    ],
    [['transfer', base, sft, '--items', items, '--cuts', '6,3'], /expected 0 < mid < late < 9/],
    [['freeze', base, sft, '--region', 'late', '--items', items], /--items needs --full/],
    [['freeze', 'plan', base, '--region', 'last', '--engine', 'trl'], /expected some of early, mid, late, vision/],
    [['freeze', 'plan', base, '--region', 'late', '--engine', 'ray'], /Allowed choices are trl, verl, ms-swift/],
    [['freeze', 'verify', base, sft, '--plan', 'no.json'], /no\.json: no such freeze plan/],
    [['study', 'nowhere.yaml'], /no such study file/],
    [['report', '.'], /not a run directory/],
    [['generate', base, '--prompt', 'zebra ?'], /zebra/],
    [['generat'], /unknown command 'generat'/],
  ])('%j', async (args, message) => {
    const { code, out, err } = await inProcess(...args);
    expect(err).toMatch(message);
    expect(code).toBe(1);
    expect(out).toBe('');
    expect(err).not.toMatch(/\n\s+at /); // no stack for what the user can mend
  });
});

test('localize finds that ocr is read in the middle layers, and its report can be rebuilt without a model', () => {
  const args = [
    'localize',
    sft,
    '--data',
    pairs,
    '--items',
    items,
    '--tasks',
    'ocr',
    '--items-per-task',
    '10',
    '--max-tokens',
    '8',
    '--out',
    'loc',
    '--json',
    '--quiet',
  ];
  const first = galvani(...args);
  expect(first.err).toBe('');
  expect(first.code).toBe(0);
  const summary = summaryOf('loc');
  const { findings: _, ...rest } = summary;
  expect(JSON.parse(first.out)).toEqual(JSON.parse(JSON.stringify(rest)));
  const suffix = summary
    .localizeVision!.cells.filter(({ mode }) => mode === 'suffix')
    .map(({ change }) => change.rate!);
  expect(suffix[0]).toBe(1); // all image rows swapped: the other image is read
  expect(suffix[8]).toBe(0);
  expect(summary.localizeReasoning!.cells.find(({ layer }) => layer === null)!.accuracy.rate).toBe(1);
  expect(summary.localizeReasoning!.cells.find(({ layer }) => layer === 0)!.accuracy.successes).toBe(0);
  expect(summary.progress.every(({ failed, missing }) => failed === 0 && missing === 0)).toBe(true);

  const ledger = readFileSync(join(work, 'loc', 'ledger.jsonl'));
  const again = galvani(...args);
  expect(again.code).toBe(0);
  expect(readFileSync(join(work, 'loc', 'ledger.jsonl')).equals(ledger)).toBe(true);

  const before = readFileSync(join(work, 'loc', 'summary.json'), 'utf8');
  rmSync(join(work, 'loc', 'summary.json'));
  rmSync(join(work, 'loc', 'report.html'));
  const report = galvani('report', 'loc');
  expect(report.code).toBe(0);
  expect(report.out).toContain('What the numbers say');
  expect(readFileSync(join(work, 'loc', 'summary.json'), 'utf8')).toBe(before);
  expect(existsSync(join(work, 'loc', 'report.html'))).toBe(true);
  expect(readFileSync(join(work, 'loc', 'tables', 'swap-in-suffix.csv'), 'utf8').split('\n').length).toBeGreaterThan(9);

  const cell = summary.localizeVision!.cells[3]!;
  const rows = galvani('report', 'loc', '--rows', JSON.stringify(cell.select))
    .out.trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(rows).toHaveLength(cell.change.n + cell.change.failed + cell.change.truncated);
  expect(rows.every(({ meta, row }) => meta.layer === cell.layer && row.kind === 'trial')).toBe(true);
});

test('two shards together give the whole run', () => {
  const args = [
    'localize',
    sft,
    '--data',
    pairs,
    '--tasks',
    'count',
    '--items-per-task',
    '8',
    '--mode',
    'suffix',
    '--max-tokens',
    '4',
    '--quiet',
  ];
  expect(galvani(...args, '--out', 'whole').code).toBe(0);
  for (const shard of ['0/2', '1/2']) {
    const { code, out, err } = galvani(...args, '--out', 'parts', '--shard', shard);
    expect(code).toBe(0);
    expect(out).toBe('');
    expect(err).toContain('galvani report');
  }
  expect(galvani('report', 'parts').code).toBe(0);
  expect(summaryOf('parts').ledger).toHaveLength(2);
  // Same numbers; pairs are listed shard by shard, so means that sum them in another order may differ in the last bits.
  expect(summaryOf('parts').localizeVision!.cells.map(({ change }) => change)).toEqual(
    summaryOf('whole').localizeVision!.cells.map(({ change }) => change),
  );
});

test('characterize and freeze compare every tensor', () => {
  expect(galvani('characterize', base, sft, '--out', 'weights', '--quiet').code).toBe(0);
  const { characterize } = summaryOf('weights');
  const [comparison] = characterize!.comparisons;
  expect(comparison!.coverage.compared).toBe(comparison!.coverage.tensors);
  expect(comparison!.coverage.comparedElements).toBe(comparison!.coverage.elements);
  expect(characterize!.cells.filter(({ kind }) => kind === 'layer')).toHaveLength(9);
  const decoder = characterize!.cells.find(({ group }) => group === 'decoder')!;
  const layers = characterize!.cells.filter(({ kind }) => kind === 'layer');
  const rootSum = Math.sqrt(layers.reduce((sum, { steps }) => sum + steps[0]!.frobeniusNorm ** 2, 0));
  expect(decoder.steps[0]!.frobeniusNorm).toBeCloseTo(rootSum, 9);

  const copy = join(work, 'copy');
  cpSync(base, copy, { recursive: true });
  const held = galvani('freeze', base, copy, '--region', 'mid');
  expect(held).toMatchObject({ code: 0 });
  expect(held.out).toMatch(
    /^held: all 36 tensors of the mid region are bit for bit the same\noutside it \d+ of \d+ tensors are unchanged too/,
  );
  const changed = galvani('freeze', base, sft, '--region', 'mid', '--json');
  expect(changed.code).toBe(1);
  expect(JSON.parse(changed.out)).toMatchObject({ held: false, region: 'mid' });
});

test('characterize asks before it computes, and resumes', () => {
  const bare = join(work, 'bare');
  mkdirSync(bare);
  cpSync(join(base, 'model.safetensors'), join(bare, 'model.safetensors'));
  // Weights alone: no configuration, no tokenizer, names of no known family.
  const first = galvani('characterize', bare, base, '--no-spectra', '--out', 'bare-run');
  expect(first).toMatchObject({ code: 0 });
  expect(summaryOf('bare-run').characterize!.cells.find(({ kind }) => kind === 'whole')!.steps[0]).toMatchObject({
    frobeniusNorm: 0,
    unchangedFraction: 1,
    effectiveRank: null,
  });
  expect(galvani('characterize', bare, base, '--no-spectra', '--out', 'bare-run').out).toContain('0 computed');
  // What does not fit is one error, before anything is written.
  const other = join(work, 'other');
  mkdirSync(other);
  writeSafetensors(join(other, 'model.safetensors'), [
    { name: 'model.layers.0.mlp.up.weight', dtype: 'F32', shape: [1], data: new Uint8Array(4) },
  ]);
  const refused = galvani('characterize', bare, other, '--out', 'refused');
  expect(refused.code).toBe(1);
  expect(refused.err).toMatch(/153 of 153 tensors differ/);
  expect(refused.err).toMatch(
    /model\.layers\.0\.mlp\.up\.weight: missing in .*closest there: model\.\S*mlp\.up_proj\.weight/,
  );
  expect(existsSync(join(work, 'refused'))).toBe(false);
});

test('inspect says what a checkpoint holds and what is wrong with it', () => {
  const sound = galvani('inspect', base, '--quiet');
  expect(sound).toMatchObject({ code: 0 });
  expect(sound.out).toMatch(/qwen2_5_vl.*\n9 decoder layers, 152 tensors/);
  expect(sound.out).toContain('No damage');

  const hurt = join(work, 'hurt');
  cpSync(base, hurt, { recursive: true });
  const file = openCheckpoint(join(base, 'model.safetensors'));
  const tensors = file
    .names()
    .filter((name) => !name.includes('layers.3.mlp.up_proj'))
    .map((name) => ({ name, ...file.info(name), data: file.raw(name) }));
  const of = (part: string) => tensors.find(({ name }) => name.includes(part))!;
  of('layers.1.self_attn.q_proj.weight').data.set([0xc0, 0x7f, 0xc0, 0x7f]); // two bf16 NaN
  of('layers.2.mlp.gate_proj').data.fill(0);
  writeSafetensors(join(hurt, 'model.safetensors'), tensors);
  writeFileSync(join(hurt, 'half.safetensors'), readFileSync(join(base, 'model.safetensors')).subarray(0, 100_000));
  const found = galvani('inspect', hurt, '--json', '--quiet');
  expect(found.code).toBe(1);
  const { damage, notes, tensors: count } = JSON.parse(found.out) as Inspection;
  expect(count).toBe(151);
  const all = damage.map(({ where, what }) => `${where}: ${what}`).join('\n');
  expect(all).toMatch(/half\.safetensors: .*truncated/);
  expect(all).toMatch(/layers\.3\.up.*is missing/);
  expect(all).toMatch(/layers\.1\.self_attn\.q_proj\.weight: 2 of \d+ values are NaN or infinite/);
  expect(all).toMatch(/layers\.2\.mlp\.gate_proj\.weight: all \d+ values are zero/);
  expect(damage).toHaveLength(4);
  expect(notes.join()).toContain('half.safetensors');
  expect(galvani('inspect', join(work, 'nowhere'))).toMatchObject({ code: 1, out: '' });
});

test('transfer and attend run on two checkpoints', () => {
  const few = ['--items', items, '--items-per-task', '4', '--max-tokens', '40', '--quiet'];
  expect(galvani('transfer', base, sft, ...few, '--policy', 'ends', '--out', 'transfer').err).toBe('');
  const { transfer } = summaryOf('transfer');
  expect(transfer!.policies[0]!.models.map(({ name }) => name)).toEqual([
    'IN',
    'RL',
    'IN:RL:RL',
    'RL:IN:IN',
    'IN:IN:RL',
    'RL:RL:IN',
    'IN:RL:IN',
    'RL:IN:RL',
  ]);
  expect(transfer!.policies[0]!.models[2]!.description).toBe(
    'layers base×3 in×6; vision, projector, embeddings base; norm, head in',
  );
  expect(new Set(transfer!.policies[0]!.abilities.map(({ measure }) => measure))).toEqual(
    new Set(['M_vis', 'M_v2r', 'M_rea']),
  );

  // Continued with steps between them: what was answered is not asked again, and a second call asks nothing.
  const steps = ['transfer', base, sft, ...few, '--policy', 'ends', '--out', 'transfer', '--alphas', '0.5'];
  const taken = /(\d+) taken from the ledger/.exec(galvani(...steps, '--components', 'all,mlp').out);
  expect(Number(taken![1])).toBeGreaterThan(100);
  const { interpolation } = summaryOf('transfer').transfer!;
  expect(new Set(interpolation!.curves.map(({ region, component }) => `${region} ${component}`)).size).toBe(6);
  for (const { points } of interpolation!.curves) expect(points.map(({ alpha }) => alpha)).toEqual([0, 0.5, 1]);
  expect(galvani(...steps, '--components', 'all,mlp').out).toContain('0 computed');

  expect(galvani('attend', base, sft, ...few, '--tasks', 'dsum', '--out', 'attend').err).toBe('');
  const { attend } = summaryOf('attend');
  for (const cell of attend!.cells.filter(({ image }) => image.n > 0)) {
    expect(
      cell.image.mean! +
        cell.question.mean! +
        cell.think.mean! +
        cell.final.mean! +
        cell.first.mean! +
        cell.other.mean!,
    ).toBeCloseTo(1, 5);
    expect(cell.image.mean!).toBeGreaterThan(0);
  }
  expect(attend!.pictures).toHaveLength(4);
  for (const { picture, answers, maps } of attend!.pictures) {
    expect(picture).toMatchObject({ width: 64, height: 64, type: 'image/png' });
    expect(answers.map(({ model }) => model)).toEqual(['base', 'in']);
    for (const map of maps) expect(map).toMatchObject({ grid: [4, 4], mass: { shape: [9, 4, 4] } });
  }
  expect(
    readFileSync(join(work, 'attend', 'report.html'), 'utf8').match(/data:image\/png;base64/g)!.length,
  ).toBeGreaterThan(11);
});

test('Ctrl-C ends the run after the request under way, and the same command continues it', async () => {
  writeFileSync(
    join(work, 'slow.yaml'),
    `name: slow\nmodels: { m: ${sft} }\ndata: { items: ${items} }\nprotocol: { maxTokens: 48 }\n` +
      'experiments: { localize: { reasoning: { models: [m], tasks: [dsum, diff, chain] } } }\n',
  );
  const code = await new Promise<number | null>((resolve) => {
    const child = spawn(process.execPath, [main, 'study', 'slow.yaml', '--out', 'slow', '--threads', '1'], {
      cwd: work,
    });
    const timer = setInterval(() => {
      // The first request is on disk: the second is under way.
      if (
        existsSync(join(work, 'slow', 'ledger.jsonl')) &&
        readFileSync(join(work, 'slow', 'ledger.jsonl')).length > 0
      ) {
        clearInterval(timer);
        child.kill('SIGINT');
      }
    }, 20);
    child.on('exit', resolve);
  });
  expect(code).toBe(130);
  const lines = readFileSync(join(work, 'slow', 'ledger.jsonl'), 'utf8')
    .trim()
    .split('\n');
  expect(lines.length).toBeGreaterThan(0);
  expect(lines.length).toBeLessThan(3000);
  expect(() => lines.map((line) => JSON.parse(line))).not.toThrow();
  const partial = galvani('report', 'slow');
  expect(partial.code).toBe(0);
  expect(existsSync(join(work, 'slow', 'ledger.jsonl.lock'))).toBe(false);
});
