import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type FunctionBuilder, ModuleBuilder, moved } from './assembler.ts';
import { type Code, f32, f32x4, i32, i64, int, lanes32, store, type ValueType, v128 } from './instructions.ts';

const shape = { shared: false, maximumPages: 4 };

/** Builds a module with one function `run` and gives it. */
function compile(params: ValueType[], result: ValueType, write: (f: FunctionBuilder) => Code<ValueType>) {
  const m = new ModuleBuilder(shape);
  m.function('run', params, [result], (f) => f.return(write(f)));
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 4 });
  const { run } = new WebAssembly.Instance(new WebAssembly.Module(m.build()), { e: { memory } }).exports;
  return { run: run as (...args: (number | bigint)[]) => number | bigint, memory };
}

test('constants of every size survive their encoding', () => {
  fc.assert(
    fc.property(fc.integer(), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), fc.float(), (a, b, c) => {
      expect(compile([], 'i32', () => int(a)).run()).toBe(a);
      expect(compile([], 'i64', () => i64.const(b)).run()).toBe(b);
      expect(compile([], 'f32', () => f32.const(c)).run()).toBe(c);
    }),
  );
});

test('32-bit arithmetic is that of JavaScript', () => {
  const operations = {
    add: (a: number, b: number) => (a + b) | 0,
    sub: (a: number, b: number) => (a - b) | 0,
    mul: Math.imul,
    and: (a: number, b: number) => a & b,
    shl: (a: number, b: number) => a << b,
    shrU: (a: number, b: number) => (a >>> b) | 0,
    ltS: (a: number, b: number) => Number(a < b),
    ltU: (a: number, b: number) => Number(a >>> 0 < b >>> 0),
    min: Math.min,
  } as const;
  for (const [name, expected] of Object.entries(operations)) {
    const { run } = compile(['i32', 'i32'], 'i32', (f) =>
      i32[name as keyof typeof operations](f.intParam(0), f.intParam(1)),
    );
    fc.assert(fc.property(fc.integer(), fc.integer(), (a, b) => run(a, b) === expected(a, b)));
  }
});

test('loops, branches and hoisted values', () => {
  const { run } = compile(['i32'], 'i32', (f) => {
    const sum = f.int(0);
    f.for(0, f.intParam(0), 1, (i) => {
      // A hoisted value is computed once although the loop asks for it in every turn.
      const limit = f.hoist(i32.add(f.intParam(0), 0));
      f.block((exit) => {
        f.branchIf(exit, i32.eq(i32.remU(i, 3), 0));
        f.if(
          i32.ltS(i, limit),
          () => f.increase(sum, i),
          () => f.setInt(sum, -1),
        );
      });
    });
    return sum;
  });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 60 }), (n) => {
      const expected = Array.from({ length: n }, (_, i) => (i % 3 === 0 ? 0 : i)).reduce((a, b) => a + b, 0);
      expect(run(n)).toBe(expected);
    }),
  );
});

test('a loop whose end is not above its start does not run', () => {
  const { run } = compile(['i32', 'i32'], 'i32', (f) => {
    const turns = f.int(0);
    f.for(f.intParam(0), f.intParam(1), 1, () => f.increase(turns, 1));
    return turns;
  });
  expect([run(5, 5), run(6, 5), run(0, -3), run(2, 5)]).toEqual([0, 0, 0, 3]);
});

test('vectors: load, shuffle, multiply-add, store', () => {
  const { run, memory } = compile([], 'f32', (f) => {
    const [a, b] = [f.vector(v128.load(0)), f.vector(v128.load(16))];
    const mixed = v128.shuffle(a, b, lanes32(0, 5, 2, 7));
    const result = f.vector(f32x4.add(f32x4.mul(mixed, f32x4.const(2)), b));
    f.emit(store.v128(32, result));
    return f32x4.extract(result, 3);
  });
  new Float32Array(memory.buffer).set([1, 2, 3, 4, 10, 20, 30, 40]);
  expect(run()).toBe(120);
  expect([...new Float32Array(memory.buffer, 32, 4)]).toEqual([12, 60, 36, 120]);
});

test('64-bit addresses read the second memory', () => {
  const m = new ModuleBuilder({ shared: true, maximumPages: 2, storePages: 2 });
  m.importStore();
  m.function('run', ['i64', 'i32'], ['i32'], (f) => {
    const at = f.params[0] as Code<'i64'>;
    f.copyFromStore(64, at, 8);
    f.return(i32.add(i32.load(moved(at, f.intParam(1))), i32.load(64)));
  });
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 2, shared: true });
  const wide = { initial: 1n, maximum: 2n, shared: true, address: 'i64' } as unknown as WebAssembly.MemoryDescriptor;
  const store = new WebAssembly.Memory(wide);
  new Int32Array(store.buffer).set([7, 11, 13], 4);
  const { run } = new WebAssembly.Instance(new WebAssembly.Module(m.build()), { e: { memory, store } }).exports;
  expect((run as (a: bigint, b: number) => number)(16n, 8)).toBe(20);
  expect([...new Int32Array(memory.buffer, 64, 2)]).toEqual([7, 11]);
});

test('what cannot be assembled is refused', () => {
  const m = new ModuleBuilder(shape);
  const one = m.function(undefined, ['i32'], [], () => {});
  expect(() => m.function('run', [], [], (f) => f.call(one))).toThrow('a call needs 1 arguments: 0 given');
  expect(() => m.importFunction('late', [], [])).toThrow('imports must precede functions: late');
});
