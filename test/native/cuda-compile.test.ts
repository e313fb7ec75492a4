/**
 * Every GPU kernel compiled by nvcc for sm_80 and sm_90a (no GPU needed): no spills, no stack, registers within budget,
 * no warning, no word from ptxas about serialised wgmma. Logs are kept by content: unchanged sources compile once per
 * machine.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir, userInfo } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { nvcc } from '../support/nvcc.js';
import { kernelName, readPtxas } from '../support/ptxas.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const kernels = join(root, 'native', 'ops', 'gpu');
const files = readdirSync(kernels).filter((name) => name.endsWith('.cu'));

/** Most registers per thread, by kernel: what its threads and blocks per multiprocessor leave, or what it took once. */
const budgets: Readonly<Record<string, number>> = {
  attn_mma_kernel: 248, // 128 threads, two blocks
  attn_decode_kernel: 255,
  attn_wgmma_kernel: 168, // 384 threads; consumers take 240 from the producer by setmaxnreg
  attn_probe_kernel: 144,
  attn_combine_kernel: 56,
  topk_refine_kernel: 96,
  kv_append_kernel: 64, // 128 threads, eight blocks
  clear_pages_kernel: 32,
  residual_norm_kernel: 64, // 256 threads, four blocks
  swiglu_kernel: 40,
  embed_kernel: 40,
  logits_kernel: 72,
  gemm_large_kernel: 128, // 256 threads, two blocks
  gemm_narrow_kernel: 80,
  weight_delta_kernel: 128, // 256 threads, two blocks
  weight_delta_finish_kernel: 64,
  row_mass_kernel: 64, // 256 threads, four blocks
  column_mass_kernel: 64,
  column_mass_finish_kernel: 64,
  weight_gram_kernel: 168, // 128 threads, three blocks
  weight_dots_kernel: 232, // for eight inputs; 96 for four
  weight_dots_finish_kernel: 40,
  weight_sum_kernel: 64, // 256 threads, four blocks
};

const flags = ['-fatbin', '-std=c++20', '-O3', '--expt-relaxed-constexpr', '-Inative', '-Xptxas', '-v'];
const targets = (file: string): string[] =>
  ['80', '90a']
    .filter((arch) => arch === '90a' || !file.endsWith('_wgmma.cu'))
    .map((arch) => `-gencode=arch=compute_${arch},code=sm_${arch}`);

/** Of a source and of everything it includes. */
function fingerprint(file: string): string {
  const hash = createHash('sha256').update(`${nvcc.version} ${flags.join(' ')} ${targets(file).join(' ')}`);
  const seen = new Set<string>();
  const add = (path: string): void => {
    if (seen.has(path)) return;
    seen.add(path);
    const source = readFileSync(join(root, 'native', path), 'utf8');
    hash.update(path).update(source);
    for (const [, included] of source.matchAll(/^#include "([^"]+)"/gm)) add(included!);
  };
  add(`ops/gpu/${file}`);
  return hash.digest('hex').slice(0, 24);
}

const logs = new Map<string, string>();
async function compile(file: string, folder: string): Promise<void> {
  const kept = join(folder, `${basename(file, '.cu')}-${fingerprint(file)}.log`);
  if (existsSync(kept)) {
    logs.set(file, readFileSync(kept, 'utf8'));
    return;
  }
  const output = join(folder, `${basename(file, '.cu')}-${process.pid}.fatbin`);
  const args = [...flags, ...targets(file), join('native', 'ops', 'gpu', file), '-o', output];
  try {
    const { stdout, stderr } = await promisify(execFile)(nvcc.path!, args, { cwd: root, maxBuffer: 1 << 28 });
    logs.set(file, `${stdout}${stderr}`);
    writeFileSync(`${kept}.${process.pid}`, logs.get(file)!);
    renameSync(`${kept}.${process.pid}`, kept);
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    logs.set(file, `${stdout}${stderr}\nnvcc failed with an error`);
  }
}

if (!nvcc.path) console.warn(`CUDA compile tests skipped: ${nvcc.reason}`);

describe.skipIf(!nvcc.path)('CUDA kernels', () => {
  beforeAll(async () => {
    const folder = join(tmpdir(), `galvani-cuda-compile-${userInfo().uid}`);
    mkdirSync(folder, { recursive: true });
    const queue = [...files];
    const worker = async () => {
      for (let file = queue.shift(); file; file = queue.shift()) await compile(file, folder);
    };
    await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, worker));
  }, 900_000);

  test.each(files)('%s', (file) => {
    const { kernels: reports, complaints } = readPtxas(logs.get(file)!);
    expect(complaints).toEqual([]);
    const wanted = targets(file).map((target) => target.split('=').at(-1));
    expect([...new Set(reports.map(({ arch }) => arch))].sort()).toEqual(wanted.sort());
    for (const { kernel, arch, registers, stack } of reports) {
      expect(stack, `${kernel} ${arch}: bytes of stack and spills`).toBe(0);
      const budget = budgets[kernel.replace(/<.*/, '')];
      expect(budget, `${kernel} has no register budget`).toBeDefined();
      expect(registers, `${kernel} ${arch}: registers`).toBeLessThanOrEqual(budget!);
    }
  });
});

test('what the compile tests look for is found', () => {
  const name =
    '_ZN7galvani3gpu52_GLOBAL__N__9d0ff_11_attn_mma_cu_a115attn_mma_kernelILi128ELb1ELb0EEEvNS0_10AttnParamsE';
  const log = `ptxas info    : Compiling entry function '${name}' for 'sm_80'
ptxas info    : Function properties for ${name}
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 213 registers, used 1 barriers, 608 bytes cmem[0]
ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized
a.cu(41): warning #128-D: loop is not reachable`;
  const { kernels: reports, complaints } = readPtxas(log);
  expect(reports).toEqual([{ kernel: 'attn_mma_kernel<128,1,0>', arch: 'sm_80', registers: 213, stack: 28 }]);
  expect(complaints).toHaveLength(2);
  expect(kernelName('_Z3foov')).toBe('_Z3foov');
});

test.each([
  ['cuBLASLt', 'cublasLt.h', 'cublaslt-facts.cc', 'GALVANI_CUBLASLT_INCLUDE'],
  ['cuSOLVER', 'cusolverDn.h', 'cusolver-facts.cc', 'GALVANI_CUSOLVER_INCLUDE'],
])('our declarations of %s agree with its header', async (_, header, facts, variable) => {
  const toolkit = `${process.env.CUDA_HOME ?? '/usr/local/cuda'}/include`;
  const include = [process.env[variable], toolkit].find((folder) => folder && existsSync(join(folder, header)));
  if (!include) {
    console.warn(`skipped: no ${header} (${variable}, CUDA_HOME/include)`);
    return;
  }
  const includes = ['-isystem', include, '-isystem', toolkit];
  const args = ['-std=c++20', '-fsyntax-only', '-Inative', ...includes, join('test', 'support', facts)];
  await promisify(execFile)('g++', args, { cwd: root });
});
