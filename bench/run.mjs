/**
 * Runs the benches one after the other, each a process of its own: its table on the terminal, its samples with machine,
 * versions and date in bench/results/<name>.json.
 *
 *   npm run bench [-- engine sweep …]
 *   npm run bench -- weights        comparing checkpoints; writes 5 GB
 *   npm run bench -- merge          beside mergekit; needs it, and 14 GB of space
 *
 * The last two run only when asked for.
 *
 * GALVANI_PYTHON names a Python with torch and transformers (default: python3); without one our side runs alone.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const benches = ['matmul', 'attention', 'engine', 'sweep', 'lab'];
const onlyWhenAsked = ['weights', 'merge'];
const asked = process.argv.slice(2);
const unknown = asked.filter((name) => ![...benches, ...onlyWhenAsked].includes(name));
if (unknown.length) {
  console.error(`no bench '${unknown[0]}'; there are ${[...benches, ...onlyWhenAsked].join(', ')}`);
  process.exit(2);
}
const failed = [];
for (const name of asked.length ? asked : benches) {
  const script = fileURLToPath(new URL(`${name}.mjs`, import.meta.url));
  console.log(`── ${name} ──`);
  const status = await new Promise((resolve) => {
    spawn(process.execPath, [script], { stdio: 'inherit' }).once('close', resolve);
  });
  if (status !== 0) failed.push(name);
}
if (failed.length) {
  console.error(`failed: ${failed.join(', ')}`);
  process.exit(1);
}
