/**
 * `computeDtype: 'int8'` for up to four rows of A: A in signed bytes, one scale a block of 32 or 64 elements; the code as two
 * bytes of seven bits, so that only A loses precision; sums in integers. The rounding of code * absmax to the weight's dtype
 * is left out. The integers are the same on every machine.
 */
import { code4bit, type QuantType4bit } from '@lorikeet/tensor';
import { argument, type FunctionRef, type Local, type MemoryShape, type ModuleBuilder, moved } from '../assembler.ts';
import { f32, f32x4, i8x16, i16x8, i32, i32x4, store, type V128, v128 } from '../instructions.ts';
import { bytesPerElement, type Features, type FloatType, floatTypes, loadFloats, maddFor, sumLanes } from './lanes.ts';
import { chooser, nibblesOf } from './pack-4bit.ts';
import { group, RowsFrame4bit, rowGroup, rowsWord } from './rows-frame-4bit.ts';
import { weightWord } from './weight-4bit.ts';

type IntLocal = Local<'i32'>;

/** Elements of A that share a scale, if blocks of W allow it: two groups. */
const longestBlock = 2 * group;
/** Where the scales of W's rows lie in scratch, behind the sums. */
const scalesAt = 64;
/** The code from -1 to 1 as 0 .. 2 x 8191: two numbers of seven bits. */
const codeRange = 8191;

/** After the words of `rowsWord`: the bytes, scales and starts of A, log2 of its block, and the code's two planes. */
export const int8Word = {
  scales: rowsWord.weight + weightWord.size,
  starts: rowsWord.weight + weightWord.size + 1,
  blockShift: rowsWord.weight + weightWord.size + 2,
  planes: rowsWord.weight + weightWord.size + 4,
} as const;
export const rowsInt8Task = 'rows4bit_int8';

export const arrangeInt8Word = { from: 0, fromStride: 1, bytes: 2, scales: 3, starts: 4, rows: 5, k: 6, blockShift: 7 };
export const arrangeInt8Task = (dtype: FloatType): string => `arrange_int8_${dtype}`;

/** log2 of A's block for rows of `k` in blocks of `blocksize`. */
export const int8BlockShift = (k: number, blocksize: number): number =>
  Math.log2(k % blocksize === 0 ? Math.min(blocksize, longestBlock) : group);

/** The code's upper and lower seven bits as words of an argument block. */
export function codePlanes(quantType: QuantType4bit): Uint32Array {
  const whole = Array.from(code4bit(quantType), (code) => Math.round(code * codeRange) + codeRange);
  return new Uint32Array(Uint8Array.from([...whole.map((c) => c >> 7), ...whole.map((c) => c & 127)]).buffer);
}

/** Adds the tasks `arrange_int8_*` and `rows4bit_int8`. */
export function addRowsInt8(m: ModuleBuilder, memory: MemoryShape, features: Features, absmax: FunctionRef): void {
  for (const dtype of floatTypes) arrange(m, dtype);
  const reach = (far: boolean): Reach => {
    const both = (wRows: number): RowFunctions => {
      const row = (groups: number) => rowFunction(m, { features, groups, wRows, far });
      return [row(1), row(2)];
    };
    return { one: both(1), many: both(manyRows) };
  };
  rows(m, absmax, reach(false), memory.storePages ? reach(true) : undefined);
}

