/**
 * quantize4bit and dequantize4bit. A block is widened to scratch while its absmax is found, then every element counts the
 * borders it is not above; packing the counts to nibbles is a loop of its own, because V8 pairs only whole chains of lanes.
 */
import {
  argument,
  type FunctionBuilder,
  type FunctionRef,
  type Local,
  type MemoryShape,
  ModuleBuilder,
  moved,
} from '../assembler.ts';
import {
  type Address,
  f32,
  f32x4,
  type I32,
  i8x16,
  i16x8,
  i32,
  i32x4,
  i64,
  interleave,
  store,
  type V128,
  v128,
} from '../instructions.ts';
import {
  bytesPerElement,
  elementShift,
  type Features,
  type FloatType,
  floatTypes,
  loadFloat,
  loadFloats,
  storeFloats,
} from './lanes.ts';
import { chooser, codesOf, elementFunction, loadPlanes, nibblesOf } from './pack-4bit.ts';
import { storeOne } from './row-loop.ts';
import { absmaxFunction, weightFlag, weightWord } from './weight-4bit.ts';

type IntLocal = Local<'i32'>;

/** Elements a chunk handles, a multiple of every blocksize. */
export const chunkElements = 64 * 1024;

/** `x` is a 64-bit address. `order` holds 16 bytes. */
export const quantizeWord = {
  x: 0,
  n: 2,
  packed: 3,
  absmax: 4,
  blocksize: 5,
  borders: 8,
  order: 24,
  size: 28,
} as const;
export const quantizeTask = (dtype: FloatType, far: boolean): string => `quantize_${dtype}${far ? '_store' : ''}`;

/** First element (of the whole matrix), how many, where to; then the weight. */
export const dequantizeWord = { first: 0, count: 1, out: 2, weight: 4 } as const;
export const dequantizeTask = (dtype: FloatType): string => `dequantize_${dtype}`;

export function quantize4bitModule(memory: MemoryShape, features: Features): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  const withStore = Boolean(memory.storePages);
  if (withStore) m.importStore();
  const decide = decideFunction(m);
  const pack = packNibbles(m, features);
  for (const dtype of floatTypes) {
    quantize(m, { dtype, far: false, decide, pack });
    if (withStore) quantize(m, { dtype, far: true, decide, pack });
  }
  const absmax = absmaxFunction(m, withStore);
  for (const dtype of floatTypes) {
    const element = elementFunction(m, dtype, absmax, withStore);
    dequantize(m, { dtype, features, absmax, element, withStore });
  }
  return m;
}

const borderCount = 15;

/** (args, at, count, factor): the f32 numbers at `at`, a multiple of 16 of them, times `factor` to how many borders are below each. */
function decideFunction(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, ['i32', 'i32', 'i32', 'f32'], [], (f) => {
    const [args, at, count] = [f.intParam(0), f.intParam(1), f.intParam(2)];
    const factor = f.vector(f32x4.splat(f.params[3] as Local<'f32'>));
    const all = f.vector(i32x4.const(borderCount));
    const borders = Array.from({ length: borderCount }, (_, i) =>
      f.vector(v128.load32Splat(args, (quantizeWord.borders + i) * 4)),
    );
    const halves = [0, 1];
    f.for(0, count, 8, () => {
      const scaled = halves.map((h) => f.vector(f32x4.mul(v128.load(at, 16 * h), factor)));
      // Not clamped to -1 .. 1 as bitsandbytes does: no border lies outside. NaN is at or below none and counts all.
      const above = halves.map(() => f.vector(all));
      for (const border of borders)
        for (const h of halves) f.set(above[h]!, i32x4.add(above[h]!, f32x4.le(scaled[h]!, border)));
      for (const h of halves) f.emit(store.v128(at, above[h]!, 16 * h));
      f.increase(at, 32);
    });
  });
}

