/** What this package calls itself in the record of a run. */
import { readFileSync } from 'node:fs';

export function packageVersion(): string {
  return packageFile().version;
}

interface PackageFile {
  readonly version: string;
  /** Pinned exactly. */
  readonly dependencies: Readonly<Record<string, string>>;
}

export function packageFile(): PackageFile {
  const path = new URL('../../package.json', import.meta.url);
  return JSON.parse(readFileSync(path, 'utf8')) as PackageFile;
}
