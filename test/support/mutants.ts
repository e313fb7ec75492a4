/**
 * Mistakes planted in the GPU kernels, one at a time: the suite must catch each of them in emulation, or it would not
 * have caught ours. A mutant names one text in one source file; the text must be there exactly once.
 */
export interface Mutant {
  readonly name: string;
  /** Below native/ops/gpu. */
  readonly file: string;
  /** The kernel's source that is compiled with it; the file itself where left out. */
  readonly compile?: string;
  readonly find: string;
  readonly put: string;
  /** What looks for the mistake: gpu_check with these arguments, or the kernel's own test on the mutated back end. */
  readonly check: readonly string[] | 'weights_test';
  /** Under which schedules of the emulator (0: in order) it is looked for, one after the other. */
  readonly schedules: readonly number[];
}

const mma = ['--kernel', 'attn_mma', '--head-dims', '64', '--seeds', '0..7'];
const decode = ['--kernel', 'attn_decode', '--head-dims', '64', '--seeds', '0..15'];
// Lists of more than four pages, so that stages are used again.
const wgmma = ['--kernel', 'attn_wgmma', '--seeds', '30..33'];
// Several steps of query rows for one probe; lists long enough that a stage of V is used a third time.
const probe = ['--kernel', 'attn_mma', '--head-dims', '64', '--seeds', '66..66'];
const longer = ['--kernel', 'attn_wgmma', '--seeds', '41..42'];
const inOrder = [0];
const adversarial = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

