/**
 * What each training engine needs to follow a freeze plan: files written beside plan.json, and the command that runs
 * them. The Python files are templates/freeze/*.py, copied as they are; they read plan.json.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeAtomic } from '../checkpoint/files.js';
import { GalvaniError } from '../errors.js';
import type { FreezePlan } from './freeze-plan.js';

export type EngineName = 'trl' | 'verl' | 'ms-swift';

interface Launch {
  readonly plan: FreezePlan;
  readonly version: string;
}

interface TrainingEngine {
  readonly package: string;
  /** Oldest version whose names are the ones written here. */
  readonly oldest: readonly [major: number, minor: number];
  /** The version that was run (TRL) or whose sources were read. */
  readonly known: string;
  /** Files of templates/freeze. */
  readonly templates: readonly string[];
  /** Shell command in the plan's folder; "$@" are the user's own options. */
  readonly command: (launch: Launch) => string;
  /** What the user should know, for the head of the script. */
  readonly notes: readonly string[];
}

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

const engines: Readonly<Record<EngineName, TrainingEngine>> = {
  trl: {
    package: 'trl',
    oldest: [0, 20],
    known: '1.16.0',
    templates: ['galvani_freeze.py', 'train_trl.py'],
    command: ({ plan }) => `python "$here/train_trl.py" --model ${quoted(plan.checkpoint.dir)} "$@"`,
    notes: [
      'Needs --data train.jsonl and --output DIR; python train_trl.py --help lists the rest.',
      'After every step the held parameters are compared with what they were.',
    ],
  },
  verl: {
    package: 'verl',
    oldest: [0, 9],
    known: '0.9.1',
    templates: ['galvani_freeze.py', 'galvani_freeze_verl.py'],
    command: ({ plan }) =>
      [
        'python -m verl.trainer.main_ppo',
        'algorithm.adv_estimator=grpo',
        `actor_rollout_ref.model.path=${quoted(plan.checkpoint.dir)}`,
        'actor_rollout_ref.model.external_lib=galvani_freeze_verl',
        // FSDP2 keeps every parameter by itself; FSDP1 would mix held and trained ones in one flat tensor.
        'actor_rollout_ref.actor.strategy=fsdp2',
        // Whole weights are trained: an adapter would leave every stored weight as it is.
        'actor_rollout_ref.model.lora_rank=0',
        '"$@"',
      ].join(' \\\n  '),
    notes: [
      'Needs data.train_files, data.val_files, a reward and trainer.* as every verl run does; give them as arguments.',
      'On several nodes this folder must be on the PYTHONPATH of every Ray worker.',
      'Afterwards: python -m verl.model_merger merge … to get a Hugging Face folder. It writes bfloat16.',
    ],
  },
  'ms-swift': {
    package: 'ms-swift',
    oldest: [3, 0],
    known: '4.6.0',
    templates: ['galvani_freeze.py', 'galvani_freeze_swift.py'],
    command: ({ plan, version }) =>
      [
        'swift rlhf --rlhf_type grpo',
        `--model ${quoted(plan.checkpoint.dir)}`,
        // Renamed in version 4.
        Number.parseInt(version, 10) >= 4 ? '--tuner_type full' : '--train_type full',
        // Both are true by default: without these two lines the tower and the merger would be held fixed as well.
        '--freeze_vit false --freeze_aligner false',
        `--freeze_parameters_regex ${quoted(plan.pattern)}`,
        '--external_plugins "$here/galvani_freeze_swift.py"',
        `--torch_dtype ${plan.checkpoint.dtype}`,
        '"$@"',
      ].join(' \\\n  '),
    notes: ['Needs --dataset, --reward_funcs and --output_dir as every ms-swift run does; give them as arguments.'],
  },
};
export const engineNames: readonly EngineName[] = Object.keys(engines) as EngineName[];

/**
 * The version of the engine that a Python has.
 * @throws UNSUPPORTED when it is not installed there or too old, saying how to plan for a version elsewhere
 */
export function installedVersion(engine: EngineName, python: string): string {
  const { package: name } = engines[engine];
  let version: string;
  try {
    const code = `import importlib.metadata as m; print(m.version(${JSON.stringify(name)}))`;
    version = execFileSync(python, ['-c', code], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
  } catch (cause) {
    throw new GalvaniError(
      'UNSUPPORTED',
      `freeze plan: ${python} has no ${name}; name its Python with --python, or its version with --engine-version`,
      { cause },
    );
  }
  return version;
}

export interface WrittenPlan {
  readonly dir: string;
  readonly files: readonly string[];
  /** Set when the version is not the one whose behaviour is known. */
  readonly warning?: string;
}

/** Writes plan.json, the engine's files and run.sh. @throws UNSUPPORTED for a version that is too old; IO */
export function writeFreezePlan(plan: FreezePlan, engine: EngineName, version: string, out: string): WrittenPlan {
  const { package: name, oldest, known, templates, command, notes } = engines[engine];
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  if (!(major > oldest[0] || (major === oldest[0] && minor >= oldest[1]))) {
    throw new GalvaniError('UNSUPPORTED', `freeze plan: expected ${name} ${oldest.join('.')} or newer, got ${version}`);
  }
  const dir = resolve(out);
  try {
    mkdirSync(dir, { recursive: true });
    writeAtomic(join(dir, 'plan.json'), `${JSON.stringify(plan, null, 1)}\n`);
    for (const file of templates) copyFileSync(join(templateFolder, file), join(dir, file));
    const script = join(dir, 'run.sh');
    writeAtomic(script, launchScript(plan, engine, version, command({ plan, version }), notes));
    chmodSync(script, 0o755);
  } catch (cause) {
    throw cause instanceof GalvaniError
      ? cause
      : new GalvaniError('IO', `${dir}: ${(cause as Error).message}`, { cause });
  }
  const warning = `written as for ${name} ${known}, the version whose behaviour is known; verify what ${version} trained`;
  return { dir, files: ['plan.json', ...templates, 'run.sh'], ...(version === known ? {} : { warning }) };
}

const templateFolder = fileURLToPath(new URL('../../templates/freeze/', import.meta.url));

function launchScript(
  plan: FreezePlan,
  engine: EngineName,
  version: string,
  command: string,
  notes: readonly string[],
): string {
  const { parts, frozenLayers, frozen, checkpoint, layers } = plan;
  const which = frozenLayers.length > 0 ? ` (layers ${ranges(frozenLayers)} of ${layers})` : '';
  return `#!/usr/bin/env bash
# GRPO by ${engine} ${version} with ${parts.join(', ')}${which} held fixed: ${frozen.length} tensors of
# ${checkpoint.dir}.
${notes.map((note) => `# ${note}\n`).join('')}# After training: galvani freeze verify ${checkpoint.dir} TRAINED --plan plan.json
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here\${PYTHONPATH:+:$PYTHONPATH}"
${command}
`;
}

/** [18, 19, 20, 27] → "18-20, 27" */
function ranges(layers: readonly number[]): string {
  const out: [number, number][] = [];
  for (const layer of layers) {
    const last = out.at(-1);
    if (last !== undefined && layer === last[1] + 1) last[1] = layer;
    else out.push([layer, layer]);
  }
  return out.map(([start, end]) => (start === end ? `${start}` : `${start}-${end}`)).join(', ');
}
