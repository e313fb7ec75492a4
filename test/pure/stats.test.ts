import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { benjaminiHochberg, holm } from '../../lib/stats/corrections.js';
import { independentDifference } from '../../lib/stats/independent.js';
import { normalCdf, normalQuantile } from '../../lib/stats/normal.js';
import { mcnemar, pairedBootstrap, pairedDifference, transitionTable } from '../../lib/stats/paired.js';
import { signFlip } from '../../lib/stats/permutation.js';
import { minimumDetectableDifference, pairsNeeded } from '../../lib/stats/power.js';
import { namedRandom, sample, seededRandom } from '../../lib/stats/random.js';
import { rate, rateOf, wilson } from '../../lib/stats/rates.js';

interface Fixture {
  quantile: [number, number][];
  cdf: [number, number][];
  wilson: [number, number, number, number, number][];
  mcnemar: [number, number, number, number][];
  mcnemar_log_only: [number, number, number][];
  newcombe: [number, number, number, number, number, number][];
  corrections: [number[], number[], number[]][];
  random: [number, number[]][];
  power: [number, number, number, number, number, number][];
  statsmodels: {
    mcnemar: [number, number, number][];
    wilson: [number, number, number, number][];
    corrections: [number[], number[], number[]][];
    newcombe: [number, number, number, number, number, number][];
  };
  sign_flip: [number[], number][];
  sign_flip_large: [number[], number];
  bootstrap: [number[], number[], number, number, number, number, number][];
  bootstrap_scipy: [number[], number, number];
}
const fixture = JSON.parse(readFileSync(new URL('../fixtures/stats.json', import.meta.url), 'utf8')) as Fixture;

const close = (got: number, want: number, relative: number, what: string): void => {
  expect(Math.abs(got - want), `${what}: got ${got}, want ${want}`).toBeLessThanOrEqual(relative * Math.abs(want));
};

test('normal distribution agrees with scipy, tails included', () => {
  for (const [p, x] of fixture.quantile) close(normalQuantile(p), x, 1e-9, `quantile ${p}`);
  for (const [x, p] of fixture.cdf) close(normalCdf(x), p, 1e-11, `cdf ${x}`);
  expect(() => normalQuantile(0)).toThrow(/strictly between 0 and 1/);
});

test('wilson intervals agree with scipy', () => {
  for (const [k, n, level, low, high] of fixture.wilson) {
    const got = wilson(k, n, level);
    expect(got.low).toBeCloseTo(low, 12);
    expect(got.high).toBeCloseTo(high, 12);
  }
});

test('a rate keeps failures and truncations apart, and no data is a gap', () => {
  expect(rate({ successes: 3, n: 4, failed: 2, truncated: 1 })).toMatchObject({
    rate: 0.75,
    successes: 3,
    n: 4,
    failed: 2,
    truncated: 1,
  });
  const gap = rate({ successes: 0, n: 0, failed: 5 });
  expect(gap.rate).toBeNaN();
  expect([gap.low, gap.high, gap.failed]).toEqual([0, 1, 5]);
  expect(rateOf(['correct', 'wrong', 'unparsed', 'failed', 'truncated', 'truncated'])).toMatchObject({
    successes: 1,
    n: 3,
    failed: 1,
    truncated: 2,
  });
  expect(() => rate({ successes: 5, n: 4 })).toThrow(/at most n = 4, got 5/);
  expect(() => rate({ successes: 1, n: 4.5 })).toThrow(/whole number/);
  expect(() => rate({ successes: 1, n: 4, failed: -1 })).toThrow(/failed/);
});

test('McNemar agrees with the exact binomial test, also below the smallest double', () => {
  for (const [lost, gained, p, logP] of fixture.mcnemar) {
    const got = mcnemar({ lost, gained });
    close(got.p, p, 1e-9, `${lost}/${gained}`);
    expect(got.logP).toBeCloseTo(logP, 8);
    expect(mcnemar({ lost: gained, gained: lost })).toEqual(got);
  }
  for (const [lost, gained, logP] of fixture.mcnemar_log_only) {
    const got = mcnemar({ lost, gained });
    expect(got.p).toBe(0);
    close(got.logP, logP, 1e-12, 'log p');
  }
});

test('transition table counts cells, and pairs with a missing side apart', () => {
  const before = [true, true, false, false, null, true, false];
  const after = [true, false, true, false, true, null, true];
  expect(transitionTable(before, after)).toEqual({ kept: 1, lost: 1, gained: 2, missed: 1, n: 5, excluded: 2 });
  expect(() => transitionTable([true], [])).toThrow(/same items, got 1 and 0/);
});

