/**
 * Files of data sets on the Hugging Face Hub, kept in the cache folder that Hugging Face's own tools share: what is
 * there is not downloaded again, and a file that is there can be read without a network.
 */
import {
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { GalvaniError } from '../errors.js';
import type { HubFile } from './presets.js';

export interface HubOptions {
  /** Default: HF_ENDPOINT, else the Hub's own. */
  readonly hubUrl?: string;
  /** Default: HF_TOKEN. */
  readonly token?: string;
  /** Default: HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub. */
  readonly cacheDir?: string;
  /** Never ask the network. Default: HF_HUB_OFFLINE. */
  readonly offline?: boolean;
}

export interface HubDownload {
  readonly path: string;
  /** Commit the file is of. */
  readonly commit: string;
  /** False when the cache had it and the Hub was not asked, or could not be reached. */
  readonly checked: boolean;
}

/** The parts of @huggingface/hub used here. */
interface HubLibrary {
  readonly pathsInfo: (options: object) => Promise<
    readonly {
      readonly oid: string;
      readonly size: number;
      readonly lfs?: { readonly oid: string };
      readonly xetHash?: string;
      readonly lastCommit?: { readonly id: string };
    }[]
  >;
  readonly downloadFile: (options: object) => Promise<Blob | null>;
}

const commitHash = /^[0-9a-f]{40}$/;

/**
 * The local path of a file of a data set.
 * @throws NETWORK when it is neither cached nor to be had; FILE_NOT_FOUND when the Hub has no such file; UNSUPPORTED
 * when the optional package @huggingface/hub is not installed
 */
export async function hubFile(source: HubFile, options: HubOptions = {}): Promise<HubDownload> {
  const { repo, file, revision = 'main' } = source;
  const { offline = isSet(process.env.HF_HUB_OFFLINE) } = options;
  const folder = join(options.cacheDir ?? defaultCache(), `datasets--${repo.replaceAll('/', '--')}`);
  const cached = cachedFile(folder, file, revision);
  if (cached && (offline || commitHash.test(revision))) return { ...cached, checked: false };
  const where = `${repo}: ${file} at ${revision}`;
  if (offline) {
    throw new GalvaniError('NETWORK', `${where}: not in ${folder}, and HF_HUB_OFFLINE forbids to download it`);
  }
  const library = await loadLibrary();
  const hubUrl = options.hubUrl ?? process.env.HF_ENDPOINT;
  const accessToken = options.token ?? process.env.HF_TOKEN;
  const common = {
    repo: { type: 'dataset', name: repo },
    revision,
    ...(hubUrl ? { hubUrl } : {}),
    ...(accessToken ? { accessToken } : {}),
  };
  try {
    const [info] = await library.pathsInfo({ ...common, paths: [file], expand: true });
    if (!info) throw new GalvaniError('FILE_NOT_FOUND', `${where}: the data set has no such file`);
    const commit = commitHash.test(revision) ? revision : (info.lastCommit?.id ?? info.oid);
    const path = join(folder, 'snapshots', commit, file);
    if (!existsSync(path)) {
      const blob = join(folder, 'blobs', info.lfs?.oid ?? info.xetHash ?? info.oid);
      if (!existsSync(blob)) await download(library, { ...common, path: file }, blob, info.size, where);
      mkdirSync(dirname(path), { recursive: true });
      symlinkSync(relative(dirname(path), blob), path);
    }
    if (!commitHash.test(revision)) {
      mkdirSync(join(folder, 'refs'), { recursive: true });
      writeFileSync(join(folder, 'refs', revision.replaceAll('/', '--')), commit);
    }
    return { path, commit, checked: true };
  } catch (cause) {
    if (cause instanceof GalvaniError && cause.code === 'FILE_NOT_FOUND') throw cause;
    if (cached) return { ...cached, checked: false };
    if (cause instanceof GalvaniError) throw cause;
    throw new GalvaniError('NETWORK', `${where}: cannot be downloaded: ${reason(cause)}`, { cause });
  }
}

async function download(
  library: HubLibrary,
  request: object,
  blob: string,
  size: number,
  where: string,
): Promise<void> {
  const content = await library.downloadFile(request);
  if (!content) throw new GalvaniError('FILE_NOT_FOUND', `${where}: the data set has no such file`);
  mkdirSync(dirname(blob), { recursive: true });
  const temporary = `${blob}.${process.pid}.incomplete`;
  const target = createWriteStream(temporary);
  await pipeline(Readable.fromWeb(content.stream() as Parameters<typeof Readable.fromWeb>[0]), target);
  if (target.bytesWritten !== size) {
    throw new GalvaniError('NETWORK', `${where}: expected ${size} bytes, got ${target.bytesWritten}; run it again`);
  }
  renameSync(temporary, blob);
}

function cachedFile(folder: string, file: string, revision: string): { path: string; commit: string } | undefined {
  const at = (commit: string): { path: string; commit: string } | undefined => {
    const path = join(folder, 'snapshots', commit, file);
    return existsSync(path) ? { path, commit } : undefined;
  };
  if (commitHash.test(revision)) return at(revision);
  const ref = join(folder, 'refs', revision.replaceAll('/', '--'));
  if (existsSync(ref)) return at(readFileSync(ref, 'utf8').trim());
  // Written by a tool that keeps no refs: any snapshot that has the file, if there is only one.
  const snapshots = join(folder, 'snapshots');
  const found = existsSync(snapshots) ? readdirSync(snapshots).flatMap((commit) => at(commit) ?? []) : [];
  return found.length === 1 ? found[0] : undefined;
}

async function loadLibrary(): Promise<HubLibrary> {
  try {
    return (await import('@huggingface/hub')) as unknown as HubLibrary;
  } catch (cause) {
    throw new GalvaniError(
      'UNSUPPORTED',
      'downloading from the Hub needs the optional package: npm install @huggingface/hub; or give the file itself by path',
      { cause },
    );
  }
}

function defaultCache(): string {
  const { HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
  return HF_HUB_CACHE || join(HF_HOME || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'), 'hub');
}

function isSet(value: string | undefined): boolean {
  return value !== undefined && !['', '0', 'false', 'no', 'off'].includes(value.toLowerCase());
}

/** fetch hides why it failed one level down. */
function reason(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  return cause.cause instanceof Error ? `${cause.message}: ${cause.cause.message}` : cause.message;
}
