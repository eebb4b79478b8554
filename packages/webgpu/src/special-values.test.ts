import {
  type Backend,
  type DType,
  dropout,
  fromBytes,
  RandomKey,
  type Tensor,
  tensor,
  threefry2x32,
} from '@lorikeet/tensor';
import { afterAll, describe, expect, it } from 'vitest';
import { describeOnAdapter, sharedBackend } from './testing/adapter.ts';
import { againstReference } from './testing/against-reference.ts';

const vitest = { describe, it, afterAll };

const [nan, infinity] = [Number.NaN, Number.POSITIVE_INFINITY];
const specials = [nan, infinity, -infinity, 0, -0, 1, -1, 0.5, -2.5, 88.7, 88.8, -103.9, -105, 20, -20, 1e30, -1e30];
const close = { relative: 2e-6, absolute: 1e-6 };

describeOnAdapter(vitest, 'special values', () => {
  const open = sharedBackend(vitest);
  const unary: Record<string, (x: Tensor) => Tensor> = {
    neg: (x) => x.neg(),
    abs: (x) => x.abs(),
    exp: (x) => x.exp(),
    log: (x) => x.log(),
    sqrt: (x) => x.sqrt(),
    rsqrt: (x) => x.rsqrt(),
    tanh: (x) => x.tanh(),
    sigmoid: (x) => x.sigmoid(),
    gelu: (x) => x.gelu(),
    relu: (x) => x.relu(),
    floorless: (x) => x.cast('i32'),
  };
  for (const [name, op] of Object.entries(unary))
    it(`${name} of NaN, infinities and the ends of its range`, async () => {
      // gelu(-infinity) is NaN by its formula; an i32 holds none of the large ones.
      const values =
        name === 'floorless' ? [nan, 0, 1.9, -1.9, -0.1] : specials.filter((v) => name !== 'gelu' || v > -1e30);
      await againstReference(await open(), (backend) => op(tensor(values, { backend })), close);
    });

  it('sin and cos far from zero', async () => {
    const values = Float32Array.from({ length: 4001 }, (_, i) => (i - 2000) * 1.37);
    for (const op of ['sin', 'cos'] as const)
      await againstReference(await open(), (backend) => tensor(values, { backend })[op](), {
        relative: 0,
        absolute: 3e-7,
      });
  });

  const pairs = specials.flatMap((a) => specials.map((b) => [a, b] as const));
  const columns = (backend: Backend): [Tensor, Tensor] => [
    tensor(
      Float32Array.from(pairs, (p) => p[0]),
      { backend },
    ),
    tensor(
      Float32Array.from(pairs, (p) => p[1]),
      { backend },
    ),
  ];
  for (const op of ['eq', 'ne', 'lt', 'le', 'gt', 'ge', 'maximum', 'minimum', 'add', 'mul'] as const)
    it(`${op} of every pair`, async () => {
      await againstReference(await open(), (backend) => {
        const [a, b] = columns(backend);
        return a[op](b);
      });
    });

  it('pow with negative bases and whole exponents', async () => {
    const bases = [-2, -1.5, -1, 0, 0.5, 3, nan];
    const exponents = [-3, -2, -1, 0, 0.5, 1, 2, 3, 4, 5, 2.5, nan];
    await againstReference(
      await open(),
      (backend) => tensor(bases, { backend }).reshape([7, 1]).pow(tensor(exponents, { backend })),
      close,
    );
  });

  it('max, argmax and softmax see NaN and infinities', async () => {
    const rows = [
      [1, nan, 3, nan],
      [-infinity, -1e30, -infinity, 2],
      [infinity, 1, infinity, 5],
      [4, 4, 4, -1],
    ];
    await againstReference(await open(), (backend) => tensor(rows, { backend }).max(1));
    await againstReference(await open(), (backend) => tensor(rows, { backend }).argmax(1));
    await againstReference(
      await open(),
      (backend) => tensor([rows[0]!, rows[1]!, rows[3]!], { backend }).softmax(-1),
      close,
    );
  });

  it('an index outside of its tensor reads NaN, and an integer 0', async () => {
    const backend = await open();
    const indices = tensor([0, 7, -1], { backend, dtype: 'i32' });
    for (const dtype of ['f32', 'f16', 'bf16', 'i32'] as const) {
      const picked = tensor([5, 6], { backend, dtype }).indexSelect(indices, 0);
      const bad = dtype === 'i32' ? 0 : nan;
      expect([...(await picked.data())]).toEqual([5, bad, bad]);
    }
  });
});

describeOnAdapter(vitest, 'dtype conversions', () => {
  const open = sharedBackend(vitest);
  const all = (dtype: DType): Uint8Array =>
    dtype === 'u8' || dtype === 'i8'
      ? Uint8Array.from({ length: 256 }, (_, i) => i)
      : new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);
  for (const dtype of ['f16', 'bf16', 'u8', 'i8'] as const)
    it(`every ${dtype} widens exactly`, async () => {
      const bytes = all(dtype);
      const shape = [bytes.byteLength / (bytes.byteLength > 256 ? 2 : 1)];
      await againstReference(await open(), (backend) => fromBytes(bytes, { backend, shape, dtype }).cast('f32'));
    });
  for (const dtype of ['f16', 'bf16'] as const)
    it(`f32 rounds to nearest even in ${dtype}, ties and subnormals included`, async () => {
      const key = new RandomKey(11, 7);
      const words = Uint32Array.from({ length: 40000 }, (_, i) => {
        const [bits] = threefry2x32(key.k0, key.k1, i, 0);
        // Exponents of the narrow format's range, and low bits at and beside ties.
        const exponent = (100 + (bits % 48)) << 23;
        return (bits & 0x80000000) | exponent | (bits & 0x7fe000) | [0, 0x1000, 0xfff, 0x1001, 0x8000, 0x7fff][i % 6]!;
      });
      const bytes = new Uint8Array(words.buffer);
      await againstReference(await open(), (backend) =>
        fromBytes(bytes, { backend, shape: [words.length] }).cast(dtype),
      );
    });
  it('integers of every width pass through each other', async () => {
    const values = [0, 1, 127, 128, 255, 256, 65535, 2147483647, -1, -128, -129, -2147483648];
    for (const from of ['i32', 'u32'] as const)
      for (const to of ['u8', 'i8', 'i32', 'u32', 'f32'] as const)
        await againstReference(await open(), (backend) => tensor(values, { backend, dtype: from }).cast(to), {
          relative: 1e-7,
          absolute: 0,
        });
  });
});

describeOnAdapter(vitest, 'randomness', () => {
  const open = sharedBackend(vitest);
  it('dropout draws the bits of the reference, whatever the key', async () => {
    for (const key of [
      new RandomKey(0, 0),
      new RandomKey(0xffffffff, 0x80000001),
      new RandomKey(123456789, 4000000000),
    ])
      await againstReference(await open(), (backend) =>
        dropout(tensor(new Float32Array(5000).fill(1), { backend }), 0.37, key),
      );
  });
});
