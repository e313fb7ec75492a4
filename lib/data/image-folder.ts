/**
 * A folder of images as rows: {file_name, image, folder}, `folder` being the sub-folder an image lies in (its class, in
 * the common layout), joined with the row of the same file_name in metadata.jsonl where there is one.
 */
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import { GalvaniError } from '../errors.js';
import { fileError, type JsonLine, lineError, readJsonl } from './jsonl.js';

const imageEnding = /\.(?:png|jpe?g|webp|gif|tiff?|avif)$/i;
const metadataName = 'metadata.jsonl';

/** Images in the order of their paths; `line` counts them from 1. With metadata, its rows in its order. */
export async function* readImageFolder(dir: string): AsyncGenerator<JsonLine, void, void> {
  let names: string[];
  try {
    const entries = await readdir(dir, { recursive: true, withFileTypes: true });
    names = entries
      .filter((entry) => entry.isFile() && imageEnding.test(entry.name))
      .map((entry) => relative(dir, join(entry.parentPath, entry.name)).split(sep).join('/'))
      .sort();
  } catch (cause) {
    throw fileError(dir, cause);
  }
  const metadata = join(dir, metadataName);
  if (existsSync(metadata)) {
    const present = new Set(names);
    for await (const at of readJsonl(metadata)) {
      const name = at.value.file_name;
      if (typeof name !== 'string' || !present.has(name)) {
        throw lineError(at, `file_name: expected an image of this folder, got ${JSON.stringify(name)}`);
      }
      yield { ...at, value: { ...imageRow(name), ...at.value } };
    }
    return;
  }
  if (names.length === 0) throw new GalvaniError('BAD_FILE', `${dir}: no image files here`, { details: { file: dir } });
  for (const [i, name] of names.entries()) yield { file: join(dir, '*'), line: i + 1, value: imageRow(name) };
}

function imageRow(name: string): Record<string, unknown> {
  const folder = dirname(name);
  return {
    file_name: name,
    image: name,
    folder: folder === '.' ? '' : basename(folder),
    stem: basename(name).replace(imageEnding, ''),
  };
}
