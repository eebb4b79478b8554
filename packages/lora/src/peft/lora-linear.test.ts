import { asRows, Linear, type LinearLike, linearContract, type StateEntry } from '@lorikeet/nn';
import {
  type Backend,
  fromBytes,
  memory,
  normal,
  randomKey,
  referenceBackend,
  type Tensor,
  tensor,
  withRandom,
} from '@lorikeet/tensor';
import { hostileBackend } from '@lorikeet/tensor/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { numbers } from '../testing/numbers.ts';
import { LoraLinear } from './lora-linear.ts';

const key = randomKey(5);

/** A base that is not dense and no subclass of anything: weights are eighths in int8. */
class EighthsLinear implements LinearLike {
  readonly inFeatures = 6;
  readonly outFeatures = 5;
  readonly weight: Tensor;
  constructor(backend: Backend) {
    const codes = Int8Array.from({ length: 30 }, (_, i) => ((i * 7) % 23) - 11);
    this.weight = fromBytes(new Uint8Array(codes.buffer), { backend, dtype: 'i8', shape: [5, 6] });
  }
  forward(x: Tensor, add?: readonly [u: Tensor, b: Tensor]): Tensor {
    const y = asRows('EighthsLinear', x, 6).matmul(this.denseWeight(), { transposeB: true, ...(add && { add }) });
    return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), 5]);
  }
  denseWeight([start, end]: readonly [number, number] = [0, 5]): Tensor {
    return this.weight
      .slice(0, start, end)
      .cast('f32')
      .mul(1 / 8);
  }
  *stateEntries(): Iterable<StateEntry> {
    yield ['weight', this.weight];
  }
}

/** A trained adapter over a base: lora_B is not zero. */
function adapted(base: LinearLike, options: { r?: number; loraAlpha?: number; loraDropout?: number } = {}): LoraLinear {
  const layer = new LoraLinear(base, { r: 2, loraAlpha: 3, initLoraWeights: false, key, ...options });
  layer.path = 'layer';
  layer.training = false;
  return layer;
}

const framework = { describe, it };
linearContract('LoRA over a dense layer', framework, {
  backend: referenceBackend,
  make: (backend) => adapted(Linear.init(6, 5, { backend, key })),
});
linearContract('LoRA over a dense layer, on the hostile backend', framework, {
  backend: hostileBackend,
  make: (backend) => adapted(Linear.init(6, 5, { backend, key })),
});
linearContract('LoRA over a quantized layer', framework, {
  backend: referenceBackend,
  make: (backend) => adapted(new EighthsLinear(backend)),
});
const product = (a: number[][], b: number[][]): number[][] =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((sum, v, k) => sum + v * b[k]![j]!, 0)));
const transposed = (a: number[][]): number[][] => a[0]!.map((_, j) => a.map((row) => row[j]!));

