/**
 * Grafts: a model whose layers come from several opened checkpoints, as a table of names. No bytes are written; the
 * engine reads every layer from the checkpoint the table names. METHODS §3 (arXiv 2602.12395, section 3.1).
 */
import { GalvaniError } from '../errors.js';

/** Which opened model each part of the network is read from. */
export interface Graft {
  /** One name per decoder layer. */
  readonly layers: readonly string[];
  readonly embed: string;
  readonly vision: string;
  readonly projector: string;
  /** Final norm. */
  readonly norm: string;
  readonly head: string;
}

export type RegionName = 'early' | 'mid' | 'late';
export const regionNames: readonly RegionName[] = ['early', 'mid', 'late'];

/** Decoder layers [start, end) of a region. */
export interface Region {
  readonly name: RegionName;
  readonly start: number;
  readonly end: number;
}

/** First layer of mid and of late. */
export type Cuts = readonly [mid: number, late: number];

/** c1 = ⌊L/3⌋, c2 = ⌊2L/3⌋. */
export function defaultCuts(totalLayers: number): Cuts {
  return [Math.floor(totalLayers / 3), Math.floor((2 * totalLayers) / 3)];
}

/**
 * Early [0, c1), mid [c1, c2), late [c2, L) of a decoder of L layers.
 * @throws BAD_ARGUMENT unless 0 < c1 < c2 < L.
 */
export function regions(totalLayers: number, cuts: Cuts = defaultCuts(totalLayers)): readonly Region[] {
  const [mid, late] = cuts;
  if (!Number.isInteger(mid) || !Number.isInteger(late) || !(0 < mid && mid < late && late < totalLayers)) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `cuts: expected 0 < mid < late < ${totalLayers} (layers), got [${mid}, ${late}]`,
    );
  }
  return [
    { name: 'early', start: 0, end: mid },
    { name: 'mid', start: mid, end: late },
    { name: 'late', start: late, end: totalLayers },
  ];
}

/** @throws BAD_ARGUMENT when no region holds the layer. */
export function regionOf(layer: number, all: readonly Region[]): RegionName {
  const region = all.find(({ start, end }) => layer >= start && layer < end);
  if (!region) throw new GalvaniError('BAD_ARGUMENT', `layer ${layer} lies in no region`);
  return region.name;
}

/**
 * Donor of the weights that belong to no decoder layer (vision tower, projector, embeddings, final norm, head):
 * `early` the first block's donor for all of them (what the paper's scripts do), `in` or `rl` that parent,
 * `ends` embeddings, tower and projector from the first block's donor, norm and head from the last block's (with tied
 * embeddings the head is then the last donor's own embedding table: views allow it, a written checkpoint would not).
 */
export type NonLayerPolicy = 'early' | 'in' | 'rl' | 'ends';
export const nonLayerPolicies: readonly NonLayerPolicy[] = ['early', 'in', 'rl', 'ends'];

export type Donor = 'in' | 'rl';

/** The paper's eight, in its order: donors of the early, mid and late block. */
export const paperGrafts: Readonly<Record<string, readonly [Donor, Donor, Donor]>> = {
  IN: ['in', 'in', 'in'],
  RL: ['rl', 'rl', 'rl'],
  'IN:RL:RL': ['in', 'rl', 'rl'],
  'RL:IN:IN': ['rl', 'in', 'in'],
  'IN:IN:RL': ['in', 'in', 'rl'],
  'RL:RL:IN': ['rl', 'rl', 'in'],
  'IN:RL:IN': ['in', 'rl', 'in'],
  'RL:IN:RL': ['rl', 'in', 'rl'],
};

export interface BlockGraftOptions {
  /** A name of `paperGrafts`, or the donors of the early, mid and late block. */
  readonly blocks: string | readonly [Donor, Donor, Donor];
  readonly totalLayers: number;
  readonly policy: NonLayerPolicy;
  readonly cuts?: Cuts;
  /** Names under which the parents are opened. Default: 'in' and 'rl'. */
  readonly names?: Readonly<Record<Donor, string>>;
}

/** @throws BAD_ARGUMENT for an unknown name, donor or policy. */
export function blockGraft(options: BlockGraftOptions): Graft {
  const blocks = typeof options.blocks === 'string' ? paperGrafts[options.blocks] : options.blocks;
  if (!blocks) {
    throw new GalvaniError(
      'BAD_ARGUMENT',
      `graft: expected one of ${Object.keys(paperGrafts).join(', ')}, got '${String(options.blocks)}'`,
    );
  }
  const donors = regions(options.totalLayers, options.cuts).flatMap(({ start, end }, block) =>
    Array.from({ length: end - start }, () => blocks[block]!),
  );
  return layerGraft({ donors, policy: options.policy, ...(options.names ? { names: options.names } : {}) });
}

/**
 * A graft with a donor for every layer. The policy's "first" and "last" block are those of the first and last layer.
 * @throws BAD_ARGUMENT for an unknown policy.
 */
export function layerGraft(options: {
  readonly donors: readonly Donor[];
  readonly policy: NonLayerPolicy;
  readonly names?: Readonly<Record<Donor, string>>;
}): Graft {
  const { donors, policy } = options;
  const name = (donor: Donor): string => options.names?.[donor] ?? donor;
  const first = name(nonLayerDonor(policy, donors, 'first'));
  const last = name(nonLayerDonor(policy, donors, 'last'));
  return { layers: donors.map(name), embed: first, vision: first, projector: first, norm: last, head: last };
}

function nonLayerDonor(policy: NonLayerPolicy, donors: readonly Donor[], end: 'first' | 'last'): Donor {
  switch (policy) {
    case 'early':
      return donors[0]!;
    case 'in':
    case 'rl':
      return policy;
    case 'ends':
      return end === 'first' ? donors[0]! : donors.at(-1)!;
    default:
      throw new GalvaniError(
        'BAD_ARGUMENT',
        `policy: expected ${nonLayerPolicies.join(', ')}, got '${policy satisfies never}'`,
      );
  }
}

/** One line for a table: "layers in×3 rl×6; vision, projector, embeddings in; norm, head in". */
export function describeGraft(graft: Graft): string {
  const blocks: string[] = [];
  for (let i = 0; i < graft.layers.length; ) {
    let end = i;
    while (end < graft.layers.length && graft.layers[end] === graft.layers[i]) end += 1;
    blocks.push(`${graft.layers[i]}×${end - i}`);
    i = end;
  }
  const parts: [string, string][] = [
    ['vision', graft.vision],
    ['projector', graft.projector],
    ['embeddings', graft.embed],
    ['norm', graft.norm],
    ['head', graft.head],
  ];
  const donors = [...new Set(parts.map(([, donor]) => donor))];
  const rest = donors.map(
    (donor) => `${parts.flatMap(([part, d]) => (d === donor ? [part] : [])).join(', ')} ${donor}`,
  );
  return `layers ${blocks.join(' ')}; ${rest.join('; ')}`;
}
