/** The angle tables against transformers' own rotary modules (fixtures/make_ops.py). */
import { describe, expect, it } from 'vitest';
import { native } from '../../lib/native.js';
import { readFixtureJson } from '../support/fixture.js';

interface Table {
  readonly headDim: number;
  readonly positions: readonly number[];
  readonly cos: readonly number[];
  readonly sin: readonly number[];
}
interface RopeFixture {
  readonly rows: number;
  readonly mrope: readonly (Table & { readonly section: readonly number[]; readonly theta: number })[];
  readonly vision: readonly Table[];
}

const fixture = readFixtureJson<RopeFixture>('ops/rope.json');
const ops = new (native().NativeOps)(1);

/** Two libms may differ in the last bit of theta^(2i/D), which an angle of many radians magnifies. */
function expectClose(got: Float32Array, want: readonly number[], largestPosition: number): void {
  expect(got.length).toBe(want.length);
  const tolerance = 2 ** -24 * (2 + 2 * largestPosition);
  const worst = Math.max(...want.map((value, i) => Math.abs(value - got[i]!)));
  expect(worst).toBeLessThanOrEqual(tolerance);
}

describe('RoPE tables', () => {
  for (const { headDim, section, theta, positions, cos, sin } of fixture.mrope)
    it(`M-RoPE, D = ${headDim}, sections ${section.join('/')}`, () => {
      const size = (fixture.rows * headDim) / 2;
      const ours = { cos: new Float32Array(size), sin: new Float32Array(size) };
      ops.mropeTable({ rows: fixture.rows, headDim, positions: Int32Array.from(positions), section, theta, ...ours });
      expectClose(ours.cos, cos, Math.max(...positions));
      expectClose(ours.sin, sin, Math.max(...positions));
    });

  for (const { headDim, positions, cos, sin } of fixture.vision)
    it(`vision, D = ${headDim}`, () => {
      const size = (fixture.rows * headDim) / 2;
      const ours = { cos: new Float32Array(size), sin: new Float32Array(size) };
      ops.visionRopeTable({ rows: fixture.rows, headDim, positions: Int32Array.from(positions), ...ours });
      expectClose(ours.cos, cos, Math.max(...positions));
      expectClose(ours.sin, sin, Math.max(...positions));
    });
});
