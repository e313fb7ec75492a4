/** A few items whose attention is drawn over their picture: which, the picture itself, and what the report needs of them. */
import { existsSync } from 'node:fs';
import type { QuestionItem } from '../data/items.js';
import { decodeImage, smallPicture } from '../processor/decode.js';
import type { Measurement } from '../run/measurements.js';
import type { JsonObject, Observation } from '../run/rows.js';
import { namedRandom, sample } from '../stats/random.js';
import type { AttendMeta, QuerySpan, TextMode } from './attend.js';
import type { PatchMap, ReducedAttention } from './attend-reduce.js';
import { type GoldMeta, ruleOf } from './context.js';
import { imageHash } from './describe.js';
import { gradeRow } from './measure.js';

export const picturesExperiment = 'attend-pictures';

/** `count` items with one image, drawn with the study's seed, in the order of the items. */
export function chosenForPictures(items: readonly QuestionItem[], count: number, seed: number): QuestionItem[] {
  const fitting = items.filter(({ image, images }) => image !== undefined && (images?.length ?? 1) === 1);
  const drawn = sample(namedRandom(seed, 'pictures'), fitting.length, Math.min(count, fitting.length));
  return drawn.map((i) => fitting[i]!);
}

/** Longest side of a kept picture in pixels. */
const side = 384;

/** The pictures of the chosen items, small, kept in the ledger: the report must not need the data again. */
export function pictureMeasurements(chosen: readonly QuestionItem[]): Measurement[] {
  return chosen.map((item) => ({
    experiment: picturesExperiment,
    label: `picture of ${item.id}`,
    meta: { item: item.id, task: item.task, question: item.question, gold: item.answer },
    // A picture that is not there is a failed row, as it is for every trial that needs it.
    identity: { image: existsSync(item.image!) ? imageHash(item.image!) : item.image!, side },
    measure: async () => ({ ...(await smallPicture(await decodeImage(item.image!), side)) }),
  }));
}

export interface Picture extends JsonObject {
  /** Pixels of the image file; `data` may hold fewer. */
  readonly width: number;
  readonly height: number;
  readonly type: string;
  /** base64. */
  readonly data: string;
}

export interface AttendedPicture {
  readonly item: string;
  readonly task: string;
  readonly question: string;
  readonly gold: string;
  /** null: the picture could not be kept; see `galvani report RUN --rows`. */
  readonly picture: Picture | null;
  readonly answers: readonly {
    readonly model: string;
    readonly text: string;
    /** null: not run, or failed. */
    readonly outcome: 'correct' | 'wrong' | 'unparsed' | 'truncated' | null;
  }[];
  readonly maps: readonly ({
    readonly model: string;
    readonly mode: TextMode;
    readonly writer: string;
    readonly query: QuerySpan;
  } & PatchMap)[];
}

export function attendedPictures(
  pictures: readonly Observation[],
  readings: readonly Observation[],
  texts: readonly Observation[],
): AttendedPicture[] {
  return pictures.map(({ meta, row }) => ({
    item: String(meta.item),
    task: String(meta.task),
    question: String(meta.question),
    gold: String(meta.gold),
    picture: row?.kind === 'measure' ? (row.value as unknown as Picture) : null,
    answers: texts.filter((text) => text.meta.item === meta.item).map(answerOf),
    maps: readings
      .filter((reading) => reading.meta.item === meta.item)
      .flatMap((reading) => {
        const { model, mode, writer } = reading.meta as AttendMeta;
        const spans = reading.row?.kind === 'trial' ? (reading.row.reduced as unknown as ReducedAttention) : {};
        return Object.entries(spans).flatMap(([query, { map }]) =>
          map ? [{ model, mode, writer, query: query as QuerySpan, ...map }] : [],
        );
      }),
  }));
}

function answerOf({ meta, row }: Observation): AttendedPicture['answers'][number] {
  const { gold, rule, model } = meta as GoldMeta;
  const { outcome } = gradeRow(row, gold, ruleOf({ rule }));
  return { model, text: row?.kind === 'trial' ? row.text : '', outcome: outcome === 'failed' ? null : outcome };
}
