/**
 * Packing for the matrix product: a panel holds `lanes` rows (of A) or columns (of B) side by side for each step of k, as
 * f32, so that the micro-kernel reads memory in order whatever the operand's transposition, stride and dtype.
 */
import { type FunctionRef, type Local, type ModuleBuilder, moved } from '../assembler.ts';
import { i32, lanes32, store, v128 } from '../instructions.ts';
import { bytesPerElement, elementShift, type FloatType, floatTypes, loadFloat, loadFloats } from './lanes.ts';

/** `lanes`: k runs along memory in every lane; `steps`: lanes lie side by side for each k. */
export type PackLayout = 'lanes' | 'steps';

/** (source, destination, k count, lanes that exist, source stride in bytes): missing lanes become zeros. */
export type PackFunctions = Record<FloatType, Record<PackLayout, FunctionRef>>;

/** `pointer` is 'i64' where the source lies in the store. */
export function packFunctions(m: ModuleBuilder, width: number, pointer: Pointer = 'i32'): PackFunctions {
  const entries = floatTypes.map((dtype) => [
    dtype,
    {
      lanes: packFunction(m, { width, dtype, layout: 'lanes', pointer }),
      steps: packFunction(m, { width, dtype, layout: 'steps', pointer }),
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

function packFunction(m: ModuleBuilder, kind: PackKind): FunctionRef {
  const { width, dtype, layout, pointer } = kind;
  const partial = partialPack(m, kind);
  return m.function(undefined, [pointer, 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [source, to, count, lanes, stride] = f.params as unknown as PackParams;
    f.if(i32.ne(lanes, width), () => {
      f.call(partial, source, to, count, lanes, stride);
      f.return();
    });
    if (layout === 'steps') {
      f.for(0, count, 1, () => {
        for (let lane = 0; lane < width; lane += 4) {
          const value = loadFloats(f, dtype, source, lane * bytesPerElement[dtype]);
          f.emit(width - lane >= 4 ? store.v128(to, value, lane * 4) : store.low64(to, value, lane * 4));
        }
        f.set(source, moved(source, stride));
        f.increase(to, width * 4);
      });
      return;
    }
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

type Writer = Parameters<Parameters<ModuleBuilder['function']>[3]>[0];

function storeTransposed4(f: Writer, to: Local<'i32'>, rows: Local<'v128'>[], width: number, lane: number): void {
  const [a, b, c, d] = rows as [Local<'v128'>, Local<'v128'>, Local<'v128'>, Local<'v128'>];
  const lowAb = f.vector(v128.shuffle(a, b, lanes32(0, 4, 1, 5)));
  const lowCd = f.vector(v128.shuffle(c, d, lanes32(0, 4, 1, 5)));
  const highAb = f.vector(v128.shuffle(a, b, lanes32(2, 6, 3, 7)));
  const highCd = f.vector(v128.shuffle(c, d, lanes32(2, 6, 3, 7)));
  const at = (step: number) => (step * width + lane) * 4;
  f.emit(store.v128(to, v128.shuffle(lowAb, lowCd, lanes32(0, 1, 4, 5)), at(0)));
  f.emit(store.v128(to, v128.shuffle(lowAb, lowCd, lanes32(2, 3, 6, 7)), at(1)));
  f.emit(store.v128(to, v128.shuffle(highAb, highCd, lanes32(0, 1, 4, 5)), at(2)));
  f.emit(store.v128(to, v128.shuffle(highAb, highCd, lanes32(2, 3, 6, 7)), at(3)));
}

function storeTransposed2(f: Writer, to: Local<'i32'>, rows: Local<'v128'>[], width: number, lane: number): void {
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
