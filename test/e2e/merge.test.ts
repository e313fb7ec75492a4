// galvani merge as a person runs it: the commands, SIGKILL at random moments, a file-size limit in place of a full disk.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { readFolder } from '../../lib/checkpoint/folder.js';
import { openCheckpoint } from '../../lib/checkpoint/safetensors.js';
import { run } from '../../lib/cli/program.js';
import { familyByName } from '../../lib/models/registry.js';
import { writeToy } from '../support/merge.js';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const cli = join(repository, 'dist', 'cli', 'main.js');
let root = '';
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'galvani-merge-e2e-'));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** The command line, run in this process. */
async function galvani(...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const texts = { stdout: '', stderr: '' };
  const keep = (stream: 'stdout' | 'stderr') =>
    vi.spyOn(process[stream], 'write').mockImplementation((text) => {
      texts[stream] += String(text);
      return true;
    });
  const spies = [keep('stdout'), keep('stderr')];
  try {
    return { status: await run(['node', 'galvani', ...args]), ...texts };
  } finally {
    for (const spy of spies) spy.mockRestore();
    process.exitCode = 0;
  }
}
const contents = (dir: string) =>
  Object.fromEntries(
    readdirSync(dir)
      .sort()
      .map((name) => [name, readFileSync(join(dir, name)).toString('base64')]),
  );

test('a graft of the lab family: dry run, merge, a model the engine opens', async () => {
  const lab = join(repository, 'lab', 'checkpoints');
  const recipe = join(root, 'graft.yaml');
  writeFileSync(
    recipe,
    `names: {in: ${lab}/in, rl: ${lab}/rl}\ngraft: {blocks: 'IN:RL:RL', in: in, rl: rl, policy: ends}\n`,
  );
  const dry = await galvani('merge', recipe, '--dry-run');
  expect(dry.stdout).toMatch(/152 tensors, 1,181,184 values/);
  expect(dry.stdout).toMatch(/copy of .*\/in/);
  expect(dry.stdout).toMatch(/from .*\/in: config\.json, .*tokenizer\.json/);
  const out = join(root, 'graft');
  const made = await galvani('merge', recipe, '-o', out, '--json', '--quiet', '--hash');
  expect(made.status, made.stderr).toBe(0);
  const result = JSON.parse(made.stdout);
  expect(result.coverage.methods).toEqual({ copy: 152 });
  const written = result.files.find((file: { name: string }) => file.name === 'model.safetensors');
  expect(written.sha256).toBe(
    execFileSync('sha256sum', [join(out, 'model.safetensors')], { encoding: 'utf8' }).slice(0, 64),
  );
  // complete for its architecture
  const { config } = readFolder(out);
  const checkpoint = openCheckpoint(out);
  expect(() => familyByName(config.family).tensorNames(checkpoint.names(), config)).not.toThrow();
});

test('wrong input is named', async () => {
  const recipe = join(root, 'wrong.yaml');
  const message = async (text: string) => {
    writeFileSync(recipe, text);
    const { status, stderr } = await galvani('merge', recipe, '--dry-run');
    expect(status).toBe(1);
    return stderr;
  };
  expect(await message('merge_method: tise\nmodels: [{model: x}]\n')).toMatch(
    /unknown merge_method 'tise'; expected one of linear/,
  );
  expect(await message('merge_method: linear\n')).toMatch(/exactly one of 'models', 'slices', 'modules' and 'graft'/);
  expect(await message('merge_method: linear\nmodels: [{model: org/name}]\n')).toMatch(
    /org\/name: no such folder.*hf download org\/name/s,
  );
  expect(await message('merge_method: linear\nmodel: x\n')).toMatch(/Unrecognized key: "model"/);
  expect(await message('a: [\n')).toMatch(/BAD_CONFIG/);
});

/** A pair large enough to be killed in the middle. */
function writePair(): string {
  for (const [name, seed] of [
    ['a', 1],
    ['b', 2],
  ] as const)
    writeToy(join(root, name), { seed, layers: 12, width: 192 });
  const recipe = join(root, 'pair.yaml');
  writeFileSync(
    recipe,
    'merge_method: dare_ties\nbase_model: a\nmodels: [{model: b, parameters: {weight: 1, density: 0.5}}]\nseed: 3\ndtype: bfloat16\n',
  );
  return recipe;
}

test('killed at random moments, the rerun ends with the same bytes', async () => {
  const recipe = writePair();
  const whole = join(root, 'whole');
  const args = (out: string) => [cli, 'merge', recipe, '-o', out, '--shard-size', '300KB', '--json', '--quiet'];
  expect(spawnSync(process.execPath, args(whole)).status).toBe(0);
  const out = join(root, 'killed');
  let kills = 0;
  let resumed = 0;
  const shardsIn = (dir: string) =>
    existsSync(dir) ? readdirSync(dir).filter((name) => /safetensors$/.test(name)).length : 0;
  const half = shardsIn(whole) / 2;
  for (let attempt = 0; attempt < 30 && resumed === 0; attempt += 1) {
    const child = spawn(process.execPath, args(out));
    let stdout = '';
    child.stdout.on('data', (text) => {
      stdout += text;
    });
    // The moment: at least one shard further than the last attempt, and a little more; beyond half it may end.
    const found = shardsIn(`${out}.partial`);
    const goal = found < half ? found + 1 + Math.floor(Math.random() * 3) : Number.POSITIVE_INFINITY;
    const watch = setInterval(() => {
      if (shardsIn(`${out}.partial`) >= goal) setTimeout(() => child.kill('SIGKILL'), Math.random() * 30);
    }, 2);
    const signal = await new Promise((resolve) => child.once('close', (_, by) => resolve(by)));
    clearInterval(watch);
    if (signal === 'SIGKILL') kills += 1;
    else resumed = JSON.parse(stdout).resumedBytes;
    if (!existsSync(out)) continue;
    expect(contents(out)).toEqual(contents(whole));
    expect(existsSync(`${out}.partial`)).toBe(false);
    // Killed after its last step, or quicker than the kill: nothing was resumed, so once more from the start.
    if (resumed === 0) rmSync(out, { recursive: true });
  }
  expect(kills).toBeGreaterThan(0);
  expect(resumed).toBeGreaterThan(0);
  console.log(`${kills} kills; the last run found ${resumed} bytes done`);
}, 300_000);

test('a disk that takes no more is an error, leaves no model, and the rerun completes it', async () => {
  const recipe = writePair();
  const out = join(root, 'full');
  const limited = (kilobytes: number) =>
    spawnSync(
      'bash',
      ['-c', `ulimit -f ${kilobytes}; exec "$0" "$@"`, process.execPath, cli, 'merge', recipe, '-o', out, '--quiet'],
      {
        encoding: 'utf8',
      },
    );
  const failed = limited(1000);
  expect(failed.status).toBe(1);
  expect(failed.stderr).toMatch(/model\.safetensors: cannot write: File too large \[IO\]/);
  expect(existsSync(out)).toBe(false);
  expect(existsSync(`${out}.partial`)).toBe(false);
  expect((await galvani('merge', recipe, '-o', out, '--quiet')).status).toBe(0);
  expect(openCheckpoint(out).names()).toHaveLength(51);
}, 180_000);
