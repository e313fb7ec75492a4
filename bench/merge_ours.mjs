/** galvani's side of the merge bench: node merge_ours.mjs RECIPE OUT THREADS prints {seconds, peakMiB}. */
import { mergeOurs, readText } from './merge-parity.mjs';

const [recipe, out, threads] = process.argv.slice(2);
const start = performance.now();
await mergeOurs(readText(recipe), out, { threads: Number(threads) });
const seconds = (performance.now() - start) / 1000;
console.log(JSON.stringify({ seconds, peakMiB: process.resourceUsage().maxRSS / 1024 }));