test('paired difference agrees with Newcombe method 10', () => {
  for (const [kept, lost, gained, missed, low, high] of fixture.newcombe) {
    const got = pairedDifference({ kept, lost, gained, missed });
    expect(got.low).toBeCloseTo(low, 12);
    expect(got.high).toBeCloseTo(high, 12);
    expect(got.low).toBeLessThanOrEqual(got.difference);
    expect(got.high).toBeGreaterThanOrEqual(got.difference);
    const mirror = pairedDifference({ kept, lost: gained, gained: lost, missed });
    expect(mirror.low).toBeCloseTo(-got.high, 12);
  }
  // Published: airway hyper-responsiveness, 1/1/7/12 of 21, difference −0.286 (−0.507, −0.026).
  const published = pairedDifference({ kept: 1, lost: 7, gained: 1, missed: 12 });
  expect([published.difference, published.low, published.high].map((x) => Number(x.toFixed(3)))).toEqual([
    -0.286, -0.507, -0.026,
  ]);
  expect(pairedDifference({ kept: 0, lost: 0, gained: 0, missed: 0 }).difference).toBeNaN();
});

test('random stream is pinned, and below() is uniform', () => {
  for (const [seed, want] of fixture.random) {
    const stream = seededRandom(seed);
    expect(want.map(() => stream.next())).toEqual(want);
  }
  expect(() => seededRandom(-1)).toThrow(/seed/);
  // Chi-square over 10 cells, 9 degrees of freedom: 27.9 is the 0.1 % point.
  const cells = new Array<number>(10).fill(0);
  const stream = seededRandom(12345);
  for (let i = 0; i < 50_000; i++) cells[stream.below(10)]!++;
  const chi = cells.reduce((sum, count) => sum + (count - 5000) ** 2 / 5000, 0);
  expect(chi).toBeLessThan(27.9);
});

test('bootstrap is deterministic and covers: for a mean of normals it matches the t interval', () => {
  const random = seededRandom(3);
  const normal = (): number =>
    Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());
  const before = Array.from({ length: 400 }, normal);
  const after = before.map((x) => x + 0.2 + 0.5 * normal());
  const got = pairedBootstrap(before, after, { seed: 9 });
  expect(pairedBootstrap(before, after, { seed: 9 })).toEqual(got);
  expect(pairedBootstrap(before, after, { seed: 10 }).low).not.toBe(got.low);
  const differences = after.map((x, i) => x - before[i]!);
  const mean = differences.reduce((s, x) => s + x, 0) / 400;
  const sd = Math.sqrt(differences.reduce((s, x) => s + (x - mean) ** 2, 0) / 399);
  const half = (1.966 * sd) / 20;
  expect(got.difference).toBeCloseTo(mean, 12);
  expect(Math.abs(got.low - (mean - half))).toBeLessThan(0.1 * half);
  expect(Math.abs(got.high - (mean + half))).toBeLessThan(0.1 * half);
  expect(pairedBootstrap([1, 2], [2, 3], { seed: 0 })).toEqual({ difference: 1, low: 1, high: 1, n: 2 });
  expect(pairedBootstrap([], [], { seed: 0 }).difference).toBeNaN();
  expect(() => pairedBootstrap([1], [Number.NaN], { seed: 0 })).toThrow(/item 0 is not finite/);
});

test('Holm and Benjamini–Hochberg agree with scipy; a missing test is neither changed nor counted', () => {
  for (const [p, wantHolm, wantBh] of fixture.corrections) {
    holm(p).forEach((got, i) => {
      expect(got).toBeCloseTo(wantHolm[i]!, 12);
    });
    benjaminiHochberg(p).forEach((got, i) => {
      expect(got).toBeCloseTo(wantBh[i]!, 12);
    });
  }
  expect(holm([0.01, null, 0.02])).toEqual([0.02, null, 0.02]);
  expect(benjaminiHochberg([null, 0.04])).toEqual([null, 0.04]);
  expect(() => holm([1.2])).toThrow(/p\[0\]/);
});

test('minimum detectable difference solves the sample-size formula', () => {
  for (const [n, discordance, alpha, power, want, exactPower] of fixture.power) {
    const got = minimumDetectableDifference({ n, discordance, alpha, power });
    close(got!, want, 1e-9, `n ${n}`);
    // The approximation is honest: the exact test's power there is close below the nominal one.
    expect(exactPower).toBeGreaterThan(power - 0.06);
    expect(exactPower).toBeLessThan(power + 0.01);
  }
  // A difference larger than the discordance asked for: all discordant pairs go one way.
  const rare = minimumDetectableDifference({ n: 100, discordance: 0.01 })!;
  expect(Math.sqrt(100 * rare)).toBeCloseTo(normalQuantile(0.975) + normalQuantile(0.8) * Math.sqrt(1 - rare), 9);
  expect(minimumDetectableDifference({ n: 5 })).toBeNull();
  expect(() => minimumDetectableDifference({ n: 10, discordance: 2 })).toThrow(/discordance/);
});

