import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checkpoint,
  checkpointIn,
  defineOp,
  dropout,
  matmul,
  memory,
  nextKey,
  noGrad,
  openScope,
  randomKey,
  referenceBackend,
  scope,
  type Tensor,
  tensor,
  UseAfterFreeError,
  withRandom,
  writeRows,
  zeros,
} from './index.ts';
import { hostileBackend } from './testing/index.ts';

const backend = referenceBackend();
const leaf = (data: number[][], requiresGrad = true): Tensor => tensor(data, { backend, requiresGrad });

describe('backward', () => {
  it('adds the gradients of a tensor used several times', async () => {
    const x = leaf([
      [1, 2],
      [3, 4],
    ]);
    const g = x.mul(x).add(x).sum().backward();
    expect(await g.of(x).toArray()).toEqual([
      [3, 5],
      [7, 9],
    ]);
  });
  it('computes nothing for frozen inputs', async () => {
    const w = leaf(
      [
        [1, 2],
        [3, 4],
      ],
      false,
    );
    const x = leaf([[1, 1]]);
    const g = x.matmul(w).sum().backward();
    expect(g.has(w)).toBe(false);
    expect(() => g.of(w)).toThrow('must be a leaf with requiresGrad');
  });
  it('refuses a second walk, a vector loss and a loss without history', () => {
    const x = leaf([[1, 2]]);
    const loss = x.mul(2).sum();
    loss.backward();
    expect(() => loss.backward()).toThrow('already used or freed');
    expect(() => x.mul(2).backward()).toThrow('one element');
    expect(() => noGrad(() => x.mul(2).sum()).backward()).toThrow('must depend on a leaf');
  });
  it('refuses a saved value that was written in place, naming both ops', () => {
    const x = leaf([[1, 2]]);
    const y = zeros([1, 2], { backend });
    const loss = x.mul(y).sum();
    writeRows(y, tensor([[5, 6]], { backend }), 0);
    expect(() => loss.backward()).toThrow(/saved by mul .* writeRows wrote it in place/);
  });
  it('walks chains of 20,000 nodes without recursion', async () => {
    const x = tensor([1], { backend, requiresGrad: true });
    let y: Tensor = x;
    for (let i = 0; i < 20_000; i++) y = y.add(1);
    expect(await y.sum().backward().of(x).item()).toBe(1);
  });
  it('differentiates a custom op through its composition', async () => {
    const cube = defineOp({
      name: 'cube',
      inputs: ['x'],
      shape: ({ x }) => x,
      compose: ({ x }) => x.mul(x).mul(x),
      samples: [],
    });
    const x = tensor([2], { backend, requiresGrad: true });
    expect(await cube.apply({ x }, {})[0]!.sum().backward().of(x).item()).toBe(12);
  });
});

describe('checkpoint', () => {
  const run = async (wrap: boolean) => {
    const x = leaf([
      [0.3, -0.2],
      [0.5, 0.1],
    ]);
    const w = leaf([
      [1, 2],
      [3, 4],
    ]);
    const block = (t: Tensor): Tensor => t.matmul(w).dropout(0.5, nextKey('block')).silu();
    const g = withRandom(randomKey(7), () => scope(() => (wrap ? checkpoint(block, x) : block(x)).sum().backward()));
    return [await g.of(x).toArray(), await g.of(w).toArray()];
  };
  it('gives the gradients of a plain forward, masks and closures included', async () => {
    expect(await run(true)).toEqual(await run(false));
  });
  it('reaches leaves inside although its inputs need no gradient', async () => {
    const x = leaf([[1, 2]], false);
    const w = leaf([[1], [1]]);
    expect(
      await checkpoint((t) => t.matmul(w), x)
        .sum()
        .backward()
        .of(w)
        .toArray(),
    ).toEqual([[1], [2]]);
  });
  it('kept in bf16 gives the loss of the inputs and the gradients of the rounded inputs, masks included', async () => {
    const given = [0.3, -0.2, 1.7, 5.123];
    const run = async (values: readonly number[], wrap: 'bf16' | null | 'none') => {
      const x = leaf([values.slice(0, 2), values.slice(2)]);
      const w = leaf([
        [1.1, 2.2],
        [3.3, 4.4],
      ]);
      const block = (t: Tensor): Tensor => t.mul(1).matmul(w).dropout(0.25, nextKey('block')).silu();
      return withRandom(randomKey(3), () =>
        scope(() => {
          const y = wrap === 'none' ? block(x) : checkpointIn(wrap, block, x);
          const loss = y.mul(y).sum();
          return { loss: loss.detach(), seed: y.mul(2).detach(), g: loss.backward(), x, w };
        }),
      );
    };
    const rounded = [...((await tensor(given, { backend }).cast('bf16').data()) as Float32Array)];
    expect(rounded).not.toEqual([...Float32Array.from(given)]);
    const [kept, plain] = [await run(given, 'bf16'), await run(given, 'none')];
    expect(await kept.loss.item()).toBe(await plain.loss.item());
    // The gradient that comes from above belongs to the exact forward; below it all is as at the rounded inputs.
    const x = leaf([rounded.slice(0, 2), rounded.slice(2)]);
    const again = withRandom(randomKey(3), () =>
      x.mul(1).matmul(kept.w).dropout(0.25, nextKey('block')).silu().backward(kept.seed),
    );
    expect(await kept.g.of(kept.w).toArray()).toEqual(await again.of(kept.w).toArray());
    expect(await kept.g.of(kept.x).toArray()).toEqual(await again.of(x).toArray());
    // Values that bf16 holds lose nothing.
    const [exact, reference] = [await run(rounded, 'bf16'), await run(rounded, null)];
    expect(await exact.g.of(exact.w).toArray()).toEqual(await reference.g.of(reference.w).toArray());
  });
  it('kept in bf16 holds half the bytes of what a gradient flows through, and nothing after', () => {
    const other = hostileBackend();
    const [x, w] = [1, 2].map(() => tensor(new Float32Array(4096), { backend: other, requiresGrad: true }));
    const table = tensor(new Float32Array(4096), { backend: other });
    const before = memory(other).liveBytes;
    const held = (storage: 'bf16' | null): number => {
      const loss = scope(() => checkpointIn(storage, (a, b) => a.mul(w!).mul(b), x!.mul(2), table).sum());
      const bytes = memory(other).liveBytes - before;
      loss.dispose();
      expect(memory(other).liveBytes).toBe(before);
      return bytes;
    };
    expect(held(null) - held('bf16')).toBe(4096 * 2);
  });
});

