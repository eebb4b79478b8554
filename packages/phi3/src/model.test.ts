import { cpu } from '@lorikeet/cpu';
import { Linear, type LinearLike, type StateEntry } from '@lorikeet/nn';
import {
  type Backend,
  type Gradients,
  memory,
  noGrad,
  normal,
  randomKey,
  referenceBackend,
  scope,
  type Tensor,
  withRandom,
} from '@lorikeet/tensor';
import { expectClose, hostileBackend } from '@lorikeet/tensor/testing';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { countTrainedTokens, shiftLabels } from './loss.ts';
import type { ActivationStorage, Phi3ForCausalLM } from './model.ts';
import { tinyLongRope, tinyPhi3 } from './testing/tiny-phi3.ts';

const backend = referenceBackend();
const close = { relative: 1e-4, absolute: 1e-4 };
const tokens = (n: number, seed = 0): Int32Array =>
  Int32Array.from({ length: n }, (_, i) => 3 + ((i * 7 + seed * 11 + i * i) % 30));
const variants: Record<string, Record<string, unknown>> = {
  'grouped heads': {},
  'sliding window 3': { sliding_window: 3 },
  'partial rotary, tied': { partial_rotary_factor: 0.5, tie_word_embeddings: true },
  'longrope past its border': { original_max_position_embeddings: 6, rope_scaling: tinyLongRope },
};

async function gradientsOf(model: Phi3ForCausalLM, gradients: Gradients): Promise<Map<string, ArrayLike<number>>> {
  const read = model
    .namedParameters()
    .map(async ({ path, tensor: t }) => [path, await gradients.of(t).data()] as const);
  return new Map(await Promise.all(read));
}
function expectSame(got: Map<string, ArrayLike<number>>, want: Map<string, ArrayLike<number>>): void {
  for (const [path, values] of want) expectClose(got.get(path)!, values, close, `gradient of ${path}`);
}

describe.each(Object.entries(variants))('a padding-free batch: %s', (_name, changes) => {
  it('gives each sequence the logits it has alone', async () => {
    const model = await tinyPhi3(backend, changes);
    const sequences = [tokens(5), tokens(1, 1), tokens(9, 2)];
    const ids = Int32Array.from(sequences.flatMap((s) => [...s]));
    const together = await model.logits({ ids, lengths: [5, 1, 9] }).data();
    let start = 0;
    for (const s of sequences) {
      const alone = await model.logits({ ids: s, lengths: [s.length] }).data();
      expectClose(together.subarray(start, start + alone.length), alone, close, `sequence of ${s.length}`);
      start += alone.length;
    }
  });
  it('has the gradients of its sequences, summed', async () => {
    const model = await tinyPhi3(backend, changes);
    const [a, b] = [tokens(4), tokens(8, 3)];
    const batch = { ids: Int32Array.from([...a, ...b]), labels: Int32Array.from([...a, ...b]), lengths: [4, 8] };
    const together = model.loss(batch, { normalizer: 10 }).backward();
    const alone = [a, b].map((s) => model.loss({ ids: s, labels: s, lengths: [s.length] }, { normalizer: 10 }));
    expectSame(await gradientsOf(model, together), await gradientsOf(model, alone[0]!.add(alone[1]!).backward()));
  });
  it('gives the same with gradient checkpointing, dropout included', async () => {
    const model = await tinyPhi3(backend, { ...changes, resid_pdrop: 0.2 });
    const ids = tokens(8);
    const run = (checkpointing: boolean) => {
      model.gradientCheckpointing = checkpointing;
      return withRandom(randomKey(1), () => model.loss({ ids, labels: ids, lengths: [3, 5] }));
    };
    const [plain, again] = [run(false), run(true)];
    expect(await again.item()).toBe(await plain.item());
    expectSame(await gradientsOf(model, again.backward()), await gradientsOf(model, plain.backward()));
  });
  it('keeps the loss with activations in bf16, and the gradients to a hundredth', async () => {
    const model = await tinyPhi3(backend, { ...changes, resid_pdrop: 0.2 });
    const ids = tokens(8);
    const run = (storage: ActivationStorage) => {
      model.gradientCheckpointing = true;
      model.activationStorage = storage;
      return withRandom(randomKey(1), () => model.loss({ ids, labels: ids, lengths: [3, 5] }));
    };
    const [plain, narrow] = [run('f32'), run('bf16')];
    expect(await narrow.item()).toBe(await plain.item());
    const [got, want] = [await gradientsOf(model, narrow.backward()), await gradientsOf(model, plain.backward())];
    const all = (of: Map<string, ArrayLike<number>>): number[] => [...of.values()].flatMap((v) => Array.from(v));
    const [values, expected] = [all(got), all(want)];
    const error = Math.hypot(...values.map((v, i) => v - expected[i]!)) / Math.hypot(...expected);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(0.01);
  });
  it('is causal: a later token changes nothing before it', async () => {
    const model = await tinyPhi3(backend, changes);
    const [a, b] = [tokens(5), tokens(5)];
    b[4] = b[4]! === 3 ? 4 : 3;
    const [x, y] = await Promise.all([a, b].map((ids) => model.logits({ ids, lengths: [5] }).data()));
    expectClose(x!.subarray(0, 4 * 37), y!.subarray(0, 4 * 37), close, 'logits before the change');
    expect(x!.subarray(4 * 37)).not.toEqual(y!.subarray(4 * 37));
  });
});

