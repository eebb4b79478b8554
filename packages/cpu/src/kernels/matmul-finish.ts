/** Writing a block of C from scratch to where it belongs: transposed, or rounded to 16 bits. */
import type { FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { f32, i32, store, v128 } from '../instructions.ts';
import { storeFloats } from './lanes.ts';
import { transposed4 } from './pack.ts';

type IntLocal = Local<'i32'>;

/** How a product writes C: in place, or through a block in scratch. */
export const outForm = { f32: 0, f16: 1, bf16: 2, transposed: 3 } as const;

/** (form, block, block stride, c, c stride, rows, columns): strides in bytes; the block may be changed. */
export function finishFunction(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, new Array(7).fill('i32'), [], (f) => {
    const [form, block, blockStride, c, stride, rows, columns] = f.params as IntLocal[] &
      Record<0 | 1 | 2 | 3 | 4 | 5 | 6, IntLocal>;
    const narrowRows = (dtype: 'f16' | 'bf16') =>
      f.for(0, rows, 1, () => {
        const to = f.int(block);
        f.for(block, i32.add(block, i32.shl(columns, 2)), 16, (from) => {
          storeFloats(f, dtype, to, f.vector(v128.load(from)));
          f.increase(to, 8);
        });
        f.copy(c, block, i32.shl(columns, 1));
        f.increase(block, blockStride);
        f.increase(c, stride);
      });
    f.if(i32.eq(form, outForm.f16), () => narrowRows('f16'));
    f.if(i32.eq(form, outForm.bf16), () => narrowRows('bf16'));
    f.if(i32.eq(form, outForm.transposed), () => {
      const whole = f.int(i32.and(rows, -4));
      const at = (i: IntLocal, j: IntLocal) => i32.add(block, i32.add(i32.mul(i, blockStride), i32.shl(j, 2)));
      const out = (i: IntLocal, j: IntLocal) => i32.add(c, i32.add(i32.mul(j, stride), i32.shl(i, 2)));
      const scalars = (j: IntLocal, first: IntLocal | number) =>
        f.for(first, rows, 1, (i) => f.emit(store.f32(out(i, j), f32.load(at(i, j)))));
      const j = f.int(0);
      f.while(j, i32.sub(columns, 3), 4, () => {
        f.for(0, whole, 4, (i) => {
          const [from, to] = [f.int(at(i, j)), f.int(out(i, j))];
          const lines = [0, 1, 2, 3].map(() => {
            const line = f.vector(v128.load(from));
            f.increase(from, blockStride);
            return line;
          });
          for (const value of transposed4(f, lines)) {
            f.emit(store.v128(to, value));
            f.increase(to, stride);
          }
        });
        f.for(j, i32.add(j, 4), 1, (edge) => scalars(edge, whole));
      });
      f.while(j, columns, 1, () => scalars(j, 0));
    });
  });
}
