/** Who owns what: aliases, checkpoints, exceptions, scopes. On the hostile backend, which refuses to forgive. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  attention,
  checkpoint,
  concat,
  defineOp,
  type Gradients,
  memory,
  noGrad,
  OpenScope,
  openScope,
  referenceBackend,
  scope,
  type Tensor,
  tensor,
  writeRows,
  zeros,
} from './index.ts';
import { expectClose, hostileBackend } from './testing/index.ts';

const make = () => {
  const backend = hostileBackend();
  const leaf = (data: Parameters<typeof tensor>[0]): Tensor => tensor(data, { backend, requiresGrad: true });
  return { backend, leaf };
};

describe('gradients that are aliases', () => {
  it('of one tensor used twice in one op', async () => {
    const { backend, leaf } = make();
    const x = leaf([[1, 2], [3, 4]]); // biome-ignore format: a matrix
    const g = scope(() => x.add(x).matmul(x, { transposeB: true }).concat([x], 0).sum().backward());
    const plain = referenceBackend();
    const y = tensor([[1, 2], [3, 4]], { backend: plain, requiresGrad: true }); // biome-ignore format: a matrix
    const h = y.add(y).matmul(y.transpose()).sum().add(y.sum()).backward();
    expect(await g.of(x).toArray()).toEqual(await h.of(y).toArray());
    g.dispose();
    x.dispose();
    expect(backend.liveBuffers).toBe(0);
  });
  it('of the incoming gradient, which every leaf owns alone', async () => {
    const { backend, leaf } = make();
    const [a, b] = [leaf([1, 2]), leaf([3, 4])];
    const seed = tensor([5, 6], { backend });
    const g = scope(() => a.add(b).backward(seed));
    seed.dispose();
    g.of(a).dispose();
    expect(await g.of(b).toArray()).toEqual([5, 6]);
    for (const t of [g, a, b]) t.dispose();
    expect(backend.liveBuffers).toBe(0);
  });
  it('of a view, a reshape and a cast that changes nothing', async () => {
    const { leaf } = make();
    const x = leaf([[1, 2, 3]]);
    const g = scope(() => x.cast('f32').reshape([3]).slice(0, 1).mul(2).sum().backward());
    expect(await g.of(x).toArray()).toEqual([[0, 2, 2]]);
  });
});

describe('ops with several outputs', () => {
  it('take zeros for parts that no loss reached', async () => {
    const { leaf } = make();
    const x = leaf([[1, 2, 3], [4, 5, 6]]); // biome-ignore format: a matrix
    const g = scope(() => x.split([1, 1, 1])[1]!.sum().backward());
    expect(await g.of(x).toArray()).toEqual([[0, 1, 0], [0, 1, 0]]); // biome-ignore format: a matrix
  });
  it('differentiate attention where only one of q, k and v is trained', async () => {
    const { backend, leaf } = make();
    const frozen = zeros([2, 1, 2], { backend });
    const v = leaf([[[1, 2]], [[3, 4]]]);
    const g = scope(() =>
      attention(frozen, frozen, v, { lengths: [2] })
        .sum()
        .backward(),
    );
    expect(await g.of(v).toArray()).toEqual([[[1.5, 1.5]], [[0.5, 0.5]]]);
  });
});

describe('checkpoint', () => {
  it('may return its input, or a tensor it closes over, and frees neither', async () => {
    const { backend, leaf } = make();
    const [x, w] = [leaf([1, 2]), leaf([3, 4])];
    const g = scope(() => {
      const same = checkpoint((t) => {
        t.mul(2);
        return t;
      }, x);
      const closed = checkpoint((t) => {
        t.mul(w);
        return w;
      }, x);
      return same.mul(closed).sum().backward();
    });
    expect(await x.toArray()).toEqual([1, 2]);
    expect(await g.of(x).toArray()).toEqual([3, 4]);
    expect(await g.of(w).toArray()).toEqual([1, 2]);
    for (const t of [g, x, w]) t.dispose();
    expect(backend.liveBuffers).toBe(0);
  });
  it('nests to any depth', async () => {
    const { backend, leaf } = make();
    const nested = (depth: number, w: Tensor, x: Tensor): Tensor =>
      depth === 0 ? x.mul(w).silu() : checkpoint((t) => nested(depth - 1, w, t).add(t), x);
    const run = async (wrap: boolean): Promise<unknown[]> => {
      const [x, w] = [leaf([0.5, -1]), leaf([2, 3])];
      const plain = (depth: number, t: Tensor): Tensor => (depth === 0 ? t.mul(w).silu() : plain(depth - 1, t).add(t));
      const g = scope(() => (wrap ? nested(3, w, x) : plain(3, x)).sum().backward());
      const values = [await g.of(x).toArray(), await g.of(w).toArray()];
      for (const t of [g, x, w]) t.dispose();
      return values;
    };
    expect(await run(true)).toEqual(await run(false));
    expect(backend.liveBuffers).toBe(0);
  });
  it('trains nothing inside noGrad, around it or within it', () => {
    const { leaf } = make();
    const x = leaf([1, 2]);
    expect(checkpoint((t) => noGrad(() => t.mul(2)), x).requiresGrad).toBe(false);
    expect(noGrad(() => checkpoint((t) => t.mul(2), x)).requiresGrad).toBe(false);
    expect(checkpoint((t) => noGrad(() => checkpoint((u) => u.mul(2), t)), x).requiresGrad).toBe(false);
    const frozen = checkpoint((t) => t.mul(noGrad(() => t.mul(3))), x);
    expect(frozen.requiresGrad).toBe(true);
  });
  it('treats what is computed inside noGrad as constant', async () => {
    const { leaf } = make();
    const x = leaf([1, 2]);
    const g = scope(() =>
      checkpoint((t) => t.mul(noGrad(() => t.mul(3))), x)
        .sum()
        .backward(),
    );
    expect(await g.of(x).toArray()).toEqual([3, 6]);
  });
  it('passes gradients to a tensor it closes over and to all that comes before, once', async () => {
    const { backend, leaf } = make();
    const run = async (wrap: boolean): Promise<unknown[]> => {
      const [x, w] = [leaf([1, 2]), leaf([3, 4])];
      const g = scope(() => {
        const [y, z] = [x.mul(w), w.exp()];
        const block = (t: Tensor): Tensor => t.mul(y).add(z.mul(x));
        const out = wrap ? checkpoint((t) => checkpoint(block, t).mul(y), y) : block(y).mul(y);
        return out.add(z).sum().backward();
      });
      const values = [await g.of(x).toArray(), await g.of(w).toArray()];
      for (const t of [g, x, w]) t.dispose();
      return values;
    };
    expect(await run(true)).toEqual(await run(false));
    expect(backend.liveBuffers).toBe(0);
  });
  it('takes one tensor for two inputs', async () => {
    const { leaf } = make();
    const x = leaf([2, 5]);
    const g = scope(() =>
      checkpoint((a, b) => a.mul(b), x, x)
        .sum()
        .backward(),
    );
    expect(await g.of(x).toArray()).toEqual([4, 10]);
  });
  it('names a function that is not repeatable', () => {
    const { leaf } = make();
    const x = leaf([1, 2]);
    let calls = 0;
    const y = checkpoint((t) => (calls++ ? t.mul(2).sum() : t.mul(2)), x);
    expect(() => y.sum().backward()).toThrow(
      'do the same in backward as in the forward: got an output of [2], then of []',
    );
  });
});

/** Global state is as before: new ops record, and new tensors belong to no scope. */
function expectSane(): void {
  const x = tensor([1], { backend: referenceBackend(), requiresGrad: true });
  const y = x.mul(2);
  expect(y.requiresGrad).toBe(true);
  let inner: Tensor | undefined;
  scope(() => {
    inner = x.mul(3);
  });
  expect([y.isFreed, inner!.isFreed]).toEqual([false, true]);
}