test('statsmodels agrees on McNemar, Wilson, Holm and Benjamini–Hochberg', () => {
  for (const [lost, gained, p] of fixture.statsmodels.mcnemar) close(mcnemar({ lost, gained }).p, p, 1e-12, 'McNemar');
  for (const [k, n, low, high] of fixture.statsmodels.wilson) {
    expect(wilson(k, n).low).toBeCloseTo(low, 12);
    expect(wilson(k, n).high).toBeCloseTo(high, 12);
  }
  for (const [p, wantHolm, wantBh] of fixture.statsmodels.corrections) {
    holm(p).forEach((got, i) => {
      expect(got).toBeCloseTo(wantHolm[i]!, 12);
    });
    benjaminiHochberg(p).forEach((got, i) => {
      expect(got).toBeCloseTo(wantBh[i]!, 12);
    });
  }
});

test('the difference of independent proportions agrees with statsmodels and with Newcombe 1998', () => {
  for (const [a, n, b, m, low, high] of fixture.statsmodels.newcombe) {
    const got = independentDifference({ successes: b, n: m }, { successes: a, n });
    expect(got.difference).toBeCloseTo(a / n - b / m, 12);
    expect(got.low).toBeCloseTo(low, 10);
    expect(got.high).toBeCloseTo(high, 10);
  }
  // Table II (a) of the paper: 56/70 − 48/80, method 10: 0.0524 to 0.3339.
  const published = independentDifference({ successes: 48, n: 80 }, { successes: 56, n: 70 });
  expect([published.low, published.high].map((x) => x.toFixed(4))).toEqual(['0.0524', '0.3339']);
  expect(independentDifference({ successes: 0, n: 0 }, { successes: 1, n: 2 })).toMatchObject({ low: -1, high: 1 });
});

test('sign flips: counted patterns agree with scipy, drawn ones with the normal limit and with McNemar', () => {
  for (const [differences, p] of fixture.sign_flip) {
    expect(signFlip(differences, 1).p).toBeCloseTo(p, 12);
    expect(signFlip([0, ...differences, 0, 0], 1).p).toBeCloseTo(p, 12); // ties carry no information
  }
  const [large, p] = fixture.sign_flip_large;
  expect(Math.abs(signFlip(large, 3).p - p)).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / 20_000));
  expect(signFlip(large, 3)).toEqual(signFlip(large, 3));
  const pairs = [...Array(25).fill(1), ...Array(10).fill(-1), ...Array(60).fill(0)];
  const exact = mcnemar({ lost: 10, gained: 25 }).p;
  expect(Math.abs(signFlip(pairs, 5).p - exact)).toBeLessThan(4 * Math.sqrt(exact / 20_000));
  expect(signFlip([], 1).p).toBe(1);
  expect(() => signFlip([1, Number.NaN], 1)).toThrow(/item 1 is not finite/);
});

test('bootstrap limits are numpy’s quantiles of the same resamples, and scipy’s up to its draws', () => {
  for (const [before, after, seed, resamples, level, low, high] of fixture.bootstrap) {
    const got = pairedBootstrap(before, after, { seed, resamples, level });
    expect(got.low).toBeCloseTo(low, 10);
    expect(got.high).toBeCloseTo(high, 10);
  }
  const [values, low, high] = fixture.bootstrap_scipy;
  const got = pairedBootstrap(
    values.map(() => 0),
    values,
    { seed: 2, resamples: 40_000 },
  );
  expect(Math.abs(got.low - low)).toBeLessThan(0.02 * (high - low));
  expect(Math.abs(got.high - high)).toBeLessThan(0.02 * (high - low));
});

test('pairs needed is the inverse of the minimum detectable difference', () => {
  for (const [n, discordance, alpha, power, d] of fixture.power) {
    expect(pairsNeeded({ effect: d * (1 + 1e-9), discordance, alpha, power })).toBe(n);
  }
  expect(pairsNeeded({ effect: 0.9 })).toBeGreaterThanOrEqual(6); // fewer could not reach 5 % at all
  expect(() => pairsNeeded({ effect: 0.3, discordance: 0.2 })).toThrow(/effect ≤ discordance/);
});

test('named streams differ by name and seed; samples are sets, uniformly drawn', () => {
  const first = (stream: { next(): number }) => stream.next();
  expect(first(namedRandom(1, 'a', 2))).toBe(first(namedRandom(1, 'a', 2)));
  expect(first(namedRandom(1, 'a', 2))).not.toBe(first(namedRandom(1, 'a', 3)));
  expect(first(namedRandom(1, 'a'))).not.toBe(first(namedRandom(2, 'a')));
  const counts = new Map<string, number>();
  for (let i = 0; i < 6000; i++) {
    const drawn = sample(namedRandom(i, 'sets'), 5, 2).join();
    counts.set(drawn, (counts.get(drawn) ?? 0) + 1);
  }
  expect(counts.size).toBe(10); // every pair of five
  // Chi-square over ten cells, nine degrees of freedom: 27.9 is the 0.1 % point.
  expect([...counts.values()].reduce((sum, count) => sum + (count - 600) ** 2 / 600, 0)).toBeLessThan(27.9);
  expect(sample(seededRandom(1), 3, 3)).toEqual([0, 1, 2]);
  expect(() => sample(seededRandom(1), 3, 4)).toThrow(/0 … 3 numbers, got 4/);
});