/** One chunk: blocks of A's rows to bytes, the elements of even index of a group before those of odd. */
function arrange(m: ModuleBuilder, dtype: FloatType): void {
  m.task(arrangeInt8Task(dtype), (f, args) => {
    const word = (name: keyof typeof arrangeInt8Word) => f.int(argument(args, arrangeInt8Word[name]));
    const [row, bytes, scales, starts] = [word('from'), word('bytes'), word('scales'), word('starts')];
    const block = f.int(i32.shl(1, word('blockShift')));
    const [from, at] = [f.int(), f.int()];
    const k = word('k');
    f.for(0, word('rows'), 1, () => {
      f.set(from, row);
      f.for(0, k, block, () => {
        const most = f.vector(i32x4.const(0));
        f.set(at, from);
        f.for(0, block, 4, () => {
          f.set(most, f32x4.max(most, f32x4.abs(loadFloats(f, dtype, at))));
          f.increase(at, 4 * bytesPerElement[dtype]);
        });
        const lane = (i: number) => f32x4.extract(most, i);
        const largest = f.local('f32', f32.max(f32.max(lane(0), lane(1)), f32.max(lane(2), lane(3))));
        const factor = f.vector(f32x4.splat(f32.div(f32.const(127), largest)));
        const sum = f.vector(i32x4.const(0));
        f.for(0, block, group, () => {
          const whole = Array.from({ length: group / 4 }, (_, i) => {
            const scaled = f32x4.mul(loadFloats(f, dtype, from, 4 * i * bytesPerElement[dtype]), factor);
            return f.vector(i32x4.truncSatS(f32x4.nearest(scaled)));
          });
          for (const part of whole) f.set(sum, i32x4.add(sum, part));
          const narrow = (i: number) => i16x8.narrowSigned(whole[i]!, whole[i + 1]!);
          const [low, high] = [0, 4].map((i) => f.vector(i8x16.narrowSigned(narrow(i), narrow(i + 2))));
          const every = (first: number) => Array.from({ length: 16 }, (_, i) => 2 * i + first);
          f.emit(store.v128(bytes, v128.shuffle(low!, high!, every(0))));
          f.emit(store.v128(bytes, v128.shuffle(low!, high!, every(1)), 16));
          f.increase(from, group * bytesPerElement[dtype]);
          f.increase(bytes, group);
        });
        f.emit(store.f32(scales, f32.mul(largest, f32.const(1 / (127 * codeRange)))));
        f.increase(scales, 4);
        // Codes are stored from 0: what that adds to a block's sum is where the sum starts.
        const total = [0, 1, 2, 3].map((i) => i32x4.extract(sum, i)).reduce((a, b) => i32.add(a, b));
        f.emit(store.v128(starts, i32x4.const(0)));
        f.emit(store.i32(starts, i32.mul(total, -codeRange)));
        f.increase(starts, 16);
      });
      f.increase(row, argument(args, arrangeInt8Word.fromStride));
    });
  });
}

/** c + bytes of a times bytes of b in 0 .. 127. */
const dotFor = ({ relaxed }: Features) =>
  relaxed
    ? i32x4.relaxedDot
    : (a: V128, b: V128, c: V128) =>
        i32x4.add(c, i32x4.add(i32x4.addPairs(i16x8.multiplyLow(a, b)), i32x4.addPairs(i16x8.multiplyHigh(a, b))));

interface RowKind {
  readonly features: Features;
  /** Groups of a block of A. */
  readonly groups: number;
  /** Rows of W at a time. */
  readonly wRows: number;
  readonly far: boolean;
}

/**
 * (planes, packed row, bytes to the next row, scales of W, bytes to the next row's, log2 of A's blocks a scale, blocks, bytes
 * of A, scales of A, starts of A, out): the sums of `wRows` rows of W, one after the other at `out`.
 */
function rowFunction(m: ModuleBuilder, { features, groups, wRows, far }: RowKind): FunctionRef {
  const [dot, madd, choose] = [dotFor(features), maddFor(features), chooser(features)];
  const params = ['i32', far ? 'i64' : 'i32', ...new Array(9).fill('i32')] as const;
  return m.function(undefined, params, [], (f) => {
    const [planes, packed, stride, scales, scaleStride, scaleShift, blocks, bytes, aScales, starts, out] = f.params as [
      IntLocal, Local<'i32'>, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal,
    ]; // biome-ignore format: a signature
    const upper = f.vector(v128.load(planes));
    const lower = f.vector(v128.load(planes, 16));
    const row = [packed];
    const scale = [scales];
    while (row.length < wRows) {
      row.push(f.local(far ? 'i64' : 'i32', moved(row.at(-1)!, stride)) as Local<'i32'>);
      scale.push(f.int(i32.add(scale.at(-1)!, scaleStride)));
    }
    const sums = row.map(() => f.vector());
    const [high, low] = [f.vector(), f.vector()];
    const zero = f.hoist(i32x4.const(0));
    f.for(0, blocks, 1, (block) => {
      const at = f.int(i32.shl(i32.shrU(block, scaleShift), 2));
      const ofA = f.vector(v128.load32Splat(aScales));
      for (const [r, pointer] of row.entries()) {
        f.set(high, zero);
        f.set(low, v128.load(starts));
        for (let g = 0; g < groups; g++)
          for (const [odd, nibbles] of nibblesOf(f, f.vector(v128.load(pointer, g * 16))).entries()) {
            const a = f.vector(v128.load(bytes, g * group + odd * 16));
            f.set(high, dot(a, choose(upper, nibbles), high));
            f.set(low, dot(a, choose(lower, nibbles), low));
          }
        const whole = i32x4.add(i32x4.shl(high, 7), low);
        const both = f32x4.mul(v128.load32Splat(i32.add(scale[r]!, at)), ofA);
        f.set(sums[r]!, madd(f32x4.fromSigned(whole), both, sums[r]!));
        f.set(pointer, moved(pointer, (groups * group) / 2));
      }
      f.increase(bytes, groups * group);
      f.increase(aScales, 4);
      f.increase(starts, 16);
    });
    for (const [r, sum] of sums.entries()) f.emit(store.f32(out, sumLanes(sum), 4 * r));
  });
}