describe('the sliding window', () => {
  it('hides the token just outside and shows the last inside', async () => {
    // One layer: with two, a token reaches further than a window through its neighbours.
    const model = await tinyPhi3(backend, { sliding_window: 3, num_hidden_layers: 1 });
    const last = async (change: number): Promise<ArrayLike<number>> => {
      const ids = tokens(6);
      if (change >= 0) ids[change] = 36;
      return model.logits({ ids, lengths: [6] }, { last: true }).data();
    };
    expect(await last(2)).toEqual(await last(-1));
    expect(await last(3)).not.toEqual(await last(-1));
  });
});

describe('LongRoPE', () => {
  it('turns to the long factors for the whole sequence, one token past the border', async () => {
    const changes = { original_max_position_embeddings: 6, rope_scaling: tinyLongRope };
    const model = await tinyPhi3(backend, changes);
    const [six, seven] = [
      await model.logits({ ids: tokens(6), lengths: [6] }).data(),
      await model.logits({ ids: tokens(7), lengths: [7] }).data(),
    ];
    expect(model.usesLongFactors(6)).toBe(false);
    expect(model.usesLongFactors(7)).toBe(true);
    expect(seven.subarray(37, 6 * 37)).not.toEqual(six.subarray(37));
    const short = await tinyPhi3(backend, { ...changes, rope_scaling: { ...tinyLongRope, long_factor: [1, 1.5] } });
    const want = await short.logits({ ids: tokens(7), lengths: [7] }).data();
    expectClose(want.subarray(0, 6 * 37), six, close, 'equal lists make no border');
  });
  it('positions count, not places in the batch', async () => {
    const model = await tinyPhi3(backend, variants['longrope past its border']);
    const far = await model.logits({ ids: tokens(3), lengths: [3], positions: Int32Array.of(4, 5, 6) }).data();
    const near = await model.logits({ ids: tokens(3), lengths: [3], positions: Int32Array.of(0, 1, 2) }).data();
    expect(far).not.toEqual(near);
  });
});

/** A head with an addition, as LoRA makes it: not a plain matrix. */
class AdaptedHead implements LinearLike {
  readonly base: Linear;
  readonly lora_A: Tensor;
  readonly lora_B: Tensor;
  constructor(base: Linear) {
    this.base = base;
    this.lora_A = normal([2, base.inFeatures], { backend: base.weight.backend, key: randomKey(8), requiresGrad: true });
    this.lora_B = normal([base.outFeatures, 2], {
      backend: base.weight.backend,
      key: randomKey(9),
      requiresGrad: true,
    });
  }
  get inFeatures() {
    return this.base.inFeatures;
  }
  get outFeatures() {
    return this.base.outFeatures;
  }
  forward(x: Tensor): Tensor {
    return this.base.forward(x, [x.matmul(this.lora_A, { transposeB: true }), this.lora_B]);
  }
  denseWeight(): Tensor {
    return this.base.weight.add(this.lora_B.matmul(this.lora_A));
  }
  *stateEntries(): Iterable<StateEntry> {
    yield* this.base.stateEntries();
    yield ['lora_A', this.lora_A];
    yield ['lora_B', this.lora_B];
  }
}

