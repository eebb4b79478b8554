/**
 * Packing for the matrix product: a panel holds `lanes` rows (of A) or columns (of B) side by side for each step of k, as
 * f32, so that the micro-kernel reads memory in order whatever the operand's transposition, stride and dtype.
 */
import { type FunctionBuilder, type FunctionRef, type Local, type ModuleBuilder, moved } from '../assembler.ts';
import { i32, lanes32, store, type V128, v128 } from '../instructions.ts';
import { bytesPerElement, elementShift, type FloatType, floatTypes, loadFloat, loadFloats } from './lanes.ts';

/**
 * `lanes`: k runs along memory in every lane; one panel from (source, destination, k count, lanes that exist, source stride in
 * bytes), in which missing lanes become zeros. `steps`: lanes lie side by side for each k; all panels in one walk along memory,
 * from the same and the bytes from one panel to the next.
 */
export type PackLayout = 'lanes' | 'steps';
export type PackFunctions = Record<FloatType, Record<PackLayout, FunctionRef>>;

/** `pointer` is 'i64' where the source lies in the store. */
export function packFunctions(m: ModuleBuilder, width: number, pointer: Pointer = 'i32'): PackFunctions {
  const entries = floatTypes.map((dtype) => [
    dtype,
    {
      lanes: packLanes(m, { width, dtype, layout: 'lanes', pointer }),
      steps: packSteps(m, { width, dtype, layout: 'steps', pointer }),
    },
  ]);
  return Object.fromEntries(entries) as PackFunctions;
}

type Pointer = 'i32' | 'i64';

interface PackKind {
  readonly width: number;
  readonly dtype: FloatType;
  readonly layout: PackLayout;
  readonly pointer: Pointer;
}

type PackParams = [source: Local<Pointer>, ...rest: [Local<'i32'>, Local<'i32'>, Local<'i32'>, Local<'i32'>]];

/** A step of k is one run through memory over all whole panels: rows far apart are each touched once. */
function packSteps(m: ModuleBuilder, kind: PackKind): FunctionRef {
  const { width, dtype, pointer } = kind;
  const partial = partialPack(m, kind);
  return m.function(undefined, [pointer, 'i32', 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [source, to, count, lanes, stride] = f.params as unknown as PackParams;
    const panelBytes = f.intParam(5);
    const whole = f.int(i32.sub(lanes, i32.remU(lanes, width)));
    const last = f.int(i32.mul(i32.divU(lanes, width), panelBytes));
    f.if(whole, () => {
      const [from, into] = [f.local(pointer, source), f.int(to)];
      f.for(0, count, 1, () => {
        const [at, panel] = [f.local(pointer, from), f.int(into)];
        f.for(0, whole, width, () => {
          const values = [];
          for (let lane = 0; lane < width; lane += 4)
            values.push(f.vector(loadFloats(f, dtype, at, lane * bytesPerElement[dtype])));
          for (const [i, value] of values.entries())
            f.emit(width - 4 * i >= 4 ? store.v128(panel, value, 16 * i) : store.low64(panel, value, 16 * i));
          f.set(at, moved(at, width * bytesPerElement[dtype]));
          f.increase(panel, panelBytes);
        });
        f.set(from, moved(from, stride));
        f.increase(into, width * 4);
      });
    });
    f.if(i32.ne(lanes, whole), () =>
      f.call(
        partial,
        moved(source, i32.shl(whole, elementShift(dtype))),
        i32.add(to, last),
        count,
        i32.sub(lanes, whole),
        stride,
      ),
    );
  });
}

function packLanes(m: ModuleBuilder, kind: PackKind): FunctionRef {
  const { width, dtype, pointer } = kind;
  const partial = partialPack(m, kind);
  return m.function(undefined, [pointer, 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [source, to, count, lanes, stride] = f.params as unknown as PackParams;
    f.if(i32.ne(lanes, width), () => {
      f.call(partial, source, to, count, lanes, stride);
      f.return();
    });
    const k = f.int(0);
    const groups: number[] = [];
    for (let lane = 0; lane < width; lane += 4) groups.push(Math.min(4, width - lane));
    f.while(k, i32.and(count, -4), 4, () => {
      const row = f.local(pointer, source);
      let lane = 0;
      for (const size of groups) {
        const rows = [];
        for (let i = 0; i < size; i++) {
          rows.push(f.vector(loadFloats(f, dtype, row)));
          f.set(row, moved(row, stride));
        }
        if (size === 4) storeTransposed4(f, to, rows, width, lane);
        else storeTransposed2(f, to, rows, width, lane);
        lane += size;
      }
      f.set(source, moved(source, 4 * bytesPerElement[dtype]));
      f.increase(to, 4 * width * 4);
    });
    f.call(partial, source, to, i32.sub(count, k), lanes, stride);
  });
}

/** Columns of four vectors. */
export function transposed4(f: FunctionBuilder, rows: readonly Local<'v128'>[]): V128[] {
  const [a, b, c, d] = rows as [Local<'v128'>, Local<'v128'>, Local<'v128'>, Local<'v128'>];
  const lowAb = f.vector(v128.shuffle(a, b, lanes32(0, 4, 1, 5)));
  const lowCd = f.vector(v128.shuffle(c, d, lanes32(0, 4, 1, 5)));
  const highAb = f.vector(v128.shuffle(a, b, lanes32(2, 6, 3, 7)));
  const highCd = f.vector(v128.shuffle(c, d, lanes32(2, 6, 3, 7)));
  return [
    v128.shuffle(lowAb, lowCd, lanes32(0, 1, 4, 5)),
    v128.shuffle(lowAb, lowCd, lanes32(2, 3, 6, 7)),
    v128.shuffle(highAb, highCd, lanes32(0, 1, 4, 5)),
    v128.shuffle(highAb, highCd, lanes32(2, 3, 6, 7)),
  ];
}

function storeTransposed4(
  f: FunctionBuilder,
  to: Local<'i32'>,
  rows: Local<'v128'>[],
  width: number,
  lane: number,
): void {
  for (const [step, value] of transposed4(f, rows).entries()) f.emit(store.v128(to, value, (step * width + lane) * 4));
}

function storeTransposed2(
  f: FunctionBuilder,
  to: Local<'i32'>,
  rows: Local<'v128'>[],
  width: number,
  lane: number,
): void {
  const [a, b] = rows as [Local<'v128'>, Local<'v128'>];
  const pairs = [lanes32(0, 4, 0, 4), lanes32(1, 5, 1, 5), lanes32(2, 6, 2, 6), lanes32(3, 7, 3, 7)];
  for (const [step, lanes] of pairs.entries())
    f.emit(store.low64(to, v128.shuffle(a, b, lanes), (step * width + lane) * 4));
}

/** Element by element: the edge panels and the last steps of k. */
function partialPack(m: ModuleBuilder, { width, dtype, layout, pointer }: PackKind): FunctionRef {
  return m.function(undefined, [pointer, 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [source, to, count, lanes, stride] = f.params as unknown as PackParams;
    f.fill(to, 0, i32.mul(count, width * 4));
    f.for(0, count, 1, (k) => {
      f.for(0, lanes, 1, (lane) => {
        const [along, across] = layout === 'lanes' ? [k, lane] : [lane, k];
        const at = i32.add(i32.shl(along, elementShift(dtype)), i32.mul(across, stride));
        f.emit(store.f32(i32.add(to, i32.shl(lane, 2)), loadFloat(f, dtype, moved(source, at))));
      });
      f.increase(to, width * 4);
    });
  });
}
