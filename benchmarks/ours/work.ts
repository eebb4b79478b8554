/** Our own engine as a peer is: the public API on a backend, in whatever host it runs. Nothing here needs Node. */
import { AdamW } from '@lorikeet/nn';
import {
  type Backend,
  crossEntropy,
  encode,
  fromBytes,
  linearCrossEntropy,
  matmul,
  openScope,
  randomKey,
  scope,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import type { AdamwSpec, AttentionSpec, MapSpec, MatmulSpec, PeerWork, SumSpec, WorkSpec } from '../peer.ts';

/** What one call computes: freed at the end of a timed call, read for a check. */
type Call = () => readonly Tensor[];

/** Prepared tensors of a spec, and the call on the `turn`th of those that take turns. */
interface Prepared {
  readonly turns: number;
  call(turn: number): readonly Tensor[];
}

/** Weights lie in the store as loaded ones do: written whole, in their dtype. */
const weightOf = (backend: Backend, values: Float32Array, shape: readonly number[], dtype: 'f32' | 'bf16'): Tensor =>
  dtype === 'f32'
    ? tensor(values, { backend, shape })
    : fromBytes(encode(values, 'bf16'), { backend, shape, dtype: 'bf16' });

/** Activations lie in work memory, where ops put them. */
function activation(backend: Backend, values: Float32Array, shape: readonly number[]): Tensor {
  using written = tensor(values, { backend, shape });
  return written.mul(1);
}

const once = (call: Call): Prepared => ({ turns: 1, call });

function matmulWork(backend: Backend, spec: MatmulSpec): Prepared {
  const { batch, m, k, n, transposeA, transposeB } = spec;
  const shapeOf = (rows: number, columns: number): number[] => (batch === 1 ? [rows, columns] : [batch, rows, columns]);
  const a = activation(backend, spec.a, transposeA ? shapeOf(k, m) : shapeOf(m, k));
  const bShape = transposeB ? shapeOf(n, k) : shapeOf(k, n);
  const bs = spec.b.map((b) =>
    batch === 1 ? weightOf(backend, b, bShape, spec.dtype) : activation(backend, b, bShape),
  );
  return { turns: bs.length, call: (turn) => [matmul(a, bs[turn]!, { transposeA, transposeB })] };
}

/** The call alone, or the call and its backward: outputs, then gradients in the order of `inputs`. */
function withBackward(
  direction: 'forward' | 'both',
  inputs: readonly Tensor[],
  seed: Tensor | undefined,
  forward: (...inputs: readonly Tensor[]) => Tensor,
): Call {
  if (direction === 'forward') return () => [forward(...inputs)];
  for (const input of inputs) input.requiresGrad = true;
  return () =>
    scope(() => {
      const y = forward(...inputs);
      const gradients = y.backward(seed);
      return [y.detach(), ...inputs.map((input) => gradients.of(input).alias())];
    });
}

function attentionWork(backend: Backend, spec: AttentionSpec): Prepared {
  const { heads, width, queries, keys, direction } = spec;
  const [query, key] = [
    [queries, heads, width],
    [keys, heads, width],
  ];
  const q = activation(backend, spec.q, query);
  const seed = activation(backend, spec.gradient, query);
  const calls = spec.k.map((k, i) => {
    const inputs = [q, activation(backend, k, key), activation(backend, spec.v[i]!, key)];
    return withBackward(direction, inputs, seed, (a, b, c) =>
      a!.attention(b!, c!, { lengths: [queries], keyLengths: [keys] }),
    );
  });
  return { turns: calls.length, call: (turn) => calls[turn]!() };
}

function mapWork(backend: Backend, { map, elements, x: values, y: other }: MapSpec): Call {
  const x = activation(backend, values, [elements]);
  const y = other && activation(backend, other, [elements]);
  if (map === 'add') return () => [x.add(y!)];
  if (map === 'copy') return () => [x.mul(1)];
  return () => [x[map]()];
}

function sumWork(backend: Backend, { axis, rows, width, x: values }: SumSpec): Call {
  const x = activation(backend, values, [rows, width]);
  return axis === 'all' ? () => [x.sum()] : () => [x.sum(axis)];
}

function adamwWork(backend: Backend, spec: AdamwSpec): Omit<PeerWork, 'dispose'> {
  const { lr, betas, eps, weightDecay } = spec;
  const start = () => {
    const p = activation(backend, spec.parameter, [spec.elements]);
    p.requiresGrad = true;
    const g = activation(backend, spec.gradient, [spec.elements]);
    const gradients = p.mul(g).sum().backward();
    const optimizer = new AdamW([{ path: 'p', tensor: p }], { lr, betas, eps, weightDecay });
    return { p, step: () => optimizer.step(gradients) };
  };
  const { step } = start();
  step();
  return {
    run: () => {
      step();
      return backend.sync();
    },
    result: async () => {
      const first = start();
      first.step();
      return [(await first.p.data()) as Float32Array];
    },
  };
}

function prepare(spec: Exclude<WorkSpec, AdamwSpec>, backend: Backend): Prepared | null {
  const rows = (values: Float32Array, ...shape: number[]): Tensor => activation(backend, values, shape);
  switch (spec.op) {
    case 'matmul':
      return matmulWork(backend, spec);
    case 'attention':
      return attentionWork(backend, spec);
    case 'rmsNorm': {
      const { rows: r, width: w, eps, direction, gradient } = spec;
      const inputs = [rows(spec.x, r, w), rows(spec.weight, w)];
      return once(withBackward(direction, inputs, rows(gradient, r, w), (x, weight) => x!.rmsNorm(weight!, eps)));
    }
    case 'swiglu': {
      const { rows: r, width: w, direction, gradient } = spec;
      const inputs = [rows(spec.gate, r, w), rows(spec.up, r, w)];
      return once(withBackward(direction, inputs, rows(gradient, r, w), (gate, up) => gate!.swiglu(up!)));
    }
    case 'rope': {
      const { tokens: t, heads: h, width: w, direction, gradient } = spec;
      const [cos, sin] = [rows(spec.cos, t, w / 2), rows(spec.sin, t, w / 2)];
      return once(withBackward(direction, [rows(spec.x, t, h, w)], rows(gradient, t, h, w), (x) => x!.rope(cos, sin)));
    }
    case 'softmax': {
      const { rows: r, width: w, direction, gradient } = spec;
      return once(withBackward(direction, [rows(spec.x, r, w)], rows(gradient, r, w), (x) => x!.softmax(-1)));
    }
    case 'dropout': {
      const x = rows(spec.x, spec.rows, spec.width);
      return once(() => [x.dropout(spec.p, randomKey(7))]);
    }
    case 'crossEntropy': {
      const labels = tensor(spec.labels, { backend, dtype: 'i32' });
      const logits = rows(spec.logits, spec.rows, spec.classes);
      return once(withBackward(spec.direction, [logits], undefined, (x) => crossEntropy(x!, labels)));
    }
    case 'linearCrossEntropy': {
      const w = weightOf(backend, spec.w, [spec.classes, spec.width], spec.dtype);
      const x = rows(spec.x, spec.rows, spec.width);
      return once(
        withBackward(spec.direction, [x], undefined, (hidden) => linearCrossEntropy(hidden!, w, spec.labels)),
      );
    }
    case 'map':
      return once(mapWork(backend, spec));
    case 'sum':
      return once(sumWork(backend, spec));
    default:
      return null;
  }
}

/** The spec on a backend, its tensors kept until it is disposed; null for whole steps, whose cases bring their own. */
export function ourWork(spec: WorkSpec, backend: Backend): PeerWork | null {
  const held = openScope();
  const dispose = (): void => held[Symbol.dispose]();
  if (spec.op === 'adamw') return { ...held.run(() => adamwWork(backend, spec)), dispose };
  const prepared = held.run(() => prepare(spec, backend));
  if (prepared === null) return null;
  const { turns, call } = prepared;
  let turn = 0;
  return {
    run: () => {
      const outputs = scope(() => [...call(turn++ % turns)]);
      // Held-back elementwise calls run now: what is freed unread is never computed.
      const done = backend.sync();
      for (const output of outputs) output.dispose();
      return done;
    },
    result: async () => {
      const values: Float32Array[] = [];
      for (const output of scope(() => [...call(0)])) {
        values.push((await output.data()) as Float32Array);
        output.dispose();
      }
      return values;
    },
    dispose,
  };
}
