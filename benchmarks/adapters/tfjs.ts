/**
 * TensorFlow.js on its WebAssembly backend as it ships in Node: SIMD, one thread. Its threaded build starts its threads in Node
 * when forced to, but then reports a count of one and is no faster. Ops run one by one; derivatives are the library's own. Its
 * product with a transposed operand is a scalar loop, so a product alone is measured transposed beforehand too, and the faster
 * of the two counts; frozen weights are kept in both layouts.
 */
import { answer } from '../answer.ts';
import { sample } from '../measure.ts';
import type { MapFunction, OpenPeer, PeerWork, WorkSpec } from '../peer.ts';
import { loadPeer, openNodePeers } from '../peer-install.ts';
import type { ArrayLibrary } from './array-library.ts';
import { composedWork } from './composed-work.ts';

interface Tensor {
  data(): Promise<Float32Array>;
  dispose(): void;
}

type Op = (...inputs: unknown[]) => Tensor;

interface Module {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  env(): { set(flag: string, value: boolean): void; getAsync(flag: string): Promise<boolean> };
  tidy<V>(f: () => V): V;
  keep(x: Tensor): Tensor;
  customGrad(f: (x: Tensor) => { value: Tensor; gradFunc: (gradient: Tensor) => Tensor }): (x: Tensor) => Tensor;
  valueAndGrads(
    f: (...inputs: Tensor[]) => Tensor,
  ): (inputs: readonly Tensor[], gradient?: Tensor) => { value: Tensor; grads: Tensor[] };
}

type Ops = Module & Readonly<Record<string, Op>>;

/** Elements of frozen weights in two layouts: it has 2 GiB, and packs a copy of every matrix that it multiplies with. */
const mostDoubled = 32 * 2 ** 20;

function tfjsLibrary(tf: Ops, transposesFirst: boolean): ArrayLibrary<Tensor> {
  const swap = (x: Tensor): Tensor => {
    const { rank } = x as Tensor & { rank: number };
    const axes = Array.from({ length: rank }, (_, i) => i);
    return tf.transpose!(x, [...axes.slice(0, -2), rank - 1, rank - 2]);
  };
  const transposes = new Map<Tensor, Tensor>();
  let doubled = 0;
  const maps: Partial<Record<MapFunction, (x: Tensor) => Tensor>> = {
    exp: tf.exp!,
    log: tf.log!,
    tanh: tf.tanh!,
    sigmoid: tf.sigmoid!,
    sin: tf.sin!,
    cos: tf.cos!,
    silu: (x) => tf.mul!(x, tf.sigmoid!(x)),
    gelu: (x) => tf.mul!(tf.mul!(x, 0.5), tf.add!(tf.erf!(tf.mul!(x, Math.SQRT1_2)), 1)),
  };
  return {
    array: (values, shape) => tf.tensor!(values, shape, values instanceof Float32Array ? 'float32' : 'int32'),
    read: async (x) => Float32Array.from(await x.data()),
    free(x) {
      transposes.get(x)?.dispose();
      transposes.delete(x);
      x.dispose();
    },
    compile: (f) => (inputs) => tf.tidy(() => f(inputs)),
    differentiate(f, inputs, gradient) {
      const { value, grads } = tf.valueAndGrads((...variables) => f(variables))(inputs, gradient);
      return { y: value, gradients: grads };
    },
    matmul: (a, b, transposeA, transposeB) =>
      transposesFirst
        ? tf.matMul!(transposeA ? swap(a) : a, transposeB ? swap(b) : b)
        : tf.matMul!(a, b, transposeA, transposeB),
    linear(x, weight) {
      const { size } = weight as Tensor & { size: number };
      if (!transposes.has(weight) && doubled + size > mostDoubled) return tf.matMul!(x, weight, false, true);
      if (!transposes.has(weight)) {
        transposes.set(weight, tf.keep(tf.transpose!(weight)));
        doubled += size;
      }
      const transposed = transposes.get(weight)!;
      return tf.customGrad((y) => ({
        value: tf.matMul!(y, transposed),
        gradFunc: (gradient) => tf.matMul!(gradient, weight),
      }))(x);
    },
    permute: (x, axes) => tf.transpose!(x, axes),
    reshape: (x, shape) => tf.reshape!(x, shape),
    slice: (x, begin, size) => tf.slice!(x, begin, size),
    concat: (parts) => tf.concat!(parts, -1),
    rows: (table, ids) => tf.gather!(table, ids),
    oneHot: (labels, classes) => tf.cast!(tf.oneHot!(labels, classes), 'float32'),
    add: (a, b) => tf.add!(a, b),
    sub: (a, b) => tf.sub!(a, b),
    mul: (a, b) => tf.mul!(a, b),
    div: (a, b) => tf.div!(a, b),
    sqrt: (x) => tf.sqrt!(x),
    rsqrt: (x) => tf.rsqrt!(x),
    relu: (x) => tf.relu!(x),
    atMost: (x, limit) => tf.minimum!(x, limit),
    map: (name, x) => maps[name]?.(x) ?? null,
    sum: (x, axis) => tf.sum!(x, axis ?? undefined),
    mean: (x) => tf.mean!(x, -1, true),
    softmax: (x) => tf.softmax!(x),
    logSoftmax: (x) => tf.logSoftmax!(x),
    fence: (x) => x,
    dropout: (x, p) => tf.dropout!(x, p),
  };
}

/** A product by both ways, the faster one kept. */
async function product(tf: Ops, spec: WorkSpec): Promise<PeerWork> {
  const works = [];
  for (const transposesFirst of [false, true]) {
    const work = (await composedWork(tfjsLibrary(tf, transposesFirst), spec))!;
    works.push({ work, seconds: await sample(() => work.run!()) });
  }
  works.sort((a, b) => a.seconds - b.seconds);
  works[1]!.work.dispose();
  return works[0]!.work;
}

const peer = { folder: 'tfjs', name: '@tensorflow/tfjs' };
const backend = '@tensorflow/tfjs-backend-wasm';

export const open: OpenPeer = () => openNodePeers(peer, import.meta.url, [{ name: 'tfjs', threads: 1 }]);

if (import.meta.main) {
  const { require, version } = loadPeer(peer);
  const tf = require(peer.name) as Ops;
  require(backend);
  await tf.setBackend('wasm');
  await tf.ready();
  await answer({ version, threads: 1 }, (spec) =>
    spec.op === 'matmul' && (spec.transposeA || spec.transposeB)
      ? product(tf, spec)
      : composedWork(tfjsLibrary(tf, false), spec),
  );
  process.exit();
}
