/** quantizeBlockwise and dequantizeBlockwise: a chunk is some blocks; places in the map come from a table of 65536 bytes. */
import { argument, type FunctionBuilder, type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, type I32, i32, i32x4, store, type V128, v128 } from '../instructions.ts';
import { elementShift, type FloatType, floatTypes, loadFloat, loadFloats, storeFloats } from './lanes.ts';
import { storeOne } from './row-loop.ts';

/** Words of both tasks. `x` is what is read, `out` what is written, one element for one. */
export const blockWord = { x: 0, out: 1, absmax: 2, table: 3, n: 4, blocksize: 5, blocksPerChunk: 6 } as const;
export const quantizeBlockTask = (dtype: FloatType): string => `quantize_blocks_${dtype}`;
export const dequantizeBlockTask = (dtype: FloatType): string => `dequantize_blocks_${dtype}`;

export function blockwiseModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  for (const dtype of floatTypes) {
    blockTask(m, quantizeBlockTask(dtype), (block) => quantizeBlock(dtype, block));
    blockTask(m, dequantizeBlockTask(dtype), (block) => dequantizeBlock(dtype, block));
  }
  return m;
}

interface Block {
  readonly f: FunctionBuilder;
  /** First element and number of elements. */
  readonly first: Local<'i32'>;
  readonly count: Local<'i32'>;
  /** Address of the block's scale. */
  readonly absmax: Local<'i32'>;
  readonly word: (name: keyof typeof blockWord) => Local<'i32'>;
}

/** A task that runs `body` on each block of its chunk. */
function blockTask(m: ModuleBuilder, name: string, body: (block: Block) => void): void {
  m.task(name, (f, args, chunk) => {
    const word = (w: keyof typeof blockWord) => f.hoist(argument(args, blockWord[w]));
    const [n, blocksize, perChunk] = [word('n'), word('blocksize'), word('blocksPerChunk')];
    const first = f.int(i32.mul(i32.mul(chunk, perChunk), blocksize));
    const end = f.int(i32.min(n, i32.add(first, i32.mul(perChunk, blocksize))));
    const absmax = f.int(i32.add(word('absmax'), i32.shl(i32.mul(chunk, perChunk), 2)));
    const count = f.int();
    f.while(first, end, blocksize, () => {
      f.set(count, i32.min(blocksize, i32.sub(end, first)));
      body({ f, first, count, absmax, word });
      f.increase(absmax, 4);
    });
  });
}

/** A pointer and log2 of the bytes it moves by an element. */
export interface Step {
  readonly pointer: Local<'i32'>;
  readonly shift: number;
}

/** Runs `four` on elements four at a time, then `one` on the rest; the pointers move along. */
export function elements(
  f: FunctionBuilder,
  count: I32,
  steps: readonly Step[],
  four: () => void,
  one: () => void,
): void {
  const done = f.int(0);
  const turn = (length: number, body: () => void) => () => {
    body();
    for (const { pointer, shift } of steps) f.increase(pointer, length << shift);
  };
  f.while(done, i32.and(count, -4), 4, turn(4, four));
  f.while(done, count, 1, turn(1, one));
}

/** The largest magnitude of what `enter` is given; what is not a number is passed over, as std::max does in bitsandbytes. */
export function magnitudes(f: FunctionBuilder): { enter: (value: V128) => void; largest: () => Local<'f32'> } {
  const most = f.vector();
  f.set(most, f32x4.const(0));
  const lane = (i: number) => f32x4.extract(most, i);
  return {
    enter: (value) => f.set(most, f32x4.pmax(most, f32x4.abs(value))),
    largest: () => f.local('f32', f32.max(f32.max(lane(0), lane(1)), f32.max(lane(2), lane(3)))),
  };
}