describe('exceptions', () => {
  const explosive = (at: 'forward' | 'backward') =>
    defineOp({
      name: 'explosive',
      inputs: ['x'],
      shape: ({ x }) => x,
      compose: ({ x }) => {
        const y = x.mul(2);
        if (at === 'forward') throw new Error('boom');
        return y;
      },
      gradient: {
        x: {
          rule: ({ grad }) => {
            grad.mul(2);
            throw new Error('boom');
          },
        },
      },
      samples: [],
    });
  it.each([
    ['in scope', (x: Tensor) => scope(() => explosive('forward').apply({ x: x.mul(2) }, {}))],
    ['in noGrad', (x: Tensor) => scope(() => noGrad(() => explosive('forward').apply({ x: x.mul(2) }, {})))],
    ['in a checkpoint', (x: Tensor) => scope(() => checkpoint((t) => explosive('forward').apply({ x: t.mul(2) }, {})[0]!, x))],
    ['in an open scope', (x: Tensor) => {
      using s = openScope();
      s.run(() => explosive('forward').apply({ x: x.mul(2) }, {}));
    }],
    ['in a walk, with gradients on their way', (x: Tensor) => scope(() => {
      const y = x.mul(2);
      explosive('backward').apply({ x: y.exp() }, {})[0]!.add(y.mul(x)).sum().backward();
    })],
    ['in a walk through a checkpoint', (x: Tensor) => scope(() =>
      checkpoint((t) => explosive('backward').apply({ x: t.mul(2) }, {})[0]!, x.mul(3)).add(x).sum().backward())],
    ['at a stale saved value', (x: Tensor) => scope(() => {
      const y = zeros([1, 2], { backend: x.backend });
      const loss = x.mul(y).add(x.mul(x)).sum();
      noGrad(() => writeRows(y, x, 0));
      loss.backward();
    })],
  ])('%s free what was made and leave the state sane', async (_, run) => {
    const { backend, leaf } = make();
    const x = leaf([[1, 2]]);
    expect(() => run(x)).toThrow(/boom|must be unchanged/);
    expectSane();
    expect(memory(backend).liveTensors).toBe(1);
    expect(await x.toArray()).toEqual([[1, 2]]);
  }); // biome-ignore format: a table
  it('of an allocation give back what the op already had', () => {
    const { backend, leaf } = make();
    const x = leaf([[1, 2], [3, 4]]); // biome-ignore format: a matrix
    const limited = Object.assign(Object.create(backend), {
      allocate: () => {
        throw new RangeError('full');
      },
    });
    const y = tensor([[1, 2]], { backend });
    expect(() => tensor([1], { backend: limited })).toThrow('full');
    expect(memory(limited).liveTensors).toBe(0);
    backend.loseDevice();
    expect(() => scope(() => x.add(y).sum())).toThrow('device was lost');
    expectSane();
    expect(memory(backend).liveTensors).toBe(2);
  });
});