describe('the loss', () => {
  it('shifts within sequences and skips -100', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.constantFrom(-100, 3, 4, 5), { minLength: 1, maxLength: 6 }), {
          minLength: 1,
          maxLength: 4,
        }),
        (sequences) => {
          const batch = { labels: sequences.flat(), lengths: sequences.map((s) => s.length) };
          expect([...shiftLabels(batch)]).toEqual(sequences.flatMap((s) => [...s.slice(1), -100]));
          expect(countTrainedTokens(batch)).toBe(sequences.flatMap((s) => s.slice(1)).filter((x) => x !== -100).length);
        },
      ),
    );
  });
  it('is the mean of -log p of the labels that count', async () => {
    const model = await tinyPhi3(backend);
    const ids = tokens(6);
    const labels = Int32Array.of(-100, -100, ids[2]!, ids[3]!, -100, ids[5]!);
    const logits = (await model
      .logits({ ids, lengths: [6] })
      .logSoftmax()
      .toArray()) as number[][];
    const want = -(logits[1]![ids[2]!]! + logits[2]![ids[3]!]! + logits[4]![ids[5]!]!) / 3;
    expect(await model.loss({ ids, labels, lengths: [6] }).item()).toBeCloseTo(want, 5);
    expect(await model.loss({ ids, labels, lengths: [6] }, { normalizer: 30 }).item()).toBeCloseTo(want / 10, 5);
  });
  it('of an adapted head equals that of the merged matrix, and so do its gradients', async () => {
    const model = await tinyPhi3(backend);
    const head = new AdaptedHead(model.lm_head as Linear);
    const ids = tokens(7);
    const batch = { ids, labels: ids, lengths: [7] };
    const merged = new Linear(head.denseWeight());
    model.lm_head = merged;
    const want = model.loss(batch, { labelSmoothing: 0.1 });
    model.lm_head = head;
    const got = model.loss(batch, { labelSmoothing: 0.1 });
    expectClose([await got.item()], [await want.item()], close, 'loss');
    const [a, b] = [got.backward(), want.backward()];
    for (const leaf of [head.lora_A, head.lora_B, head.base.weight, model.model.embed_tokens.weight])
      expectClose(await a.of(leaf).data(), await b.of(leaf).data(), close, 'gradient');
  });
  it('is 0 with gradients of 0 when no label counts', async () => {
    const model = await tinyPhi3(backend);
    const batch = { ids: tokens(3), labels: Int32Array.of(-100, -100, -100), lengths: [3] };
    for (const head of [model.lm_head, new AdaptedHead(model.lm_head as Linear)]) {
      model.lm_head = head;
      const loss = model.loss(batch);
      expect(await loss.item()).toBe(0);
      const gradients = loss.backward();
      expect(new Set(await gradients.of(model.model.norm.weight).data())).toEqual(new Set([0]));
    }
  });
});

describe('NEFTune', () => {
  it('adds noise of the row that transformers would lay out, in training only', async () => {
    const model = await tinyPhi3(backend);
    // What is left is the embedding, with its noise.
    model.model.layers = [];
    model.model.norm.forward = (x) => x.alias();
    model.neftuneNoiseAlpha = 5;
    const [ids, d] = [tokens(7), model.config.hiddenSize];
    const plain = await model.model.embed_tokens.forward(ids).data();
    const largest = async (row: { readonly rowTokens?: number }): Promise<number> => {
      const out = await withRandom(randomKey(3), () => model.forward({ ids, lengths: [3, 4], ...row })).data();
      return Math.max(...Array.from(plain, (value, i) => Math.abs(out[i]! - value)));
    };
    const padded = await largest({});
    // Of 7 d uniforms the largest comes near its bound.
    expect(padded / (5 / Math.sqrt(4 * d))).toBeGreaterThan(0.9);
    expect(padded / (5 / Math.sqrt(4 * d))).toBeLessThan(1 + 1e-5);
    expect((await largest({ rowTokens: 7 })) / padded).toBeCloseTo(Math.sqrt(4 / 7), 5);
    model.eval();
    expect(await largest({})).toBe(0);
  });
});

describe('a batch that does not fit', () => {
  it.each<[string, object, string]>([
    [
      'lengths',
      { ids: tokens(4), lengths: [3] },
      'lengths must be positive integers that sum to the number of ids: got [3] for 4 ids',
    ],
    ['an empty sequence', { ids: tokens(4), lengths: [4, 0] }, 'got [4, 0] for 4 ids'],
    ['nothing', { ids: [], lengths: [] }, 'got [] for 0 ids'],
    [
      'too many tokens',
      { ids: tokens(65), lengths: [65] },
      'at most 64 tokens (max_position_embeddings): got position 64',
    ],
    ['positions', { ids: tokens(2), lengths: [2], positions: Int32Array.of(0) }, 'positions must be one an id'],
    ['an id outside', { ids: [37], lengths: [1] }, 'ids must be in 0 .. 36: got 37'],
  ])('%s is refused', async (_name, batch, message) => {
    const model = await tinyPhi3(backend);
    expect(() => model.forward(batch as Parameters<typeof model.forward>[0])).toThrow(message);
  });
  it('labels of another length are refused', async () => {
    const model = await tinyPhi3(backend);
    expect(() => model.loss({ ids: tokens(3), labels: [1], lengths: [3] })).toThrow(
      'labels must be one an id: got 1 for 3',
    );
  });
});

