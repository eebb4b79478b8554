/** Ops with a gpu.js kernel: one function of text, and how a call becomes its arguments. One thread a result, nothing shared. */
import { broadcastStrides, type Call, isFloat, type MatmulAttributes, type Operand, sizeOf } from '@lorikeet/tensor';
import type { Argument, KernelStore } from './kernel-store.ts';
import { load, store } from './operands.ts';

/** How one op is computed here. */
export interface Kernel {
  fits(call: Call): boolean;
  run(call: Call, kernels: KernelStore): void;
}

/** Inputs as arrays, in order, and the numbers the text needs. */
interface Plan {
  readonly source: string;
  numbers(call: Call): readonly number[];
}

const floats = ({ inputs, outputs }: Call): boolean =>
  outputs.every((o) => isFloat(o.dtype)) && inputs.every((x) => !x || isFloat(x.dtype));

/** A kernel whose arguments are all inputs, then numbers. */
const simple = ({ source, numbers }: Plan, fits: (call: Call) => boolean = floats): Kernel => ({
  fits,
  run(call, kernels) {
    const [out] = call.outputs as [Operand];
    const values: Argument[] = [...call.inputs.map((x) => load(x!)), ...numbers(call)];
    store(
      kernels.run(call.op.name, () => source, sizeOf(out.shape), values),
      out,
    );
  },
});

const lastAxis = ({ inputs }: Call): readonly number[] => [inputs[0]!.shape.at(-1)!];
const lastAxisAndEps = (call: Call): readonly number[] => [...lastAxis(call), call.attributes.eps as number];
/** Of [outer, n, inner]. */
const middle = ({ inputs }: Call): readonly number[] => inputs[0]!.shape.slice(1);

/** A loop over one column of [outer, n, inner]. */
const overColumn = (start: string, turn: string): string => `function (x, n, inner) {
  const o = Math.floor(this.thread.x / inner);
  const first = o * n * inner + this.thread.x - o * inner;
  ${start}
  for (let k = 0; k < n; k++) {
    const value = x[first + k * inner];
    ${turn}
  }
  return result;
}`;

/** A result of one row of the last axis: `row` is where it starts. Loops count in different names: gpu.js hoists them. */
const overRow = (parameters: string, body: string): string => `function (${parameters}) {
  const row = Math.floor(this.thread.x / n) * n;
  const place = this.thread.x - row;
  ${body}
}`;

const rowMaximum = `let top = x[row];
  for (let k = 1; k < n; k++) { top = Math.max(top, x[row + k]); }
  let total = x[row] - x[row];
  for (let h = 0; h < n; h++) { total += Math.exp(x[row + h] - top); }`;
const rowSquares = `let squares = x[row] - x[row];
  for (let k = 0; k < n; k++) { squares += x[row + k] * x[row + k]; }
  const s = 1 / Math.sqrt(squares / n + eps);`;

const rows: Readonly<Record<string, Plan>> = {
  softmax: {
    source: overRow('x, n', `${rowMaximum}\n  return Math.exp(x[row + place] - top) / total;`),
    numbers: lastAxis,
  },
  logSoftmax: {
    source: overRow('x, n', `${rowMaximum}\n  return x[row + place] - top - Math.log(total);`),
    numbers: lastAxis,
  },
  softmaxGrad: {
    source: overRow(
      'grad, y, n',
      `let dot = grad[row] - grad[row];
  for (let k = 0; k < n; k++) { dot += grad[row + k] * y[row + k]; }
  return y[row + place] * (grad[row + place] - dot);`,
    ),
    numbers: lastAxis,
  },
  rmsNorm: {
    source: overRow('x, weight, n, eps', `${rowSquares}\n  return x[row + place] * s * weight[place];`),
    numbers: lastAxisAndEps,
  },
  rmsNormGrad: {
    source: overRow(
      'grad, x, weight, n, eps',
      `${rowSquares}
  let dot = x[row] - x[row];
  for (let h = 0; h < n; h++) { dot += grad[row + h] * weight[h] * x[row + h]; }
  return s * (grad[row + place] * weight[place] - x[row + place] * s * s * dot / n);`,
    ),
    numbers: lastAxisAndEps,
  },
  layerNorm: {
    source: overRow(
      'x, weight, bias, n, eps',
      `let total = x[row] - x[row];
  for (let k = 0; k < n; k++) { total += x[row + k]; }
  const near = total / n;
  let rest = x[row] - x[row];
  for (let h = 0; h < n; h++) { rest += x[row + h] - near; }
  const mean = near + rest / n;
  let variance = x[row] - x[row];
  for (let g = 0; g < n; g++) { variance += (x[row + g] - mean) * (x[row + g] - mean); }
  return (x[row + place] - mean) / Math.sqrt(variance / n + eps) * weight[place] + bias[place];`,
    ),
    numbers: lastAxisAndEps,
  },
};

/** One place of [outer, m, inner], and its row `j` of m. */
const placed = (parameters: string, body: string): string => `function (${parameters}, m, n, inner) {
  const o = Math.floor(this.thread.x / (m * inner));
  const rest = this.thread.x - o * m * inner;
  const j = Math.floor(rest / inner);
  const i = rest - j * inner;
  ${body}
}`;

/** m of the output, n of the indexed input, inner. */
const placeSizes = ({ inputs, outputs }: Call): readonly number[] => [
  outputs[0]!.shape[1]!,
  inputs[0]!.shape[1]!,
  outputs[0]!.shape[2]!,
];
const indexed = (call: Call): boolean =>
  isFloat(call.outputs[0]!.dtype) && isFloat(call.inputs[0]!.dtype) && inRange(call);

