/** Writing a block of C from scratch to where it belongs, transposed. */
import type { FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { f32, i32, store, v128 } from '../instructions.ts';
import { transposed4 } from './pack.ts';

type IntLocal = Local<'i32'>;

/** (block, block stride, c, c stride, rows, columns): c[j, i] = block[i, j], strides in bytes. */
export function transposeFunction(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [block, blockStride, c, stride, rows, columns] = f.params as IntLocal[] &
      Record<0 | 1 | 2 | 3 | 4 | 5, IntLocal>;
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
}
