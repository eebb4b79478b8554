/** Elementwise ops: a row each. Forward and gradient stand together; every backend lowers both. */
// biome-ignore-all format: rows of a table
import { defineElementwise } from '../elementwise.ts';
import { scalar, select, uniformOf } from '../expression.ts';

const x = (low = -2, high = 2) => [
  { inputs: { x: { shape: [2, 3, 5], low, high } } },
  { inputs: { x: { shape: [1], low, high } } },
  { inputs: { x: { shape: [0, 3] } } },
  { inputs: { x: { shape: [], low, high } } },
  { inputs: { x: { shape: [37], low, high, dtype: 'bf16' as const } } },
];
const ab = (low = -2, high = 2) => [
  { inputs: { a: { shape: [2, 1, 5], low, high }, b: { shape: [3, 1], low, high } } },
  { inputs: { a: { shape: [17], low, high }, b: { shape: [], low, high } } },
  { inputs: { a: { shape: [4, 7], low, high }, b: { shape: [7], low, high } } },
];
const mismatch = [{ inputs: { a: { shape: [2, 3] }, b: { shape: [2, 4] } }, message: 'shapes must broadcast' }];
const tanhGelu = { a: Math.sqrt(2 / Math.PI), b: 0.044715 };

export const neg = defineElementwise({ name: 'neg', inputs: ['x'], forward: ({ x }) => x.neg(), gradient: { x: ({ grad }) => grad.neg() }, samples: x() });
export const abs = defineElementwise({
  name: 'abs', inputs: ['x'], forward: ({ x }) => x.abs(), samples: x(0.1, 2),
  gradient: { x: ({ x, grad }) => select(x.gt(0), grad, select(x.lt(0), grad.neg(), 0)) },
});
export const exp = defineElementwise({ name: 'exp', inputs: ['x'], result: 'float', forward: ({ x }) => x.exp(), gradient: { x: ({ out, grad }) => grad.mul(out) }, samples: x() });
export const log = defineElementwise({ name: 'log', inputs: ['x'], result: 'float', forward: ({ x }) => x.log(), gradient: { x: ({ x, grad }) => grad.div(x) }, samples: x(0.1, 3) });
export const sqrt = defineElementwise({ name: 'sqrt', inputs: ['x'], result: 'float', forward: ({ x }) => x.sqrt(), gradient: { x: ({ out, grad }) => grad.mul(0.5).div(out) }, samples: x(0.1, 3) });
export const rsqrt = defineElementwise({
  name: 'rsqrt', inputs: ['x'], result: 'float', forward: ({ x }) => x.rsqrt(), samples: x(0.1, 3),
  gradient: { x: ({ out, grad }) => grad.mul(-0.5).mul(out).mul(out).mul(out) },
});
export const sin = defineElementwise({ name: 'sin', inputs: ['x'], result: 'float', forward: ({ x }) => x.sin(), gradient: { x: ({ x, grad }) => grad.mul(x.cos()) }, samples: x(-6, 6) });
export const cos = defineElementwise({ name: 'cos', inputs: ['x'], result: 'float', forward: ({ x }) => x.cos(), gradient: { x: ({ x, grad }) => grad.mul(x.sin()).neg() }, samples: x(-6, 6) });
export const tanh = defineElementwise({ name: 'tanh', inputs: ['x'], result: 'float', forward: ({ x }) => x.tanh(), gradient: { x: ({ out, grad }) => grad.mul(scalar(1).sub(out.mul(out))) }, samples: x(-4, 4) });
export const sigmoid = defineElementwise({
  name: 'sigmoid', inputs: ['x'], result: 'float', forward: ({ x }) => x.sigmoid(), samples: x(-6, 6),
  gradient: { x: ({ out, grad }) => grad.mul(out).mul(scalar(1).sub(out)) },
});
/** x * sigmoid(x), also called swish. */
export const silu = defineElementwise({
  name: 'silu', inputs: ['x'], result: 'float', forward: ({ x }) => x.mul(x.sigmoid()), samples: x(-6, 6),
  gradient: {
    x: ({ x, grad }) => {
      const s = x.sigmoid();
      return grad.mul(s.mul(x.mul(scalar(1).sub(s)).add(1)));
    },
  },
});
/** x * Phi(x) with the exact normal distribution function, PyTorch's default. */
export const gelu = defineElementwise({
  name: 'gelu', inputs: ['x'], result: 'float', samples: x(-4, 4),
  forward: ({ x }) => x.mul(0.5).mul(x.mul(Math.SQRT1_2).erf().add(1)),
  gradient: {
    x: ({ x, grad }) => {
      const cdf = x.mul(Math.SQRT1_2).erf().add(1).mul(0.5);
      const density = x.mul(x).mul(-0.5).exp().mul(1 / Math.sqrt(2 * Math.PI));
      return grad.mul(cdf.add(x.mul(density)));
    },
  },
});
/** gelu's tanh approximation: PyTorch's approximate='tanh'. */
export const geluTanh = defineElementwise({
  name: 'geluTanh', inputs: ['x'], result: 'float', samples: x(-4, 4),
  forward: ({ x }) => x.mul(0.5).mul(x.add(x.mul(x).mul(x).mul(tanhGelu.b)).mul(tanhGelu.a).tanh().add(1)),
  gradient: {
    x: ({ x, grad }) => {
      const t = x.add(x.mul(x).mul(x).mul(tanhGelu.b)).mul(tanhGelu.a).tanh();
      const slope = x.mul(x).mul(3 * tanhGelu.b).add(1).mul(tanhGelu.a);
      return grad.mul(0.5).mul(t.add(1).add(x.mul(scalar(1).sub(t.mul(t))).mul(slope)));
    },
  },
});
export const relu = defineElementwise({ name: 'relu', inputs: ['x'], forward: ({ x }) => x.max(0), gradient: { x: ({ x, grad }) => select(x.le(0), 0, grad) }, samples: x(0.1, 2) });

