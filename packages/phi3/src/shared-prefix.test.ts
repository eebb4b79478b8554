import { cpu } from '@lorikeet/cpu';
import { Dropout, Linear } from '@lorikeet/nn';
import {
  type Backend,
  dryRunBackend,
  type Gradients,
  memory,
  noGrad,
  randomKey,
  referenceBackend,
  scope,
  withRandom,
} from '@lorikeet/tensor';
import { expectClose, hostileBackend } from '@lorikeet/tensor/testing';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import type { LossBatch, LossOptions } from './loss.ts';
import type { Phi3ForCausalLM } from './model.ts';
import { countSharedTokens, sharePrefixes } from './shared-prefix.ts';
import { tinyLongRope, tinyPhi3 } from './testing/tiny-phi3.ts';
import type { PlacedTokens, TokenBatch } from './token-batch.ts';

const reference = referenceBackend();
const opened: Backend[] = [];
afterAll(() => Promise.all(opened.map((b) => b.close())));

type Batch = TokenBatch & LossBatch;

/** A batch of these rows; labels are the ids where `counts` says so. */
function batchOf(rows: readonly (readonly number[])[], counts: (place: number) => boolean = () => true): Batch {
  const ids = Int32Array.from(rows.flat());
  return { ids, lengths: rows.map((row) => row.length), labels: ids.map((id, i) => (counts(i) ? id : -100)) };
}
function placed({ ids, lengths }: Pick<Batch, 'ids' | 'lengths'>, long: readonly number[] = []): PlacedTokens {
  const positions = Int32Array.from(lengths.flatMap((n) => Array.from({ length: n }, (_, i) => i)));
  const isLong = lengths.flatMap((n, i) => new Array<number>(n).fill(long[i] ?? 0));
  return { ids, lengths, positions, long: Uint8Array.from(isLong) };
}
const run = (length: number, seed = 0): number[] =>
  Array.from({ length }, (_, i) => 3 + ((i * 7 + seed * 11 + i * i) % 30));

/** Rows that begin with one of a few prompts, which may begin alike themselves, or with none, each with an end of its own. */
const rowsOf = (ends: number, prompts: number) =>
  fc.array(
    fc.record({
      prompt: fc.integer({ min: 0, max: 3 }),
      used: fc.integer({ min: 0, max: prompts }),
      end: fc.array(fc.integer({ min: 3, max: 5 }), { maxLength: ends }),
    }),
    { minLength: 1, maxLength: 7 },
  );
function build(parts: readonly { readonly prompt: number; readonly used: number; readonly end: number[] }[]) {
  // Prompts 0 and 1 begin with the same 10 tokens.
  const prompt = (seed: number): number[] => (seed < 2 ? [...run(10), ...run(12, 10 + seed)] : run(22, seed));
  const whole = (used: number): number => (used > 16 ? used : used < 4 ? 0 : 22);
  const rows = parts.map(({ prompt: seed, used, end }) => [...prompt(seed).slice(0, whole(used)), ...end]);
  return rows.map((row) => (row.length === 0 ? [1] : row));
}

