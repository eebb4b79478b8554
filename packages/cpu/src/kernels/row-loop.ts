/**
 * Loops over rows of numbers for kernels that reduce or map them: four vectors a turn, which V8 pairs, then single
 * vectors, then the last elements one at a time in lane 0, so that nothing past the row is touched. The order of sums
 * depends on the length alone.
 */
import { argument, type FunctionBuilder, type Local, type ModuleBuilder } from '../assembler.ts';
import { type F32, f32, f32x4, type I32, i32, i32x4, store, type V128, v128 } from '../instructions.ts';
import {
  bytesPerElement,
  type FloatType,
  loadFloat,
  loadFloats,
  narrowBrain,
  narrowHalf,
  storeFloats,
} from './lanes.ts';

/** A row in memory that a loop walks. */
export interface Walker {
  readonly pointer: Local<'i32'>;
  readonly dtype: FloatType;
}

export const walk = (f: FunctionBuilder, from: I32, dtype: FloatType = 'f32'): Walker => ({
  pointer: f.int(from),
  dtype,
});

/** How the body of a loop reads and writes its elements. */
export interface Access {
  /** Selects an accumulator: one for each of the turn's vectors, one for the elements after the last whole turn. */
  readonly half: number;
  load(walker: Walker): V128;
  /** The value where the lane holds an element, `neutral` elsewhere. */
  only(value: V128, neutral: V128): V128;
}

/** Values to store at walkers after all arithmetic of the turn. */
export type Stores = readonly (readonly [Walker, V128])[];

/** Vectors a turn handles: two pairs, because one accumulator waits four cycles for each addition. */
const turnVectors = 4;
/** For bodies with a polynomial, which fill the registers. */
export const longTurn = 2;
/** What follows the last whole turn has its own accumulator: a vector that another loop also changes would not pair. */
const lastElements = turnVectors;

const count = (n: number) => Array.from({ length: n }, (_, i) => i);

/** Runs `body` over `n` elements; the walkers advance, `body` gives what to store. */
export function rowLoop(
  f: FunctionBuilder,
  n: I32,
  walkers: readonly Walker[],
  body: (access: Access) => Stores,
  vectors = turnVectors,
): void {
  const done = f.int(0);
  const advance = (elements: number) => {
    for (const { pointer, dtype } of walkers) f.increase(pointer, elements * bytesPerElement[dtype]);
  };
  const whole = (parts: number, accumulator: (part: number) => number) => {
    f.while(done, i32.and(n, -parts * 4), parts * 4, () => {
      wholeVectors(f, parts, accumulator, body);
      advance(parts * 4);
    });
  };
  whole(vectors, (part) => part);
  whole(1, () => lastElements);
  f.while(done, n, 1, () => {
    const first = f.hoist(i32x4.lanesConst(-1, 0, 0, 0));
    const stores = body({
      half: lastElements,
      load: ({ pointer, dtype }) => f.vector(f32x4.splat(loadFloat(f, dtype, pointer))),
      only: (value, neutral) => v128.bitSelect(first, value, neutral),
    });
    for (const [{ pointer, dtype }, value] of stores) storeOne(f, dtype, pointer, value);
    advance(1);
  });
}

/** Adjacent vectors: all loads and arithmetic, then stores side by side. */
function wholeVectors(
  f: FunctionBuilder,
  vectors: number,
  accumulator: (part: number) => number,
  body: (access: Access) => Stores,
): void {
  const results = count(vectors).map((part) => {
    const offset = (dtype: FloatType) => part * 4 * bytesPerElement[dtype];
    const stores = body({
      half: accumulator(part),
      load: ({ pointer, dtype }) => f.vector(loadFloats(f, dtype, pointer, offset(dtype))),
      only: (value) => value,
    });
    return stores.map(([walker, value]) => [walker, f.vector(value), offset(walker.dtype)] as const);
  });
  for (const i of count(results[0]!.length))
    for (const part of results) {
      const [{ pointer, dtype }, value, offset] = part[i]!;
      storeFloats(f, dtype, pointer, value, offset);
    }
}