export const add = defineElementwise({ name: 'add', inputs: ['a', 'b'], forward: ({ a, b }) => a.add(b), gradient: { a: 'grad', b: 'grad' }, samples: ab(), errors: mismatch });
export const sub = defineElementwise({ name: 'sub', inputs: ['a', 'b'], forward: ({ a, b }) => a.sub(b), gradient: { a: 'grad', b: ({ grad }) => grad.neg() }, samples: ab(), errors: mismatch });
export const mul = defineElementwise({ name: 'mul', inputs: ['a', 'b'], forward: ({ a, b }) => a.mul(b), gradient: { a: ({ grad, b }) => grad.mul(b), b: ({ grad, a }) => grad.mul(a) }, samples: ab(), errors: mismatch });
export const div = defineElementwise({
  name: 'div', inputs: ['a', 'b'], result: 'float', forward: ({ a, b }) => a.div(b), samples: ab(0.3, 2), errors: mismatch,
  gradient: { a: ({ grad, b }) => grad.div(b), b: ({ grad, a, b }) => grad.mul(a).div(b.mul(b)).neg() },
});
/** a to the power b, f32 for integers. Gradients as torch.pow: 0 for a where b is 0, 0 for b where a is 0 and b is not negative, NaN for b where a is negative. */
export const pow = defineElementwise({
  name: 'pow', inputs: ['a', 'b'], result: 'float', forward: ({ a, b }) => a.pow(b), samples: ab(0.3, 2), errors: mismatch,
  gradient: {
    a: ({ grad, a, b }) => select(b.eq(0), 0, grad.mul(b).mul(a.pow(b.sub(1)))),
    b: ({ grad, a, b, out }) => select(a.eq(0), select(b.ge(0), 0, grad.mul(out).neg()), grad.mul(out).mul(a.log())),
  },
});
/** NaN propagates; where both are equal the gradient is shared, as PyTorch does. */
export const maximum = defineElementwise({
  name: 'maximum', inputs: ['a', 'b'], forward: ({ a, b }) => a.max(b), samples: ab(), errors: mismatch,
  gradient: {
    a: ({ grad, a, b }) => select(a.gt(b), grad, select(a.eq(b), grad.mul(0.5), 0)),
    b: ({ grad, a, b }) => select(b.gt(a), grad, select(a.eq(b), grad.mul(0.5), 0)),
  },
});
export const minimum = defineElementwise({
  name: 'minimum', inputs: ['a', 'b'], forward: ({ a, b }) => a.min(b), samples: ab(), errors: mismatch,
  gradient: {
    a: ({ grad, a, b }) => select(a.lt(b), grad, select(a.eq(b), grad.mul(0.5), 0)),
    b: ({ grad, a, b }) => select(b.lt(a), grad, select(a.eq(b), grad.mul(0.5), 0)),
  },
});