/**
 * Rows of W at a time, `rowStep` apart: where rows are a multiple of 512 bytes, all of them cross a page at once, so that
 * their waits for memory overlap.
 */
const manyRows = 4;
const rowStep = rowGroup / manyRows;

/** By groups of A's block, one or two. */
type RowFunctions = readonly [FunctionRef, FunctionRef];
/** For one row of W and for many. */
interface Reach {
  readonly one: RowFunctions;
  readonly many: RowFunctions;
}

/** Chunk = rows of W. */
function rows(m: ModuleBuilder, absmax: FunctionRef, near: Reach, far: Reach | undefined): void {
  m.task(rowsInt8Task, (f, args, chunk, scratch) => {
    const frame = new RowsFrame4bit(f, args, chunk, Boolean(far));
    const { row, end, rowLength, slotShift } = frame;
    const more = (name: keyof typeof int8Word) => f.int(argument(args, int8Word[name]));
    const [aScales, starts, blockShift] = [more('scales'), more('starts'), more('blockShift')];
    const [scaleShift, blocks] = [f.int(i32.sub(slotShift, blockShift)), f.int(i32.shrU(rowLength, blockShift))];
    const planes = f.int(i32.add(args, int8Word.planes * 4));
    const [stepBytes, scaleBytes] = [f.int(i32.mul(rowLength, rowStep / 2)), f.int(i32.shl(frame.slots, 2))];
    const scales = f.int(i32.add(scratch, scalesAt));
    const first = f.int();
    /** The products of A with `count` rows from `first` on. */
    const multiply = (which: keyof Reach, count: number) => {
      const column = (r: IntLocal) => i32.add(first, i32.mul(r, rowStep));
      f.for(0, count, 1, (r) => frame.decode(absmax, column(r), i32.add(scales, i32.mul(r, scaleBytes))));
      f.for(0, frame.word('m'), 1, (i) => {
        const block = i32.mul(i, blocks);
        const bytes = i32.add(frame.word('a'), i32.mul(i, rowLength));
        const ofA = [bytes, i32.add(aScales, i32.shl(block, 2)), i32.add(starts, i32.shl(block, 4))] as const;
        frame.inMemory(first, (packed, isFar) => {
          const run = (target: FunctionRef) =>
            f.call(target, planes, packed, stepBytes, scales, scaleBytes, scaleShift, blocks, ...ofA, scratch);
          const [oneGroup, twoGroups] = (isFar ? far! : near)[which];
          f.if(
            i32.eq(blockShift, Math.log2(group)),
            () => run(oneGroup),
            () => run(twoGroups),
          );
        });
        f.for(0, count, 1, (r) => frame.finish(i, column(r), f32.load(i32.add(scratch, i32.shl(r, 2)))));
      });
    };
    f.while(row, i32.sub(end, rowGroup - 1), rowGroup, () => {
      f.for(0, rowStep, 1, (i) => {
        f.set(first, i32.add(row, i));
        multiply('many', manyRows);
      });
    });
    f.while(row, end, 1, () => {
      f.set(first, row);
      multiply('one', 1);
    });
  });
}
