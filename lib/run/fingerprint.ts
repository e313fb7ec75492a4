/** Identity of what a trial runs on: a checkpoint's, or a graft's or blend's from its parents'. */
import { type Blend, graftOfBlend } from '../checkpoint/blend.js';
import type { Graft } from '../checkpoint/graft.js';
import { contentKey } from './key.js';

export { folderFingerprint } from '../checkpoint/fingerprint.js';

/** Identity of a graft: its one parent's, or its table with every donor's fingerprint in place of its name. */
export function graftFingerprint(graft: Graft, fingerprint: (model: string) => string): string {
  const { layers, ...rest } = graft;
  const donors = new Set([...layers, ...Object.values(rest)]);
  // A graft of one parent is that parent: its trials need not run twice.
  if (donors.size === 1) return fingerprint(layers[0]!);
  return contentKey({
    layers: layers.map(fingerprint),
    ...Object.fromEntries(Object.entries(rest).map(([part, model]: [string, string]) => [part, fingerprint(model)])),
  });
}

/** Identity of a blend: the graft's that it is at its ends, or its record with fingerprints in place of names. */
export function blendFingerprint(blend: Blend, totalLayers: number, fingerprint: (model: string) => string): string {
  const graft = graftOfBlend(blend, totalLayers);
  if (graft) return graftFingerprint(graft, fingerprint);
  const { from, to, alpha, layers, component, rest } = blend;
  return contentKey({
    blend: [fingerprint(from), fingerprint(to)],
    alpha,
    layers: [...layers].sort((a, b) => a - b),
    component: layers.length > 0 ? component : 'all',
    rest,
  });
}
