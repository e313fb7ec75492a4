/** Identity of what a trial runs on: a checkpoint's, or a graft's from its parents'. */
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
