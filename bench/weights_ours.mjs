/** Our side of the weights bench, a process of its own: one job per line, its time and what it found. */
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { characterize } from '../dist/weights.js';

const threads = Number(process.argv[2]);

const jobs = {
  /** Every statistic of two checkpoints, one pass. */
  async statistics({ before, after }) {
    const { tensors, coverage } = await characterize({ before, after, mass: true, threads });
    const square = tensors.reduce((sum, { steps }) => sum + steps[0].frobeniusNorm ** 2, 0);
    return { norm: Math.sqrt(square), compared: coverage.compared };
  },
  /** Every singular value of every matrix of two checkpoints. */
  async spectra({ before, after, method = 'auto', subspace = 0, floor = false }) {
    const { tensors } = await characterize({ before, after, spectra: true, floor, method, subspace, threads });
    const [step] = tensors[0].steps;
    return { values: [...step.spectrum.singularValues], norm: step.frobeniusNorm };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...request } = JSON.parse(line);
  try {
    if (op === 'memory') {
      const peak = /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1];
      console.log(JSON.stringify({ peakMiB: Math.round(Number(peak) / 1024) }));
      continue;
    }
    const start = performance.now();
    const found = await jobs[op](request);
    console.log(JSON.stringify({ ms: performance.now() - start, ...found }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error.stack ?? error) }));
  }
}
