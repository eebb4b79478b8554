/** Every work in a small shape that no block divides, for a quick look at what an adapter computes. */
import { draw, drawLabels } from '../data.ts';
import type { MapFunction, WorkSpec } from '../peer.ts';

const maps: readonly MapFunction[] = ['copy', 'add', 'exp', 'log', 'tanh', 'sigmoid', 'sin', 'cos', 'silu', 'gelu'];

function products(): WorkSpec[] {
  const [m, k, n] = [5, 67, 19];
  return [false, true].flatMap((transposeA) =>
    [false, true].flatMap((transposeB) =>
      [1, 3].map((batch): WorkSpec => {
        const b = [draw(batch * k * n, 2), draw(batch * k * n, 3)];
        return { op: 'matmul', batch, m, k, n, transposeA, transposeB, dtype: 'f32', a: draw(batch * m * k, 1), b };
      }),
    ),
  );
}

function attention(direction: 'forward' | 'both', queries: number, keys: number): WorkSpec {
  const [heads, width] = [3, 16];
  const rows = (count: number, seed: number): Float32Array => draw(count * heads * width, seed);
  const [k, v] = [[rows(keys, 2)], [rows(keys, 3)]];
  return {
    op: 'attention',
    direction,
    heads,
    width,
    queries,
    keys,
    q: rows(queries, 1),
    k,
    v,
    gradient: rows(queries, 4),
  };
}

function bothWays(direction: 'forward' | 'both'): WorkSpec[] {
  const [rows, width, classes] = [7, 24, 31];
  const [x, gradient] = [draw(rows * width, 1), draw(rows * width, 2)];
  const labels = drawLabels(rows, classes, 3);
  const [tokens, heads] = [7, 3];
  const table = tokens * 4;
  return [
    attention(direction, 13, 13),
    { op: 'rmsNorm', direction, rows, width, eps: 1e-5, x, weight: draw(width, 3), gradient },
    { op: 'swiglu', direction, rows, width, gate: x, up: draw(rows * width, 4), gradient },
    { op: 'rope', direction, tokens, heads, width: 8, x, cos: draw(table, 5), sin: draw(table, 6), gradient },
    { op: 'softmax', direction, rows, width, x: draw(rows * width, 7, 4), gradient },
    { op: 'crossEntropy', direction, rows, classes, logits: draw(rows * classes, 8, 3), labels },
    { op: 'linearCrossEntropy', direction, rows, width, classes, dtype: 'f32', x, w: draw(classes * width, 9), labels },
  ];
}

/** All works but the two that read a model. */
export const smallWorks: readonly WorkSpec[] = [
  ...products(),
  ...bothWays('forward'),
  ...bothWays('both'),
  attention('forward', 1, 13),
  attention('forward', 4, 13),
  { op: 'dropout', rows: 70, width: 64, p: 0.25, x: draw(70 * 64, 1) },
  {
    op: 'adamw',
    elements: 77,
    lr: 0.01,
    betas: [0.9, 0.99],
    eps: 1e-8,
    weightDecay: 0.1,
    parameter: draw(77, 1),
    gradient: draw(77, 2),
  },
  ...maps.map((map): WorkSpec => {
    const x = map === 'log' ? draw(77, 1).map(Math.abs) : draw(77, 1);
    return { op: 'map', map, elements: 77, x, ...(map === 'add' && { y: draw(77, 2) }) };
  }),
  ...(['all', 0, 1] as const).map((axis): WorkSpec => ({ op: 'sum', axis, rows: 7, width: 33, x: draw(231, 1) })),
  {
    op: 'mlpStep',
    batch: 8,
    sizes: [12, 17, 5],
    lr: 0.1,
    x: draw(96, 1),
    labels: drawLabels(8, 5),
    weights: [draw(204, 2, 0.3), draw(85, 3, 0.3)],
    biases: [draw(17, 4), draw(5, 5)],
  },
];

/** What tells one work from the others. */
export function titleOf(spec: WorkSpec): string {
  if (spec.op === 'matmul')
    return `matmul ${spec.transposeA ? 'T' : 'N'}${spec.transposeB ? 'T' : 'N'}${spec.batch > 1 ? ' batched' : ''}`;
  if (spec.op === 'map') return spec.map;
  if (spec.op === 'sum') return `sum ${spec.axis}`;
  if (spec.op === 'attention') return `attention ${spec.direction} ${spec.queries} x ${spec.keys}`;
  return 'direction' in spec ? `${spec.op} ${spec.direction}` : spec.op;
}
