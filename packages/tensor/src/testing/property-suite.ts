/**
 * Random shapes for every backend: results against the f64 reference, and small integers exactly, with sizes from 1 to
 * two tiles + 1 so that every border of a tiled kernel is crossed. Needs the peer `fast-check`, which prints its seed.
 */
import fc from 'fast-check';
import type { Backend } from '../backend.ts';
import { tensor } from '../creation.ts';
import { attention } from '../ops/attention.ts';
import * as e from '../ops/elementwise.ts';
import { embedding } from '../ops/index-select.ts';
import { matmul } from '../ops/matmul.ts';
import { matmul4bit } from '../ops/matmul-4bit.ts';
import { dequantize4bit, quantize4bit, type Weight4bit } from '../ops/quantize-4bit.ts';
import { RandomKey } from '../random.ts';
import { referenceBackend } from '../reference-backend.ts';
import { scope } from '../scope.ts';
import type { Tensor } from '../tensor.ts';
import { expectClose, type Tolerance, toleranceOf } from './close.ts';
import { drawTensor } from './draw.ts';
import type { Framework } from './op-suite.ts';

export interface PropertySuiteOptions {
  readonly backend: () => Promise<Backend>;
  /** Largest size of a matmul axis: two tiles + 1 of the backend. Default 33. */
  readonly maxSize?: number;
  /** Cases a property. Default 30. */
  readonly runs?: number;
  readonly tolerance?: Tolerance;
}

/** Whole numbers in -4 .. 4: products of a few hundred of them are exact in f32. */
const integers = (shape: readonly number[], seed: number, backend: Backend): Tensor =>
  tensor(
    Float32Array.from(
      { length: shape.reduce((a, b) => a * b, 1) },
      (_, i) => Math.floor(new RandomKey(seed, 3).uniform(i) * 9) - 4,
    ),
    { backend, shape },
  );

async function both(
  backend: Backend,
  fn: (backend: Backend, wide: boolean) => Tensor,
): Promise<[ArrayLike<number>, ArrayLike<number>]> {
  const reference = referenceBackend();
  const [a, b] = [scope(() => fn(backend, false)), scope(() => fn(reference, true))];
  const values: [ArrayLike<number>, ArrayLike<number>] = [await a.data(), await b.data()];
  a.dispose();
  b.dispose();
  return values;
}

const exact = { relative: 0, absolute: 0 };