export const mutants: readonly Mutant[] = [
  {
    name: 'attn_mma: K of the next page copied before everyone has read the last one',
    file: 'attn_mma.cu',
    find: 'dev::sync();        // and nobody reads K of the page before any more',
    put: '',
    check: mma,
    schedules: adversarial,
  },
  {
    name: 'attn_mma: V of the next page copied before everyone has read the last one',
    file: 'attn_mma.cu',
    find: 'dev::sync();        // and nobody reads V of the page before, nor Q, any more',
    put: '',
    check: mma,
    schedules: adversarial,
  },
  {
    name: 'attn_mma: cp.async waited for one group too late',
    file: 'attn_mma.cu',
    find: 'dev::cp_wait<1>();  // V of this page',
    put: 'dev::cp_wait<2>();',
    check: mma,
    schedules: adversarial,
  },
  {
    name: 'softmax: t rescaled without its d·l term',
    file: 'attn_tile.h',
    compile: 'attn_mma.cu',
    find: 'if (kStat) t[r] = alpha[r] * dev::fma(d, l[r], t[r]);',
    put: 'if (kStat) t[r] = alpha[r] * t[r];',
    check: mma,
    schedules: inOrder,
  },
  {
    name: 'softmax: a segment met again is added without rescaling',
    file: 'attn_tile.h',
    compile: 'attn_mma.cu',
    find: 'tables_.l[at] = dev::fma(a, tables_.l[at], sum);',
    put: 'tables_.l[at] += sum;',
    check: mma,
    schedules: inOrder,
  },
  {
    name: 'softmax: rows that have seen nothing measure from −1e30',
    file: 'attn_tile.h',
    compile: 'attn_mma.cu',
    find: 'from[r] = to > kEmptyBelow ? to : 0.0f;',
    put: 'from[r] = to;',
    check: mma,
    schedules: inOrder,
  },
  {
    name: 'softmax: the last visible key is masked',
    file: 'attn_tile.h',
    compile: 'attn_mma.cu',
    find: 'if (key < from || key > to)',
    put: 'if (key < from || key >= to)',
    check: mma,
    schedules: inOrder,
  },
  {
    name: 'softmax: a gain of 0 unmasks the future',
    file: 'attn_tile.h',
    compile: 'attn_mma.cu',
    find: 'const float masked = kBlocked / gain[r];',
    put: 'const float masked = kBlocked;',
    check: mma,
    schedules: inOrder,
  },
  {
    name: 'tile: rows and chunks of K exchanged between lanes',
    file: 'tile.h',
    compile: 'attn_mma.cu',
    find: '(lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1',
    put: '(lane & 7) + (((lane >> 3) & 1) << 3), lane >> 4',
    check: mma,
    schedules: inOrder,
  },
  {
    name: 'attn_decode: the second warp’s state added unscaled',
    file: 'attn_decode.cu',
    find: 'state.l[r] = a * state.l[r] + b * l;',
    put: 'state.l[r] = a * state.l[r] + l;',
    check: decode,
    schedules: inOrder,
  },
  {
    name: 'attn_decode: the next K copied over the one being read',
    file: 'attn_decode.cu',
    find: 'load_page<D, 32>(k_tile, p.k, p, next, item.kv_head, lane);',
    put: 'load_page<D, 32>(v_tile, p.k, p, next, item.kv_head, lane);',
    check: decode,
    schedules: inOrder,
  },
  {
    name: 'attn_combine: t merged without its d·l term',
    file: 'attn_combine.cu',
    find: 't = a * dev::fma(d, l, t) + b * dev::fma(e, state[1], state[2]);',
    put: 't = a * t + b * state[2];',
    check: decode,
    schedules: inOrder,
  },
  {
    name: 'attn_probe: queries of the next step copied before everyone has read these',
    file: 'attn_probe.cu',
    find: 'dev::sync();  // everyone has read these queries and constants',
    put: '',
    check: probe,
    schedules: adversarial,
  },
  {
    name: 'attn_wgmma: wrong stride in the descriptor of V',
    file: 'attn_wgmma.cu',
    find: 'dev::descriptor(v + i * 16 * 128, kHalf, 1024)',
    put: 'dev::descriptor(v + i * 16 * 128, kHalf, 512)',
    check: wgmma,
    schedules: inOrder,
  },
  {
    name: 'attn_wgmma: the stage of V released before P·V has finished',
    file: 'attn_wgmma.cu',
    find: '    dev::wg_wait<0>();\n    dev::wg_touch(o);\n    release(&shared.v_empty[before]);',
    put: '    release(&shared.v_empty[before]);\n    dev::wg_wait<0>();\n    dev::wg_touch(o);',
    check: longer,
    schedules: adversarial,
  },
  {
    name: 'attn_wgmma: V multiplied before it has arrived',
    file: 'attn_wgmma.cu',
    find: '    dev::mbar_wait(&shared.v_full[before], (step - 1) / kStages & 1);\n',
    put: '',
    check: wgmma,
    schedules: adversarial,
  },
  {
    name: 'attn_wgmma: O rescaled while P·V is under way',
    file: 'attn_wgmma.cu',
    find: '    dev::wg_wait<0>();\n    dev::wg_touch(o);\n    release(&shared.v_empty[before]);\n    scale_rows(o, alpha);',
    put: '    scale_rows(o, alpha);\n    dev::wg_wait<0>();\n    dev::wg_touch(o);\n    release(&shared.v_empty[before]);',
    check: wgmma,
    schedules: adversarial,
  },
  {
    name: 'attn_wgmma: scores read before they are there',
    file: 'attn_wgmma.cu',
    find: 'dev::wg_wait<1>();',
    put: 'dev::wg_wait<2>();',
    check: wgmma,
    schedules: adversarial,
  },
  {
    name: 'attn_wgmma: the producer waits for the wrong parity',
    file: 'attn_wgmma.cu',
    find: 'parity = (step / kStages & 1) ^ 1;',
    put: 'parity = step / kStages & 1;',
    check: wgmma,
    schedules: inOrder,
  },
  {
    name: 'weight_delta: the last, partly filled row of eight left out',
    file: 'weight_delta.cu',
    find: 'if (left <= 0) break;',
    put: 'if (left < 8) break;',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_delta: warps read their sums before all have written them',
    file: 'weight_delta.cu',
    find: '  dev::sync();\n\n  const int t = dev::tid();',
    put: '  const int t = dev::tid();',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_delta: the ulp of a subnormal weight taken from its own exponent',
    file: 'weight_delta.cu',
    find: 'exponent = exponent > 1 ? exponent : 1;',
    put: '',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_delta: entries that are not finite counted as unchanged',
    file: 'weight_delta.cu',
    find: 'share.identical[s] += counts && before',
    put: 'share.identical[s] += before',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_delta: the sign of a float8 weight lost',
    file: 'weight_load.h',
    compile: 'weight_delta.cu',
    find: 'return as_float(scaled | (bits & 0x80u) << 24);',
    put: 'return as_float(scaled);',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_delta: the totals of the last block left out',
    file: 'weight_delta.cu',
    find: 'for (int64_t b = 0; b < blocks; ++b) sum += first[b * kStride + t];',
    put: 'for (int64_t b = 0; b + 1 < blocks; ++b) sum += first[b * kStride + t];',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_mass: entries with a version that is not finite counted',
    file: 'weight_mass.cu',
    find: 'const double d = finite ? delta : 0.0f;',
    put: 'const double d = delta;',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_mass: the last band of rows left out',
    file: 'weight_mass.cu',
    find: 'for (int64_t band = 0; band * kMassBand < p.rows; ++band)',
    put: 'for (int64_t band = 0; (band + 1) * kMassBand < p.rows || band == 0; ++band)',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_gram: a stage read before everyone has written it',
    file: 'weight_gram.cu',
    find: 'dev::sync();  // this stage is there for everyone, and nobody reads the other one any more',
    put: '',
    check: 'weights_test',
    schedules: adversarial,
  },
  {
    name: 'weight_gram: one stage in place of two',
    file: 'weight_gram.cu',
    find: 'stage ^= 1)',
    put: 'stage = 0)',
    check: 'weights_test',
    schedules: adversarial,
  },
  {
    name: 'weight_gram: a and b of the product exchanged',
    file: 'weight_gram.cu',
    find: 'dev::mma_f64(sums[i][j], a[i], b[j]);',
    put: 'dev::mma_f64(sums[i][j], b[j], a[i]);',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_gram: tiles of a tall matrix read as those of a wide one',
    file: 'weight_gram.cu',
    find: 'wide ? i * p.columns + t : t * p.columns + i',
    put: 'i * length + t',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_mix: inner products of the last block left out',
    file: 'weight_mix.cu',
    find: 'for (int64_t b = 0; b * kDeltaChunk < p.elements; ++b)',
    put: 'for (int64_t b = 0; (b + 1) * kDeltaChunk < p.elements; ++b)',
    check: 'weights_test',
    schedules: inOrder,
  },
  {
    name: 'weight_mix: subnormal halves cut instead of rounded',
    file: 'weight_mix.cu',
    find: 'return sign | (as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u);',
    put: 'return sign | static_cast<uint32_t>(as_float(magnitude) * 0x1p24f);',
    check: 'weights_test',
    schedules: inOrder,
  },
];