const comparison = <N extends 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge'>(name: N) =>
  defineElementwise({ name, inputs: ['a', 'b'], result: 'u8', forward: ({ a, b }) => select(a[name](b), 1, 0), samples: ab(), errors: mismatch });
export const eq = comparison('eq');
export const ne = comparison('ne');
export const lt = comparison('lt');
export const le = comparison('le');
export const gt = comparison('gt');
export const ge = comparison('ge');

/** a where condition is not 0, else b, in the dtype that a and b meet in; f32 where both are numbers. */
export const where = defineElementwise({
  name: 'where', inputs: ['condition', 'a', 'b'], selects: 'condition',
  forward: ({ condition, a, b }) => select(condition.ne(0), a, b),
  gradient: {
    a: ({ condition, grad }) => select(condition.ne(0), grad, 0),
    b: ({ condition, grad }) => select(condition.ne(0), 0, grad),
  },
  samples: [
    { inputs: { condition: { shape: [3, 1], dtype: 'u8', low: 0, high: 2 }, a: { shape: [3, 4] }, b: { shape: [4] } } },
    { inputs: { condition: { shape: [33], dtype: 'u8', low: 0, high: 2 }, a: { shape: [33] }, b: { shape: [] } } },
  ],
  errors: [{ inputs: { condition: { shape: [2], dtype: 'u8' }, a: { shape: [3] }, b: { shape: [3] } }, message: 'shapes must broadcast' }],
});
/** silu(gate) * up: Phi-3's feed-forward activation in one pass. */
export const swiglu = defineElementwise({
  name: 'swiglu', inputs: ['gate', 'up'], result: 'float',
  forward: ({ gate, up }) => gate.mul(gate.sigmoid()).mul(up),
  gradient: {
    gate: ({ gate, up, grad }) => {
      const s = gate.sigmoid();
      return grad.mul(up).mul(s.mul(gate.mul(scalar(1).sub(s)).add(1)));
    },
    up: ({ gate, grad }) => grad.mul(gate.mul(gate.sigmoid())),
  },
  samples: [{ inputs: { gate: { shape: [3, 8], low: -5, high: 5 }, up: { shape: [3, 8] } } }],
});

/** x with probability 1 - p, scaled by `scale` = 1 / (1 - p), else 0; the mask is recomputed from the key, never stored. */
export const dropoutRow = defineElementwise({
  name: 'dropout', inputs: ['x'], parameters: ['p', 'scale', 'k0', 'k1'],
  forward: ({ x, p, scale }) => select(uniformOf(2, 3).lt(p), 0, x.mul(scale)),
  gradient: { x: ({ grad, p, scale }) => select(uniformOf(2, 3).lt(p), 0, grad.mul(scale)) },
  samples: [{ inputs: { x: { shape: [7, 19] } }, attributes: { parameters: [0.3, 1 / 0.7, 7, 4000000000] } }],
});
/** x itself: the program behind cast and expand. */
export const identity = defineElementwise({ name: 'identity', inputs: ['x'], forward: ({ x }) => x, gradient: { x: 'grad' }, samples: x() });
