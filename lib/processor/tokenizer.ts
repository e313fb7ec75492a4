/** Text ↔ token ids, as the checkpoint's tokenizer.json says. */
import { join } from 'node:path';
import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers';
import { type JsonObject, readJson, readOptionalJson } from '../checkpoint/json-file.js';
import { GalvaniError } from '../errors.js';

export interface Tokenizer {
  /** Ids of the text; added tokens written in it are recognised, none are put around it. */
  encode(text: string): Int32Array;
  decode(ids: ArrayLike<number>, options?: { readonly skipSpecial?: boolean }): string;
  /** undefined when the vocabulary has no such token. */
  tokenId(token: string): number | undefined;
  /**
   * UTF-8 bytes [start, end) of `normalize(text)` that each id of `encode(text)` stands for.
   * @throws BAD_ARGUMENT (a word the vocabulary lacks), UNSUPPORTED (ids that do not spell the text)
   */
  offsets(text: string, ids: ArrayLike<number>): Int32Array;
  /** The text as the model's vocabulary sees it (Unicode normal form). */
  normalize(text: string): string;
}

/** The part of @huggingface/tokenizers used here; its own types are `any` under nodenext resolution. */
interface HubInterface {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(
    ids: number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean | null },
  ): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}

/** GPT-2's table: the printable character that stands for each byte in a byte-level vocabulary. */
function byteOfCharacter(): ReadonlyMap<string, number> {
  const table = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    table.set(String.fromCharCode(printable ? byte : next++), byte);
  }
  return table;
}

/** True when the JSON subtree holds a node of this type. */
function mentions(value: unknown, type: string): boolean {
  if (typeof value !== 'object' || value === null) return false;
  if ((value as { type?: unknown }).type === type) return true;
  return Object.values(value).some((child) => mentions(child, type));
}

const isSpace = (byte: number): boolean => byte === 32 || (byte >= 9 && byte <= 13);

class CheckpointTokenizer implements Tokenizer {
  readonly #hub: HubInterface;
  readonly #added: ReadonlySet<number>;
  readonly #bytes: ReadonlyMap<string, number> | undefined;
  readonly #unknown: number | undefined;
  readonly #form: 'NFC' | 'NFD' | 'NFKC' | 'NFKD' | undefined;

  constructor(json: JsonObject, config: JsonObject) {
    this.#hub = new HubTokenizer(json, config) as unknown as HubInterface;
    const added = (json.added_tokens ?? []) as { id: number }[];
    this.#added = new Set(added.map((token) => token.id));
    const unknown = (json.model as { unk_token?: string | null } | undefined)?.unk_token;
    this.#unknown = unknown == null ? undefined : this.#hub.token_to_id(unknown);
    this.#bytes = mentions(json.decoder, 'ByteLevel') ? byteOfCharacter() : undefined;
    this.#form = (['NFC', 'NFD', 'NFKC', 'NFKD'] as const).find((form) => mentions(json.normalizer, form));
  }

  encode(text: string): Int32Array {
    return Int32Array.from(this.#hub.encode(text, { add_special_tokens: false }).ids);
  }

  decode(ids: ArrayLike<number>, options: { readonly skipSpecial?: boolean } = {}): string {
    if (ids.length === 0) return '';
    // null: the clean-up of tokenizer_config.json
    return this.#hub.decode(Array.from(ids), {
      skip_special_tokens: options.skipSpecial ?? false,
      clean_up_tokenization_spaces: null,
    });
  }

  tokenId(token: string): number | undefined {
    return this.#hub.token_to_id(token);
  }

  normalize(text: string): string {
    return this.#form ? text.normalize(this.#form) : text;
  }

  #surface(id: number): Uint8Array {
    const token = this.#hub.id_to_token(id) ?? '';
    if (!this.#bytes || this.#added.has(id)) return Buffer.from(token, 'utf8');
    return Uint8Array.from(token, (character) => this.#bytes!.get(character) ?? 63);
  }

  offsets(text: string, ids: ArrayLike<number>): Int32Array {
    const bytes = Buffer.from(this.normalize(text), 'utf8');
    const ends = new Int32Array(2 * ids.length);
    let at = 0;
    for (let i = 0; i < ids.length; i++) {
      const surface = this.#surface(ids[i]!);
      const matches = () => bytes.subarray(at, at + surface.length).equals(surface);
      // word-level vocabularies drop the white space between words
      while (!matches() && at < bytes.length && isSpace(bytes[at]!)) at++;
      if (!matches()) {
        const got = bytes.subarray(at, at + 24).toString('utf8');
        if (ids[i] === this.#unknown) {
          const word = bytes.subarray(at).toString('utf8').split(/\s/, 1)[0];
          throw new GalvaniError('BAD_ARGUMENT', `the vocabulary has no token for ${JSON.stringify(word)}`, {
            details: { word },
          });
        }
        throw new GalvaniError(
          'UNSUPPORTED',
          `token ${i} (id ${ids[i]}) cannot be found in the text at byte ${at}: expected ` +
            `${JSON.stringify(Buffer.from(surface).toString('utf8'))}, got ${JSON.stringify(got)}`,
        );
      }
      ends[2 * i] = at;
      at += surface.length;
      ends[2 * i + 1] = at;
    }
    return ends;
  }
}

/** Reads tokenizer.json and tokenizer_config.json of a folder. @throws FILE_NOT_FOUND, BAD_CONFIG */
export function loadTokenizer(dir: string): Tokenizer {
  const path = join(dir, 'tokenizer.json');
  const json = readJson(path);
  const config = readOptionalJson(join(dir, 'tokenizer_config.json')) ?? {};
  try {
    return new CheckpointTokenizer(json, config);
  } catch (cause) {
    throw new GalvaniError('BAD_CONFIG', `${path}: not a tokenizer: ${(cause as Error).message}`, { cause });
  }
}