describe('state', () => {
  it('has the names of the checkpoint and no others', async () => {
    const model = await tinyPhi3(backend);
    expect([...model.stateDict().keys()].sort()).toEqual([
      'lm_head.weight',
      'model.embed_tokens.weight',
      ...[0, 1].flatMap((i) =>
        [
          'input_layernorm',
          'mlp.down_proj',
          'mlp.gate_up_proj',
          'post_attention_layernorm',
          'self_attn.o_proj',
          'self_attn.qkv_proj',
        ].map((n) => `model.layers.${i}.${n}.weight`),
      ),
      'model.norm.weight',
    ]);
    expect(model.model.layers[1]!.resid_mlp_dropout.path).toBe('model.layers.1.resid_mlp_dropout');
  });
  it('a training step leaves nothing but its gradients', async () => {
    const model = await tinyPhi3(backend, { resid_pdrop: 0.1 });
    const ids = tokens(6);
    for (const checkpointing of [false, true]) {
      model.gradientCheckpointing = checkpointing;
      const before = memory(backend).liveBytes;
      scope(() => withRandom(randomKey(1), () => model.loss({ ids, labels: ids, lengths: [6] })).backward()).dispose();
      expect(memory(backend).liveBytes).toBe(before);
    }
  });
});

describe('memory', () => {
  const peakOf = async (layers: number, checkpointing: boolean): Promise<number> => {
    const model = await tinyPhi3(backend, { num_hidden_layers: layers });
    model.gradientCheckpointing = checkpointing;
    const ids = tokens(48);
    const use = memory(backend);
    const start = (use.peakBytes = use.liveBytes);
    // Only the embedding is trained: the backward has to pass every layer.
    for (const { tensor: t } of model.namedParameters()) t.requiresGrad = t === model.model.embed_tokens.weight;
    scope(() => model.loss({ ids, labels: ids, lengths: [48] }).backward()).dispose();
    return use.peakBytes - start;
  };
  it('of a layer more is its input alone with gradient checkpointing', async () => {
    const growth = async (checkpointing: boolean) =>
      ((await peakOf(6, checkpointing)) - (await peakOf(4, checkpointing))) / 2;
    const input = 48 * 16 * 4;
    expect(await growth(true)).toBeLessThan(2 * input);
    expect(await growth(false)).toBeGreaterThan(6 * input);
  });
  it('of a forward without gradients does not grow with the layers', async () => {
    const peak = async (layers: number) => {
      const model = await tinyPhi3(backend, { num_hidden_layers: layers });
      const use = memory(backend);
      const start = (use.peakBytes = use.liveBytes);
      noGrad(() => scope(() => model.forward({ ids: tokens(48), lengths: [48] }))).dispose();
      return use.peakBytes - start;
    };
    expect(await peak(6)).toBe(await peak(2));
  });
});

describe('backends agree', () => {
  const opened: Backend[] = [];
  afterAll(() => Promise.all(opened.map((b) => b.close())));
  it.each<[string, () => Backend | Promise<Backend>]>([
    ['cpu', () => cpu({ threads: 2 })],
    ['hostile', hostileBackend],
  ])('%s', async (_name, open) => {
    const other = await open();
    opened.push(other);
    for (const changes of Object.values(variants)) {
      const [a, b] = [await tinyPhi3(backend, changes), await tinyPhi3(other, changes)];
      const ids = tokens(9);
      const batch = { ids, labels: ids, lengths: [2, 7] };
      const [x, y] = [a.loss(batch), b.loss(batch)];
      expectClose([await y.item()], [await x.item()], close, 'loss');
      expectSame(await gradientsOf(b, y.backward()), await gradientsOf(a, x.backward()));
    }
  });
  it('16-bit weights stay 16-bit and compute in f32', async () => {
    const wide = await tinyPhi3(backend);
    for (const { path, tensor: t } of wide.namedParameters()) {
      const narrow = t.cast('bf16');
      t.dispose();
      const holder = wide.findModule(path.slice(0, path.lastIndexOf('.'))) as unknown as { weight: Tensor };
      holder.weight = narrow.detach();
    }
    const out = wide.logits({ ids: tokens(4), lengths: [4] });
    expect([out.dtype, wide.model.norm.weight.dtype]).toEqual(['f32', 'bf16']);
    expect((await out.data()).every(Number.isFinite)).toBe(true);
  });
});
