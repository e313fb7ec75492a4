/** The frame of a bench that runs models: a temporary folder, one process per side, and an end that leaves nothing. */
import { rmSync } from 'node:fs';
import { tinyShape, writeBenchModel } from './model.mjs';
import { decodeFloats, findPeer, relativeError, threads, Worker } from './peer.mjs';
import { circumstances, save, table } from './report.mjs';

/** Dtypes of the peer: float32 is the comparison (our arithmetic), bfloat16 is shown beside it. */
const dtypes = ['float32', 'bfloat16'];

/**
 * @param {string} name of the results file
 * @param {{ shape: object, prompts: object, ours: string, theirs: string }} what folder to write, which scripts to run
 * @param {(sides: Worker[]) => Promise<object>} measure sides[0] is galvani; returns what is saved
 */
export async function session(name, { shape, prompts, ours, theirs }, measure) {
  const peer = await findPeer();
  const record = circumstances(peer);
  const dir = writeBenchModel(shape, prompts);
  const clean = () => rmSync(dir, { recursive: true, force: true });
  const stop = () => {
    clean();
    process.exit(1);
  };
  process.once('SIGINT', stop).once('SIGTERM', stop);
  const { vision, ...decoder } = shape;
  console.log(`${name}: ${JSON.stringify(decoder)}, bf16 weights, ${threads} threads`);
  if (peer.missing) console.log(`no peer, galvani alone: ${peer.missing}`);
  const start = (side, script, ...args) => Worker.start(side, peer.python, script, [dir, String(threads), ...args]);
  const sides = [start('galvani', ours)];
  if (!peer.missing) sides.push(...dtypes.map((dtype) => start(`torch ${dtype}`, theirs, dtype)));
  try {
    const measured = await measure(sides);
    const memory = {};
    for (const side of sides) memory[side.name] = await side.ask({ op: 'memory' });
    printMemory(memory);
    if (shape === tinyShape) return; // says nothing about speed
    save(name, { ...record, shape, ...measured, memory });
  } finally {
    await Promise.all(sides.map((side) => side.close()));
    clean();
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}

function printMemory(memory) {
  const rows = Object.entries(memory).map(([side, m]) => [
    side,
    m.peakMiB,
    m.beforeModelMiB,
    m.anonymousMiB,
    m.mappedMiB,
  ]);
  console.log('\nmemory in MiB (mapped weights count)');
  console.log(table(['', 'peak', 'before the model', 'at the end: own', 'at the end: mapped files'], rows));
}

/** The answer of a check: {logits: base64[], tokens: number[][], gaps?}, logits made Float32Array. */
export function decodeLogits(answer) {
  return { ...answer, logits: answer.logits.map(decodeFloats) };
}

/**
 * Do two sides compute the same? Theirs has `gaps`, the distance of the two best logits of each step in units of their
 * spread. Where that is within float32 noise a step may go either way, and what follows is another text.
 */
export function compare(ours, theirs) {
  const found = { runs: 0, logitsError: 0, runsEqual: 0, nearTies: 0, wrong: [] };
  theirs.tokens.forEach((expected, i) => {
    found.runs++;
    found.logitsError = Math.max(found.logitsError, relativeError(ours.logits[i], theirs.logits[i]));
    const at = expected.findIndex((token, step) => token !== ours.tokens[i][step]);
    if (at < 0) found.runsEqual++;
    else if (theirs.gaps[i][at] < 1e-3) found.nearTies++;
    else found.wrong.push(`run ${i}, token ${at}`);
  });
  return found;
}

/** Throws unless the comparison is between equals: a bench of different results is worthless. */
export function assertSame(found, side) {
  const { runs, logitsError, runsEqual, nearTies, wrong } = found;
  if (!(logitsError <= 1e-4) || wrong.length) throw new Error(`not the same as ${side}: ${JSON.stringify(found)}`);
  console.log(
    `same as ${side}: logits of ${runs} runs within ${logitsError.toExponential(1)}, ${runsEqual} greedy texts equal` +
      (nearTies ? `, ${nearTies} part at a near tie` : ''),
  );
}
