// All set-up of a clone, so that `npm test` and `npm run demo` are one command each: dependencies, addon, TypeScript.
// Uses only Node's own modules: it runs before anything is installed.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const stamp = join(root, 'node_modules', '.galvani-lock');
const lock = readFileSync(join(root, 'package-lock.json'), 'utf8');
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19) || major === 21 || (major === 22 && minor < 12)) {
  console.error(`[galvani] Node ${process.versions.node} is too old: 20.19 or newer (or 22.12 or newer) is needed.`);
  process.exit(1);
}

function step(title, command, args) {
  console.log(`[galvani] ${title}`);
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (result.status === 0) return;
  console.error(`[galvani] ${title}: failed (${command} ${args.join(' ')})`);
  process.exit(result.status ?? 1);
}

if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== lock) {
  step('installing dependencies', 'npm', ['ci', '--no-audit', '--no-fund']);
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, lock);
}
step('building the native addon', process.execPath, [join(root, 'scripts', 'build-native.cjs')]);
step('compiling TypeScript', process.execPath, [
  join(root, 'node_modules', 'typescript', 'bin', 'tsc'),
  '-p',
  'tsconfig.json',
]);