describe('the segments of a batch', () => {
  it('give every token the keys that it has alone, once', () => {
    fc.assert(
      fc.property(rowsOf(9, 22), fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 7 }), (parts, long) => {
        const rows = build(parts);
        const tokens = placed(batchOf(rows), long);
        const made = sharePrefixes(tokens);
        if (!made) return;
        const { lengths, keyLengths, keyRows, rows: places } = made;
        const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
        expect(sum(lengths)).toBe(made.ids.length);
        expect(sum(keyLengths)).toBe(keyRows.length);
        const seen = lengths.flatMap((n, i) => {
          const end = sum(keyLengths.slice(0, i + 1));
          return Array.from({ length: n }, (_, j) =>
            [...keyRows.slice(end - keyLengths[i]!, end - n + j + 1)].map((row) => [
              made.ids[row],
              made.positions[row],
              made.long[row],
            ]),
          );
        });
        let start = 0;
        for (const [i, row] of rows.entries()) {
          for (let j = 0; j < row.length; j++)
            expect(seen[places[start + j]!]).toEqual(row.slice(0, j + 1).map((id, p) => [id, p, long[i] ?? 0]));
          start += row.length;
        }
      }),
    );
  });
  it('are the prompt, then what is left of each row', () => {
    const rows = [
      [...run(20), 3, 4],
      [9, 9],
      [...run(20), 5],
    ];
    const made = sharePrefixes(placed(batchOf(rows)))!;
    expect(made.lengths).toEqual([20, 2, 1, 2]);
    expect(made.keyLengths).toEqual([20, 22, 21, 2]);
    expect([...made.ids]).toEqual([...run(20), 3, 4, 5, 9, 9]);
    expect([...made.rows.slice(20, 24)]).toEqual([20, 21, 23, 24]);
  });
  it('go on from each other, where rows that begin alike fall into groups that go on alike', () => {
    const [common, a, b] = [run(16), run(17, 1), run(18, 2)];
    const rows = [
      [...common, ...a, 3],
      [...common, ...b, 3],
      [...common, ...a, 4],
      [...common, ...b],
    ];
    const made = sharePrefixes(placed(batchOf(rows)))!;
    expect(made.lengths).toEqual([16, 17, 1, 1, 18, 1]);
    expect(made.keyLengths).toEqual([16, 33, 34, 34, 34, 35]);
  });
  it('need no more than one of rows that are the same', () => {
    const made = sharePrefixes(placed(batchOf([run(18), run(18), run(18)])))!;
    expect([made.lengths, made.keyLengths]).toEqual([[18], [18]]);
  });
  it.each<[string, PlacedTokens]>([
    ['one row', placed(batchOf([run(40)]))],
    ['15 tokens in two rows', placed(batchOf([[...run(15), 3], [...run(15), 4]]))],
    ['rows on different sides of the border of LongRoPE', placed(batchOf([run(30), run(20)]), [1, 0])],
    ['rows at different positions', { ...placed(batchOf([run(20), run(20)])), positions: Int32Array.from({ length: 40 }, (_, i) => i) }],
    ['less than a 64th of the batch', placed(batchOf([...[5, 6].map((id) => [...run(17), id]), ...[1, 2].map((seed) => run(600, seed))]))],
  ])('are not made of %s', (_name, tokens) => {
    expect(sharePrefixes(tokens)).toBeNull();
  }); // biome-ignore format: a table
});

const variants: Record<string, Record<string, unknown>> = {
  'grouped heads': {},
  'as many key heads as heads': { num_key_value_heads: 4 },
  'sliding window 3': { sliding_window: 3 },
  'sliding window 24, reaching into the prompt': { sliding_window: 24 },
  'partial rotary, tied': { partial_rotary_factor: 0.5, tie_word_embeddings: true },
  'longrope, rows on both sides of its border': { original_max_position_embeddings: 25, rope_scaling: tinyLongRope },
};

async function gradientsOf(model: Phi3ForCausalLM, gradients: Gradients): Promise<Map<string, ArrayLike<number>>> {
  const read = model
    .namedParameters()
    .map(async ({ path, tensor: t }) => [path, await gradients.of(t).data()] as const);
  return new Map(await Promise.all(read));
}

const largest = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** Loss and all gradients of a batch, tokens shared or not. */
async function stepOf(model: Phi3ForCausalLM, batch: Batch, share: boolean, options = {}) {
  model.sharePrefix = share;
  const loss = model.loss(batch, options);
  return { loss: await loss.item(), gradients: await gradientsOf(model, loss.backward()) };
}

