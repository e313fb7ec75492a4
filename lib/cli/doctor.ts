/** galvani doctor: what this machine offers and what galvani uses of it. */
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { Command } from 'commander';
import { fromNative } from '../errors.js';
import { type CudaStatus, type EigensolverStatus, native } from '../native.js';
import { packageVersion } from '../run/package.js';
import { print } from './shared.js';

export interface Diagnosis {
  readonly galvani: string;
  readonly node: string;
  /** Node-API version of this Node, and the one the addon is built for. */
  readonly napi: string;
  readonly system: string;
  readonly cpu: string;
  readonly memoryBytes: number;
  /** null when the addon does not load. */
  readonly addon: {
    readonly isa: string;
    readonly features: readonly string[];
    readonly threads: number;
    readonly cuda: CudaStatus;
    readonly eigensolver: EigensolverStatus;
    /** Of the device; all '' where there is none, or no library is asked for. */
    readonly cudaEigensolver: EigensolverStatus;
  } | null;
  /** Why the addon does not load, and what to do. */
  readonly problem: string | null;
}

export function diagnose(): Diagnosis {
  const { node, napi = '?' } = process.versions;
  const base = {
    galvani: packageVersion(),
    node,
    napi,
    system: `${platform()} ${release()} ${arch()}`,
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    memoryBytes: totalmem(),
  };
  try {
    const addon = native();
    const { isa, features, threads } = addon.cpuInfo();
    const eigensolvers = { eigensolver: addon.eigensolver(), cudaEigensolver: addon.eigensolver('cuda') };
    const used = { cuda: addon.cudaStatus(), ...eigensolvers };
    return { ...base, addon: { isa, features, threads, ...used }, problem: null };
  } catch (cause) {
    return { ...base, addon: null, problem: fromNative(cause).message };
  }
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description(
      'what this machine offers: Node, Node-API, CPU features in use, threads, eigensolver, CUDA and why not',
    )
    .option('--json', 'print as JSON')
    .action((options: { json?: boolean }) => {
      const found = diagnose();
      print(options.json ? JSON.stringify(found) : describe(found));
      if (!found.addon) process.exitCode = 1;
    });
}

function solver({ name, path, problem }: EigensolverStatus, variable: string, own: string): string {
  if (problem) return `none: ${problem}`;
  return name ? `${name} (${path}), asked for by ${variable}` : `${own} (${variable} is not set)`;
}

function describe({ galvani, node, napi, system, cpu, memoryBytes, addon, problem }: Diagnosis): string {
  const rows: [string, string][] = [
    ['galvani', galvani],
    ['Node', `${node} (Node-API ${napi})`],
    ['system', system],
    ['CPU', cpu],
    ['memory', `${(memoryBytes / 2 ** 30).toFixed(1)} GiB`],
    ...(addon
      ? ([
          ['code path', addon.isa],
          ['features', addon.features.join(' ')],
          ['threads', String(addon.threads)],
          ['eigensolver', solver(addon.eigensolver, 'GALVANI_LAPACK', 'galvani’s own')],
          ['CUDA', addon.cuda.status === 'ok' ? `ok: ${addon.cuda.reason}` : `no: ${addon.cuda.reason}`],
          ...(addon.cuda.status === 'ok'
            ? [['CUDA eigensolver', solver(addon.cudaEigensolver, 'GALVANI_CUSOLVER', 'the CPU’s')]]
            : []),
          ['CUDA library', addon.cuda.targets ? `${addon.cuda.library}, for ${addon.cuda.targets}` : 'not loaded'],
        ] as [string, string][])
      : ([['addon', `does not load: ${problem}`]] as [string, string][])),
  ];
  // Values are of very different lengths: a plain list reads better than right-aligned columns.
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}
