/**
 * Packing of B panels for the matrix product from a weight in 4 bits: the codes of a panel's nibbles by byte swizzles, times
 * absmax, rounded to the weight's dtype, as f32. A dequantized matrix never stands in memory.
 */
import { type FunctionBuilder, type FunctionRef, type Local, type ModuleBuilder, moved } from '../assembler.ts';
import {
  f32,
  f32x4,
  type Int,
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
import { type Features, type FloatType, floatTypes, narrowHalf, widenHalf } from './lanes.ts';
import { absmaxFunction, weightFlag, weightWord } from './weight-4bit.ts';

type IntLocal = Local<'i32'>;

/** f32 lanes rounded to nearest even to a dtype, as f32. */
export function roundLanes(f: FunctionBuilder, dtype: FloatType, value: V128): V128 {
  if (dtype === 'f32') return value;
  if (dtype === 'f16') return widenHalf(f, narrowHalf(f, value));
  const bits = f.vector(value);
  const odd = v128.and(i32x4.shrU(bits, 16), f.hoist(i32x4.const(1)));
  const raised = i32x4.add(i32x4.add(bits, f.hoist(i32x4.const(0x7fff))), odd);
  return v128.and(raised, f.hoist(i32x4.const(0xffff0000)));
}

/** The 16 bytes of a table, chosen by indices below 16. */
export const chooser = ({ relaxed }: Features) => (relaxed ? i8x16.relaxedSwizzle : i8x16.swizzle);

/** The code's four byte planes, loaded from a weight's words. */
export const loadPlanes = (f: FunctionBuilder, weight: IntLocal): Local<'v128'>[] =>
  [0, 1, 2, 3].map((plane) => f.vector(v128.load(weight, (weightWord.planes + 4 * plane) * 4)));

/** The codes of 16 indices as four vectors of f32. */
export function codesOf(
  f: FunctionBuilder,
  features: Features,
  planes: readonly Local<'v128'>[],
  indices: Local<'v128'>,
): V128[] {
  const choose = chooser(features);
  const [a, b, c, d] = planes.map((plane) => f.vector(choose(plane, indices)));
  return (['low', 'high'] as const).flatMap((half) => {
    const lowBytes = f.vector(interleave(a!, b!, 1, half));
    const highBytes = f.vector(interleave(c!, d!, 1, half));
    return [interleave(lowBytes, highBytes, 2, 'low'), interleave(lowBytes, highBytes, 2, 'high')];
  });
}

/** The upper and the lower nibble of each byte. */
export function nibblesOf(f: FunctionBuilder, bytes: Local<'v128'>): [high: Local<'v128'>, low: Local<'v128'>] {
  const mask = f.hoist(i32x4.const(0x0f0f0f0f));
  return [f.vector(v128.and(i16x8.shrU(bytes, 4), mask)), f.vector(v128.and(bytes, mask))];
}

/** Steps of k that a turn of the `lanes` layout packs: 16 bytes of every row. */
const turn = 32;
/** Bytes of a row that are brought from the store where lanes lie side by side. */
const stepBytes = 16;
/** A scale is looked up again at every block of k. */
const longestSlot = 256;

interface PackKind {
  readonly width: number;
  readonly dtype: FloatType;
  readonly features: Features;
}

/** Rows of bytes to columns of bytes, all of a column's lanes side by side: bit rotation by interleaving. */
function transposeBytes(f: FunctionBuilder, rows: readonly Local<'v128'>[]): readonly Local<'v128'>[] {
  let vectors = rows;
  for (let stage = rows.length; stage > 1; stage /= 2) {
    const half = rows.length / 2;
    const pairs = vectors.slice(0, half).map((low, i) => [low, vectors[i + half]!] as const);
    vectors = pairs.flatMap(([low, high]) => [
      f.vector(interleave(low, high, 1, 'low')),
      f.vector(interleave(low, high, 1, 'high')),
    ]);
  }
  return vectors;
}

/**
 * (weight, source, to, k count, lanes that exist, bytes between rows, scales, log2 of the steps a scale is for): rows run
 * along k. `scales` holds `width` numbers for each run of steps. Missing lanes repeat the last one.
 */
function packLanes(m: ModuleBuilder, { width, dtype, features }: PackKind): FunctionRef {
  return m.function(undefined, new Array(8).fill('i32'), [], (f) => {
    const [weight, source, to, count, lanes, stride, scales, slotShift] = f.params as IntLocal[];
    const planes = loadPlanes(f, weight!);
    const steps = Array.from({ length: width - 1 }, (_, lane) =>
      f.int(i32.select(i32.ltS(lane + 1, lanes!), stride!, 0)),
    );
    const vectorsPerStep = width / 4;
    const columnsPerVector = 16 / width;
    const rows = Array.from({ length: width }, () => f.vector());
    const scale = Array.from({ length: vectorsPerStep }, () => f.vector());
    const pointer = f.int();
    f.for(0, count!, turn, (k) => {
      f.set(pointer, i32.add(scales!, i32.mul(i32.shrU(k, slotShift!), width * 4)));
      for (const [i, vector] of scale.entries()) f.set(vector, v128.load(pointer, 16 * i));
      f.set(pointer, source!);
      for (const [lane, row] of rows.entries()) {
        f.set(row, v128.load(pointer));
        if (lane < width - 1) f.increase(pointer, steps[lane]!);
      }
      for (const [j, bytes] of transposeBytes(f, rows).entries()) {
        for (const [low, nibbles] of nibblesOf(f, bytes).entries()) {
          for (const [i, codes] of codesOf(f, features, planes, nibbles).entries()) {
            const step = 2 * (columnsPerVector * j + Math.floor(i / vectorsPerStep)) + low;
            const value = roundLanes(f, dtype, f32x4.mul(codes, scale[i % vectorsPerStep]!));
            f.emit(store.v128(to!, value, step * width * 4 + (i % vectorsPerStep) * 16));
          }
        }
      }
      f.increase(source!, turn / 2);
      f.increase(to!, turn * width * 4);
    });
  });
}

/** (weight, source, to, k count, bytes between rows, scales): lanes lie side by side; one scale a step. */
function packSteps(m: ModuleBuilder, { width, dtype, features }: PackKind): FunctionRef {
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [weight, source, to, count, stride, scales] = f.params as IntLocal[];
    const planes = loadPlanes(f, weight!);
    const scale = f.vector();
    f.for(0, count!, 1, () => {
      f.set(scale, v128.load32Splat(scales!));
      const [high, low] = nibblesOf(f, f.vector(v128.load64Zero(source!)));
      const indices = f.vector(interleave(high, low, 1, 'low'));
      const codes = codesOf(f, features, planes, indices).slice(0, width / 4);
      for (const [i, code] of codes.entries())
        f.emit(store.v128(to!, roundLanes(f, dtype, f32x4.mul(code, scale)), 16 * i));
      f.increase(source!, stride!);
      f.increase(scales!, 4);
      f.increase(to!, width * 4);
    });
  });
}