/** Four values of a map at the places of four bytes. Lane by lane: floats stored and read as a vector would wait. */
export const valuesAt = (map: I32, places: I32): V128 => {
  const at = (i: number): I32 => i32.add(map, i32.shl(i32.load8u(places, i), 2));
  return [1, 2, 3].reduce((v, i) => v128.load32Lane(at(i), v, i), v128.load32Zero(at(0)));
};
/** The value of a map at the place of one byte, in all lanes. */
export const valueAt = (map: I32, place: I32): V128 =>
  f32x4.splat(f32.load(i32.add(map, i32.shl(i32.load8u(place), 2))));

interface Placing {
  /** Addresses of the first value and of the first byte. */
  readonly x: I32;
  readonly out: I32;
  readonly count: I32;
  readonly table: I32;
  readonly largest: Local<'f32'>;
}

/** Writes the places of values, scaled by the largest magnitude among them. */
export function placeValues(
  f: FunctionBuilder,
  dtype: FloatType,
  { x: from, out: to, count, table, largest }: Placing,
): void {
  const number = (v: number) => f.hoist(f32x4.const(v));
  const [minusOne, one, half, cells] = [number(-1), number(1), number(0.5), number(65535)] as const;
  f.if(
    f32.eq(largest, f32.const(0)),
    () => f.fill(to, 0, count),
    () => {
      const inverse = f.vector(f32x4.splat(f32.div(f32.const(1), largest)));
      /** Cells of four values; NaN counts as -1. */
      const cellsOf = (value: V128) => {
        const bounded = f32x4.pmin(one, f32x4.pmax(minusOne, f32x4.mul(value, inverse)));
        const scaled = f32x4.mul(f32x4.mul(f32x4.add(bounded, one), half), cells);
        return f.vector(i32x4.truncSatS(f32x4.add(scaled, half)));
      };
      const place = (found: V128, i: number): I32 => i32.load8u(i32.add(table, i32x4.extract(found, i)));
      const [x, out] = [f.int(from), f.int(to)];
      elements(
        f,
        count,
        [
          { pointer: x, shift: elementShift(dtype) },
          { pointer: out, shift: 0 },
        ],
        () => {
          const found = cellsOf(loadFloats(f, dtype, x));
          const bytes = [0, 1, 2, 3].map((i) => i32.shl(place(found, i), 8 * i)) as [I32, I32, I32, I32];
          f.emit(store.i32(out, i32.or(i32.or(bytes[0], bytes[1]), i32.or(bytes[2], bytes[3]))));
        },
        () => f.emit(store.i8(out, place(cellsOf(f32x4.splat(loadFloat(f, dtype, x))), 0))),
      );
    },
  );
}

function quantizeBlock(dtype: FloatType, { f, count, first, absmax, word }: Block): void {
  const { enter, largest: found } = magnitudes(f);
  const start = f.int(i32.add(word('x'), i32.shl(first, elementShift(dtype))));
  const x = f.int(start);
  elements(
    f,
    count,
    [{ pointer: x, shift: elementShift(dtype) }],
    () => enter(loadFloats(f, dtype, x)),
    () => enter(f32x4.splat(loadFloat(f, dtype, x))),
  );
  const largest = found();
  f.emit(store.f32(absmax, largest));
  const out = f.int(i32.add(word('out'), first));
  placeValues(f, dtype, { x: start, out, count, table: word('table'), largest });
}

function dequantizeBlock(dtype: FloatType, { f, count, first, absmax, word }: Block): void {
  const scale = f.vector(f32x4.splat(f32.load(absmax)));
  const map = word('table');
  const x = f.int(i32.add(word('x'), first));
  const out = f.int(i32.add(word('out'), i32.shl(first, elementShift(dtype))));
  elements(
    f,
    count,
    [
      { pointer: x, shift: 0 },
      { pointer: out, shift: elementShift(dtype) },
    ],
    () => storeFloats(f, dtype, out, f.vector(f32x4.mul(valuesAt(map, x), scale))),
    () => storeOne(f, dtype, out, f.vector(f32x4.mul(valueAt(map, x), scale))),
  );
}
