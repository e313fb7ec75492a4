/**
 * Colours and type of the report, as CSS variables. Series colours follow Okabe & Ito (2008), darkened or lightened to
 * 3:1 against the page; series also differ by marker and dash, so that no reading rests on colour alone.
 */

type Tokens = Readonly<Record<string, string>>;

const light: Tokens = {
  page: '#fbfaf8',
  panel: '#ffffff',
  ink: '#1b1e23',
  soft: '#454b54',
  muted: '#666d77',
  rule: '#e5e2dc',
  grid: '#ebe8e2',
  accent: '#0b5f96',
  tint: '#f1efe9',
  caution: '#9a5b00',
  'caution-tint': '#fbf3e2',
  finding: '#0b5f96',
  'finding-tint': '#ebf3f8',
  c0: '#0072b2',
  c1: '#d55e00',
  c2: '#00875f',
  c3: '#aa4499',
  c4: '#a87400',
  c5: '#4b4fb5',
  c6: '#882255',
  c7: '#5b7f2b',
  cm: '#868d97',
  'seq-0': '#f3f0e9',
  'seq-1': '#6fa8cc',
  'seq-2': '#0b3557',
  'div-0': '#f3f0e9',
  'div-neg': '#b5430b',
  'div-pos': '#0b5f96',
  'cell-weak': '#1b1e23',
  'cell-strong': '#ffffff',
  edge: 'rgba(30, 25, 15, 0.2)',
  shadow: '0 6px 24px rgba(30, 25, 15, 0.14)',
};

const dark: Tokens = {
  page: '#14171b',
  panel: '#1a1e23',
  ink: '#eceae5',
  soft: '#c6cad0',
  muted: '#98a0aa',
  rule: '#2c3239',
  grid: '#262b32',
  accent: '#6fb9ec',
  tint: '#20252b',
  caution: '#e7b35a',
  'caution-tint': '#2a241a',
  finding: '#6fb9ec',
  'finding-tint': '#18252f',
  c0: '#58aeea',
  c1: '#ff8d4f',
  c2: '#38c597',
  c3: '#dd8ccb',
  c4: '#e2b64c',
  c5: '#a3a6f5',
  c6: '#e4769f',
  c7: '#a3c566',
  cm: '#7f8892',
  'seq-0': '#22272e',
  'seq-1': '#2b78ad',
  'seq-2': '#d9f0ff',
  'div-0': '#262b32',
  'div-neg': '#ff9a5f',
  'div-pos': '#6fb9ec',
  'cell-weak': '#eceae5',
  'cell-strong': '#10202c',
  edge: 'rgba(0, 0, 0, 0.7)',
  shadow: '0 6px 24px rgba(0, 0, 0, 0.5)',
};

/** Number of series colours; a series beyond them starts over with another marker and dash. */
export const seriesColors = 8;

/** Index of a series colour, or 'muted' for what only serves as a reference. */
export type SeriesColor = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 'muted';

/** Class that carries a series' colour. */
export function colorClass(index: number, color?: SeriesColor): string {
  if (color === 'muted') return 'cm';
  return `c${color ?? index % seriesColors}`;
}

function variables(tokens: Tokens): string {
  return Object.entries(tokens)
    .map(([name, value]) => `--${name}:${value}`)
    .join(';');
}

/** Light by default, dark by preference or by [data-theme], light on paper. */
export function themeCss(): string {
  const colors = ['0', '1', '2', '3', '4', '5', '6', '7', 'm'].map((c) => `.c${c}{--c:var(--c${c})}`).join('');
  return [
    `:root{color-scheme:light;${variables(light)}}`,
    `@media (prefers-color-scheme:dark){:root:not([data-theme=light]){color-scheme:dark;${variables(dark)}}}`,
    `:root[data-theme=dark]{color-scheme:dark;${variables(dark)}}`,
    `@media print{:root,:root[data-theme=dark],:root:not([data-theme=light]){color-scheme:light;${variables(light)}}}`,
    colors,
  ].join('\n');
}