/** Loss and gradients within 1e-6: each element of the largest one, of its own tensor or of all. */
async function expectSameStep(
  model: Phi3ForCausalLM,
  batch: Batch,
  { scale = 'own', ...options }: LossOptions & { readonly scale?: 'own' | 'all' } = {},
): Promise<void> {
  const [got, want] = [await stepOf(model, batch, true, options), await stepOf(model, batch, false, options)];
  expectClose([got.loss], [want.loss], { relative: 1e-6, absolute: 1e-6 }, 'loss');
  const all = Math.max(...[...want.gradients.values()].map(largest));
  for (const [path, values] of want.gradients) {
    const absolute = 1e-6 * (scale === 'own' ? largest(values) : all);
    expectClose(got.gradients.get(path)!, values, { relative: 0, absolute }, path);
  }
}

// The reference computes in 64 bits. Products of 32 bits, one computed once and one eight times, differ by their own rounding: there
// values are smaller, so that the model does not magnify it, and tensors with small gradients are not held to their own scale.
describe.each<[string, () => Promise<Backend>, object, 'own' | 'all', number]>([
  ['reference', async () => reference, {}, 'own', 6],
  ['cpu', () => cpu({ threads: 2 }), { initializer_range: 0.1 }, 'all', 40],
])('shared on %s', (_backend, open, smaller, scale, numRuns) => {
  it.each(Object.entries(variants))(
    'loss and gradients are those of rows computed one by one: %s',
    async (_name, changes) => {
      const backend = await open();
      opened.push(backend);
      const model = await tinyPhi3(backend, { ...changes, ...smaller });
      const mask = fc.array(fc.boolean(), { minLength: 1, maxLength: 40 });
      await fc.assert(
        fc.asyncProperty(rowsOf(8, 22), mask, fc.boolean(), async (parts, counts, checkpointing) => {
          const batch = batchOf(build(parts), (i) => counts[i % counts.length]!);
          fc.pre(countSharedTokens(model.config, batch) > 0);
          model.gradientCheckpointing = checkpointing;
          await expectSameStep(model, batch, { scale, ...(counts[0] ? { labelSmoothing: 0.1 } : { normalizer: 17 }) });
        }),
        { numRuns },
      );
    },
  );
});

const prompt = run(20);
const three = [
  [...prompt, ...run(5, 1)],
  [...prompt, ...run(9, 2)],
  [...prompt, ...run(3, 3)],
];

