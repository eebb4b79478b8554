/**
 * Steps of AdamW and Lion on 8-bit moments, a block of 256 elements at a time: moments are widened, updated into scratch and
 * placed in the map again. Every product and sum is rounded where bitsandbytes rounds it on a CPU.
 */
import { stateBlocksize } from '@lorikeet/tensor';
import { argument, type FunctionBuilder, type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, f64x2, type I32, i32, lanes32, store, type V128, v128 } from '../instructions.ts';
import { elements, magnitudes, placeValues, type Step, valueAt, valuesAt } from './blockwise-8bit.ts';
import { elementShift, type FloatType, floatTypes, loadFloat, loadFloats, storeFloats } from './lanes.ts';
import { storeOne } from './row-loop.ts';

export type Stepped = 'adamw' | 'lion';
/** Words: addresses and sizes, the moments' (state, absmax, map, table) from `moments` on, then numbers of f32. */
export const stepWord = { param: 0, grad: 1, n: 2, blocksPerChunk: 3, moments: 4, numbers: 12 } as const;
export const momentWords = 4;
export const numberNames = {
  adamw: ['gradScale', 'beta1', 'enter1', 'beta2', 'enter2', 'correction2', 'eps', 'rate', 'before', 'after'],
  lion: ['gradScale', 'beta1', 'enter1', 'beta2', 'enter2', 'rate', 'before'],
} as const;

export const stepTask = (kind: Stepped, param: FloatType, grad: FloatType): string => `${kind}_${param}_${grad}`;

export function optimizer8bitModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  for (const param of floatTypes)
    for (const grad of floatTypes) {
      stepsTask(m, 'adamw', { param, grad });
      stepsTask(m, 'lion', { param, grad });
    }
  return m;
}

interface Types {
  readonly param: FloatType;
  readonly grad: FloatType;
}

/** A block's element as vectors: what it was, and where the new moments go. */
interface Element {
  readonly param: V128;
  readonly grad: V128;
  readonly moments: readonly V128[];
}
interface Stepping {
  readonly param: V128;
  readonly moments: readonly V128[];
}
type Formula = (f: FunctionBuilder, element: Element, number: (name: string) => Local<'v128'>) => Stepping;

/** a * b + c rounded once: f64 holds the product of two f32 numbers. The same on every machine, where FMA is not. */
function fused(f: FunctionBuilder, a: V128, b: V128, c: V128): V128 {
  const [x, y, z] = [f.vector(a), f.vector(b), f.vector(c)];
  const high = (v: V128) => v128.shuffle(v, v, lanes32(2, 3, 2, 3));
  const half = (of: (v: V128) => V128) => {
    const [p, q, r] = [x, y, z].map((v) => f64x2.promoteLow(of(v))) as [V128, V128, V128];
    return f32x4.demoteZero(f64x2.add(f64x2.mul(p, q), r));
  };
  return f.vector(
    v128.shuffle(
      half((v) => v),
      half(high),
      lanes32(0, 1, 4, 5),
    ),
  );
}

const formulas: Readonly<Record<Stepped, Formula>> = {
  adamw: (f, { param, grad, moments: [m, v] }, number) => {
    const g = f.vector(f32x4.mul(grad, number('gradScale')));
    const m1 = fused(f, g, number('enter1'), f32x4.mul(m!, number('beta1')));
    const v1 = fused(f, f32x4.mul(number('enter2'), g), g, f32x4.mul(v!, number('beta2')));
    const root = f32x4.add(f32x4.div(f32x4.sqrt(v1), number('correction2')), number('eps'));
    const moved = f32x4.add(f32x4.mul(param, number('before')), f32x4.div(f32x4.mul(number('rate'), m1), root));
    return { param: f32x4.mul(moved, number('after')), moments: [m1, v1] };
  },
  lion: (f, { param, grad, moments: [m] }, number) => {
    const g = f.vector(f32x4.mul(grad, number('gradScale')));
    const mixed = f.vector(f32x4.add(f32x4.mul(m!, number('beta1')), f32x4.mul(g, number('enter1'))));
    const [zero, one] = [f.hoist(f32x4.const(0)), f.hoist(f32x4.const(1))];
    const sign = f32x4.sub(v128.and(f32x4.gt(mixed, zero), one), v128.and(f32x4.lt(mixed, zero), one));
    // NaN is its own sign.
    const step = f32x4.mul(v128.bitSelect(f32x4.eq(mixed, mixed), sign, mixed), number('rate'));
    const m1 = fused(f, g, number('enter2'), f32x4.mul(m!, number('beta2')));
    return { param: f32x4.sub(f32x4.mul(param, number('before')), step), moments: [m1] };
  },
};