describe('scope', () => {
  const backend = referenceBackend();
  const one = (): Tensor => tensor([1], { backend });
  class Holder {
    readonly inside: Tensor;
    constructor(inside: Tensor) {
      this.inside = inside;
    }
  }
  it('finds what is returned at any depth, but not inside class instances', () => {
    const kept = scope(() => ({
      deep: [new Map([['a', new Set([one()])]])],
      bare: Object.assign(Object.create(null), { t: one() }) as { t: Tensor },
      holder: new Holder(one()),
      nothing: [null, undefined, 3],
    }));
    const [map] = kept.deep;
    expect([...map!.get('a')!][0]!.isFreed).toBe(false);
    expect(kept.bare.t.isFreed).toBe(false);
    expect(kept.holder.inside.isFreed).toBe(true);
    expect(() => kept.holder.inside.add(1)).toThrow(/add: tensor \[1\] f32 must be alive: it was freed at the end/);
  });
  it('hands what it keeps to the scope around, gradients too', () => {
    const x = tensor([1], { backend, requiresGrad: true });
    let inner: Gradients | undefined;
    let mine: Tensor | undefined;
    scope(() => {
      [inner, mine] = scope(() => [x.mul(2).sum().backward(), one()] as const);
      expect([inner.of(x).isFreed, mine.isFreed]).toEqual([false, false]);
    });
    expect([inner!.of(x).isFreed, mine!.isFreed]).toEqual([true, true]);
    expect(() => inner!.accumulate(inner!)).toThrow('must be another walk');
  });
  it('says who disposed of a tensor', () => {
    const t = one();
    t.dispose();
    t.dispose();
    expect(() => t.mul(2)).toThrow(
      'mul: tensor [1] f32 must be alive: it was disposed; dispose it after its last use.',
    );
  });
  it('stays open over turns, lets go on keep, and can be used again after dispose', () => {
    const s = new OpenScope();
    const [a, b] = s.run(() => [one(), s.run(one)]) as [Tensor, Tensor];
    expect([s.keep(a), s.keep(a)]).toEqual([true, false]);
    s.dispose();
    expect([a.isFreed, b.isFreed]).toEqual([false, true]);
    const c = s.run(one);
    s[Symbol.dispose]();
    expect(c.isFreed).toBe(true);
    expect(() => s.run(async () => 1)).toThrow('OpenScope.run: fn must be synchronous');
    expectSane();
  });
});

describe('random programs', () => {
  type Step = readonly [kind: number, i: number, j: number];
  const kinds = (a: Tensor, b: Tensor, wrap: boolean): (() => Tensor)[] => [
    () => a.mul(b),
    () => concat(a.split([1, 3]).reverse(), 1),
    () => a.reshape([4, 2]).slice(0, 1, 4).pad(0, 0, 1).reshape([2, 4]),
    () => (wrap ? checkpoint((t) => t.mul(b).silu(), a) : a.mul(b).silu()),
    () => a.softmax(0),
    () => noGrad(() => a.add(b)),
    () => a.sub(b.cast('f32')),
    () => a.alias(),
  ];
  const runProgram = async (program: readonly Step[], wrap: boolean): Promise<ArrayLike<number>> => {
    const { backend, leaf } = make();
    const w = leaf([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]); // biome-ignore format: a matrix
    const body = (x: Tensor): Tensor => {
      const values = [x, w];
      for (const [kind, i, j] of program) {
        const [a, b] = [values[i % values.length]!, values[j % values.length]!];
        values.push(kinds(a, b, wrap)[kind]!());
      }
      return values.at(-1)!;
    };
    const g = scope(() => (wrap ? checkpoint(body, w) : body(w)).add(w).sum().backward());
    const gradient = await g.of(w).data();
    g.dispose();
    expect(backend.liveBuffers).toBe(1);
    w.dispose();
    expect(backend.liveBuffers).toBe(0);
    return gradient;
  };
  it('leave no buffer behind and have the same gradients with and without checkpoints', async () => {
    const steps = fc.array(fc.tuple(fc.nat(7), fc.nat(20), fc.nat(20)), { minLength: 1, maxLength: 12 });
    const property = fc.asyncProperty(steps, async (program) => {
      const [wrapped, plain] = [await runProgram(program, true), await runProgram(program, false)];
      expectClose(wrapped, plain, { relative: 1e-4, absolute: 1e-5 }, 'gradient');
    });
    await fc.assert(property, { numRuns: 60 });
  });
});
