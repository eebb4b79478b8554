import { cpu } from '@lorikeet/cpu';
import { linearContract } from '@lorikeet/nn';
import {
  type Backend,
  memory,
  noGrad,
  normal,
  openScope,
  randomKey,
  referenceBackend,
  scope,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import { hostileBackend } from '@lorikeet/tensor/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { LoraLinear } from '../peft/lora-linear.ts';
import { Int8Linear } from './int8-linear.ts';
import { quantizeWeight4bit, quantizeWeight8bit, type Settings4bit, tensorRows } from './quantize-weight.ts';
import { QuantizedLinear } from './quantized-linear.ts';

const nf4 = { quantType: 'nf4', blocksize: 64, doubleQuant: true } as const;
type Shape = readonly [outFeatures: number, inFeatures: number];

async function layer4bit(
  backend: Backend,
  shape: Shape,
  settings: Settings4bit,
  { dtype = 'f32', bias = false }: { readonly dtype?: 'f32' | 'bf16'; readonly bias?: boolean } = {},
): Promise<QuantizedLinear> {
  using made = openScope();
  const dense = made.run(() => normal(shape, { backend, key: randomKey(9), std: 0.3 }).cast(dtype));
  return new QuantizedLinear(await quantizeWeight4bit(tensorRows('w', dense), settings), {
    bias: bias ? normal([shape[0]], { backend, key: randomKey(10) }) : undefined,
  });
}

async function layer8bit(backend: Backend, shape: Shape, threshold: number): Promise<Int8Linear> {
  using dense = normal(shape, { backend, key: randomKey(9), std: 0.3 });
  return new Int8Linear(await quantizeWeight8bit(tensorRows('w', dense)), { threshold });
}

const framework = { describe, it };
const onCpu = cpu({ threads: 2 });
afterAll(async () => (await onCpu).close());

for (const [where, backend] of [
  ['reference', referenceBackend],
  ['hostile', hostileBackend],
  ['cpu', () => onCpu],
] as const) {
  const contract = (
    name: string,
    make: (b: Backend) => Promise<QuantizedLinear | Int8Linear>,
    tolerance = 2e-5,
  ): void => linearContract(`${name} on ${where}`, framework, { backend, make, tolerance });
  contract('NF4, double quantization', (b) => layer4bit(b, [9, 64], nf4));
  contract('FP4 with a bias, blocks across rows', (b) =>
    layer4bit(b, [7, 19], { quantType: 'fp4', blocksize: 32, doubleQuant: false }, { bias: true }),
  );
  contract('NF4 of bf16', (b) => layer4bit(b, [12, 96], { ...nf4, blocksize: 128 }, { dtype: 'bf16' }));
  // x itself is rounded to 8 bits a row: the bound is half a step of it, summed over the row.
  contract('LLM.int8', (b) => layer8bit(b, [6, 33], 0), 0.05);
  contract('LLM.int8 with outliers', (b) => layer8bit(b, [6, 33], 1.5), 0.03);
}

describe('QuantizedLinear', () => {
  const backend = referenceBackend();
  it('holds bitsandbytes tensors under its names', async () => {
    using layer = await layer4bit(backend, [20, 64], nf4);
    expect([...layer.stateEntries()].map(([path, t]) => [path, t.dtype, ...t.shape])).toEqual([
      ['weight', 'u8', 640, 1],
      ['weight.absmax', 'u8', 20],
      ['weight.quant_map', 'f32', 16],
      ['weight.nested_absmax', 'f32', 1],
      ['weight.nested_quant_map', 'f32', 256],
      ['weight.quant_state.bitsandbytes__nf4', 'u8', expect.any(Number)],
    ]);
  });
  it('is quantized in row blocks as in one piece', async () => {
    using dense = normal([300, 40], { backend, key: randomKey(3) });
    const whole = await quantizeWeight4bit(tensorRows('w', dense), nf4);
    const pieces: [number, number][] = [];
    const blocks = tensorRows('w', dense);
    const some = await quantizeWeight4bit(
      {
        ...blocks,
        blockElements: 1024,
        rows: (start, end) => {
          pieces.push([start, end]);
          return blocks.rows(start, end);
        },
      },
      nf4,
    );
    expect(pieces.length).toBeGreaterThan(5);
    expect(await some.packed.bytes()).toEqual(await whole.packed.bytes());
    expect(await some.absmax.bytes()).toEqual(await whole.absmax.bytes());
    expect(some.nested!.offset).toBe(whole.nested!.offset);
  });
  it('leaves nothing when a block cannot be read or quantized', async () => {
    using dense = normal([64, 64], { backend, key: randomKey(3) });
    const blocks = tensorRows('w', dense);
    const before = memory(backend).liveTensors;
    const failing = (start: number, end: number): Tensor => {
      if (start > 0) throw new Error('the disk failed');
      return blocks.rows(start, end) as Tensor;
    };
    await expect(quantizeWeight4bit({ ...blocks, blockElements: 1024, rows: failing }, nf4)).rejects.toThrow('disk');
    const odd = { ...nf4, blocksize: 48 };
    await expect(quantizeWeight4bit({ ...blocks, blockElements: 1024 }, odd)).rejects.toThrow(
      'blocksize must be one of',
    );
    expect(memory(backend).liveTensors).toBe(before);
  });
  it('takes a new dense weight with its settings, and frees the old one', async () => {
    using layer = await layer4bit(backend, [8, 64], nf4);
    const dense = normal([8, 64], { backend, key: randomKey(4) });
    const before = memory(backend).liveBytes;
    await layer.setDenseWeight(dense);
    expect(memory(backend).liveBytes).toBeLessThanOrEqual(before + 8); // the offset's decimal may be longer
    using other = new QuantizedLinear(await quantizeWeight4bit(tensorRows('w', dense), nf4));
    expect(await layer.denseWeight().bytes()).toEqual(await other.denseWeight().bytes());
    expect(layer.settings).toEqual(nf4);
    await expect(layer.setDenseWeight(normal([8, 32], { backend, key: randomKey(4) }))).rejects.toThrow(
      'setDenseWeight: the weight must be [8, 64]: got [8, 32]',
    );
  });
  it.each([Number.NaN, Number.POSITIVE_INFINITY])('refuses a weight with %s by name and row', async (bad) => {
    for (const b of [backend, await onCpu]) {
      const values = new Float32Array(9 * 64).fill(0.5);
      values[7 * 64 + 3] = bad;
      using dense = tensor(values, { backend: b }).reshape([9, 64]);
      for (const quantize of [
        () => quantizeWeight4bit(tensorRows('m.o_proj.weight', dense), nf4),
        () => quantizeWeight8bit(tensorRows('m.o_proj.weight', dense)),
      ])
        await expect(quantize()).rejects.toThrow(/quantize: m\.o_proj\.weight must be finite: row 7/);
    }
  });
  it('carries an adapter as a dense layer does', async () => {
    using base = await layer4bit(backend, [10, 64], nf4);
    const options = { r: 3, loraAlpha: 6, key: randomKey(1), initLoraWeights: false } as const;
    const lora = new LoraLinear(base, options);
    const x = normal([4, 64], { backend, key: randomKey(2) });
    const got = await noGrad(() => lora.forward(x)).data();
    const want = await noGrad(() => scope(() => x.matmul(lora.denseWeight(), { transposeB: true }))).data();
    got.forEach((value: number, i: number) => expect(value).toBeCloseTo(want[i]!, 4));
    lora.lora_A.weight.requiresGrad = true;
    const gradients = scope(() => lora.forward(x).sum().backward());
    expect((await gradients.of(lora.lora_A.weight).data()).some((value: number) => value !== 0)).toBe(true);
  });
});

describe('Int8Linear', () => {
  it('holds bitsandbytes tensors under its names, and takes a new weight', async () => {
    const backend = referenceBackend();
    using layer = await layer8bit(backend, [5, 12], 6);
    const rows = (l: Int8Linear): [string, string, ...number[]][] =>
      [...l.stateEntries()].map(([path, t]: readonly [string, Tensor]) => [path, t.dtype, ...t.shape]);
    expect(rows(layer)).toEqual([
      ['weight', 'i8', 5, 12],
      ['SCB', 'f32', 5],
      ['weight_format', 'u8'],
    ]);
    const dense = tensor(
      Float32Array.from({ length: 60 }, (_, i) => i - 30),
      { backend },
    ).reshape([5, 12]);
    await layer.setDenseWeight(dense);
    expect([...(await layer.weight8bit().absmax.data())]).toEqual([30, 18, 6, 17, 29]);
    expect((await layer.denseWeight([4, 5]).data()).at(-1)).toBeCloseTo(29, 5);
    const large = tensor(new Float32Array(60).fill(70000), { backend }).reshape([5, 12]);
    await expect(layer.setDenseWeight(large)).rejects.toThrow('the weight must be finite: row 0, in f16,');
  });
});
