/** galvani's side of a bench: a process that opens the folder and answers one JSON request a line (peer.mjs). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { openCheckpoint } from '../dist/checkpoint/safetensors.js';
import { Engine } from '../dist/engine.js';
import { mropePositions } from '../dist/processor/positions.js';

/** VmHWM and VmRSS of this process in MiB, as the kernel counts them (mapped weights included). */
function memory() {
  const status = readFileSync('/proc/self/status', 'utf8');
  const read = (key) => Math.round(Number(new RegExp(`${key}:\\s+(\\d+) kB`).exec(status)[1]) / 1024);
  return { peakMiB: read('VmHWM'), nowMiB: read('VmRSS'), anonymousMiB: read('RssAnon'), mappedMiB: read('RssFile') };
}

/** The prompts of inputs.json as the engine takes them. */
function readPrompts(dir) {
  const pixels = openCheckpoint(join(dir, 'inputs.safetensors'));
  const images = new Map();
  const imageOf = ({ image, grid }) => {
    if (!images.has(image)) images.set(image, { pixels: pixels.read(image).data, grid, hash: image });
    return images.get(image);
  };
  return new Map(
    Object.entries(JSON.parse(readFileSync(join(dir, 'inputs.json'), 'utf8'))).map(([name, record]) => {
      const { start, count, grid } = record;
      const rows = record.image ? [{ start, count, tokenGrid: [1, grid[1] / 2, grid[2] / 2] }] : [];
      const prompt = {
        ids: Int32Array.from(record.ids),
        ...mropePositions(record.ids.length, rows),
        images: record.image ? [{ image: imageOf(record), start, count }] : [],
        spans: record.image ? { image: [[start, start + count]] } : {},
        text: '',
      };
      return [name, prompt];
    }),
  );
}

/** Serves `handlers`: op → (engine, prompts, request) → answer. Arguments of the process: folder, threads. */
export async function serve(handlers) {
  const [dir, threads] = process.argv.slice(2);
  const before = memory().peakMiB;
  const engine = await Engine.open({ threads: Number(threads) });
  await engine.addModel('model', dir);
  const prompts = readPrompts(dir);
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer;
    try {
      answer =
        request.op === 'memory'
          ? { ...memory(), beforeModelMiB: before }
          : await handlers[request.op](engine, prompts, request);
    } catch (error) {
      answer = { error: error.stack };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  await engine.close();
}

/** Results of a run whose trials must all succeed. */
export async function run(engine, trials) {
  const { outcomes, stats } = await engine.run(trials);
  for (const outcome of outcomes) if (!outcome.ok) throw outcome.error;
  return { results: outcomes.map(({ result }) => result), stats };
}
