import {
  type BinaryName,
  type CompareName,
  type ElementwiseProgram,
  nodesOf,
  type Scalar,
  type UnaryName,
} from './expression.ts';
import { threefry2x32 } from './random.ts';

/** erf by its Maclaurin series (|x| < 3) and a continued fraction of erfc (beyond): full f64 precision for a reference. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (Number.isNaN(x)) return x;
  if (z > 6) return Math.sign(x);
  if (z < 3) {
    let term = z;
    let sum = z;
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum) && n < 200; n++) {
      term *= (-z * z) / n;
      sum += term / (2 * n + 1);
    }
    return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction));
}

const unary: Record<UnaryName, (a: number) => number> = {
  neg: (a) => -a,
  abs: Math.abs,
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  rsqrt: (a) => 1 / Math.sqrt(a),
  sin: Math.sin,
  cos: Math.cos,
  tanh: Math.tanh,
  sigmoid: (a) => (a >= 0 ? 1 / (1 + Math.exp(-a)) : Math.exp(a) / (1 + Math.exp(a))),
  erf,
  floor: Math.floor,
};

/** IEEE 754's pow, as torch has it; JavaScript's gives NaN for 1 ** NaN and (+-1) ** Infinity. */
function power(a: number, b: number): number {
  if (a === 1 || (a === -1 && Math.abs(b) === Number.POSITIVE_INFINITY)) return 1;
  return a ** b;
}

const binary: Record<BinaryName, (a: number, b: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  pow: power,
  max: Math.max,
  min: Math.min,
};

const compare: Record<CompareName, (a: number, b: number) => boolean> = {
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
};

/** How one element of a program is computed; integer programs wrap at 32 bits and divide toward zero. */
export type Evaluator = (inputs: ArrayLike<number>, parameters: ArrayLike<number>, index: number) => number[];

/** The reference lowering: f64 arithmetic, node by node in evaluation order. */
export function evaluator(program: ElementwiseProgram, integer: boolean): Evaluator {
  const nodes = nodesOf(program.outputs);
  const at = new Map<Scalar, number>(nodes.map((s, i) => [s, i]));
  const values = new Array<number>(nodes.length);
  const value = (s: Scalar): number => values[at.get(s)!]!;
  const steps = nodes.map(({ node }) => {
    switch (node.kind) {
      case 'constant':
        return () => node.value;
      case 'input':
        return (x: ArrayLike<number>) => x[node.index]!;
      case 'parameter':
        return (_: ArrayLike<number>, p: ArrayLike<number>) => p[node.index]!;
      case 'uniform':
        return (_: ArrayLike<number>, p: ArrayLike<number>, i: number) =>
          (threefry2x32(p[node.k0]!, p[node.k1]!, i, 0)[0] >>> 8) / 2 ** 24;
      case 'unary':
        return () => unary[node.op](value(node.a));
      case 'binary':
        if (integer && node.op === 'mul') return () => Math.imul(value(node.a), value(node.b));
        return () => binary[node.op](value(node.a), value(node.b));
      case 'select':
        return () =>
          compare[node.condition.op](value(node.condition.a), value(node.condition.b)) ? value(node.a) : value(node.b);
    }
  });
  const outputs = program.outputs.map((s) => at.get(s)!);
  return (x, p, index) => {
    for (let i = 0; i < steps.length; i++) {
      const v = steps[i]!(x, p, index);
      values[i] = integer ? Math.trunc(v) | 0 : v;
    }
    return outputs.map((i) => values[i]!);
  };
}