/** (from in the store, to, rows, bytes between them, bytes of each): whole vectors, packed side by side. */
function bringFunction(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, ['i64', 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [from, to, rows, stride, bytes] = f.params as unknown as [
      Local<'i64'>,
      IntLocal,
      IntLocal,
      IntLocal,
      IntLocal,
    ];
    f.for(0, rows, 1, () => {
      f.for(0, bytes, 16, (i) => {
        f.emit(store.v128(to, v128.load(moved(from, i))));
        f.increase(to, 16);
      });
      f.set(from, moved(from, stride));
    });
  });
}

/** One element in f32 at a time, for rows that do not end between groups of 32: (weight, element, flags, scratch) -> f32. */
export function elementFunction(
  m: ModuleBuilder,
  dtype: FloatType,
  absmax: FunctionRef,
  withStore: boolean,
): FunctionRef {
  return m.function(undefined, ['i32', 'i32', 'i32'], ['f32'], (f) => {
    const [weight, element, scratch] = f.params as [IntLocal, IntLocal, IntLocal];
    f.call(absmax, weight, element, 1, 1, scratch, 4);
    const base = f.local('i64', i64.load(weight, weightWord.packed * 4));
    const [byte, at] = [f.int(), f.int(i32.shrU(element, 1))];
    const near = () => f.set(byte, i32.load8u(i32.add(i32.wrap(base), at)));
    if (withStore)
      f.if(
        i32.and(i32.load(weight, weightWord.flags * 4), weightFlag.packedInStore),
        () => f.set(byte, i32.load8u(moved(base, at))),
        near,
      );
    else near();
    const nibble = i32.and(i32.shrU(byte, i32.select(i32.and(element, 1), 0, 4)), 15);
    const code = f32.load(i32.add(weight, i32.shl(nibble, 2)), weightWord.code * 4);
    f.return(f32x4.extract(roundLanes(f, dtype, f32x4.splat(f32.mul(code, f32.load(scratch)))), 0));
  });
}

/** Scratch that packing a panel needs: scales, then rows that were brought from the store. */
export const pack4bitScratchBytes = 8192;
const broughtAt = 2048;
/** A form of B as a number: dtype x (is k along the rows). */
export const form4bit = (dtype: FloatType, kAlongRows: boolean) => floatTypes.indexOf(dtype) * 2 + (kAlongRows ? 1 : 0);

interface Kind {
  readonly dtype: FloatType;
  readonly lanes: FunctionRef;
  readonly steps: FunctionRef;
  readonly element: FunctionRef;
}

