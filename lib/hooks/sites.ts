/** The closed table of hook sites, in the order in which a layer passes them, and what may be done at each. */
import { GalvaniError } from '../errors.js';
import type { Op, Site, Tower } from '../types.js';

export interface SiteInfo {
  readonly site: Site;
  /** Shape of the tensor at this place. C width, H query heads, G KV heads, D head size, V vocabulary. */
  readonly shape: string;
  /** `heads` subsets allowed: over query heads, over KV heads, or not at all. */
  readonly heads: 'query' | 'kv' | 'none';
  readonly ops: readonly Op[];
  readonly towers: readonly Tower[];
  readonly doc: string;
}

const edits = ['zero', 'mean', 'resample', 'patch', 'add', 'scale', 'capture'] as const satisfies readonly Op[];
const layered = ['decoder', 'vision'] as const satisfies readonly Tower[];

const table = {
  resid_pre: {
    shape: '[rows, C]',
    heads: 'none',
    ops: edits,
    towers: layered,
    doc: 'residual stream entering the layer',
  },
  q: { shape: '[rows, H, D]', heads: 'query', ops: edits, towers: layered, doc: 'queries after bias and RoPE' },
  k: { shape: '[rows, G, D]', heads: 'kv', ops: edits, towers: layered, doc: 'keys after bias and RoPE' },
  v: { shape: '[rows, G, D]', heads: 'kv', ops: edits, towers: layered, doc: 'values after bias' },
  attn_logits: {
    shape: '[rows, H, keys]',
    heads: 'query',
    ops: ['knockout', 'add', 'scale', 'capture'],
    towers: ['decoder'],
    doc: 'scaled scores before softmax; never stored, only edited and read through measures',
  },
  pattern: {
    shape: '[rows, H, keys]',
    heads: 'query',
    ops: ['zero', 'scale'],
    towers: ['decoder'],
    doc: 'probabilities after softmax; edits are not renormalised; read by a capture at attn_logits',
  },
  z: {
    shape: '[rows, H, D]',
    heads: 'query',
    ops: edits,
    towers: layered,
    doc: 'weighted values before the output projection',
  },
  attn_out: {
    shape: '[rows, C]',
    heads: 'none',
    ops: edits,
    towers: layered,
    doc: 'what attention adds to the stream',
  },
  resid_mid: {
    shape: '[rows, C]',
    heads: 'none',
    ops: edits,
    towers: layered,
    doc: 'stream between attention and MLP',
  },
  mlp_out: { shape: '[rows, C]', heads: 'none', ops: edits, towers: layered, doc: 'what the MLP adds to the stream' },
  resid_post: { shape: '[rows, C]', heads: 'none', ops: edits, towers: layered, doc: 'stream leaving the layer' },
  logits: {
    shape: '[rows, V]',
    heads: 'none',
    ops: ['capture'],
    towers: ['decoder'],
    doc: 'scores of the next token, after the final norm and head',
  },
} as const satisfies Record<Site, Omit<SiteInfo, 'site'>>;

export const sites: readonly SiteInfo[] = (Object.keys(table) as Site[]).map((site) => ({ site, ...table[site] }));

/** @throws BAD_ARGUMENT naming the sites that exist. */
export function siteInfo(site: Site): SiteInfo {
  if (!Object.hasOwn(table, site)) {
    throw new GalvaniError('BAD_ARGUMENT', `site: expected one of ${Object.keys(table).join(', ')}, got '${site}'`);
  }
  return { site, ...table[site] };
}
