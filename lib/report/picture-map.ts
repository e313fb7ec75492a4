/**
 * Maps of patches over a picture, one panel a model, with selectors that the page's script works. Without the script the
 * first choice is shown. A map is one image, a pixel a patch: as shapes, the 1,500 patches of a large picture times
 * models and pictures would be tens of thousands of elements to redraw at every step.
 */
import { escapeHtml } from './format.js';
import { encodePng } from './png.js';

/** One number per patch for each step of the slider. */
export interface PatchLayer {
  readonly label: string;
  /** Row-major over the grid; at least 0. */
  readonly values: readonly number[];
  /** Patches that are marked and do not set the scale. */
  readonly marked: readonly number[];
}

export interface PatchPanel {
  /** E.g. the model; equal over views, so that panels keep their place. */
  readonly name: string;
  readonly layers: readonly PatchLayer[];
}

/** One setting of the selectors: which numbers are shown. */
export interface PatchView {
  readonly label: string;
  readonly panels: readonly PatchPanel[];
  /** Names of the two panels whose difference (second − first) is the last panel. */
  readonly difference?: readonly [from: string, to: string];
}

export interface PictureMapSpec {
  readonly id: string;
  readonly title: string;
  /** A data URL; null draws the patches alone. */
  readonly picture: { readonly url: string; readonly width: number; readonly height: number } | null;
  readonly grid: readonly [rows: number, columns: number];
  readonly views: readonly PatchView[];
  /** Trusted markup under the panels. */
  readonly below: string;
}

/** Several pictures under one set of selectors; all have the same views and steps in the same order. */
export function pictureMaps(specs: readonly PictureMapSpec[], unit: string): string {
  const [first] = specs;
  const steps = first?.views[0]?.panels[0]?.layers.map(({ label }) => label) ?? [];
  if (!first || steps.length === 0) return '';
  const views = [...new Set(specs.flatMap((spec) => spec.views.map(({ label }) => label)))];
  const options = views.map((label, i) => `<option value="${i}">${escapeHtml(label)}</option>`).join('');
  const data = JSON.stringify({ unit, steps, views, pictures: specs.map((spec) => dataOf(spec, views)) });
  return (
    `<div class="pictures" data-maps="${first.id}-maps">` +
    `<div class="pick"><label>Attention of <select>${options}</select></label>` +
    `<label>in <output>${escapeHtml(steps[0]!)}</output> <input type="range" min="0" max="${steps.length - 1}" value="0" aria-label="layer"></label></div>` +
    specs.map((spec) => pictureHtml(spec, unit)).join('') +
    `<script type="application/json" id="${first.id}-maps">${data.replaceAll('<', '\\u003c')}</script></div>`
  );
}

/** What the script reads of a panel: 65535ths of each step's largest value as little-endian base64, [step][patch]. */
interface PanelData {
  readonly v: string;
  readonly most: readonly number[];
  readonly marked: readonly (readonly number[])[];
}

interface PictureData {
  readonly grid: readonly [rows: number, columns: number];
  /** views[v][panel]; null where the picture lacks the view. */
  readonly views: readonly (readonly PanelData[] | null)[];
  /** Panels whose difference is the last one; null where no view has one. */
  readonly change: readonly [from: number, to: number] | null;
}

function dataOf({ grid, views: own }: PictureMapSpec, views: readonly string[]): PictureData {
  const [first] = own;
  const place = (name: string): number => first!.panels.findIndex((panel) => panel.name === name);
  return {
    grid,
    views: views.map((label) => own.find((one) => one.label === label)?.panels.map(panelData) ?? null),
    change: first?.difference ? [place(first.difference[0]), place(first.difference[1])] : null,
  };
}

const finest = 65_535;

function panelData({ layers }: PatchPanel): PanelData {
  const most = layers.map(({ values }) => values.reduce((a, b) => Math.max(a, b), 0));
  const patches = layers[0]?.values.length ?? 0;
  const bytes = Buffer.alloc(2 * patches * layers.length);
  layers.forEach(({ values }, step) => {
    values.forEach((value, i) => {
      const share = most[step]! > 0 ? Math.round((finest * value) / most[step]!) : 0;
      bytes.writeUInt16LE(share, 2 * (step * patches + i));
    });
  });
  return { v: bytes.toString('base64'), most, marked: layers.map(({ marked }) => marked) };
}

