/** The losses of an MLP's first steps in 64-bit floats, by loops. */
import type { MlpStepSpec } from '../peer.ts';

type Rows = number[][];

const rowsOf = (values: ArrayLike<number>, width: number): Rows =>
  Array.from({ length: values.length / width }, (_, r) =>
    Array.from({ length: width }, (_, c) => values[r * width + c]!),
  );

const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);

/** The activations before each layer and the logits. */
function forward(weights: readonly Rows[], biases: readonly number[][], x: Rows): Rows[] {
  const activations = [x];
  for (const [i, w] of weights.entries()) {
    const last = i === weights.length - 1;
    activations.push(
      activations[i]!.map((row) =>
        w.map((column, c) => dot(row, column) + biases[i]![c]!).map((z) => (last ? z : Math.max(z, 0))),
      ),
    );
  }
  return activations;
}

/** Mean loss, and the gradient of the logits. */
function lossOf(logits: Rows, labels: Int32Array): { loss: number; gradient: Rows } {
  let loss = 0;
  const gradient = logits.map((row, r) => {
    const total = row.reduce((sum, z) => sum + Math.exp(z), 0);
    loss += (Math.log(total) - row[labels[r]!]!) / logits.length;
    return row.map((z, c) => (Math.exp(z) / total - (c === labels[r] ? 1 : 0)) / logits.length);
  });
  return { loss, gradient };
}

export function mlpLosses({ sizes, lr, x, labels, weights, biases }: MlpStepSpec, steps: number): number[] {
  const ws = weights.map((w, i) => rowsOf(w, sizes[i]!));
  const bs = biases.map((b) => Array.from(b));
  const losses: number[] = [];
  for (let step = 0; step < steps; step++) {
    const activations = forward(ws, bs, rowsOf(x, sizes[0]!));
    const { loss, gradient } = lossOf(activations.at(-1)!, labels);
    losses.push(loss);
    let upper = gradient;
    for (let i = ws.length - 1; i >= 0; i--) {
      const input = activations[i]!;
      const lower = upper.map((row, r) =>
        input[r]!.map((h, c) => (i === 0 || h > 0 ? row.reduce((sum, g, o) => sum + g * ws[i]![o]![c]!, 0) : 0)),
      );
      for (const [o, column] of ws[i]!.entries()) {
        for (let c = 0; c < column.length; c++)
          column[c]! -= lr * upper.reduce((sum, row, r) => sum + row[o]! * input[r]![c]!, 0);
        bs[i]![o]! -= lr * upper.reduce((sum, row) => sum + row[o]!, 0);
      }
      upper = lower;
    }
  }
  return losses;
}
