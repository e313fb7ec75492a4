/**
 * The README's table of GPU kernels, from the committed reports of bench/gpu/check.sh (bench/results/gpu/*.json):
 *
 *   node bench/gpu/readme-table.mjs            rewrites the block between the markers in README.md
 *
 * A cell without a report behind it says "not yet run on hardware". A test keeps README.md equal to this.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
export const notRun = 'not yet run on hardware';
export const markers = ['<!-- GPU kernels: bench/gpu/readme-table.mjs -->', '<!-- end of GPU kernels -->'];

const rowsOf = (report, stage) => report.stages?.[stage]?.record?.rows ?? [];
const time = (row, side) => row?.sides?.[side]?.us;
const times = (x) => `${x.toFixed(2)}×`;

/** Random programs that launched this kernel, and rows of the benches that compared it with float64. */
function correctness(report, kernel, op) {
  let [ran, failed] = [0, 0];
  for (const [name, stage] of Object.entries(report.stages ?? {}))
    for (const scene of name.startsWith('correctness ') ? (stage.record?.scenes ?? []) : [])
      if (new RegExp(`\\b${kernel}\\b`).test(scene.kernels)) {
        ran++;
        if (!scene.ok) failed++;
      }
  for (const row of [...rowsOf(report, 'dense'), ...rowsOf(report, 'weights')])
    if (row.op === op && row.errors?.ours !== undefined) {
      ran++;
      if (row.agrees !== true) failed++;
    }
  for (const row of rowsOf(report, 'attention'))
    for (const side of new Set([...Object.keys(row.errors ?? {}), ...Object.keys(row.unavailable ?? {})])) {
      if (side.split(' ')[0] !== kernel) continue;
      const off = /is off by/.test(row.unavailable?.[side] ?? '');
      if (row.errors?.[side] !== undefined || off) ran++;
      if (off) failed++;
    }
  if (kernel === 'attn_decode' || kernel === 'attn_combine')
    for (const row of rowsOf(report, 'decode')) {
      if (Object.keys(row.errors ?? {}).some((side) => side.startsWith('ours'))) ran++;
      if (row.agrees === false) failed++;
    }
  for (const row of rowsOf(report, 'readouts'))
    if (row.kernel === kernel && row.errors?.ours !== undefined) {
      ran++;
      if (row.agrees !== true) failed++;
    }
  if (!ran) return undefined;
  return failed ? `**${failed} of ${ran} comparisons with float64 fail**` : `${ran} comparisons with float64 pass`;
}

/** "1.02× (2k), 1.05× (16k)": a peer's time ÷ ours. */
function prefill(report, kernel, peer, name) {
  const cells = [
    [2048, '2k'],
    [16384, '16k'],
  ].flatMap(([length, label]) => {
    const row = rowsOf(report, 'attention').find((r) => r.layout === 'plain' && r.length === length);
    const [ours, theirs] = [time(row, kernel), time(row, peer)];
    return ours && theirs ? [`${times(theirs / ours)} (${label})`] : [];
  });
  return cells.length ? `${cells.join(', ')} of ${name}` : undefined;
}

function decode(report) {
  const copy = rowsOf(report, 'ceilings').find((r) => r.what === 'copy')?.tb_per_s;
  const row = rowsOf(report, 'decode').find((r) => r.prefix === 16384 && r.batch === 28);
  const rate = row?.sides?.ours?.tb_per_s;
  return copy && rate ? `${Math.round((100 * rate) / copy)} % of copy bandwidth (28 × 16k)` : undefined;
}

function statistics(report) {
  const copy = rowsOf(report, 'ceilings').find((r) => r.what === 'copy')?.tb_per_s;
  const rate = rowsOf(report, 'weights').find((r) => r.what.startsWith('2 ×'))?.sides?.ours?.tb_per_s;
  return copy && rate ? `${Math.round((100 * rate) / copy)} % of copy bandwidth (2 bf16 versions)` : undefined;
}