/** The panels of a view, its difference last. */
function panelsOf({ panels, difference }: PatchView): readonly PatchPanel[] {
  if (!difference) return panels;
  const [from, to] = difference.map((name) => panels.find((panel) => panel.name === name));
  if (!from || !to) return panels;
  const layers = to.layers.map(
    ({ label, values, marked }, i): PatchLayer => ({
      label,
      values: values.map((value, p) => value - from.layers[i]!.values[p]!),
      marked: [...new Set([...marked, ...from.layers[i]!.marked])],
    }),
  );
  return [...panels, { name: differenceName(difference), layers }];
}

function differenceName([from, to]: readonly [string, string]): string {
  return `${to} − ${from}`;
}

function pictureHtml(spec: PictureMapSpec, unit: string): string {
  const [view] = spec.views;
  if (!view) return '';
  const panels = panelsOf(view);
  const plain = spec.picture ? [panelHtml('the picture', pictureSvg(spec, null, 0, false))] : [];
  const most = scaleOf(panels.slice(0, view.panels.length), 0);
  const change = panels.length > view.panels.length ? scaleOf(panels.slice(view.panels.length), 0) : null;
  const maps = panels.map((panel, i) => {
    const isChange = i >= view.panels.length;
    return panelHtml(panel.name, pictureSvg(spec, panel, isChange ? (change ?? 0) : most, isChange));
  });
  return (
    `<div class="picture" id="${spec.id}"><h4>${escapeHtml(spec.title)}</h4><div class="panels">${[...plain, ...maps].join('')}</div>` +
    legendHtml(most, change, unit) +
    spec.below +
    '</div>'
  );
}

function panelHtml(name: string, svg: string): string {
  return `<div class="panel">${svg}<span>${escapeHtml(name)}</span></div>`;
}

function legendHtml(most: number, change: number | null, unit: string): string {
  const bar = (kind: string, low: string, high: string): string =>
    `<span class="scale"><b class="low">${low}</b><i class="${kind}"></i><b class="high">${high}</b></span>`;
  return (
    `<p class="patch-legend">${bar('more', '0', percent(most))}` +
    (change === null ? '' : bar('both', `−${percent(change)}`, `+${percent(change)}`)) +
    `<span class="patch-unit">${escapeHtml(unit)}; <i class="sink"></i> taken for a sink, outside the scale</span></p>`
  );
}

function percent(value: number): string {
  return `${Number((100 * value).toPrecision(2))}%`;
}

/** Largest number of a step over the panels, marked patches left out. */
function scaleOf(panels: readonly PatchPanel[], step: number): number {
  const all = panels.flatMap(({ layers }) => {
    const { values, marked } = layers[step]!;
    const free = values.filter((_, i) => !marked.includes(i));
    return (free.length > 0 ? free : values).map(Math.abs);
  });
  return Math.max(...all, 1e-9);
}

/** Patch (row, column) covers its share of the whole picture: processors stretch, they do not crop. */
function pictureSvg(spec: PictureMapSpec, panel: PatchPanel | null, most: number, isChange: boolean): string {
  const [rows, columns] = spec.grid;
  const [width, height] = spec.picture ? [spec.picture.width, spec.picture.height] : [columns, rows];
  const image = spec.picture
    ? `<image href="${spec.picture.url}" width="${width}" height="${height}" preserveAspectRatio="none"/>`
    : `<rect class="no-picture" width="${width}" height="${height}"/>`;
  const cell = (i: number): string => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    return `x="${place2((column * width) / columns)}" y="${place2((row * height) / rows)}" width="${place2(width / columns)}" height="${place2(height / rows)}"`;
  };
  const layer = panel?.layers[0];
  const label = panel ? `${spec.title}, ${panel.name}` : spec.title;
  const veil = panel && spec.picture ? `<rect class="veil" width="${width}" height="${height}"/>` : '';
  const map = layer
    ? `<image class="patches" href="${mapUrl(layer.values, spec.grid, most)}" width="${width}" height="${height}" preserveAspectRatio="none"/>` +
      `<g class="marks">${layer.marked.map((i) => `<rect class="sink" ${cell(i)}/>`).join('')}</g><title></title>`
    : '';
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(label)}"${panel ? ` data-panel="${isChange ? 'change' : 'map'}"` : ''}>${image}${veil}${map}</svg>`;
}

const [more, less] = [
  [0x0b, 0x5f, 0x96],
  [0xb5, 0x43, 0x0b],
] as const;
const strongest = 0.82; // opacity of the largest value: the picture stays visible

