/**
 * The merge methods: paper, inputs and parameters of each. The arithmetic is one function per row in
 * native/ops/combine_*.cc under the same name; adding a method is that function and a row here.
 */
import { GalvaniError } from '../errors.js';

/** `shared`: one value per tensor; `input`: one per model; `other`: one per model that is not the base. */
export type ParameterScope = 'shared' | 'input' | 'other';

export interface MergeParameter {
  readonly name: string;
  readonly scope: ParameterScope;
  readonly type: 'number' | 'flag';
  /** Absent: has to be given; null: may be left out altogether. */
  readonly default?: number | boolean | null;
}

export interface MergeMethod {
  readonly name: string;
  /** What it does, in a line. */
  readonly about: string;
  readonly paper: string;
  /** `none`: a base model is an input like the others. */
  readonly base: 'required' | 'optional' | 'none';
  /** Models beside the base: least and most. */
  readonly others: readonly [min: number, max: number];
  readonly parameters: readonly MergeParameter[];
}

const many = Number.POSITIVE_INFINITY;
const number = (name: string, scope: ParameterScope, ...given: readonly [(number | null)?]): MergeParameter =>
  given.length === 0 ? { name, scope, type: 'number' } : { name, scope, type: 'number', default: given[0] ?? null };
const flag = (name: string, value: boolean): MergeParameter => ({
  name,
  scope: 'shared',
  type: 'flag',
  default: value,
});

/** Parameters of task arithmetic and its kin. `int8_mask` is accepted: masks take no memory here. */
const task = (normalize: boolean, rescale: boolean, ...more: readonly MergeParameter[]): readonly MergeParameter[] => [
  flag('normalize', normalize),
  flag('rescale', rescale),
  flag('int8_mask', false),
  number('lambda', 'shared', 1),
  number('weight', 'other'),
  number('density', 'other', 1),
  ...more,
];
const gamma = number('gamma', 'other', 0.01);
const epsilon = number('epsilon', 'other', 0.15);

type Row = [
  name: string,
  about: string,
  paper: string,
  base: MergeMethod['base'],
  others: MergeMethod['others'],
  ps: readonly MergeParameter[],
];
const rows: readonly Row[] = [
  [
    'linear',
    'weighted mean (model soup)',
    'arXiv 2203.05482',
    'none',
    [1, many],
    [flag('normalize', true), number('weight', 'input')],
  ],
  ['slerp', 'spherical interpolation of two models', 'Shoemake 1985', 'required', [1, 1], [number('t', 'shared')]],
  [
    'nuslerp',
    'slerp by weights, of rows, columns or whole tensors, also of task vectors',
    'mergekit',
    'optional',
    [2, 2],
    [flag('nuslerp_row_wise', false), flag('nuslerp_flatten', true), number('weight', 'other')],
  ],
  [
    'multislerp',
    'barycentre on the sphere of any number of models',
    'goddard.blog/posts/multislerp-wow-what-a-cool-idea',
    'optional',
    [1, many],
    [flag('normalize_weights', true), number('eps', 'shared', 1e-8), number('weight', 'other')],
  ],
  [
    'karcher',
    'Riemannian mean of directions',
    'arXiv 2603.04972',
    'none',
    [1, many],
    [number('max_iter', 'shared', 10), number('tol', 'shared', 1e-5)],
  ],
  ['task_arithmetic', 'base plus weighted updates', 'arXiv 2212.04089', 'required', [1, many], task(false, false)],
  [
    'ties',
    'largest entries of each update, signs reconciled',
    'arXiv 2306.01708',
    'required',
    [1, many],
    task(true, false),
  ],
  [
    'dare_linear',
    'updates thinned at random and rescaled',
    'arXiv 2311.03099',
    'required',
    [1, many],
    task(false, true),
  ],
  ['dare_ties', 'the same, signs reconciled', 'arXiv 2311.03099', 'required', [1, many], task(false, true)],
  [
    'breadcrumbs',
    'updates without their largest and smallest entries',
    'arXiv 2312.06795',
    'required',
    [1, many],
    task(false, false, gamma),
  ],
  [
    'breadcrumbs_ties',
    'the same, signs reconciled',
    'arXiv 2312.06795',
    'required',
    [1, many],
    task(false, false, gamma),
  ],
  [
    'della',
    'updates thinned at random by rank of magnitude, signs reconciled',
    'arXiv 2406.11617',
    'required',
    [1, many],
    task(true, true, epsilon),
  ],
  [
    'della_linear',
    'the same without reconciling signs',
    'arXiv 2406.11617',
    'required',
    [1, many],
    task(false, true, epsilon),
  ],
  [
    'sce',
    'entries that vary most, models weighted by energy, minority signs erased',
    'arXiv 2408.07990',
    'required',
    [1, many],
    [flag('int8_mask', false), number('select_topk', 'shared', 1)],
  ],
  [
    'model_stock',
    'towards the mean as far as the updates agree',
    'arXiv 2403.19522',
    'required',
    [2, many],
    [flag('filter_wise', false)],
  ],
  [
    'nearswap',
    'moves the base by at most t towards the other',
    'huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001',
    'required',
    [1, 1],
    [number('t', 'shared')],
  ],
  [
    'ram',
    'entries one model changed kept, shared ones averaged',
    'arXiv 2601.13572',
    'required',
    [1, many],
    [number('epsilon', 'shared', 1e-5)],
  ],
  [
    'ramplus_tl',
    'the same, unique entries magnified by the share of shared ones',
    'arXiv 2601.13572',
    'required',
    [1, many],
    [number('r', 'shared', 0.1), number('alpha', 'shared', 0.2), number('epsilon', 'shared', 1e-5)],
  ],
  ['arcee_fusion', 'takes over entries of outlying importance', 'mergekit', 'required', [1, 1], []],
  ['passthrough', 'one model as it is, or scaled', '', 'none', [1, 1], [number('scale', 'input', null)]],
  [
    'noise',
    'one model plus normal noise of `scale` times the RMS of each tensor',
    'control of arXiv 2602.12395',
    'none',
    [1, 1],
    [number('scale', 'shared'), flag('relative', true)],
  ],
];

export const mergeMethods: readonly MergeMethod[] = rows.map(([name, about, paper, base, others, parameters]) => ({
  name,
  about,
  paper,
  base,
  others,
  parameters,
}));

/** @throws BAD_CONFIG naming the known ones. `where` opens the message. */
export function mergeMethod(name: string, where: string): MergeMethod {
  const method = mergeMethods.find((row) => row.name === name);
  if (method) return method;
  const known = mergeMethods.map((row) => row.name).join(', ');
  throw new GalvaniError('BAD_CONFIG', `${where}: unknown merge_method '${name}'; expected one of ${known}`);
}
