/** The CUDA compiler of this machine, if one works; else why not. No GPU is needed to compile. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

function find(): { readonly path?: string; readonly version?: string; readonly reason: string } {
  const { CUDACXX, CUDA_HOME } = process.env;
  const candidates = CUDACXX ? [CUDACXX] : ['nvcc', `${CUDA_HOME ?? '/usr/local/cuda'}/bin/nvcc`];
  for (const path of candidates) {
    if (path.includes('/') && !existsSync(path)) continue;
    const version = /release (\d+\.\d+)/.exec(spawnSync(path, ['--version'], { encoding: 'utf8' }).stdout ?? '')?.[1];
    if (version) {
      const where = path.includes('/') ? path : spawnSync('which', [path], { encoding: 'utf8' }).stdout.trim();
      return { path: where, version, reason: '' };
    }
  }
  return { reason: 'nvcc is not installed (searched PATH, CUDACXX, CUDA_HOME, /usr/local/cuda)' };
}

export const nvcc = find();
