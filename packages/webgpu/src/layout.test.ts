import { type Backend, concat, type DType, noGrad, type Tensor, tensor, writeRows } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, describe, it } from 'vitest';
import { describeOnAdapter, sharedBackend } from './testing/adapter.ts';
import { againstReference } from './testing/against-reference.ts';

const vitest = { describe, it, afterAll };

const dtypes = ['f32', 'f16', 'bf16', 'i32', 'u32', 'u8', 'i8'] as const;
const dtype = fc.constantFrom<DType>(...dtypes);
const shape = (rank: { minLength: number; maxLength: number }) => fc.array(fc.integer({ min: 1, max: 6 }), rank);
const runs = { numRuns: 20 };
// Every dtype is a kernel to compile, seconds each on a CPU driver: one of each width where the width is all that counts.
const eachWidth = fc.constantFrom<DType>('f32', 'bf16', 'i8');

/** Small whole numbers: exact in every dtype, and so are their sums and products. */
function numbers(backend: Backend, sizes: readonly number[], type: DType, seed = 0): Tensor {
  const count = sizes.reduce((p, n) => p * n, 1);
  const values = Float64Array.from({ length: count }, (_, i) => ((i + seed) * 7) % 13);
  return tensor(values, { backend, dtype: type, shape: sizes });
}

/** A column block: the middle columns of a wider matrix. */
function block(backend: Backend, rows: number, columns: number, type: DType, seed = 0): Tensor {
  return numbers(backend, [rows, columns + 5], type, seed).split([3, columns, 2])[1]!;
}

describeOnAdapter(vitest, 'moves of any shape and dtype', () => {
  const open = sharedBackend(vitest);

  it('permute', async () => {
    const cases = fc.tuple(shape({ minLength: 1, maxLength: 5 }), eachWidth).chain(([sizes, type]) =>
      fc.record({
        sizes: fc.constant(sizes),
        type: fc.constant(type),
        axes: fc.shuffledSubarray(
          sizes.map((_, i) => i),
          { minLength: sizes.length },
        ),
      }),
    );
    const property = fc.asyncProperty(cases, async ({ sizes, type, axes }) =>
      againstReference(await open(), (backend) => numbers(backend, sizes, type).permute(axes)),
    );
    await fc.assert(property, runs);
  });

  it('slice and pad, of column blocks too', async () => {
    const arbitrary = fc.record({
      rows: fc.integer({ min: 1, max: 5 }),
      columns: fc.integer({ min: 1, max: 9 }),
      axis: fc.integer({ min: 0, max: 1 }),
      at: fc.nat(),
      type: eachWidth,
    });
    const property = fc.asyncProperty(arbitrary, async ({ rows, columns, axis, at, type }) => {
      const end = [rows, columns][axis]!;
      const start = at % end;
      await againstReference(await open(), (backend) =>
        block(backend, rows, columns, type)
          .slice(axis, start, end)
          .pad(axis, start, at % 3)
          .contiguous(),
      );
    });
    await fc.assert(property, runs);
  });

  it('concat of up to nine tensors and column blocks', async () => {
    const arbitrary = fc.record({
      sizes: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 9 }),
      axis: fc.integer({ min: 0, max: 2 }),
      type: eachWidth,
    });
    const property = fc.asyncProperty(arbitrary, async ({ sizes, axis, type }) =>
      againstReference(await open(), (backend) =>
        concat(
          sizes.map((n, i) => numbers(backend, [2, 3, 5].with(axis, n), type, i)),
          axis,
        ),
      ),
    );
    await fc.assert(property, runs);
    await againstReference(await open(), (backend) =>
      concat([block(backend, 3, 4, 'bf16'), block(backend, 3, 2, 'bf16', 5)], 1),
    );
    await againstReference(await open(), (backend) =>
      concat([block(backend, 3, 4, 'u8'), block(backend, 2, 4, 'u8', 5)], 0),
    );
  });

  it('elementwise with broadcasting and mixed dtypes', async () => {
    const arbitrary = fc
      .record({ sizes: shape({ minLength: 1, maxLength: 4 }), a: dtype, b: dtype })
      .chain(({ sizes, a, b }) => {
        const thinned = fc.array(fc.boolean(), { minLength: sizes.length, maxLength: sizes.length });
        return fc.record({ a: fc.constant(a), b: fc.constant(b), sizes: fc.constant(sizes), thinned });
      });
    const property = fc.asyncProperty(arbitrary, async ({ a, b, sizes, thinned }) =>
      againstReference(await open(), (backend) => {
        const small = sizes.map((n, i) => (thinned[i] ? 1 : n));
        return numbers(backend, sizes, a)
          .add(numbers(backend, small, b, 3))
          .mul(2)
          .maximum(numbers(backend, small, b));
      }),
    );
    await fc.assert(property, runs);
  });

  it('sum, max and argmax over any axes', async () => {
    const arbitrary = fc
      .record({ sizes: shape({ minLength: 1, maxLength: 4 }), type: dtype })
      .chain(({ sizes, type }) =>
        fc.record({ sizes: fc.constant(sizes), type: fc.constant(type), axis: fc.nat(sizes.length - 1) }),
      );
    const property = fc.asyncProperty(arbitrary, async ({ sizes, type, axis }) => {
      const backend = await open();
      await againstReference(backend, (b) => numbers(b, sizes, type).sum([axis]));
      await againstReference(backend, (b) => numbers(b, sizes, type).max([axis]));
      await againstReference(backend, (b) => numbers(b, sizes, type).argmax(axis));
      await againstReference(backend, (b) => numbers(b, sizes, type).sum());
    });
    await fc.assert(property, runs);
  });

  it('long reductions, which are cut into segments', async () => {
    for (const sizes of [[20001], [3, 9000], [9000, 3], [2, 8193, 2]])
      for (const type of ['f32', 'i32'] as const) {
        const axis = sizes.indexOf(Math.max(...sizes));
        await againstReference(await open(), (b) => numbers(b, sizes, type).sum([axis]));
        await againstReference(await open(), (b) => numbers(b, sizes, type).max([axis]));
        await againstReference(await open(), (b) => numbers(b, sizes, type).argmax(axis));
      }
  });
});