describe('LoraLinear', () => {
  it('computes base(x) + s B A x, with s = alpha / r or alpha / sqrt(r)', async () => {
    const size = fc.integer({ min: 1, max: 6 });
    await fc.assert(
      fc.asyncProperty(size, size, size, size, fc.boolean(), fc.nat(1000), async (t, i, o, r, useRslora, seed) => {
        const backend = referenceBackend();
        const draw = randomKey(seed);
        const base = Linear.init(i, o, { backend, key: draw });
        const layer = new LoraLinear(base, { r, loraAlpha: 3, useRslora, initLoraWeights: false, key: draw });
        const x = normal([t, i], { backend, key: draw.fold('x') });
        const plain = (await base.forward(x).toArray()) as number[][];
        const [a, b, rows] = (await Promise.all(
          [layer.lora_A.weight, layer.lora_B.weight, x].map((m) => m.toArray()),
        )) as number[][][];
        const update = product(product(rows!, transposed(a!)), transposed(b!));
        const s = 3 / (useRslora ? Math.sqrt(r) : r);
        const expected = plain.flatMap((row, n) => row.map((v, m) => v + s * update[n]![m]!));
        (await numbers(layer.forward(x))).forEach((v, n) => expect(v).toBeCloseTo(expected[n]!, 5));
      }),
      { numRuns: 30 },
    );
  });

  it('with lora_B zero gives exactly what the base gives', async () => {
    const backend = referenceBackend();
    const base = Linear.init(9, 7, { backend, key });
    const layer = new LoraLinear(base, { r: 4, loraAlpha: 8, key });
    const x = normal([5, 9], { backend, key });
    expect(await numbers(layer.forward(x))).toEqual(await numbers(base.forward(x)));
    expect((await numbers(layer.lora_A.weight)).every((v) => Math.abs(v) <= 1 / 3)).toBe(true);
  });

  it("'gaussian' draws lora_A with deviation 1 / r", async () => {
    const base = Linear.init(400, 2, { backend: referenceBackend(), key });
    const layer = new LoraLinear(base, { r: 5, loraAlpha: 8, initLoraWeights: 'gaussian', key });
    const values = await numbers(layer.lora_A.weight);
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length);
    expect(deviation).toBeGreaterThan(0.18);
    expect(deviation).toBeLessThan(0.22);
  });

  it('drops elements of its input in training, keyed by its path, and leaves the base alone', async () => {
    const backend = referenceBackend();
    const base = Linear.init(32, 4, { backend, key });
    const layer = adapted(base, { loraDropout: 0.5 }).train();
    const x = normal([3, 32], { backend, key });
    const at = (path: string): Promise<number[]> => {
      layer.path = path;
      return numbers(withRandom(key, () => layer.forward(x)));
    };
    expect(await at('a')).toEqual(await at('a'));
    expect(await at('a')).not.toEqual(await at('b'));
    const kept = withRandom(key, () => x.dropout(0.5, key.fold('a').fold(0)));
    const u = kept.matmul(layer.lora_A.weight, { transposeB: true }).mul(layer.scaling);
    expect(await at('a')).toEqual(await numbers(base.forward(x, [u, layer.lora_B.weight])));
    expect(() => layer.forward(x)).toThrow('withRandom');
    layer.eval();
    expect(await numbers(layer.forward(x))).toEqual(await numbers(adapted(base).forward(x)));
  });

  it('does not widen a half-precision result, and stays f32 itself', () => {
    const backend = referenceBackend();
    const layer = adapted(Linear.init(4, 3, { backend, key, dtype: 'f16', bias: false }));
    expect(layer.lora_A.weight.dtype).toBe('f32');
    expect(layer.forward(tensor([[1, 2, 3, 4]], { backend, dtype: 'f16' })).dtype).toBe('f16');
  });

  it("keeps the base's paths and adds its own", () => {
    const layer = adapted(Linear.init(4, 3, { backend: referenceBackend(), key }));
    expect([...layer.stateEntries()].map(([path]) => path)).toEqual([
      'weight',
      'bias',
      'lora_A.weight',
      'lora_B.weight',
    ]);
    expect([...layer.namedModules()]).toHaveLength(1);
  });

  it('refuses to merge into a quantized weight and says what to do', async () => {
    const layer = adapted(new EighthsLinear(referenceBackend()));
    await expect(layer.merge()).rejects.toThrow(
      'the weight of layer must be floats [5, 6]: got [5, 6] i8. Load the base unquantized',
    );
    expect(layer.merged).toBe(false);
  });

  it('is not put over another adapter', () => {
    const layer = adapted(Linear.init(4, 3, { backend: referenceBackend(), key }));
    expect(() => adapted(layer)).toThrow('must be a layer without an adapter');
  });

  it('frees its own tensors and not the base', () => {
    const backend = referenceBackend();
    const base = Linear.init(4, 3, { backend, key });
    const before = memory(backend).liveBytes;
    const layer = adapted(base);
    expect(memory(backend).liveBytes).toBe(before + 4 * (2 * 4 + 3 * 2));
    layer.disposeAdapter();
    expect(memory(backend).liveBytes).toBe(before);
  });

  it.each([
    [{ r: 0 }, 'r must be at least 1'],
    [{ r: 1.5 }, 'r must be a whole number'],
    [{ loraDropout: 1 }, 'loraDropout must be in [0, 1)'],
    [{ loraAlpha: Number.NaN }, 'loraAlpha must be a finite number'],
  ])('refuses %j', (options, message) => {
    const base = Linear.init(4, 3, { backend: referenceBackend(), key });
    expect(() => adapted(base, options)).toThrow(message);
  });
});
