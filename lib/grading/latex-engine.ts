/**
 * Equality of expressions by @cortex-js/compute-engine: the same form, proven equal, a difference that simplifies to
 * zero, or equal values at points. Runs in a worker (latex-worker.ts) because some expressions take it very long.
 */
import { ComputeEngine } from '@cortex-js/compute-engine';

export type Question =
  | { readonly kind: 'expressions'; readonly a: string; readonly b: string }
  | { readonly kind: 'equations'; readonly a: readonly [string, string]; readonly b: readonly [string, string] };

/** What is used of the engine. Its own types are lost under our module resolution, so they are stated here. */
interface Expression {
  readonly isValid: boolean;
  readonly json: unknown;
  readonly unknowns: readonly string[];
  readonly re: number;
  readonly im: number;
  isSame(other: Expression): boolean;
  isEqual(other: Expression): boolean | undefined;
  simplify(): Expression;
  subs(values: Readonly<Record<string, Expression>>): Expression;
  N(): Expression;
}
interface Engine {
  parse(latex: string): Expression;
  box(json: unknown): Expression;
  number(value: number): Expression;
}

const engine = new ComputeEngine() as unknown as Engine;

export function decide(question: Question): boolean {
  if (question.kind === 'expressions') return sameExpression(question.a, question.b);
  const [a, b] = [question.a, question.b].map(([left, right]) => `(${prepare(left)})-(${prepare(right)})`);
  return proportional(engine.parse(a!), engine.parse(b!));
}

function sameExpression(a: string, b: string): boolean {
  const [x, y] = [engine.parse(prepare(a)), engine.parse(prepare(b))];
  if (!x.isValid || !y.isValid) return false;
  if (x.isSame(y)) return true;
  if (x.unknowns.length > 0 || y.unknowns.length > 0) {
    // Values before algebra: the engine simplifies \sqrt{x^2} to x, which is wrong for negative x.
    const sampled = ratioAtPoints(x, y);
    if (sampled !== 'unknown') return sampled === 'equal';
  } else {
    const [u, v] = [x.N(), y.N()];
    const [size, other] = [Math.hypot(u.re, u.im || 0), Math.hypot(v.re, v.im || 0)];
    if (Number.isFinite(size) && Number.isFinite(other)) {
      return near(u.re - v.re, (u.im || 0) - (v.im || 0), 1e-12 * Math.max(size, other));
    }
  }
  if (x.isEqual(y) === true) return true;
  const difference = engine.box(['Subtract', x.json, y.json]).simplify().N();
  return difference.unknowns.length === 0 && near(difference.re, difference.im || 0, 0);
}

/** \binom has no rule of its own there; \% and degrees are gone already. */
function prepare(latex: string): string {
  return latex
    .replace(/\\[dt]?binom\s*\{([^{}]*)\}\s*\{([^{}]*)\}/g, '\\frac{($1)!}{($2)!(($1)-($2))!}')
    .replace(/\\(?:cdot|times)\s*/g, '\\times ');
}

/** Two equations f = 0 and g = 0 are one when f is g times a number. */
function proportional(f: Expression, g: Expression): boolean {
  if (!f.isValid || !g.isValid) return false;
  if (f.isSame(g)) return true;
  const sampled = ratioAtPoints(f, g);
  return sampled === 'equal' || sampled === 'proportional';
}

const points = 8;
/** At fewer points two functions may agree by chance: poles and domains take points away. */
const fewestPoints = 4;

/** Numerical comparison at fixed points that no special value sits on. */
function ratioAtPoints(f: Expression, g: Expression): 'equal' | 'proportional' | 'different' | 'unknown' {
  const names = [...new Set([...f.unknowns, ...g.unknowns])].sort();
  let ratio: number | undefined;
  let isEqual = true;
  let used = 0;
  for (let t = 0; t < points; t++) {
    const at = Object.fromEntries(names.map((name, i) => [name, engine.number(coordinate(t, i))]));
    const [u, v] = [f.subs(at).N(), g.subs(at).N()];
    if (!Number.isFinite(u.re) || !Number.isFinite(v.re)) {
      if (Number.isFinite(u.re) !== Number.isFinite(v.re)) return 'different';
      continue;
    }
    used++;
    const size = Math.max(Math.abs(u.re), Math.abs(v.re));
    if (!near(u.re - v.re, (u.im || 0) - (v.im || 0), 1e-9 * size)) isEqual = false;
    if (Math.abs(v.re) < 1e-12 || (u.im || 0) !== 0 || (v.im || 0) !== 0) {
      if (!isEqual) return 'different';
      continue;
    }
    ratio ??= u.re / v.re;
    if (ratio === 0 || !near(u.re - ratio * v.re, 0, 1e-9 * size)) return 'different';
  }
  if (used < fewestPoints) return 'unknown';
  return isEqual ? 'equal' : 'proportional';
}

/** Positive and negative, below and above 1, different for every unknown. */
function coordinate(t: number, i: number): number {
  const size = 0.37 + 0.613 * t + 0.3 * Math.sin(t + 2.3 * i);
  return (t + i) % 3 === 2 ? -size : size;
}

/** 1e-14 covers the rounding of sums whose exact value is zero. */
function near(re: number, im: number, tolerance: number): boolean {
  return Math.hypot(re, im) <= tolerance + 1e-14;
}