describeOnAdapter(vitest, 'matmul', () => {
  const open = sharedBackend(vitest);

  it('of any size, transposes, dtypes, batches and column blocks', async () => {
    const arbitrary = fc.record({
      m: fc.integer({ min: 1, max: 70 }),
      n: fc.integer({ min: 1, max: 70 }),
      k: fc.integer({ min: 1, max: 40 }),
      transposeA: fc.boolean(),
      transposeB: fc.boolean(),
      pair: fc.constantFrom<[DType, DType]>(['f32', 'f32'], ['f32', 'bf16'], ['f16', 'bf16']),
      batch: fc.constantFrom<[number[], number[]]>(
        [[], []],
        [[3], []],
        [[], [2]],
        [[2, 1], [3]],
        [
          [2, 3],
          [2, 3],
        ],
      ),
      blocks: fc.boolean(),
    });
    const property = fc.asyncProperty(
      arbitrary,
      async ({ m, n, k, transposeA, transposeB, pair: [a, b], batch, blocks }) =>
        againstReference(
          await open(),
          (backend) => {
            const [sizeA, sizeB] = [transposeA ? [k, m] : [m, k], transposeB ? [n, k] : [k, n]];
            const make = (lead: number[], sizes: number[], type: DType): Tensor =>
              blocks && lead.length === 0
                ? block(backend, sizes[0]!, sizes[1]!, type)
                : numbers(backend, [...lead, ...sizes], type);
            return make(batch[0], sizeA, a).matmul(make(batch[1], sizeB, b), { transposeA, transposeB });
          },
          // Sums of whole numbers are exact in f32; the result is rounded once to a narrow dtype.
          { relative: 0, absolute: 0 },
        ),
    );
    await fc.assert(property, runs);
  });

  it('with a second pair and a bias in one pass', async () => {
    for (const [transposeA, transposeB] of [
      [false, true],
      [true, false],
      [false, false],
      [true, true],
    ] as const)
      await againstReference(await open(), (backend) => {
        const make = (r: number, c: number, flip: boolean, seed: number): Tensor =>
          block(backend, flip ? c : r, flip ? r : c, 'f32', seed);
        const [a, b] = [make(37, 21, transposeA, 0), make(21, 45, transposeB, 1)];
        const add = [make(37, 4, transposeA, 2), make(4, 45, transposeB, 3).contiguous()] as const;
        return a.matmul(b, { transposeA, transposeB, add, bias: numbers(backend, [45], 'f32') });
      });
  });
});

describeOnAdapter(vitest, 'writes in place', () => {
  const open = sharedBackend(vitest);
  it('rows of any dtype leave their neighbours alone, in the middle of words too', async () => {
    for (const type of dtypes)
      for (const [rows, width, at] of [
        [1, 3, 1],
        [2, 5, 3],
        [3, 1, 2],
      ] as const)
        await againstReference(await open(), (backend) => {
          const whole = numbers(backend, [9, width], type, 1);
          const target = whole.slice(0, 1, 8);
          noGrad(() => writeRows(target, numbers(backend, [rows, width], 'f32', 5), at));
          return whole;
        });
  });
  it('rows that overlap their destination move as if copied first', async () => {
    await againstReference(await open(), (backend) => {
      const target = numbers(backend, [300, 3], 'bf16');
      noGrad(() => writeRows(target, target.slice(0, 0, 299), 1));
      return target;
    });
  });
});
