import {
  adamwUpdate,
  dropout,
  type ElementwiseProgram,
  input,
  nodesOf,
  parameter,
  randomKey,
  type Scalar,
  scope,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseSwitches } from './features.ts';
import { type CpuBackend, cpu } from './index.ts';
import { Chains } from './kernels/chain-programs.ts';

const rows = 210;
const columns = 160;

/** A column block. */
const half = (x: Tensor, which: 0 | 1): Tensor => x.split([columns / 2, columns / 2], 1)[which]!;

/** Ops of a random program: what they do with the two tensors they are given. */
const steps: readonly ((a: Tensor, b: Tensor) => Tensor)[] = [
  (a, b) => a.add(b),
  (a, b) => a.mul(b),
  (a, b) => a.sub(b).mul(0.5),
  (a) => a.silu(),
  (a, b) => a.swiglu(b),
  (a) => a.tanh().cast('bf16').mul(1.5).cast('f32'),
  (a) => dropout(a, 0.25, randomKey(7)),
  (a, b) => a.add(b.slice(0, 0, 1)),
  (a, b) => a.mul(0.3).reshape([columns, rows]).exp().reshape([rows, columns]).maximum(b),
  (a) => a.softmax(-1),
  (a, b) => a.maximum(b).cast('f16'),
  (a, b) => half(a, 0).add(half(b, 1)).cast('f32').concat([half(a, 1).cast('f32')], 1),
]; // biome-ignore format: a table

interface Step {
  readonly op: number;
  readonly a: number;
  readonly b: number;
  /** Frees a tensor after the step. */
  readonly frees: number | null;
}

const programs = fc.array(
  fc.record({
    op: fc.nat(steps.length - 1),
    a: fc.nat(7),
    b: fc.nat(7),
    frees: fc.option(fc.nat(7), { freq: 2 }),
  }),
  { minLength: 2, maxLength: 9 },
);

const values = (seed: number) => Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * seed) * 2);

/** What lives at the end, in the order in which it was made. */
async function compute(backend: CpuBackend, program: readonly Step[]): Promise<Uint8Array[]> {
  const live = scope(() => {
    const made = [1.1, 2.3].map((seed) => tensor(values(seed), { backend, shape: [rows, columns] }));
    for (const { op, a, b, frees } of program) {
      made.push(steps[op]!(made[a % made.length]!, made[b % made.length]!));
      if (frees !== null && made.length > 2) made.splice(frees % (made.length - 1), 1)[0]!.dispose();
    }
    return made;
  });
  const bytes = await Promise.all(live.map((t) => t.bytes()));
  for (const t of live) t.dispose();
  return bytes;
}