/** (args, from, count, to): counts of borders, as i32, to nibbles, two a byte, the first one high. */
function packNibbles(m: ModuleBuilder, features: Features): FunctionRef {
  return m.function(undefined, ['i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [args, from, count, to] = [f.intParam(0), f.intParam(1), f.intParam(2), f.intParam(3)];
    const order = f.vector(v128.load(args, quantizeWord.order * 4));
    f.for(0, count, 16, () => {
      const load = (i: number) => v128.load(from, 16 * i);
      // Counts are 0 .. 15, so signed and unsigned narrowing agree.
      const low = i16x8.narrowUnsigned(load(0), load(1));
      const high = i16x8.narrowUnsigned(load(2), load(3));
      const nibbles = f.vector(chooser(features)(order, i8x16.narrowUnsigned(low, high)));
      const bytes = v128.or(i16x8.shl(nibbles, 4), i16x8.shrU(nibbles, 8));
      const packed = f.vector(v128.and(bytes, f.hoist(i32x4.const(0x00ff00ff))));
      f.emit(store.low64(to, i8x16.narrowUnsigned(packed, packed)));
      f.increase(from, 64);
      f.increase(to, 8);
    });
  });
}

interface QuantizeKind {
  readonly dtype: FloatType;
  readonly far: boolean;
  readonly decide: FunctionRef;
  readonly pack: FunctionRef;
}

const magnitude = 0x7fffffff;
const leastAbsmax = 1e-38;

function quantize(m: ModuleBuilder, { dtype, far, decide, pack }: QuantizeKind): void {
  m.task(quantizeTask(dtype, far), (f, args, chunk, scratch) => {
    const word = (name: keyof typeof quantizeWord) => f.int(argument(args, quantizeWord[name]));
    const [n, packed, absmax, blocksize] = [word('n'), word('packed'), word('absmax'), word('blocksize')];
    const element = f.int(i32.mul(chunk, chunkElements));
    const end = f.int(i32.min(n, i32.add(element, chunkElements)));
    const base = f.local('i64', i64.load(args, quantizeWord.x * 4));
    const [count, to] = [f.int(), f.int()];
    const [largest, factor] = [f.local('f32'), f.local('f32')];
    const finish = () => {
      f.emit(store.f32(i32.add(absmax, i32.shl(i32.divU(element, blocksize), 2)), largest));
      f.set(to, i32.add(packed, i32.shrU(element, 1)));
      f.call(decide, args, scratch, count, factor);
      f.call(pack, args, scratch, count, to);
    };
    const source = (): Address => {
      const by = i32.shl(element, elementShift(dtype));
      return far ? f.local('i64', moved(base, by)) : f.int(i32.add(i32.wrap(base), by));
    };
    f.while(element, i32.add(i32.sub(end, blocksize), 1), blocksize, () => {
      f.set(count, blocksize);
      f.set(largest, widenBlock(f, dtype, source(), count, scratch));
      f.set(factor, f32.div(f32.const(1), f32.max(largest, f32.const(leastAbsmax))));
      finish();
    });
    f.if(i32.ltS(element, end), () => {
      // bitsandbytes divides the last, shorter block, where it multiplies others by the reciprocal.
      f.setInt(count, i32.and(i32.add(i32.sub(end, element), 15), -16));
      f.fill(scratch, 0, i32.shl(count, 2));
      f.set(largest, f32.max(widenRest(f, dtype, source(), i32.sub(end, element), scratch), f32.const(leastAbsmax)));
      const divisor = f.vector(f32x4.splat(largest));
      f.for(0, i32.shl(count, 2), 16, (i) => {
        const at = i32.add(scratch, i);
        f.emit(store.v128(at, f32x4.div(v128.load(at), divisor)));
      });
      f.set(factor, f32.const(1));
      finish();
    });
  });
}

/** A block as f32 in scratch; gives its absmax. Bits of magnitudes compare as integers, NaN above infinity. */
function widenBlock(f: FunctionBuilder, dtype: FloatType, source: Address, count: IntLocal, scratch: IntLocal) {
  const [mask, halves] = [f.hoist(i32x4.const(magnitude)), [0, 1]];
  const most = halves.map(() => f.vector(i32x4.const(0)));
  const [pointer, to] = [source as Local<'i32'>, f.int(scratch)];
  f.for(0, count, 8, () => {
    const values = halves.map((h) => f.vector(loadFloats(f, dtype, pointer, h * 4 * bytesPerElement[dtype])));
    for (const h of halves) f.set(most[h]!, i32x4.maxS(most[h]!, v128.and(values[h]!, mask)));
    for (const h of halves) f.emit(store.v128(to, values[h]!, 16 * h));
    f.set(pointer, moved(pointer, 8 * bytesPerElement[dtype]));
    f.increase(to, 32);
  });
  const both = f.vector(i32x4.maxS(most[0]!, most[1]!));
  const turned = (v: V128, lanes: readonly number[]) => v128.shuffle(v, v, lanes);
  const pairs = f.vector(i32x4.maxS(both, turned(both, [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7])));
  const one = f.vector(i32x4.maxS(pairs, turned(pairs, [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11])));
  return f32x4.extract(one, 0);
}

