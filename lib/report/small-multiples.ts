/** Several small charts side by side, for comparing shapes: give them the same axis limits. */

import { escapeHtml } from './format.js';
import { splitLegend } from './svg.js';

/**
 * Markup for a chart block's `svg`: each chart under its own small title, as many a row as fit. A legend that all of
 * them share is shown once, above, and switches all.
 */
export function smallMultiples(charts: readonly { readonly title: string; readonly svg: string }[]): string {
  const parts = charts.map(({ title, svg }) => ({ title, svg, ...splitLegend(svg) }));
  const shared = parts.length > 1 && parts.every((part) => part.legend === parts[0]!.legend);
  const cells = parts.map(
    (part) => `<div class="multiple"><h4>${escapeHtml(part.title)}</h4>${shared ? part.rest : part.svg}</div>`,
  );
  return `<div class="multiples">${shared ? parts[0]!.legend : ''}<div class="grid-of-charts">${cells.join('')}</div></div>`;
}