describe('memory', () => {
  it('returns to where it was after every step, graph included', () => {
    const hostile = hostileBackend();
    const w = tensor(
      [
        [1, 2],
        [3, 4],
      ],
      { backend: hostile, requiresGrad: true },
    );
    const before = memory(hostile).liveBytes;
    for (let step = 0; step < 50; step++)
      scope(() => {
        const x = tensor([[step, 1]], { backend: hostile });
        const g = checkpoint((t) => t.matmul(w).silu(), x)
          .softmax()
          .sum()
          .backward();
        g.of(w).mul(0.1);
      });
    expect(memory(hostile).liveBytes).toBe(before);
    expect(hostile.liveBuffers).toBe(1);
  });
  it('frees a graph that is never walked when its tensors go', () => {
    const x = leaf([[1, 2]]);
    const before = memory(backend).liveBytes;
    scope(() => {
      x.mul(x).exp().sum();
    });
    expect(memory(backend).liveBytes).toBe(before);
  });
  it('holds a storage as long as any handle names it, whatever the order of disposal', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(5), { maxLength: 30 }), (moves) => {
        const before = memory(backend).liveTensors;
        const handles = [tensor([1, 2, 3], { backend })];
        for (const move of moves) {
          const from = handles[move % handles.length]!;
          if (move < 3) handles.push(from.isFreed ? tensor([1], { backend }) : from.reshape([-1, 1]).reshape([-1]));
          else from.dispose();
        }
        for (const h of handles) h.dispose();
        expect(memory(backend).liveTensors - before).toBeGreaterThanOrEqual(0);
      }),
    );
  });
});

describe('scope', () => {
  it('keeps what is returned, frees the rest, and says so on use', async () => {
    let lost: Tensor | undefined;
    const kept = scope(() => {
      lost = tensor([1], { backend });
      return { list: [tensor([2], { backend })] };
    });
    expect(await kept.list[0]!.item()).toBe(2);
    expect(() => lost!.add(1)).toThrow(UseAfterFreeError);
    expect(() => lost!.add(1)).toThrow('freed at the end of its scope; return it from the scope to keep it');
  });
  it('refuses a promise and names what to use', () => {
    expect(() => scope(async () => 1)).toThrow('using s = openScope()');
  });
  it('lives across awaits when opened', async () => {
    using s = openScope();
    const t = s.run(() => tensor([3], { backend }));
    await Promise.resolve();
    expect(await t.item()).toBe(3);
    s.dispose();
    expect(t.isFreed).toBe(true);
  });
});

describe('dropout', () => {
  it('repeats its mask for one key, and keeps the mean', async () => {
    const x = tensor(new Float32Array(20_000).fill(1), { backend });
    const [a, b] = [await dropout(x, 0.25, randomKey(1)).data(), await dropout(x, 0.25, randomKey(1)).data()];
    expect(a).toEqual(b);
    expect(Array.from(a).reduce((s, v) => s + v, 0) / 20_000).toBeCloseTo(1, 1);
    expect(await dropout(x, 0.25, randomKey(2)).data()).not.toEqual(a);
  });
});

describe('matmul', () => {
  it('agrees with itself under every transpose, batch and column block', async () => {
    const size = fc.integer({ min: 1, max: 5 });
    await fc.assert(
      fc.asyncProperty(size, size, size, size, fc.boolean(), fc.boolean(), async (batch, m, k, n, ta, tb) => {
        const values = (count: number) => Float32Array.from({ length: count }, (_, i) => ((i * 7) % 11) - 5);
        const a = tensor(values(batch * m * k), { backend, shape: [batch, m, k] });
        const b = tensor(values(k * n), { backend, shape: [k, n] });
        const plain = await matmul(a, b).toArray();
        const turned = matmul(ta ? a.transpose() : a, tb ? b.transpose() : b, { transposeA: ta, transposeB: tb });
        expect(await turned.toArray()).toEqual(plain);
        const wide = tensor(values(m * (k + 3)), { backend, shape: [m, k + 3] });
        const block = wide.split([2, k, 1])[1]!;
        expect(block.isContiguous).toBe(m === 1);
        expect(await matmul(block, b).toArray()).toEqual(await matmul(block.contiguous(), b).toArray());
      }),
    );
  });
});