export function propertySuite(f: Framework, options: PropertySuiteOptions): void {
  const { maxSize = 33, runs = 30, tolerance = toleranceOf.f32! } = options;
  let ready: Promise<Backend> | null = null;
  const backend = (): Promise<Backend> => (ready ??= options.backend());
  const size = fc.integer({ min: 1, max: maxSize });
  const small = fc.integer({ min: 1, max: 6 });
  const check = async (fn: (b: Backend, wide: boolean) => Tensor, bound: Tolerance, where: string): Promise<void> => {
    const [got, want] = await both(await backend(), fn);
    expectClose(got, want, bound, where);
  };
  const property = (name: string, body: () => fc.IAsyncProperty<unknown> | fc.IAsyncPropertyWithHooks<never>): void =>
    f.it(name, async () => fc.assert(body() as fc.IAsyncProperty<unknown>, { numRuns: runs }));

  property('matmul of small integers is exact, in every transpose form, with a second pair and a bias', () =>
    fc.asyncProperty(
      size,
      size,
      size,
      small,
      fc.boolean(),
      fc.boolean(),
      fc.boolean(),
      fc.nat(),
      (m, k, n, r, ta, tb, pair, seed) =>
        check(
          (b) => {
            const at = (shape: [number, number], turned: boolean, s: number): Tensor =>
              integers(turned ? [shape[1], shape[0]] : shape, seed + s, b);
            const add = pair ? ([at([m, r], ta, 2), at([r, n], tb, 3)] as const) : undefined;
            const bias = pair ? { bias: integers([n], seed + 4, b) } : {};
            return matmul(at([m, k], ta, 0), at([k, n], tb, 1), {
              transposeA: ta,
              transposeB: tb,
              ...(add ? { add } : {}),
              ...bias,
            });
          },
          exact,
          `matmul m ${m} k ${k} n ${n}`,
        ),
    ),
  );
  property('batched matmul with broadcast batches and column blocks is exact', () =>
    fc.asyncProperty(small, small, size, size, fc.nat(), (batch, m, k, n, seed) =>
      check(
        (b) => {
          const wide = integers([batch * m, k + 5], seed, b).split([2, k, 3])[1]!;
          const product = matmul(wide, integers([k, n], seed + 1, b)).reshape([batch, m, n]);
          return product.add(
            matmul(integers([batch, m, k], seed + 2, b), integers([1, n, k], seed + 3, b), { transposeB: true }),
          );
        },
        exact,
        `batch ${batch} m ${m} k ${k} n ${n}`,
      ),
    ),
  );
  property('bf16 and f16 weights multiply as their widened values', () =>
    fc.asyncProperty(size, size, size, fc.constantFrom('bf16', 'f16'), fc.nat(), (m, k, n, dtype, seed) =>
      check(
        (b) =>
          matmul(integers([m, k], seed, b), integers([n, k], seed + 1, b).cast(dtype as 'bf16'), { transposeB: true }),
        exact,
        `${dtype} m ${m} k ${k} n ${n}`,
      ),
    ),
  );
  property('reductions over any axes are exact on integers', () =>
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }),
      fc.nat(),
      fc.nat(),
      (shape, mask, seed) =>
        check(
          (b) => {
            const x = integers(shape, seed, b);
            const axes = shape.flatMap((_, i) => ((mask >> i) & 1 ? [i] : []));
            return x.sum(axes).sum().add(x.max(axes).sum()).add(x.argmax(0).cast('f32').sum());
          },
          exact,
          `reduce [${shape}] mask ${mask}`,
        ),
    ),
  );
  property('embedding, its gradient and scatterAdd are exact on integers', () =>
    fc.asyncProperty(size, size, fc.array(fc.nat(), { minLength: 1, maxLength: 20 }), fc.nat(), (v, d, picks, seed) =>
      check(
        (b) => {
          const table = integers([v, d], seed, b);
          table.requiresGrad = true;
          const out = embedding(
            picks.map((p) => p % v),
            table,
          );
          const gradient = out
            .mul(integers([picks.length, d], seed + 1, b))
            .sum()
            .backward()
            .of(table);
          return out.sum().add(gradient.mul(integers([v, d], seed + 2, b)).sum());
        },
        exact,
        `embedding v ${v} d ${d}`,
      ),
    ),
  );
  property('layout ops move integers to the right places', () =>
    fc.asyncProperty(fc.array(small, { minLength: 2, maxLength: 4 }), fc.nat(), fc.nat(), (shape, turn, seed) =>
      check(
        (b) => {
          const x = integers(shape, seed, b);
          const axes = shape.map((_, i) => (i + turn) % shape.length);
          const axis = turn % shape.length;
          const cut = x.slice(axis, 0, Math.ceil(shape[axis]! / 2));
          return x
            .permute(axes)
            .reshape([-1])
            .concat([cut.pad(axis, 1, 2).reshape([-1]), x.stack([x], axis).reshape([-1])]);
        },
        exact,
        `layout [${shape}] turn ${turn}`,
      ),
    ),
  );
  property('quantize4bit gives the same nibbles and absmax, matmul4bit the product with what they stand for', () =>
    fc.asyncProperty(
      small,
      fc.integer({ min: 1, max: 5 }).map((n) => n * 32 - (n % 3)),
      fc.constantFrom('nf4', 'fp4'),
      fc.constantFrom(32, 64, 128),
      fc.constantFrom('f32', 'bf16', 'f16'),
      fc.nat(1000),
      async (rows, width, quantType, blocksize, dtype, seed) => {
        const shape = [rows, width] as const;
        const kind = { quantType: quantType as 'nf4', blocksize };
        const parts = (b: Backend) => quantize4bit(drawTensor({ shape, dtype: dtype as 'f32' }, seed, b), kind);
        const where = `${quantType} ${dtype} [${shape}] blocks of ${blocksize}`;
        await check((b) => parts(b).packed.cast('f32'), exact, where);
        await check((b) => parts(b).absmax, exact, where);
        const weight = (b: Backend): Weight4bit => ({ ...parts(b), ...kind, shape, dtype: dtype as 'f32' });
        await check((b) => dequantize4bit(weight(b)).cast('f32'), exact, where);
        await check(
          (b, wide) => {
            const product = matmul4bit(drawTensor({ shape: [3, width] }, seed + 1, b, wide), weight(b));
            return matmul4bit(product, weight(b), { transposeB: false });
          },
          { relative: 1e-5, absolute: 2e-3 },
          where,
        );
      },
    ),
  );
  property('elementwise programs broadcast as the reference does', () =>
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 4 }),
      fc.nat(),
      fc.nat(),
      fc.nat(1000),
      (shape, mask, drop, seed) =>
        check(
          (b, wide) => {
            const thin = shape.map((n, i) => ((mask >> i) & 1 ? 1 : n)).slice(drop % shape.length);
            const x = drawTensor({ shape }, seed, b, wide);
            const y = drawTensor({ shape: thin, low: 0.5, high: 2 }, seed + 1, b, wide);
            return e.div
              .apply([x.silu().add(y.exp()), y])
              .tanh()
              .maximum(y.log());
          },
          tolerance,
          `elementwise [${shape}] mask ${mask}`,
        ),
    ),
  );
  property('softmax, norms and attention agree with the reference', () =>
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }),
      fc.constantFrom(1, 2),
      small,
      fc.option(small),
      fc.nat(1000),
      (lengths, groups, pairs, window, seed) =>
        check(
          (b, wide) => {
            const t = lengths.reduce((s, n) => s + n, 0);
            const [kv, width] = [2, 2 * pairs];
            const draw = (h: number, s: number): Tensor => drawTensor({ shape: [t, h, width] }, seed + s, b, wide);
            const out = attention(draw(kv * groups, 0), draw(kv, 1), draw(kv, 2), {
              lengths,
              slidingWindow: window as number | null,
            });
            const flat = out.reshape([t, -1]);
            return flat.rmsNorm(drawTensor({ shape: [flat.shape[1]!] }, seed + 3, b, wide), 1e-5).softmax(-1);
          },
          { relative: 1e-5, absolute: 1e-5 },
          `attention [${lengths}]`,
        ),
    ),
  );
}
