/** What the compositions need of a library of arrays, so that their math is written once. Arguments are borrowed, never consumed. */
import type { MapFunction } from '../peer.ts';

export interface ArrayLibrary<T> {
  array(values: Float32Array | Int32Array, shape: readonly number[]): T;
  read(x: T): Promise<Float32Array>;
  free(x: T): void;
  /**
   * Prepares a function for many calls: compiled, where the library can. What it makes and does not return is freed; the
   * call ends when the outputs are computed.
   */
  compile(f: (inputs: readonly T[]) => readonly T[]): (inputs: readonly T[]) => readonly T[] | Promise<readonly T[]>;
  /** Inside a compiled function: y = f(inputs), and the gradient of each input from that of y, 1 where y is one number. */
  differentiate(f: (inputs: readonly T[]) => T, inputs: readonly T[], gradient?: T): { y: T; gradients: readonly T[] };

  /** Over the last two axes. */
  matmul(a: T, b: T, transposeA: boolean, transposeB: boolean): T;
  /** x [t, k] times the transpose of a frozen weight [n, k]. */
  linear(x: T, weight: T): T;
  permute(x: T, axes: readonly number[]): T;
  reshape(x: T, shape: readonly number[]): T;
  slice(x: T, begin: readonly number[], size: readonly number[]): T;
  /** Along the last axis. */
  concat(parts: readonly T[]): T;
  rows(table: T, ids: T): T;
  /** [rows, classes]; a row of zeros for -100. */
  oneHot(labels: T, classes: number): T;
  add(a: T, b: T | number): T;
  sub(a: T, b: T): T;
  mul(a: T, b: T | number): T;
  div(a: T, b: T): T;
  sqrt(x: T): T;
  rsqrt(x: T): T;
  relu(x: T): T;
  atMost(x: T, limit: number): T;
  /** Null for a function the library lacks. */
  map(name: MapFunction, x: T): T | null;
  /** Over one axis, or over all. */
  sum(x: T, axis: number | null): T;
  /** Over the last axis, which stays as 1. */
  mean(x: T): T;
  softmax(x: T): T;
  logSoftmax(x: T): T;
  /** x; and its gradient is computed once, where a compiler would write it into the loops of every product that reads it. */
  fence(x: T): T;
  /** Null where it has no such op. */
  dropout(x: T, p: number): T | null;
}