function beside(report, stage, wanted, ours, peer, name) {
  const row = rowsOf(report, stage).find((r) => Object.entries(wanted).every(([k, v]) => r[k] === v));
  const [a, b] = [time(row, ours), time(row, peer)];
  return a && b ? `${times(b / a)} of ${name}` : undefined;
}
const dense = (op, what) => (report) =>
  beside(
    report,
    'dense',
    { op, ...(what && { what }) },
    'ours',
    op === 'gemm' ? 'torch' : op === 'embed' ? 'torch' : 'torch compiled',
    op === 'gemm' || op === 'embed' ? 'torch' : 'torch.compile',
  );
const resident = (op, peer, name) => (report) => beside(report, 'weights', { op }, 'ours', peer, name);

/** One row per kernel: its name, what it does, its speed from a report. */
export const kernels = [
  ['attn_mma', 'attention, sm_80 and later', (r) => prefill(r, 'attn_mma', 'sdpa flash', 'SDPA flash')],
  ['attn_wgmma', 'long prefill, sm_90a', (r) => prefill(r, 'attn_wgmma', 'sdpa cudnn', 'SDPA cuDNN')],
  ['attn_decode', 'split-KV decode, with attn_combine', decode],
  ['attn_combine', 'merges partial states', decode],
  [
    'attn_probe',
    'attention by column',
    (r) => beside(r, 'readouts', { what: 'key mass', length: 2048 }, 'ours', 'eager', 'eager'),
  ],
  [
    'topk_refine',
    'largest keys of a row',
    (r) => beside(r, 'readouts', { what: 'top 8', length: 2048 }, 'ours', 'eager', 'eager'),
  ],
  ['kv_append', 'bias, rotation, page write', dense('kv_append')],
  ['residual_norm', 'residual + RMSNorm with edits', dense('residual_norm')],
  ['swiglu', 'SwiGLU', dense('swiglu')],
  ['embed', 'token embedding', dense('embed')],
  ['logits', 'log-softmax, argmax, sampling', dense('logits')],
  ['gemm_mma', 'matrix product without cuBLASLt', dense('gemm', '2048 × 4608 × 3584'), 'gemm'],
  ['weight_delta', 'statistics of two or three versions of a resident weight', statistics],
  ['weight_mass', 'squares of an update by row and column', resident('weight_mass', 'torch eager', 'torch')],
  [
    'weight_gram',
    'Gram matrix of an update, float64 tensor cores',
    resident('weight_gram', 'torch float64, whole', 'torch in float64'),
  ],
  ['weight_dots', 'inner products of weights', resident('weight_dots', 'torch eager', 'torch')],
  ['weight_sum', 'weighted sum of weights', resident('weight_sum', 'torch compiled', 'torch.compile')],
];

/** Reports of real cards, newest last. A dry run is none. */
export function readReports(folder = at('../results/gpu')) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith('.json'))
    .map((name) => ({ file: name, ...JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')) }))
    .sort((a, b) => (a.date < b.date ? -1 : 1));
}

export function table(reports) {
  for (const { file, dry_run: dry, machine } of reports)
    if (dry !== false || !machine?.gpu?.name) throw new Error(`bench/results/gpu/${file}: not a run on a GPU`);
  const cell = (read) => {
    for (const report of [...reports].reverse()) {
      const text = read(report);
      if (text) return `${text} ([${report.machine.gpu.name}](bench/results/gpu/${report.file}))`;
    }
    return notRun;
  };
  const lines = kernels.map(([kernel, what, speed, op]) => {
    const right = cell((report) => correctness(report, kernel, op ?? kernel));
    return `| \`${kernel}\` | ${what} | ${right} | ${right === notRun ? notRun : cell(speed)} |`;
  });
  return ['| kernel | | correct on a GPU | speed on a GPU |', '|---|---|---|---|', ...lines].join('\n');
}

/** README.md with the block renewed. */
export function renewed(readme, reports) {
  const [from, to] = markers.map((marker) => readme.indexOf(marker));
  if (from < 0 || to < from) throw new Error(`README.md has no block between ${markers.join(' and ')}`);
  return `${readme.slice(0, from)}${markers[0]}\n${table(reports)}\n${readme.slice(to)}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const path = at('../../README.md');
  writeFileSync(path, renewed(readFileSync(path, 'utf8'), readReports()));
}
