/**
 * A library measured beside ours, and the work it is asked for. One case asks every peer, and our own backends, for the same
 * work on the same data; each result is checked against 64-bit floats before anything is timed (`check.ts`).
 */

/** A library on a number of threads. A library that can run on several counts is several peers of one name. */
export interface Peer {
  /** As in `--peers` and the JSON: 'pytorch', 'tfjs', 'jax-js', 'jax-js threads', 'onnxruntime', 'gpu.js'. */
  readonly name: string;
  readonly version: string;
  /** Threads it computes on: 1 for a library without threads, whatever was asked for. */
  readonly threads: number;
  /** Prepares the work: converts, uploads and compiles what may be prepared once. Null where it has no such op. */
  work(spec: WorkSpec): Promise<PeerWork | null>;
  close(): Promise<void>;
}

/** Work made ready. Between calls nothing of it may use a processor: spinning threads must have stopped. */
export interface PeerWork {
  /**
   * One call in this process, awaited inside the timing: it ends when the result is there, lazily computed or not, but
   * without reading it back. `b`, `k` and `v` of several arrays take turns, one a call.
   */
  run?(): unknown;
  /** Instead of `run`, seconds of one call measured by another process: the mean of calls that last 0.05 s together, or of one. */
  seconds?(): Promise<number>;
  /** The outputs of {@link WorkSpec}, in its order, of a call with the first of arrays that take turns. */
  result(): Promise<readonly Float32Array[]>;
  /** The part of the work one call does, for a peer that would need minutes: it takes the first rows. Default 1. */
  readonly part?: number;
  /** Unit roundoff of its arithmetic where that is coarser than f32's 2^-24: the bounds of the check widen with it. */
  readonly roundoff?: number;
  dispose(): void;
}

type Direction = 'forward' | 'both';

/**
 * An op, its shapes and its inputs in row-major order. `direction: 'both'` times forward and backward together, from
 * `gradient`, the gradient of the output. Each member names its outputs; those after `|` come with 'both' alone.
 */
export type WorkSpec =
  | MatmulSpec
  | AttentionSpec
  | RmsNormSpec
  | SwigluSpec
  | RopeSpec
  | SoftmaxSpec
  | DropoutSpec
  | CrossEntropySpec
  | LinearCrossEntropySpec
  | AdamwSpec
  | MapSpec
  | SumSpec
  | MlpStepSpec
  | LoraStepSpec
  | GenerationSpec;

/** y [batch, m, n] = a b, where a is [batch, m, k] or, transposed, [batch, k, m]; b is [batch, k, n] or [batch, n, k]. */
export interface MatmulSpec {
  readonly op: 'matmul';
  /** 1 but for batched products. */
  readonly batch: number;
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  /** How ours keeps `b`, whose values are given rounded to it. A peer without bf16 takes them as f32. */
  readonly dtype: 'f32' | 'bf16';
  readonly a: Float32Array;
  /** Matrices that take turns, so that a product with few rows reads memory and not a cache. */
  readonly b: readonly Float32Array[];
}

/** y [queries, heads, width] | dq, dk, dv. Causal: the last query sees all keys, the one before it one less. Scale 1/sqrt(width). */
export interface AttentionSpec {
  readonly op: 'attention';
  readonly direction: Direction;
  readonly heads: number;
  readonly width: number;
  readonly queries: number;
  readonly keys: number;
  /** [queries, heads, width]. */
  readonly q: Float32Array;
  /** [keys, heads, width] each; several take turns. */
  readonly k: readonly Float32Array[];
  readonly v: readonly Float32Array[];
  readonly gradient: Float32Array;
}

/** y [rows, width] = x / sqrt(mean(x^2) + eps) * weight | dx, dweight [width]. */
export interface RmsNormSpec {
  readonly op: 'rmsNorm';
  readonly direction: Direction;
  readonly rows: number;
  readonly width: number;
  readonly eps: number;
  readonly x: Float32Array;
  readonly weight: Float32Array;
  readonly gradient: Float32Array;
}

/** y [elements] = gate sigmoid(gate) up | dgate, dup. */
export interface SwigluSpec {
  readonly op: 'swiglu';
  readonly direction: Direction;
  readonly rows: number;
  readonly width: number;
  readonly gate: Float32Array;
  readonly up: Float32Array;
  readonly gradient: Float32Array;
}

/** y [tokens, heads, width]: halves of a head turned, (x1 cos - x2 sin, x2 cos + x1 sin) | dx. */
export interface RopeSpec {
  readonly op: 'rope';
  readonly direction: Direction;
  readonly tokens: number;
  readonly heads: number;
  readonly width: number;
  readonly x: Float32Array;
  /** [tokens, width / 2]. */
  readonly cos: Float32Array;
  readonly sin: Float32Array;
  readonly gradient: Float32Array;
}