/** Whether all indices are; a call that is not so runs by reference, which says what is wrong. */
function inRange({ inputs, outputs, op }: Call): boolean {
  if (!('bytes' in inputs[1]!.buffer)) return true;
  const n = (op.name.endsWith('Add') ? outputs : inputs)[0]!.shape[1]!;
  return load(inputs[1]!).every((index) => index >= 0 && index < n);
}

const indexing: Readonly<Record<string, Plan>> = {
  indexSelect: {
    source: placed('x, indices', 'return x[(o * n + indices[j]) * inner + i];'),
    numbers: placeSizes,
  },
  gather: {
    source: placed('x, indices', 'return x[(o * n + indices[this.thread.x]) * inner + i];'),
    numbers: placeSizes,
  },
  indexAdd: {
    source: placed(
      'source, indices',
      `let total = j - j;
  for (let k = 0; k < n; k++) {
    if (indices[k] === j) { total += source[(o * n + k) * inner + i]; }
  }
  return total;`,
    ),
    numbers: placeSizes,
  },
  scatterAdd: {
    source: placed(
      'source, indices',
      `let total = j - j;
  for (let k = 0; k < n; k++) {
    const at = (o * n + k) * inner + i;
    if (indices[at] === j) { total += source[at]; }
  }
  return total;`,
    ),
    numbers: placeSizes,
  },
};

const productSource = `function (a, b, u, v, bias, first, n, k, aRow, aStep, bColumn, bStep, r, uRow, uStep, vColumn, vStep) {
  const row = Math.floor(this.thread.x / n);
  const column = this.thread.x - row * n;
  let total = bias[column];
  for (let p = 0; p < k; p++) { total += a[first + row * aRow + p * aStep] * b[column * bColumn + p * bStep]; }
  for (let q = 0; q < r; q++) { total += u[row * uRow + q * uStep] * v[column * vColumn + q * vStep]; }
  return total;
}`;

/** Element steps along the kept axis and along k. */
function steps({ shape }: Operand, kIsLast: boolean): readonly [outer: number, k: number] {
  const columns = shape.at(-1)!;
  return kIsLast ? [columns, 1] : [1, columns];
}

const matmul: Kernel = {
  fits: floats,
  run({ inputs, outputs, attributes }, kernels) {
    const [a, b, u, v, bias] = inputs as [Operand, Operand, Operand | null, Operand | null, Operand | null];
    const [out] = outputs as [Operand];
    const { transposeA, transposeB } = attributes as unknown as MatmulAttributes;
    const [m, n] = out.shape.slice(-2) as [number, number];
    const k = a.shape.at(transposeA ? -2 : -1)!;
    const r = u ? u.shape.at(transposeA ? -2 : -1)! : 0;
    const batch = out.shape.slice(0, -2);
    const [dataA, dataB] = [load(a), load(b)];
    const none = new Float32Array(0);
    const result = new Float32Array(sizeOf(out.shape));
    const tail: Argument[] = [
      u ? load(u) : none,
      v ? load(v) : none,
      bias ? load(bias) : new Float32Array(n),
      0,
      n,
      k,
      ...steps(a, !transposeA),
      ...steps(b, transposeB),
      r,
      ...(u ? steps(u, !transposeA) : [0, 0]),
      ...(v ? steps(v, transposeB) : [0, 0]),
    ];
    for (const [i, [fromA, fromB]] of batches(a, b, batch).entries()) {
      const values = [dataA.subarray(fromA, fromA + m * k), dataB.subarray(fromB, fromB + k * n), ...tail];
      result.set(kernels.run('matmul', () => productSource, m * n, values).subarray(0, m * n), i * m * n);
    }
    store(result, out);
  },
};

/** Where the matrices of each product start in a and b. */
function batches(a: Operand, b: Operand, batch: readonly number[]): (readonly [number, number])[] {
  const strides = [a, b].map(({ shape }) => broadcastStrides(shape.slice(0, -2), batch));
  const sizes = [a, b].map(({ shape }) => sizeOf(shape.slice(-2)));
  return Array.from({ length: sizeOf(batch) }, (_, i) => {
    let rest = i;
    const at = [0, 0];
    for (let axis = batch.length - 1; axis >= 0; axis--) {
      const index = rest % batch[axis]!;
      rest = Math.floor(rest / batch[axis]!);
      for (const side of [0, 1]) at[side]! += index * strides[side]![axis]!;
    }
    return [at[0]! * sizes[0]!, at[1]! * sizes[1]!] as const;
  });
}

const argmaxTurn = `if (value > top) { top = value; result = k; }
    if (value !== value && top === top) { top = value; result = k; }`;

const reductions: Readonly<Record<string, Kernel>> = {
  sum: simple({ source: overColumn('let result = x[0] - x[0];', 'result += value;'), numbers: middle }),
  max: simple({ source: overColumn('let result = x[first];', 'result = Math.max(result, value);'), numbers: middle }),
  argmax: simple(
    { source: overColumn('let result = n - n; let top = x[first];', argmaxTurn), numbers: middle },
    ({ inputs }) => isFloat(inputs[0]!.dtype),
  ),
};

const plansOf = (plans: Readonly<Record<string, Plan>>, fits?: (call: Call) => boolean): [string, Kernel][] =>
  Object.entries(plans).map(([name, plan]) => [name, simple(plan, fits)]);

/** Every op with a kernel of its own here; the others are composed of these, or move data, which the host does. */
export const kernels: ReadonlyMap<string, Kernel> = new Map([
  ['matmul', matmul],
  ...Object.entries(reductions),
  ...plansOf(rows),
  ...plansOf(indexing, indexed),
]);
