/** Results against 64-bit floats, on samples or whole, before anything is timed. Bounds are those of f32 sums in any order. */
import { checkAttention, type Expected } from './check-attention.ts';
import type { MapFunction, MatmulSpec, WorkSpec } from './peer.ts';

const unit = 2 ** -24;
const samples = 200;
/** Entries spread over `count`, the first and the last among them. */
export const spread = (count: number, most = samples): number[] => {
  const step = Math.max(1, Math.floor(count / most));
  const chosen = Array.from({ length: Math.min(most, count) }, (_, i) => i * step + ((i * 37) % step));
  return [...new Set([0, ...chosen, count - 1])].filter((i) => i < count);
};

/** |got - want| <= sqrt(k) 2^-24 sum|a||b|: twice what an f32 sum of random order needs. */
function* matmulEntries({ batch, m, k, n, transposeA, transposeB, a, b }: MatmulSpec): Iterable<Expected> {
  const w = b[0]!;
  for (const at of spread(batch * m * n)) {
    const [g, r, c] = [Math.floor(at / (m * n)), Math.floor(at / n) % m, at % n];
    let [sum, size] = [0, 0];
    for (let i = 0; i < k; i++) {
      const x = a[g * m * k + (transposeA ? i * m + r : r * k + i)]!;
      const p = x * w[g * k * n + (transposeB ? c * k + i : i * n + c)]!;
      sum += p;
      size += Math.abs(p);
    }
    yield { output: 0, at, want: sum, bound: Math.max(4, Math.sqrt(k)) * unit * size };
  }
}