describe('calls that are fused', () => {
  let [fused, alone] = [] as unknown as [CpuBackend, CpuBackend];
  beforeAll(async () => {
    fused = await cpu({ threads: 2, storeFromBytes: 2 ** 30 });
    alone = await cpu({ threads: 1, storeFromBytes: 2 ** 30 });
    alone.disable('fusion');
  });
  afterAll(async () => {
    await fused.close();
    await alone.close();
  });
  const liveBytes = (backend: CpuBackend) => backend.describe().liveBytes as number;

  test('give the same bits as calls that are not, whatever is freed meanwhile', async () => {
    const before = fused.describe().fusedChains as number;
    await fc.assert(
      fc.asyncProperty(programs, async (program) => {
        const expected = await compute(alone, program);
        // A chain is learnt, asked for, compiled, and found again.
        for (let round = 0; round < 4; round++) expect(await compute(fused, program)).toEqual(expected);
      }),
      { numRuns: 40 },
    );
    expect(fused.describe().fusedChains).toBeGreaterThan(before);
    expect(alone.describe().fusedChains).toBe(0);
  });

  test('are seen by updates in place, writes and reads', async () => {
    const run = async (backend: CpuBackend): Promise<Uint8Array[]> => {
      const made: Uint8Array[] = [];
      for (let round = 0; round < 4; round++) {
        const [p, g, m, v] = [0.7, 1.9, 0.1, 0.2].map((seed) =>
          tensor(values(seed), { backend, shape: [rows, columns] }),
        );
        const grad = g!.mul(0.5).add(p!);
        const before = p!.mul(2).add(g!);
        const rates = { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1, weightDecayAfter: 0 };
        adamwUpdate.apply(
          { param: p!, grad, m: m!, v: v!.mul(v!) },
          { ...rates, gradScale: 1, correction1: 0.1, correction2: 0.1 },
        );
        const after = p!.mul(2).add(g!);
        g!.dispose();
        made.push(await before.bytes(), await after.bytes(), await p!.bytes());
        for (const t of [p, grad, m, v, before, after]) t!.dispose();
      }
      return made;
    };
    expect(await run(fused)).toEqual(await run(alone));
  });

  test('keep no memory longer than until the next thing is asked', () => {
    const run = (): number => {
      scope(() => {
        const x = tensor(values(1), { backend: fused, shape: [rows, columns] });
        for (let i = 0; i < 5; i++) x.mul(2).add(x).silu();
      });
      return liveBytes(fused);
    };
    // Kernels are in memory too.
    for (let round = 0; round < 4; round++) run();
    expect(run()).toBe(run());
  });

  test('fit where they fit alone: what waits runs before memory is said to be short', async () => {
    const { threads = 1 } = parseSwitches(process.env.LORIKEET_CPU ?? '');
    const memoryLimitBytes = (30 + 2 * threads) * 2 ** 20;
    const small = await cpu({ threads, memoryLimitBytes, storeFromBytes: 2 ** 30 });
    try {
      // Blocks of 8 MiB beside 2 MiB a thread: three fit, and a chain that waits would name five.
      let x = tensor(new Float32Array(2 ** 21).fill(1), { backend: small });
      for (let i = 0; i < 40; i++) {
        const half = x.mul(0.5);
        const next = half.add(x);
        x.dispose();
        half.dispose();
        x = next.mul(2 / 3);
        next.dispose();
      }
      expect((await x.data())[2 ** 19]).toBeCloseTo(1, 4);
      x.dispose();
    } finally {
      await small.close();
    }
  });
});

describe('chains of programs', () => {
  const gate = (name: string, factor: Scalar): ElementwiseProgram => ({
    name,
    inputs: 2,
    parameters: 1,
    outputs: [input(0).sigmoid().mul(factor).add(parameter(0))],
  });
  const [first, second] = [gate('first', input(1)), gate('second', input(0))];

  test('become one program when they come a second time, and compute once what they share', () => {
    const chains = new Chains();
    const start = chains.start(first);
    const sources = [{ tensor: 0 }, { link: 0 }];
    expect(start.next(second, 5)).toBeUndefined();
    chains.learn(start, second, 5, sources);
    const chain = start.next(second, 5)!;
    expect(start.next(second, 6)).toBeUndefined();
    expect(chain.merged(0b11, chains.budget)).toBeUndefined();
    const both = chain.merged(0b11, chains.budget)!;
    expect([both.inputs, both.parameters, both.outputs.length]).toEqual([2, 2, 2]);
    const kinds = nodesOf(both.outputs).map(({ node }) => ('op' in node ? node.op : node.kind));
    expect(kinds.filter((kind) => kind === 'sigmoid')).toHaveLength(1);
    expect(kinds.filter((kind) => kind === 'parameter')).toHaveLength(2);
    expect(chain.merged(0b11, chains.budget)).toBe(both);
    chain.merged(0b10, chains.budget);
    const last = chain.merged(0b10, chains.budget)!;
    expect([last.outputs.length, last.name === both.name]).toEqual([1, false]);
  });

  test('are bounded in number: what never comes twice compiles nothing', () => {
    const chains = new Chains();
    const start = chains.start(first);
    let wiring = 0;
    for (; wiring < 5000; wiring++) chains.learn(start, second, wiring, [{ tensor: 0 }, { tensor: wiring }]);
    const known = Array.from({ length: wiring }, (_, w) => start.next(second, w)).filter(
      (chain) => chain !== undefined,
    );
    expect(known.length).toBeLessThanOrEqual(1000);
    expect(chains.budget.programs).toBe(0);
    for (const chain of known) for (let round = 0; round < 3; round++) chain.merged(0b11, chains.budget);
    expect(chains.budget.programs).toBeLessThanOrEqual(300);
  });
});