/** y [rows, width], over the last axis | dx. */
export interface SoftmaxSpec {
  readonly op: 'softmax';
  readonly direction: Direction;
  readonly rows: number;
  readonly width: number;
  readonly x: Float32Array;
  readonly gradient: Float32Array;
}

/** y [rows, width]: each element 0 with probability p, else x / (1 - p). No two libraries draw the same. */
export interface DropoutSpec {
  readonly op: 'dropout';
  readonly rows: number;
  readonly width: number;
  readonly p: number;
  readonly x: Float32Array;
}

/** Mean loss [1] over labels but -100 | dlogits [rows, classes]. */
export interface CrossEntropySpec {
  readonly op: 'crossEntropy';
  readonly direction: Direction;
  readonly rows: number;
  readonly classes: number;
  readonly logits: Float32Array;
  readonly labels: Int32Array;
}

/** Mean loss [1] of logits x w^T over labels but -100 | dx [rows, width]; w [classes, width] is frozen. */
export interface LinearCrossEntropySpec {
  readonly op: 'linearCrossEntropy';
  readonly direction: Direction;
  readonly rows: number;
  readonly width: number;
  readonly classes: number;
  /** As in {@link MatmulSpec}. */
  readonly dtype: 'f32' | 'bf16';
  readonly x: Float32Array;
  readonly w: Float32Array;
  readonly labels: Int32Array;
}

/** A step of AdamW on one parameter [elements]: the parameter after the first step. Each call is a step more. */
export interface AdamwSpec {
  readonly op: 'adamw';
  readonly elements: number;
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  readonly parameter: Float32Array;
  readonly gradient: Float32Array;
}

export type MapFunction = 'copy' | 'add' | 'exp' | 'log' | 'tanh' | 'sigmoid' | 'sin' | 'cos' | 'silu' | 'gelu';

/** y [elements] = f(x), or x + y for 'add'. gelu is the exact one, with erf; 'copy' writes a new array. */
export interface MapSpec {
  readonly op: 'map';
  readonly map: MapFunction;
  readonly elements: number;
  readonly x: Float32Array;
  /** Of 'add' alone. */
  readonly y?: Float32Array;
}

/** The sum of x [rows, width]: of all [1], along the rows (axis 0: [width]) or in each (axis 1: [rows]). */
export interface SumSpec {
  readonly op: 'sum';
  readonly axis: 'all' | 0 | 1;
  readonly rows: number;
  readonly width: number;
  readonly x: Float32Array;
}

/**
 * A whole step of plain SGD on x [batch, sizes[0]]: linear, relu, ..., linear, mean cross-entropy, backward, update.
 * Output: the loss [2] of the first and of the second step.
 */
export interface MlpStepSpec {
  readonly op: 'mlpStep';
  readonly batch: number;
  /** Width of the input, of the hidden layers and of the output: 784, 512, 10. */
  readonly sizes: readonly number[];
  readonly lr: number;
  readonly x: Float32Array;
  readonly labels: Int32Array;
  /** [sizes[i + 1], sizes[i]], as nn.Linear has them. */
  readonly weights: readonly Float32Array[];
  readonly biases: readonly Float32Array[];
}

/**
 * A LoRA step: forward, backward, gradients clipped to norm 1, AdamW (betas 0.9 and 0.999, eps 1e-8, no decay), no dropout.
 * Output: the loss [2] of the first and of the second step on the batch.
 */
export interface LoraStepSpec {
  readonly op: 'loraStep';
  /** A model folder as transformers reads it: config.json and model.safetensors. */
  readonly model: string;
  /** An adapter folder as PEFT reads it, with the adapters' first values. */
  readonly adapter: string;
  readonly lr: number;
  /** The batch: rows of different lengths, padded by who must; labels of -100 do not count. */
  readonly rows: readonly { readonly ids: Int32Array; readonly labels: Int32Array }[];
  /** Several batches of so many rows: a call of transformers takes a step on each. Absent: all rows are one. */
  readonly rowsPerStep?: number;
}

/** Cached greedy generation, no stop token. Output: the new tokens' ids. */
export interface GenerationSpec {
  readonly op: 'generation';
  readonly model: string;
  readonly prompt: Int32Array;
  readonly newTokens: number;
}

/**
 * Opens a library for the thread counts asked for, or as it ships where it has no say; installs it when first used. Empty,
 * with the reason printed, where it cannot run here. `peers.ts` lists them by name.
 */
export type OpenPeer = (threads: readonly number[]) => Promise<readonly Peer[]>;