/** erf by its series (|x| < 3) and continued fraction, to 1e-12. */
function erf(x: number): number {
  const z = Math.abs(x);
  if (z < 3) {
    let [term, sum] = [z, z];
    for (let i = 1; i < 80; i++) {
      term *= (-z * z) / i;
      sum += term / (2 * i + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let f = 0;
  for (let i = 60; i > 0; i--) f = i / 2 / (z + f);
  return Math.sign(x) * (1 - Math.exp(-z * z) / ((z + f) * Math.sqrt(Math.PI)));
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const maps: Readonly<Record<MapFunction, (x: number, y: number) => number>> = {
  copy: (x) => x,
  add: (x, y) => x + y,
  exp: Math.exp,
  log: Math.log,
  tanh: Math.tanh,
  sigmoid,
  sin: Math.sin,
  cos: Math.cos,
  silu: (x) => x * sigmoid(x),
  gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
};

type Entries = Iterable<Expected>;
type Of<Op extends WorkSpec['op']> = Extract<WorkSpec, { readonly op: Op }>;

/** An entry whose rounding is a few units of the sizes it was made of. */
const near = (output: number, at: number, want: number, size: number, units = 16): Expected => ({
  output,
  at,
  want,
  bound: units * unit * (Math.abs(want) + size),
});

function* rmsNormEntries({ rows, width, eps, direction, x, weight, gradient }: Of<'rmsNorm'>): Entries {
  const units = 16 + Math.sqrt(width);
  for (const at of spread(rows * width)) {
    const [start, c] = [at - (at % width), at % width];
    let [squares, dot] = [0, 0];
    for (let i = 0; i < width; i++) {
      squares += x[start + i]! ** 2;
      dot += gradient[start + i]! * weight[i]! * x[start + i]!;
    }
    const s = 1 / Math.sqrt(squares / width + eps);
    yield near(0, at, x[at]! * s * weight[c]!, 0, units);
    if (direction === 'both')
      yield near(1, at, s * gradient[at]! * weight[c]! - (x[at]! * s ** 3 * dot) / width, Math.abs(s), 4 * units);
  }
  if (direction === 'both') yield* weightGradient(rows, width, eps, x, gradient);
}

/** dweight of a few columns: a sum over all rows. */
function* weightGradient(rows: number, width: number, eps: number, x: Float32Array, g: Float32Array): Entries {
  const scales = Array.from({ length: rows }, (_, r) => {
    let squares = 0;
    for (let i = 0; i < width; i++) squares += x[r * width + i]! ** 2;
    return 1 / Math.sqrt(squares / width + eps);
  });
  for (const c of spread(width, 8)) {
    let [sum, size] = [0, 0];
    for (let r = 0; r < rows; r++) {
      const p = g[r * width + c]! * x[r * width + c]! * scales[r]!;
      sum += p;
      size += Math.abs(p);
    }
    yield { output: 2, at: c, want: sum, bound: Math.sqrt(rows) * 4 * unit * size };
  }
}

function* swigluEntries({ rows, width, direction, gate, up, gradient }: Of<'swiglu'>): Entries {
  for (const at of spread(rows * width)) {
    const [g, u, d] = [gate[at]!, up[at]!, gradient[at]!];
    const s = sigmoid(g);
    yield near(0, at, g * s * u, 0);
    if (direction === 'forward') continue;
    yield near(1, at, d * u * s * (1 + g * (1 - s)), Math.abs(d * u));
    yield near(2, at, d * g * s, 0);
  }
}

function* ropeEntries({ tokens, heads, width, direction, x, cos, sin, gradient }: Of<'rope'>): Entries {
  const half = width / 2;
  for (const at of spread(tokens * heads * width)) {
    const [t, i] = [Math.floor(at / (heads * width)), at % width];
    const [c, s] = [cos[t * half + (i % half)]!, sin[t * half + (i % half)]!];
    const other = i < half ? at + half : at - half;
    const sign = i < half ? -1 : 1;
    yield near(0, at, x[at]! * c + sign * x[other]! * s, Math.abs(x[at]! * c) + Math.abs(x[other]! * s), 4);
    if (direction === 'both')
      yield near(
        1,
        at,
        gradient[at]! * c - sign * gradient[other]! * s,
        Math.abs(gradient[at]!) + Math.abs(gradient[other]!),
        4,
      );
  }
}

function* softmaxEntries({ rows, width, direction, x, gradient }: Of<'softmax'>): Entries {
  for (const at of spread(rows * width)) {
    const start = at - (at % width);
    let [total, dot] = [0, 0];
    for (let i = 0; i < width; i++) total += Math.exp(x[start + i]!);
    for (let i = 0; i < width; i++) dot += (gradient[start + i]! * Math.exp(x[start + i]!)) / total;
    const y = Math.exp(x[at]!) / total;
    yield near(0, at, y, 0, 32);
    if (direction === 'both') yield near(1, at, y * (gradient[at]! - dot), y, 64);
  }
}

/** Loss and, for sampled entries, (softmax - target) / rows that count. */
function* crossEntropyEntries({ rows, classes, direction, logits, labels }: Of<'crossEntropy'>): Entries {
  const counted = labels.filter((label) => label >= 0).length;
  let loss = 0;
  const totals = Array.from({ length: rows }, (_, r) => {
    let total = 0;
    for (let i = 0; i < classes; i++) total += Math.exp(logits[r * classes + i]!);
    if (labels[r]! >= 0) loss += (Math.log(total) - logits[r * classes + labels[r]!]!) / counted;
    return total;
  });
  yield near(0, 0, loss, 0, 64);
  if (direction === 'forward') return;
  for (const at of spread(rows * classes)) {
    const [r, c] = [Math.floor(at / classes), at % classes];
    const p = labels[r]! < 0 ? 0 : Math.exp(logits[at]!) / totals[r]!;
    yield near(1, at, (p - (labels[r] === c ? 1 : 0)) / counted, p / counted, 64);
  }
}

/** dx of one row that counts, from all its logits in 64 bits; and the loss of all rows. */
function* linearCrossEntropyEntries(spec: Of<'linearCrossEntropy'>): Entries {
  const { rows, width, classes, direction, x, w, labels } = spec;
  const counted = labels.filter((label) => label >= 0).length;
  const probed = labels.findIndex((label) => label >= 0);
  let loss = 0;
  const product = (r: number, c: number): number => {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += x[r * width + i]! * w[c * width + i]!;
    return sum;
  };
  for (let r = 0; r < rows; r++) {
    if (labels[r]! < 0) continue;
    const logits = Float64Array.from({ length: classes }, (_, c) => product(r, c));
    const total = logits.reduce((sum, z) => sum + Math.exp(z), 0);
    loss += (Math.log(total) - logits[labels[r]!]!) / counted;
    if (r !== probed || direction === 'forward') continue;
    for (const c of spread(width, 16)) {
      let [sum, size] = [0, 0];
      for (let j = 0; j < classes; j++) {
        const p = (Math.exp(logits[j]!) / total - (labels[r] === j ? 1 : 0)) * w[j * width + c]!;
        sum += p / counted;
        size += Math.abs(p) / counted;
      }
      yield {
        output: 1,
        at: r * width + c,
        want: sum,
        bound: (Math.sqrt(classes) + Math.sqrt(width)) * 8 * unit * size,
      };
    }
  }
  yield near(0, 0, loss, 0, 256);
}

function* adamwEntries({ elements, lr, eps, weightDecay, parameter, gradient }: Of<'adamw'>): Entries {
  for (const at of spread(elements)) {
    const g = gradient[at]!;
    // After one step both corrected moments are those of the gradient itself.
    const want = parameter[at]! * (1 - lr * weightDecay) - (lr * g) / (Math.abs(g) + eps);
    yield near(0, at, want, Math.abs(parameter[at]!), 4);
  }
}

function* mapEntries({ map, elements, x, y }: Of<'map'>): Entries {
  for (const at of spread(elements, 5000)) {
    const want = maps[map](x[at]!, y?.[at] ?? 0);
    // Others reduce angles less carefully than to 2 ulp, which is what ours has its own tests for.
    const size =
      map === 'add' || map === 'gelu' || map === 'silu' ? Math.abs(x[at]!) : map === 'sin' || map === 'cos' ? 1 : 0;
    yield near(0, at, want, size, map === 'copy' ? 0 : 32);
  }
}

function* sumEntries({ axis, rows, width, x }: Of<'sum'>): Entries {
  const count = axis === 'all' ? 1 : axis === 0 ? width : rows;
  for (const at of spread(count, 50)) {
    const [start, step, length] =
      axis === 'all' ? [0, 1, rows * width] : axis === 0 ? [at, width, rows] : [at * width, 1, width];
    let [sum, size] = [0, 0];
    for (let i = 0; i < length; i++) {
      sum += x[start + i * step]!;
      size += Math.abs(x[start + i * step]!);
    }
    yield { output: 0, at, want: sum, bound: Math.sqrt(length) * unit * size };
  }
}

/** Dropout has no expected entries: zeros must be about p of all, and the rest x / (1 - p). */
function checkDropout(name: string, { p, x }: Of<'dropout'>, [y]: readonly Float32Array[]): void {
  let zeros = 0;
  for (let i = 0; i < y!.length; i++) {
    if (y![i] === 0) zeros++;
    else if (!(Math.abs(y![i]! - x[i]! / (1 - p)) <= 4 * unit * Math.abs(y![i]!)))
      throw new Error(`${name}: entry ${i} is ${y![i]}, expected 0 or ${x[i]! / (1 - p)}`);
  }
  const deviation = Math.sqrt((p * (1 - p)) / y!.length);
  if (!(Math.abs(zeros / y!.length - p) <= 6 * deviation))
    throw new Error(`${name}: ${zeros} of ${y!.length} entries are 0, expected a part of ${p}`);
}

function entriesOf(spec: WorkSpec): Entries {
  switch (spec.op) {
    case 'matmul':
      return matmulEntries(spec);
    case 'attention':
      return checkAttention(spec);
    case 'rmsNorm':
      return rmsNormEntries(spec);
    case 'swiglu':
      return swigluEntries(spec);
    case 'rope':
      return ropeEntries(spec);
    case 'softmax':
      return softmaxEntries(spec);
    case 'crossEntropy':
      return crossEntropyEntries(spec);
    case 'linearCrossEntropy':
      return linearCrossEntropyEntries(spec);
    case 'adamw':
      return adamwEntries(spec);
    case 'map':
      return mapEntries(spec);
    case 'sum':
      return sumEntries(spec);
    default:
      return [];
  }
}

/** Checks of one spec, computed once for all who do it. A result with the first rows alone is checked as far as it goes. */
export function checkerOf(spec: WorkSpec): (name: string, outputs: readonly Float32Array[], roundoff?: number) => void {
  if (spec.op === 'dropout') return (name, outputs) => checkDropout(name, spec, outputs);
  const expected = [...entriesOf(spec)];
  if (expected.length === 0) throw new Error(`bench: ${spec.op} has no check: give the case one of its own.`);
  return (name, outputs, roundoff = unit) => {
    let compared = 0;
    for (const { output, at, want, bound } of expected) {
      const values = outputs[output];
      if (values === undefined) throw new Error(`${name}: output ${output} is missing`);
      if (at >= values.length) continue;
      compared++;
      const allowed = (bound * roundoff) / unit;
      if (!(Math.abs(values[at]! - want) <= allowed))
        throw new Error(`${name}: output ${output}, entry ${at} is ${values[at]}, expected ${want} within ${allowed}`);
    }
    if (compared === 0) throw new Error(`${name}: gave no entry to compare`);
  };
}