/** Runs `body` for the dtype that a form names. */
function eachKind(f: FunctionBuilder, kinds: readonly Kind[], form: IntLocal, body: (kind: Kind) => void): void {
  for (const kind of kinds) f.if(i32.eq(i32.shrU(form, 1), floatTypes.indexOf(kind.dtype)), () => body(kind));
}

/** A panel element by element: (weight, form, lane, first step, k count, lanes that exist, to, scratch). */
function packElements(m: ModuleBuilder, kinds: readonly Kind[], width: number): FunctionRef {
  return m.function(undefined, new Array(8).fill('i32'), [], (f) => {
    const [weight, form, lane, k0, count, lanes, to, scratch] = f.params as Eight;
    const rowLength = f.int(i32.load(weight, weightWord.rowLength * 4));
    const element = f.int();
    f.fill(to, 0, i32.mul(count, width * 4));
    f.for(0, count, 1, (k) => {
      f.for(0, lanes, 1, (i) => {
        const [across, along] = [i32.add(lane, i), i32.add(k0, k)];
        const row = i32.select(i32.and(form, 1), across, along);
        const column = i32.select(i32.and(form, 1), along, across);
        f.set(element, i32.add(i32.mul(row, rowLength), column));
        eachKind(f, kinds, form, (kind) =>
          f.emit(store.f32(i32.add(to, i32.shl(i, 2)), f.callFor('f32', kind.element, weight, element, scratch))),
        );
      });
      f.increase(to, width * 4);
    });
  });
}

type Eight = [IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal];

/**
 * Adds the function that packs one panel of B, `width` columns, whatever the weight's form: (weight, form, lane, first step,
 * k count, lanes that exist, to, scratch).
 */
export function pack4bitFunction(m: ModuleBuilder, features: Features, width: number, withStore: boolean): FunctionRef {
  const absmax = absmaxFunction(m, withStore);
  const bring = withStore ? bringFunction(m) : undefined;
  const kinds = floatTypes.map((dtype): Kind => {
    const kind = { width, dtype, features };
    const element = elementFunction(m, dtype, absmax, withStore);
    return { dtype, lanes: packLanes(m, kind), steps: packSteps(m, kind), element };
  });
  const elements = packElements(m, kinds, width);
  return m.function(undefined, new Array(8).fill('i32'), [], (f) => {
    const [weight, form, lane, k0, count, lanes, to, scratch] = f.params as Eight;
    const rowLength = f.int(i32.load(weight, weightWord.rowLength * 4));
    f.if(i32.and(rowLength, turn - 1), () => {
      f.call(elements, ...(f.params as Eight));
      f.return();
    });
    const [element, source, stride] = [f.int(), f.int(), f.int(i32.shrU(rowLength, 1))];
    /** Where the panel's bytes start; rows from the store are brought to scratch first. */
    const locate = (rows: IntLocal, bytes: Int) => {
      const base = f.local('i64', moved(i64.load(weight, weightWord.packed * 4), i32.shrU(element, 1)));
      f.set(source, i32.wrap(base));
      if (!bring) return;
      f.if(i32.and(i32.load(weight, weightWord.flags * 4), weightFlag.packedInStore), () => {
        f.set(source, i32.add(scratch, broughtAt));
        f.call(bring, base, source, rows, stride, bytes);
        f.setInt(stride, bytes);
      });
    };
    const alongRows = () => {
      f.set(element, i32.add(i32.mul(lane, rowLength), k0));
      const shift = f.int(i32.load(weight, weightWord.shift * 4));
      // A scale holds for a whole block where rows end between blocks, else for a turn.
      const cutsBlocks = i32.and(rowLength, i32.sub(i32.shl(1, shift), 1));
      const slotShift = f.int(i32.select(cutsBlocks, Math.log2(turn), i32.min(shift, Math.log2(longestSlot))));
      const slot = f.int(i32.shl(1, slotShift));
      const slots = f.int(i32.shrU(i32.sub(i32.add(count, slot), 1), slotShift));
      f.for(0, lanes, 1, (i) => {
        const first = i32.add(element, i32.mul(i, rowLength));
        f.call(absmax, weight, first, slots, slot, i32.add(scratch, i32.shl(i, 2)), width * 4);
      });
      locate(lanes, f.int(i32.shrU(count, 1)));
      eachKind(f, kinds, form, (kind) =>
        f.call(kind.lanes, weight, source, to, count, lanes, stride, scratch, slotShift),
      );
    };
    const alongColumns = () => {
      f.set(element, i32.add(i32.mul(k0, rowLength), lane));
      f.call(absmax, weight, element, count, rowLength, scratch, 4);
      locate(count, stepBytes);
      eachKind(f, kinds, form, (kind) => f.call(kind.steps, weight, source, to, count, stride, scratch));
    };
    f.if(i32.and(form, 1), alongRows, alongColumns);
  });
}