describe('what the model shares', () => {
  it('is each token of the prompt once', async () => {
    const model = await tinyPhi3(reference);
    let computed = 0;
    const { forward } = model.model.embed_tokens;
    model.model.embed_tokens.forward = (ids) => {
      computed = (ids as Int32Array).length;
      return forward.call(model.model.embed_tokens, ids);
    };
    for (const [share, tokens] of [
      ['auto', 37],
      [true, 37],
      [false, 77],
    ] as const) {
      model.sharePrefix = share;
      model.loss(batchOf(three)).dispose();
      expect(computed).toBe(tokens);
    }
    expect(countSharedTokens(model.config, batchOf(three))).toBe(40);
  });
  it('is laid out again in hidden states and logits, as an evaluation reads them', async () => {
    for (const backend of [reference, await hostileBackend()]) {
      const model = (await tinyPhi3(backend)).eval();
      const batch = batchOf(three);
      const read = async (share: boolean) => {
        model.sharePrefix = share;
        const [all, last] = noGrad(() => [model.logits(batch), model.logits(batch, { last: true })] as const);
        return [...(await all.data()), ...(await last.data())];
      };
      const [got, want] = [await read(true), await read(false)];
      expect(got.length).toBe((77 + 3) * 37);
      expectClose(got, want, { relative: 1e-5, absolute: 1e-5 }, 'logits');
    }
  });
  it('is the same with layer inputs kept in bf16, to a hundredth', async () => {
    const model = await tinyPhi3(reference);
    model.gradientCheckpointing = true;
    model.activationStorage = 'bf16';
    const [got, want] = [await stepOf(model, batchOf(three), true), await stepOf(model, batchOf(three), false)];
    expect(got.loss).toBeCloseTo(want.loss, 5);
    for (const [path, values] of want.gradients)
      expectClose(got.gradients.get(path)!, values, { relative: 0, absolute: 0.01 * largest(values) }, path);
  });
  it('has the loss of a head that is more than a matrix', async () => {
    const model = await tinyPhi3(reference);
    const { weight } = model.lm_head as Linear;
    const plain = new Linear(weight);
    // No plain weight: its logits are made chunk by chunk.
    model.lm_head = {
      inFeatures: plain.inFeatures,
      outFeatures: plain.outFeatures,
      forward: (x) => plain.forward(x),
      denseWeight: () => weight.mul(1),
      stateEntries: () => [['weight', weight]],
    };
    await expectSameStep(
      model,
      batchOf(three, (i) => i % 3 !== 0),
      { labelSmoothing: 0.1 },
    );
  });
  it('has a loss of 0 when no label counts', async () => {
    const model = await tinyPhi3(reference);
    const { loss, gradients } = await stepOf(
      model,
      batchOf(three, () => false),
      true,
    );
    expect([loss, ...new Set([...gradients.values()].map(largest))]).toEqual([0, 0]);
  });
  it('refuses labels that are not one an id', async () => {
    const model = await tinyPhi3(reference);
    expect(() => model.loss({ ...batchOf(three), labels: [1] })).toThrow('labels must be one an id: got 1 for 77');
  });
  it('leaves nothing but its gradients, and holds less than rows alone', async () => {
    const model = await tinyPhi3(reference);
    const use = memory(reference);
    const peaks = [true, false].map((share) => {
      model.sharePrefix = share;
      return [false, true].map((checkpointing) => {
        model.gradientCheckpointing = checkpointing;
        const before = (use.peakBytes = use.liveBytes);
        scope(() => model.loss(batchOf(three)).backward()).dispose();
        expect(use.liveBytes).toBe(before);
        return use.peakBytes - before;
      });
    });
    expect(peaks[0]![0]!).toBeLessThan(0.75 * peaks[1]![0]!);
    expect(peaks[0]![1]!).toBeLessThan(0.9 * peaks[1]![1]!);
  });
  it('is planned as it runs', async () => {
    const backend = dryRunBackend(reference);
    const model = await tinyPhi3(backend);
    const use = memory(backend);
    const peakOf = (share: boolean): number => {
      model.sharePrefix = share;
      const before = (use.peakBytes = use.liveBytes);
      scope(() => model.loss(batchOf(three)).backward()).dispose();
      return use.peakBytes - before;
    };
    expect(peakOf(true)).toBeLessThan(0.75 * peakOf(false));
  });
});

describe('what is drawn for each token', () => {
  const obstacles: Record<string, (model: Phi3ForCausalLM) => void> = {
    'model.layers.0.resid_attn_dropout has dropout': (model) => {
      model.model.layers[0]!.resid_attn_dropout = new Dropout(0.1);
      model.assignPaths();
    },
    'neftuneNoiseAlpha adds noise': (model) => {
      model.neftuneNoiseAlpha = 5;
    },
  };
  it.each(Object.entries(obstacles))('is drawn as without sharing, or refused: %s', async (what, change) => {
    const model = await tinyPhi3(reference);
    change(model);
    expect(model.sharingObstacle()).toBe(what);
    const lossOf = (share: 'auto' | boolean): Promise<number> => {
      model.sharePrefix = share;
      return withRandom(randomKey(1), () => model.loss(batchOf(three))).item();
    };
    expect(await lossOf('auto')).toBe(await lossOf(false));
    await expect(async () => lossOf(true)).rejects.toThrow(`got true, and ${what}`);
    model.eval();
    expect(model.sharingObstacle()).toBeNull();
    expect(await lossOf(true)).toBeCloseTo(await lossOf(false), 5);
  });
});
