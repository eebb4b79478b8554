/**
 * Loops over rows of numbers for kernels that reduce or map them: two vectors a turn, which V8 pairs, then the last
 * elements one at a time in lane 0, so that nothing past the row is touched. The order of sums depends on the length alone.
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
  /** Selects an accumulator: one for each of the turn's vectors, one for the last elements. */
  readonly half: number;
  load(walker: Walker): V128;
  /** The value where the lane holds an element, `neutral` elsewhere. */
  only(value: V128, neutral: V128): V128;
}

/** Values to store at walkers after all arithmetic of the turn. */
export type Stores = readonly (readonly [Walker, V128])[];

/** Vectors a turn of the main loop handles. */
const halves = [0, 1];
const turn = halves.length * 4;
/** The last elements have an accumulator of their own: a vector that the second loop also changes would not pair. */
const lastElements = halves.length;

/** Runs `body` over `n` elements; the walkers advance, `body` gives what to store. */
export function rowLoop(
  f: FunctionBuilder,
  n: I32,
  walkers: readonly Walker[],
  body: (access: Access) => Stores,
): void {
  const done = f.int(0);
  const advance = (elements: number) => {
    for (const { pointer, dtype } of walkers) f.increase(pointer, elements * bytesPerElement[dtype]);
  };
  f.while(done, i32.and(n, -turn), turn, () => {
    const results = halves.map((half) => {
      const offset = (dtype: FloatType) => half * 4 * bytesPerElement[dtype];
      const stores = body({
        half,
        load: ({ pointer, dtype }) => f.vector(loadFloats(f, dtype, pointer, offset(dtype))),
        only: (value) => value,
      });
      return stores.map(([walker, value]) => [walker, f.vector(value), offset(walker.dtype)] as const);
    });
    const count = results[0]!.length;
    for (let i = 0; i < count; i++)
      for (const half of halves) {
        const [{ pointer, dtype }, value, offset] = results[half]![i]!;
        storeFloats(f, dtype, pointer, value, offset);
      }
    advance(turn);
  });
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

const narrow = { bf16: narrowBrain, f16: narrowHalf };

/** Lane 0 as one element. */
export function storeOne(f: FunctionBuilder, dtype: FloatType, pointer: I32, value: V128): void {
  if (dtype === 'f32') f.emit(store.low32(pointer, value));
  else f.emit(store.i16(pointer, i32x4.extract(narrow[dtype](f, value), 0)));
}

/** Accumulators for `Access.half`. */
export const accumulators = (f: FunctionBuilder, start: V128): Local<'v128'>[] =>
  [...halves, lastElements].map(() => f.vector(start));

/** All accumulators as one number; stored side by side first, which lets V8 pair the loop before. */
function combined(
  f: FunctionBuilder,
  parts: readonly Local<'v128'>[],
  scratch: I32,
  vector: (a: V128, b: V128) => V128,
  scalar: (a: F32, b: F32) => F32,
): Local<'f32'> {
  for (const half of halves) f.emit(store.v128(scratch, parts[half]!, 16 * half));
  const all = f.vector(vector(vector(v128.load(scratch), v128.load(scratch, 16)), parts[lastElements]!));
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