const momentCount = { adamw: 2, lion: 1 } as const;
const blockBytes = stateBlocksize * 4;

function stepsTask(m: ModuleBuilder, kind: Stepped, types: Types): void {
  m.task(stepTask(kind, types.param, types.grad), (f, args, chunk, scratch) => {
    const word = (at: number) => f.hoist(argument(args, at));
    const number = (name: string) => {
      const at = (numberNames[kind] as readonly string[]).indexOf(name);
      return f.hoist(f32x4.splat(f32.load(args, (stepWord.numbers + at) * 4)));
    };
    const perChunk = word(stepWord.blocksPerChunk);
    const block = f.int(i32.mul(chunk, perChunk));
    const first = f.int(i32.mul(block, stateBlocksize));
    const end = f.int(i32.min(word(stepWord.n), i32.add(first, i32.mul(perChunk, stateBlocksize))));
    const count = f.int();
    f.while(first, end, stateBlocksize, () => {
      f.set(count, i32.min(i32.sub(end, first), stateBlocksize));
      stepBlock(f, { kind, types, word, number, first, block, count, scratch });
      f.increase(block, 1);
    });
  });
}

interface StepBlock {
  readonly kind: Stepped;
  readonly types: Types;
  readonly word: (at: number) => Local<'i32'>;
  readonly number: (name: string) => Local<'v128'>;
  readonly first: Local<'i32'>;
  readonly block: Local<'i32'>;
  readonly count: Local<'i32'>;
  readonly scratch: Local<'i32'>;
}

function stepBlock(f: FunctionBuilder, { kind, types, word, number, first, block, count, scratch }: StepBlock): void {
  const pointer = (base: I32, shift: number): Step => ({ pointer: f.int(i32.add(base, i32.shl(first, shift))), shift });
  const param = pointer(word(stepWord.param), elementShift(types.param));
  const grad = pointer(word(stepWord.grad), elementShift(types.grad));
  const moments = Array.from({ length: momentCount[kind] }, (_, i) => {
    const at = stepWord.moments + i * momentWords;
    const [state, absmaxes, map, table] = [word(at), word(at + 1), word(at + 2), word(at + 3)];
    const absmax = f.int(i32.add(absmaxes, i32.shl(block, 2)));
    const wide = f.int(i32.add(scratch, i * blockBytes));
    const scale = f.vector(f32x4.splat(f32.load(absmax)));
    const from = { pointer: f.int(i32.add(state, first)), shift: 0 };
    const to = { pointer: f.int(wide), shift: 2 };
    return { state, absmax, map, table, wide, scale, from, to, found: magnitudes(f) };
  });
  /** One turn: `read`, `place` and `write` take four elements or one. */
  const turn =
    (
      read: (dtype: FloatType, at: I32) => V128,
      place: (map: I32, at: I32) => V128,
      write: (dtype: FloatType, at: Local<'i32'>, value: V128) => void,
    ) =>
    () => {
      const old = moments.map(({ map, from, scale }) => f.vector(f32x4.mul(place(map, from.pointer), scale)));
      const given = {
        param: f.vector(read(types.param, param.pointer)),
        grad: read(types.grad, grad.pointer),
        moments: old,
      };
      const made = formulas[kind](f, given, number);
      write(types.param, param.pointer, f.vector(made.param));
      for (const [i, { to, found }] of moments.entries()) {
        write('f32', to.pointer, made.moments[i]!);
        found.enter(made.moments[i]!);
      }
    };
  elements(
    f,
    count,
    [param, grad, ...moments.flatMap(({ from, to }) => [from, to])],
    turn(
      (dtype, at) => loadFloats(f, dtype, at),
      valuesAt,
      (dtype, at, value) => storeFloats(f, dtype, at, value),
    ),
    turn(
      (dtype, at) => f32x4.splat(loadFloat(f, dtype, at)),
      valueAt,
      (dtype, at, value) => storeOne(f, dtype, at, value),
    ),
  );
  for (const { state, absmax, table, wide, found } of moments) {
    const largest = found.largest();
    f.emit(store.f32(absmax, largest));
    placeValues(f, 'f32', { x: wide, out: i32.add(state, first), count, table, largest });
  }
}
