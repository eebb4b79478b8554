/** @jax-js/jax on its WebAssembly backend, with jit: as it ships in Node (no threads), and with a Worker put in place. */
import { answer } from '../answer.ts';
import type { MapFunction, OpenPeer } from '../peer.ts';
import { loadPeer, openNodePeers } from '../peer-install.ts';
import type { ArrayLibrary } from './array-library.ts';
import { composedWork } from './composed-work.ts';
import { shimWorkers } from './web-worker.ts';

/** A jax-js array: an argument is consumed unless passed as `.ref`. */
interface Jax {
  readonly ref: Jax;
  dispose(): void;
  data(): Promise<Float32Array>;
  reshape(shape: readonly number[]): Jax;
  transpose(axes: readonly number[]): Jax;
  slice(...ranges: unknown[]): Jax;
}

type Op = (...inputs: unknown[]) => Jax;

interface Module {
  init(device: string): Promise<unknown>;
  defaultDevice(device: string): void;
  blockUntilReady<V>(x: V): Promise<V>;
  jit(f: (...inputs: Jax[]) => Jax[]): (...inputs: Jax[]) => Jax[];
  vjp(f: (...inputs: Jax[]) => Jax, inputs: readonly Jax[]): [Jax, (y: Jax) => Jax[]];
  readonly numpy: Readonly<Record<string, Op>>;
  readonly nn: Readonly<Record<string, Op>>;
  readonly random: Readonly<Record<string, Op>>;
}

function jaxLibrary(jax: Module): ArrayLibrary<Jax> {
  const { numpy: np, nn, random } = jax;
  const kept = (x: Jax | number): unknown => (typeof x === 'number' ? x : x.ref);
  let nothing: Jax | null = null;
  const swap = (x: Jax): Jax => np.matrixTranspose!(x.ref);
  const maps: Partial<Record<MapFunction, (x: Jax) => Jax>> = {
    exp: (x) => np.exp!(x.ref),
    log: (x) => np.log!(x.ref),
    tanh: (x) => np.tanh!(x.ref),
    sin: (x) => np.sin!(x.ref),
    cos: (x) => np.cos!(x.ref),
    sigmoid: (x) => nn.sigmoid!(x.ref),
    silu: (x) => nn.silu!(x.ref),
    gelu: (x) => nn.gelu!(x.ref, { approximate: false }),
  };
  return {
    array: (values, shape) => np.array!(values, { shape }),
    read: async (x) => Float32Array.from(await x.ref.data()),
    free: (x) => x.dispose(),
    compile(f) {
      const call = jax.jit((...inputs) => [...f(inputs)]);
      return (inputs) => jax.blockUntilReady(call(...inputs.map((x) => x.ref)));
    },
    differentiate(f, inputs, gradient) {
      const [value, back] = jax.vjp(
        (...variables) => {
          nothing = variables.pop()!;
          const y = f(variables);
          nothing = null;
          return y;
        },
        [...inputs.map((x) => x.ref), np.zeros!([])],
      );
      const gradients = back(gradient?.ref ?? np.ones!([]));
      return { y: np.add!(value, np.multiply!(gradients.pop()!, 0)), gradients };
    },
    // With both operands transposed its kernel is scalar and 100 times slower than the transpose of the other product.
    matmul: (a, b, transposeA, transposeB) =>
      transposeA && transposeB
        ? np.matrixTranspose!(np.matmul!(b.ref, a.ref))
        : np.matmul!(transposeA ? swap(a) : a.ref, transposeB ? swap(b) : b.ref),
    linear: (x, weight) => np.matmul!(x.ref, swap(weight)),
    permute: (x, axes) => x.ref.transpose(axes),
    reshape: (x, shape) => x.ref.reshape(shape),
    slice: (x, begin, size) => x.ref.slice(...begin.map((b, i) => [b, b + size[i]!])),
    concat: (parts) => np.concatenate!(parts.map(kept), -1),
    rows: (table, ids) => np.take!(table.ref, ids.ref, 0),
    oneHot: (labels, classes) =>
      np.astype!(
        np.equal!(np.expandDims!(labels.ref, -1), np.arange!(classes, undefined, undefined, { dtype: 'int32' })),
        'float32',
      ),
    add: (a, b) => np.add!(a.ref, kept(b)),
    sub: (a, b) => np.subtract!(a.ref, b.ref),
    mul: (a, b) => np.multiply!(a.ref, kept(b)),
    div: (a, b) => np.divide!(a.ref, b.ref),
    sqrt: (x) => np.sqrt!(x.ref),
    rsqrt: (x) => np.reciprocal!(np.sqrt!(x.ref)),
    relu: (x) => nn.relu!(x.ref),
    atMost: (x, limit) => np.minimum!(x.ref, limit),
    map: (name, x) => maps[name]?.(x) ?? null,
    sum: (x, axis) => np.sum!(x.ref, axis),
    mean: (x) => np.mean!(x.ref, -1, { keepdims: true }),
    softmax: (x) => nn.softmax!(x.ref),
    logSoftmax: (x) => nn.logSoftmax!(x.ref),
    // Its gradient gets a second reader, the sum that is the gradient of `nothing`: only then is it an array of its own.
    fence: (x) => (nothing === null ? x : np.add!(x.ref, nothing.ref)),
    dropout: (x, p) => {
      const keep = random.bernoulli!(random.key!(1), 1 - p, (x as Jax & { shape: number[] }).shape);
      return np.where!(keep, np.multiply!(x.ref, 1 / (1 - p)), 0);
    },
  };
}

const peer = { folder: 'jax-js', name: '@jax-js/jax' };
const threaded = 'jax-js threads';

export const open: OpenPeer = (threads) =>
  openNodePeers(peer, import.meta.url, [
    { name: 'jax-js', threads: 1 },
    ...threads.filter((count) => count > 1).map((count) => ({ name: threaded, threads: count })),
  ]);

if (import.meta.main) {
  const [name, threads] = [process.argv[2], Number(process.argv[3])];
  const { require, version } = loadPeer(peer);
  if (name === threaded) shimWorkers(threads);
  const jax = (await import(require.resolve(peer.name).replace(/\.cjs$/, '.js'))) as Module;
  await jax.init('wasm');
  jax.defaultDevice('wasm');
  // Its workers do not keep Node alive while a result is awaited; the lines of stdin do.
  await answer({ version, threads }, (spec) => composedWork(jaxLibrary(jax), spec));
  process.exit();
}