/** As widenBlock, one element at a time. */
function widenRest(f: FunctionBuilder, dtype: FloatType, source: Address, count: I32, to: IntLocal) {
  const most = f.local('f32', f32.const(0));
  const pointer = source as Local<'i32'>;
  f.for(0, count, 1, (i) => {
    const value = f.local('f32', loadFloat(f, dtype, pointer));
    f.emit(store.f32(i32.add(to, i32.shl(i, 2)), value));
    f.set(most, f32.max(most, f32.abs(value)));
    f.set(pointer, moved(pointer, bytesPerElement[dtype]));
  });
  return most;
}

interface DequantizeKind {
  readonly dtype: FloatType;
  readonly features: Features;
  readonly absmax: FunctionRef;
  readonly element: FunctionRef;
  readonly withStore: boolean;
}

/** Elements of one turn: 16 bytes. */
const turn = 32;
/** Where in scratch packed bytes from the store are copied, behind the absmax of a chunk's blocks. */
const broughtAt = 16 * 1024;

function dequantize(m: ModuleBuilder, { dtype, features, absmax, element: one, withStore }: DequantizeKind): void {
  m.task(dequantizeTask(dtype), (f, args, chunk, scratch) => {
    const weight = f.int(i32.add(args, dequantizeWord.weight * 4));
    const planes = loadPlanes(f, weight);
    const first = f.int(argument(args, dequantizeWord.first));
    const done = f.int(i32.mul(chunk, chunkElements));
    const end = f.int(i32.min(argument(args, dequantizeWord.count), i32.add(done, chunkElements)));
    const out = f.int(i32.add(argument(args, dequantizeWord.out), i32.shl(done, elementShift(dtype))));
    const element = f.int(i32.add(first, done));
    f.if(i32.eqz(i32.and(element, turn - 1)), () => {
      const shift = f.int(i32.load(weight, weightWord.shift * 4));
      const [block, from] = [f.int(i32.shrU(element, shift)), f.int()];
      const last = i32.shrU(i32.sub(i32.add(first, end), 1), shift);
      f.call(absmax, weight, i32.shl(block, shift), i32.add(i32.sub(last, block), 1), i32.shl(1, shift), scratch, 4);
      const base = f.local('i64', moved(i64.load(weight, weightWord.packed * 4), i32.shrU(element, 1)));
      f.set(from, i32.wrap(base));
      if (withStore)
        f.if(i32.and(i32.load(weight, weightWord.flags * 4), weightFlag.packedInStore), () => {
          f.set(from, i32.add(scratch, broughtAt));
          f.copyFromStore(from, base, i32.shrU(i32.sub(end, done), 1));
        });
      f.while(done, i32.sub(end, turn - 1), turn, () => {
        const slot = i32.sub(i32.shrU(element, shift), block);
        const scale = f.vector(v128.load32Splat(i32.add(scratch, i32.shl(slot, 2))));
        const [high, low] = nibblesOf(f, f.vector(v128.load(from)));
        for (const [part, half] of (['low', 'high'] as const).entries()) {
          const indices = f.vector(interleave(high, low, 1, half));
          for (const [i, code] of codesOf(f, features, planes, indices).entries())
            storeFloats(f, dtype, out, f32x4.mul(code, scale), (part * 16 + i * 4) * bytesPerElement[dtype]);
        }
        f.increase(from, 16);
        f.increase(element, turn);
        f.increase(out, turn * bytesPerElement[dtype]);
      });
    });
    f.while(done, end, 1, () => {
      storeOne(f, dtype, out, f.vector(f32x4.splat(f.callFor('f32', one, weight, element, scratch))));
      f.increase(element, 1);
      f.increase(out, bytesPerElement[dtype]);
    });
  });
}
