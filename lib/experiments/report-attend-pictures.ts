/** The report's pictures: which patches the tokens of an answer looked at, for each model, drawn over the image. */
import type { ChartBlock, Table } from '../report/document.js';
import { escapeHtml } from '../report/format.js';
import { type PatchLayer, type PatchPanel, type PatchView, pictureMaps } from '../report/picture-map.js';
import { unpack } from '../run/packed.js';
import { type QuerySpan, querySpans, type TextMode } from './attend.js';
import type { AttendResult } from './attend-analyze.js';
import type { AttendedPicture } from './attend-pictures.js';
import type { PatchMap } from './attend-reduce.js';
import { chart, column, idOf } from './report-parts.js';

type Texts = { readonly mode: (mode: TextMode) => string; readonly query: Readonly<Record<QuerySpan, string>> };

export function pictureBlocks({ pictures, models }: AttendResult, texts: Texts): ChartBlock[] {
  const shown = pictures.filter(({ maps }) => maps.length > 0);
  const specs = shown.map((one, i) => ({
    id: idOf('picture', String(i)),
    title: `${one.item}: ${one.question}`,
    picture: one.picture && {
      url: `data:${one.picture.type};base64,${one.picture.data}`,
      width: one.picture.width,
      height: one.picture.height,
    },
    grid: one.maps[0]!.grid,
    views: viewsOf(one, models, texts),
    below: answersHtml(one, models),
  }));
  const html = pictureMaps(specs, 'share of a token’s attention that one patch gets');
  if (html === '') return [];
  return [
    chart(
      'attention-pictures',
      'Over the picture',
      `${shown.length} items drawn by the study’s seed. A cell is one image token (a merged patch); its colour is the attention it gets from a token of the ` +
        'chosen span, mean over heads and tokens. The scale is shared by the models of an item. The last panel is the change: blue more, orange less.',
      html,
      pictureTable(shown),
    ),
  ];
}

/** Views in one order for all items; one that an item lacks is left out. */
function viewsOf({ maps }: AttendedPicture, models: readonly string[], texts: Texts): PatchView[] {
  return (['same', 'own'] as const).flatMap((mode) =>
    querySpans.flatMap((query): PatchView[] => {
      const panels = models.flatMap((model): PatchPanel[] => {
        const map = maps.find((one) => one.model === model && one.mode === mode && one.query === query);
        return map ? [{ name: model, layers: layersOf(map) }] : [];
      });
      // Panels keep their place: a view that lacks a model is not shown at all.
      if (panels.length < models.length) return [];
      const [from, to] = models.slice(-2);
      return [
        {
          label: `${texts.query[query]}, ${texts.mode(mode)}`,
          panels,
          ...(models.length > 1 ? { difference: [from!, to!] as const } : {}),
        },
      ];
    }),
  );
}

/** The mean over layers, then every layer. */
export function layersOf({ mass, sinks, grid: [rows, columns] }: PatchMap): PatchLayer[] {
  const [layers] = mass.shape as readonly [number, number, number];
  const all = unpack(mass);
  const patches = rows * columns;
  const at = (layer: number): number[] => [...all.subarray(layer * patches, (layer + 1) * patches)];
  const tokens = Array.from({ length: patches }, (_, i) => i);
  const mean = tokens.map((i) => {
    let sum = 0;
    for (let l = 0; l < layers; l += 1) sum += all[l * patches + i]!;
    return sum / layers;
  });
  const often = tokens.filter((i) => sinks.filter((list) => list.includes(i)).length > layers / 2);
  return [
    { label: 'mean of layers', values: mean, marked: often },
    ...sinks.map((marked, layer): PatchLayer => ({ label: `layer ${layer}`, values: at(layer), marked })),
  ];
}

const gradeText = { correct: 'right', wrong: 'wrong', unparsed: 'no answer found', truncated: 'cut off' } as const;

function answersHtml({ answers, gold }: AttendedPicture, models: readonly string[]): string {
  const rows = models.map((model) => {
    const own = answers.find((one) => one.model === model);
    const grade = own?.outcome ? gradeText[own.outcome] : 'failed';
    const right = own?.outcome === 'correct' ? ' right' : '';
    return `<dt>${escapeHtml(model)}</dt><dd>${escapeHtml(own?.text ?? '')}</dd><dd class="grade${right}">${grade}</dd>`;
  });
  return `<dl class="said"><dt>gold</dt><dd>${escapeHtml(gold)}</dd>${rows.join('')}</dl>`;
}

/** The five patches each reading looks at most; all of them are in summary.json. */
function pictureTable(pictures: readonly AttendedPicture[]): Table {
  return {
    columns: [
      column('item', 'Item'),
      column('model', 'Model'),
      column('mode', 'Text'),
      column('writer', 'Written by'),
      column('query', 'From'),
      column('row', 'Patch row', 'number'),
      column('column', 'Patch column', 'number'),
      column('mass', 'Attention, mean of layers', 'number'),
      column('sinkLayers', 'Layers in which it is a sink', 'number'),
    ],
    rows: pictures.flatMap(({ item, maps }) =>
      maps.flatMap((map) => {
        const columns = map.grid[1];
        const mean = layersOf(map)[0]!.values.map((mass, i) => ({ mass, i }));
        const most = mean.sort((a, b) => b.mass - a.mass).slice(0, 5);
        return most.map(({ mass, i }) => ({
          item,
          model: map.model,
          mode: map.mode,
          writer: map.writer,
          query: map.query,
          row: Math.floor(i / columns) + 1,
          column: (i % columns) + 1,
          mass,
          sinkLayers: map.sinks.filter((list) => list.includes(i)).length,
        }));
      }),
    ),
  };
}