/** Data URL of a picture with a pixel a patch: blue more, orange less, as opaque as the share of `most`. */
function mapUrl(values: readonly number[], [rows, columns]: readonly [number, number], most: number): string {
  const pixels = new Uint8Array(4 * rows * columns);
  values.forEach((value, i) => {
    pixels.set(value < 0 ? less : more, 4 * i);
    pixels[4 * i + 3] = Math.round(255 * strongest * Math.min(1, Math.abs(value) / most));
  });
  return `data:image/png;base64,${encodePng(columns, rows, pixels).toString('base64')}`;
}

function place2(value: number): string {
  return String(Number(value.toFixed(2)));
}

/** What the script of the page does with them. */
export const pictureScript: string = `
  for (const root of document.querySelectorAll('.pictures')) {
    const { steps, pictures } = JSON.parse(document.getElementById(root.dataset.maps).textContent);
    const [select, slider, output] = ['select', 'input', 'output'].map((name) => root.querySelector(name));
    const canvas = document.createElement('canvas');
    const percent = (value) => Number((100 * value).toPrecision(2)) + '%';
    const decode = (panel) => panel.values ??= new Uint16Array(Uint8Array.from(atob(panel.v), (c) => c.charCodeAt(0)).buffer);
    const layerOf = (panel, step) => {
      const values = decode(panel), n = values.length / steps.length;
      return { values: Array.from({ length: n }, (_, i) => values[step * n + i] * panel.most[step] / ${finest}), marked: panel.marked[step] };
    };
    const scale = (layers) => Math.max(1e-9, ...layers.flatMap(({ values, marked }) => {
      const free = values.filter((_, i) => !marked.includes(i));
      return (free.length > 0 ? free : values).map(Math.abs);
    }));
    const urlOf = (values, [rows, columns], most) => {
      canvas.width = columns;
      canvas.height = rows;
      const image = new ImageData(columns, rows);
      values.forEach((value, i) => image.data.set([...(value < 0 ? ${JSON.stringify(less)} : ${JSON.stringify(more)}), Math.round(255 * ${strongest} * Math.min(1, Math.abs(value) / most))], 4 * i));
      canvas.getContext('2d').putImageData(image, 0, 0);
      return canvas.toDataURL();
    };
    const draw = () => {
      const step = Number(slider.value);
      output.textContent = steps[step];
      root.querySelectorAll('.picture').forEach((picture, p) => {
        const { grid, views, change } = pictures[p];
        const panels = views[select.value];
        picture.classList.toggle('unseen', !panels);
        if (!panels) return;
        const layers = panels.map((panel) => layerOf(panel, step));
        const most = { map: scale(layers), change: 0 };
        if (change) {
          const [from, to] = change.map((i) => layers[i]);
          const marked = [...new Set([...to.marked, ...from.marked])];
          layers.push({ values: to.values.map((value, i) => value - from.values[i]), marked });
          most.change = scale(layers.slice(-1));
        }
        picture.querySelectorAll('svg[data-panel]').forEach((svg, i) => {
          const { values, marked } = layers[i];
          const [width, height] = [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height];
          svg.querySelector('.patches').setAttribute('href', urlOf(values, grid, most[svg.dataset.panel]));
          svg.querySelector('.marks').innerHTML = marked.map((m) =>
            '<rect class="sink" x="' + (m % grid[1]) * width / grid[1] + '" y="' + Math.floor(m / grid[1]) * height / grid[0] +
            '" width="' + width / grid[1] + '" height="' + height / grid[0] + '"/>').join('');
          svg.onpointermove = (event) => {
            const box = svg.getBoundingClientRect();
            const at = (share, n) => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
            const row = at((event.clientY - box.top) / box.height, grid[0]), column = at((event.clientX - box.left) / box.width, grid[1]);
            svg.querySelector('title').textContent = 'row ' + (row + 1) + ', column ' + (column + 1) + ': ' + (100 * values[row * grid[1] + column]).toPrecision(3) + '%';
          };
        });
        const ends = picture.querySelectorAll('.patch-legend b');
        ends[1].textContent = percent(most.map);
        if (ends[3]) { ends[2].textContent = '\\u2212' + percent(most.change); ends[3].textContent = '+' + percent(most.change); }
      });
    };
    for (const control of [select, slider]) control.addEventListener('input', draw);
    draw();
  }
`;