const narrow = { bf16: narrowBrain, f16: narrowHalf };

/** Lane 0 as one element. */
export function storeOne(f: FunctionBuilder, dtype: FloatType, pointer: I32, value: V128): void {
  if (dtype === 'f32') f.emit(store.low32(pointer, value));
  else f.emit(store.i16(pointer, i32x4.extract(narrow[dtype](f, value), 0)));
}

/** Accumulators for `Access.half`. */
export const accumulators = (f: FunctionBuilder, start: V128): Local<'v128'>[] =>
  count(turnVectors + 1).map(() => f.vector(start));

/** All accumulators as one number; stored side by side first, which lets V8 pair the loop before. */
function combined(
  f: FunctionBuilder,
  parts: readonly Local<'v128'>[],
  scratch: I32,
  vector: (a: V128, b: V128) => V128,
  scalar: (a: F32, b: F32) => F32,
): Local<'f32'> {
  for (const part of count(turnVectors)) f.emit(store.v128(scratch, parts[part]!, 16 * part));
  const stored = (part: number) => v128.load(scratch, 16 * part);
  const turns = vector(vector(stored(0), stored(1)), vector(stored(2), stored(3)));
  const all = f.vector(vector(turns, parts[lastElements]!));
  const lane = (i: number) => f32x4.extract(all, i);
  return f.local('f32', scalar(scalar(lane(0), lane(1)), scalar(lane(2), lane(3))));
}

/** Sum of all lanes of the accumulators. */
export const total = (f: FunctionBuilder, parts: readonly Local<'v128'>[], scratch: I32): Local<'f32'> =>
  combined(f, parts, scratch, f32x4.add, f32.add);

/** Largest lane of the accumulators. */
export const largest = (f: FunctionBuilder, parts: readonly Local<'v128'>[], scratch: I32): Local<'f32'> =>
  combined(f, parts, scratch, f32x4.max, f32.max);

/** A task over rows: words 0 .. 2 of the argument block are rows, rows a chunk and row length. */
export const rowWord = { rows: 0, rowsPerChunk: 1, n: 2, first: 3 } as const;

export interface RowTask {
  readonly f: FunctionBuilder;
  readonly row: Local<'i32'>;
  readonly n: Local<'i32'>;
  readonly scratch: Local<'i32'>;
  /** Argument word `index` after the three common ones. */
  readonly word: (index: number) => Local<'i32'>;
  readonly float: (index: number) => Local<'f32'>;
  /** Address of this row in the f32 matrix whose address is argument word `index`. */
  readonly rowAt: (index: number) => I32;
}

/** Adds a task that runs `body` for each row of its chunk. */
export function rowTask(m: ModuleBuilder, name: string, body: (task: RowTask) => void): void {
  m.task(name, (f, args, chunk, scratch) => {
    const perChunk = f.int(argument(args, rowWord.rowsPerChunk));
    const n = f.int(argument(args, rowWord.n));
    const row = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(argument(args, rowWord.rows), i32.add(row, perChunk)));
    const word = (index: number) => f.hoist(argument(args, rowWord.first + index));
    const float = (index: number) => f.hoist(f32.load(args, (rowWord.first + index) * 4));
    const rowAt = (index: number) => i32.add(word(index), i32.shl(i32.mul(row, n), 2));
    f.while(row, end, 1, () => body({ f, row, n, scratch, word, float, rowAt }));
  });
}

/** Sum of products of two rows. */
export function rowDot({ f, n, scratch }: RowTask, a: I32, b: I32): Local<'f32'> {
  const [x, y] = [walk(f, a), walk(f, b)];
  const zero = f.hoist(f32x4.const(0));
  const sums = accumulators(f, zero);
  rowLoop(f, n, [x, y], ({ half, load, only }) => {
    f.set(sums[half]!, f32x4.add(sums[half]!, only(f32x4.mul(load(x), load(y)), zero)));
    return [];
  });
  return total(f, sums, scratch);
}
