/**
 * Ops that memory binds. The rate is of bytes that must move: each input read once, each output written once, backward
 * reading what it needs again. Sizes are such that about 48 MiB are touched, as by the probes they are compared with.
 */
import { type BenchCase, boundBy, type Resource } from '../case.ts';
import { draw, drawLabels, roundedToBf16 } from '../data.ts';
import type { MapFunction, WorkSpec } from '../peer.ts';
import { type SpecCase, specCase } from '../spec-case.ts';

/** `arrays`: arrays of the op's main size that must be read or written. */
function moving<Spec extends WorkSpec>(
  name: string,
  shape: string,
  elements: number,
  arrays: number,
  spec: () => Spec,
  { resource = 'copy', also = 'paired' }: { readonly resource?: Resource; readonly also?: SpecCase<Spec>['also'] } = {},
): BenchCase {
  return specCase({
    name,
    shape: `${shape}; ${arrays} arrays moved`,
    unit: 'GB/s',
    variants: { '': spec },
    work: () => 4 * elements * arrays,
    limit: () => boundBy(resource),
    also,
  });
}

const width = 3072;
const both = 'both' as const;
const directions = ['forward', both] as const;
const suffix = { forward: 'forward', both: 'forward + backward' } as const;

/** x read, y written | x and the gradient read, dx written. */
const norms = directions.map((direction) => {
  const rows = direction === both ? 1024 : 2048;
  const values = (seed: number): Float32Array => draw(rows * width, seed);
  return moving(
    `RMSNorm ${suffix[direction]}`,
    `${rows} x ${width}`,
    rows * width,
    direction === both ? 5 : 2,
    () => ({
      op: 'rmsNorm',
      direction,
      rows,
      width,
      eps: 1e-5,
      x: values(1),
      weight: draw(width, 2),
      gradient: values(3),
    }),
    { also: direction === both ? 'main' : 'paired' },
  );
});

/** gate and up read, y written | gate, up and the gradient read, dgate and dup written. */
const swiglus = directions.map((direction) => {
  const [rows, inner] = [direction === both ? 256 : 512, 8192];
  const values = (seed: number): Float32Array => draw(rows * inner, seed);
  return moving(`SwiGLU ${suffix[direction]}`, `${rows} x ${inner}`, rows * inner, direction === both ? 8 : 3, () => ({
    op: 'swiglu', direction, rows, width: inner, gate: values(1), up: values(2), gradient: values(3),
  })); // biome-ignore format: a record
});

/** x read, y written | the gradient read, dx written; the tables of 48 columns are a hundredth. */
const ropes = directions.map((direction) => {
  const [tokens, heads, head] = [direction === both ? 1024 : 2048, 32, 96];
  const values = (seed: number): Float32Array => draw(tokens * heads * head, seed);
  const angles = Float64Array.from({ length: (tokens * head) / 2 }, (_, i) => {
    const [t, p] = [Math.floor(i / (head / 2)), i % (head / 2)];
    return t * 10000 ** (-p / (head / 2));
  });
  return moving(
    `RoPE ${suffix[direction]}`,
    `${tokens} x ${heads} x ${head}`,
    tokens * heads * head,
    direction === both ? 4 : 2,
    () => ({
      op: 'rope', direction, tokens, heads, width: head, x: values(1), gradient: values(3),
      cos: Float32Array.from(angles, Math.cos), sin: Float32Array.from(angles, Math.sin),
    }), // biome-ignore format: a record
  );
});

/** Logits read | logits read again, their gradient written. */
const losses = directions.map((direction) => {
  const [rows, classes] = [direction === both ? 192 : 384, 32064];
  return moving(
    `cross-entropy ${suffix[direction]}`,
    `${rows} x ${classes}`,
    rows * classes,
    direction === both ? 3 : 1,
    () => ({
      op: 'crossEntropy',
      direction,
      rows,
      classes,
      logits: draw(rows * classes, 1, 4),
      labels: drawLabels(rows, classes, 8),
    }),
    { resource: direction === both ? 'copy' : 'read' },
  );
});

/** Parameter and both moments read and written, the gradient read. */
const optimizer = moving('AdamW', '3 M parameters', 3 * 2 ** 20, 7, () => ({
  op: 'adamw', elements: 3 * 2 ** 20, lr: 1e-3, betas: [0.9, 0.999] as const, eps: 1e-8, weightDecay: 0.01,
  parameter: draw(3 * 2 ** 20, 1), gradient: draw(3 * 2 ** 20, 2, 0.01),
})); // biome-ignore format: a record

const [rows, elements] = [2048, 2048 * width];
const shape = `${rows} x ${width}`;
const softmaxes = moving('softmax', shape, elements, 2, () => ({
  op: 'softmax', direction: 'forward' as const, rows, width, x: draw(elements, 1, 4), gradient: draw(elements, 2),
})); // biome-ignore format: a record
const dropouts = moving('dropout', shape, elements, 2, () => ({
  op: 'dropout',
  rows,
  width,
  p: 0.1,
  x: draw(elements, 1),
}));

const maps = (['copy', 'exp', 'log', 'tanh', 'sigmoid', 'sin', 'cos', 'silu', 'gelu'] as const).map(
  (map: MapFunction) =>
    moving(`map ${map}`, shape, elements, 2, () => {
      const x = draw(elements, 1, 4);
      return { op: 'map', map, elements, x: map === 'log' ? x.map(Math.abs) : x };
    }),
);
const addition = moving('map add', '1365 x 3072', 1365 * width, 3, () => ({
  op: 'map', map: 'add' as const, elements: 1365 * width, x: draw(1365 * width, 1), y: draw(1365 * width, 2),
})); // biome-ignore format: a record

const sums = (['all', 0, 1] as const).map((axis) =>
  moving(
    `sum ${axis === 'all' ? 'of all' : `over axis ${axis}`}`,
    `4096 x ${width}`,
    4096 * width,
    1,
    () => ({ op: 'sum', axis, rows: 4096, width, x: draw(4096 * width, 1) }),
    { resource: 'read' },
  ),
);

/** Half the rows are masked and cost nothing; logits and the gradient of x are two products. */
const linearLoss = specCase({
  name: 'linear + cross-entropy forward + backward',
  shape: '256 x 1024 x 32064, bf16, every second row masked',
  unit: 'GFLOP/s',
  variants: {
    '': () => ({
      op: 'linearCrossEntropy', direction: both, rows: 256, width: 1024, classes: 32064, dtype: 'bf16' as const,
      x: draw(256 * 1024, 1), w: roundedToBf16(draw(32064 * 1024, 2, 0.02)), labels: drawLabels(256, 32064, 2),
    }), // biome-ignore format: a record
  },
  work: ({ width: d, classes, labels }) => 4 * labels.filter((label) => label >= 0).length * d * classes,
  limit: () => boundBy('multiply-add'),
});

export const memoryCases: readonly BenchCase[] = [
  ...norms, ...swiglus, ...ropes, optimizer, ...losses, linearLoss, softmaxes, dropouts, ...maps, addition, ...sums,
]; // biome-ignore format: a list
