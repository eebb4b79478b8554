import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { cpu } from '@lorikeet/cpu';
import { nodeFiles } from '@lorikeet/files';
import { memory, noGrad, referenceBackend } from '@lorikeet/tensor';
import { hostileBackend } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { type GenerateOptions, generate } from './generate.ts';
import { generateBatch } from './generate-batch.ts';
import { loadPhi3 } from './load.ts';
import type { Phi3ForCausalLM } from './model.ts';
import { logProbability } from './sampling.ts';
import { score } from './score.ts';
import { tinyLongRope, tinyPhi3 } from './testing/tiny-phi3.ts';

const backend = referenceBackend();
const prompt = [1, 9, 20];
const unending = { stopTokenIds: [] as number[] };

async function idsOf(
  model: Phi3ForCausalLM,
  options: GenerateOptions,
  from: readonly number[] = prompt,
): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of generate(model, from, options)) ids.push(id);
  return ids;
}

/** The definition: the whole text through the model for every token. */
async function withoutCache(model: Phi3ForCausalLM, count: number): Promise<{ ids: number[]; logprobs: number[] }> {
  const ids = [...prompt];
  const logprobs: number[] = [];
  for (let i = 0; i < count; i++) {
    const row = await noGrad(() => model.logits({ ids, lengths: [ids.length] }, { last: true })).data();
    const best = row.indexOf(Math.max(...row));
    logprobs.push(logProbability(row, best));
    ids.push(best);
  }
  return { ids: ids.slice(prompt.length), logprobs };
}

const variants: Record<string, Record<string, unknown>> = {
  'grouped heads': {},
  'a sliding window': { sliding_window: 4 },
  'longrope, crossing its border': { original_max_position_embeddings: 8, rope_scaling: tinyLongRope },
  'partial rotary, tied': { partial_rotary_factor: 0.5, tie_word_embeddings: true },
};

describe('greedy decoding', () => {
  it.each(Object.entries(variants))(
    'with the cache equals the full forward for every token: %s',
    async (_name, changes) => {
      const model = await tinyPhi3(backend, changes);
      const want = await withoutCache(model, 36);
      const got = { ids: [] as number[], logprobs: [] as number[] };
      for await (const { id, logprob } of generate(model, prompt, { maxNewTokens: 36, ...unending })) {
        got.ids.push(id);
        got.logprobs.push(logprob);
      }
      expect(got.ids).toEqual(want.ids);
      got.logprobs.forEach((x, i) => expect(x, `token ${i}`).toBeCloseTo(want.logprobs[i]!, 4));
    },
  );
  it('is the same on the hostile backend', async () => {
    const options = { maxNewTokens: 5, ...unending };
    expect(await idsOf(await tinyPhi3(hostileBackend()), options)).toEqual(
      await idsOf(await tinyPhi3(backend), options),
    );
  });
  it('agrees with score', async () => {
    const model = await tinyPhi3(backend);
    const tokens = [];
    for await (const token of generate(model, prompt, { maxNewTokens: 8, ...unending })) tokens.push(token);
    const logprobs = await score(model, [...prompt, ...tokens.map(({ id }) => id)]);
    tokens.forEach(({ logprob }, i) => expect(logprobs[i + prompt.length - 1]).toBeCloseTo(logprob, 4));
    expect(await score(model, [1])).toEqual(new Float64Array(0));
  });
});

describe('sampling', () => {
  it('repeats with the seed and differs with another', async () => {
    const model = await tinyPhi3(backend);
    const draw = (seed: number) =>
      idsOf(model, { maxNewTokens: 12, doSample: true, temperature: 5, seed, ...unending });
    expect(await draw(3)).toEqual(await draw(3));
    expect(await draw(3)).not.toEqual(await draw(4));
  });
  it('topK 1 is greedy', async () => {
    const model = await tinyPhi3(backend);
    const greedy = await idsOf(model, { maxNewTokens: 8, ...unending });
    expect(await idsOf(model, { maxNewTokens: 8, doSample: true, topK: 1, seed: 9, ...unending })).toEqual(greedy);
  });
  it('a strong repetition penalty leaves no repetition', async () => {
    const model = await tinyPhi3(backend);
    const ids = await idsOf(model, { maxNewTokens: 12, repetitionPenalty: 1e6, ...unending });
    expect(new Set([...prompt, ...ids]).size).toBe(prompt.length + ids.length);
  });
});

describe('many prompts together', () => {
  const prompts = [[1, 9, 20], [5], [1, 30, 30, 7, 11], [8, 2], [1, 3, 4, 5, 6, 7, 8]];
  it.each(Object.entries(variants))('get what each gets alone, whenever each ends: %s', async (_name, changes) => {
    const model = await tinyPhi3(backend, changes);
    const stop = (await idsOf(model, { maxNewTokens: 4, ...unending }, prompts[1]))[3]!;
    for (const options of [
      { maxNewTokens: 12, stopTokenIds: [stop] },
      { maxNewTokens: 7, doSample: true, temperature: 2, ...unending },
    ]) {
      const want = [];
      for (const prompt of prompts) want.push(await idsOf(model, options, prompt));
      const done: number[] = [];
      const got = await generateBatch(model, prompts, {
        ...options,
        batchSize: 3,
        onDone: (index) => done.push(index),
      });
      expect(got.map((tokens) => tokens.map(({ id }) => id))).toEqual(want);
      expect(done.toSorted()).toEqual([0, 1, 2, 3, 4]);
    }
  });
  it('end at max_position_embeddings, at maxNewTokens 0, and free what they made', async () => {
    const model = await tinyPhi3(backend, { max_position_embeddings: 8, original_max_position_embeddings: 8 });
    const before = memory(backend).liveBytes;
    const lengths = async (maxNewTokens: number) =>
      (await generateBatch(model, prompts, { maxNewTokens, ...unending })).map((t) => t.length);
    expect(await lengths(100)).toEqual([6, 8, 4, 7, 2]);
    expect(await lengths(0)).toEqual([0, 0, 0, 0, 0]);
    expect(await generateBatch(model, [], { maxNewTokens: 3 })).toEqual([]);
    await expect(
      generateBatch(model, prompts, { maxNewTokens: 3, signal: AbortSignal.abort(new Error('enough')) }),
    ).rejects.toThrow('enough');
    await expect(generateBatch(model, [[]], { maxNewTokens: 3 })).rejects.toThrow('at least one token');
    await expect(generateBatch(model, prompts, { maxNewTokens: 3, batchSize: 0 })).rejects.toThrow('batchSize');
    expect(memory(backend).liveBytes).toBe(before);
  });
});

describe('the end', () => {
  it('a stop token is given and is the last', async () => {
    const model = await tinyPhi3(backend);
    const ids = await idsOf(model, { maxNewTokens: 6, ...unending });
    const stop = ids.find((id, i) => i > 0 && !ids.slice(0, i).includes(id))!;
    const tokens = [];
    for await (const token of generate(model, prompt, { maxNewTokens: 6, stopTokenIds: [stop] })) tokens.push(token);
    expect(tokens.map(({ id }) => id)).toEqual(ids.slice(0, ids.indexOf(stop) + 1));
    expect(tokens.map(({ isStop }) => isStop)).toEqual([...ids.slice(0, ids.indexOf(stop)).map(() => false), true]);
    model.stopTokenIds = [ids[0]!];
    expect(await idsOf(model, { maxNewTokens: 6 })).toEqual([ids[0]]);
  });
  it('comes at max_position_embeddings', async () => {
    const model = await tinyPhi3(backend, { max_position_embeddings: 8, original_max_position_embeddings: 8 });
    // The last token is predicted from position 7; it would itself stand at position 8.
    expect(await idsOf(model, { maxNewTokens: 100, ...unending })).toHaveLength(6);
  });
  it('maxNewTokens 0 gives nothing', async () => {
    expect(await idsOf(await tinyPhi3(backend), { maxNewTokens: 0 })).toEqual([]);
  });
  it('an aborted signal rejects with its reason, and the cache is freed however it ends', async () => {
    const model = await tinyPhi3(backend);
    const before = memory(backend).liveBytes;
    const controller = new AbortController();
    const aborted = (async () => {
      for await (const _ of generate(model, prompt, { maxNewTokens: 9, signal: controller.signal, ...unending }))
        controller.abort(new Error('enough'));
    })();
    await expect(aborted).rejects.toThrow('enough');
    expect(memory(backend).liveBytes).toBe(before);
    for await (const _ of generate(model, prompt, { maxNewTokens: 9, ...unending })) break;
    expect(memory(backend).liveBytes).toBe(before);
    await idsOf(model, { maxNewTokens: 40, ...unending });
    await score(model, prompt);
    expect(memory(backend).liveBytes).toBe(before);
  });
  it('leaves training flags and trainable weights as they were, with dropout off meanwhile', async () => {
    const model = await tinyPhi3(backend, { resid_pdrop: 0.5 });
    model.train();
    const layer = model.model.layers[0]!;
    layer.resid_mlp_dropout.training = false;
    const quiet = await tinyPhi3(backend);
    expect(await idsOf(model, { maxNewTokens: 4, ...unending })).toEqual(
      await idsOf(quiet, { maxNewTokens: 4, ...unending }),
    );
    expect([layer.resid_attn_dropout.training, layer.resid_mlp_dropout.training]).toEqual([true, false]);
    expect(model.namedParameters().every(({ tensor }) => tensor.requiresGrad)).toBe(true);
  });
  it('bad requests are refused', async () => {
    const model = await tinyPhi3(backend);
    await expect(idsOf(model, { maxNewTokens: 1 }, [])).rejects.toThrow('the prompt must have at least one token');
    await expect(idsOf(model, { maxNewTokens: -1 })).rejects.toThrow(
      'maxNewTokens must be an integer of at least 0: got -1',
    );
    await expect(idsOf(model, { maxNewTokens: 1 }, Array<number>(65).fill(3))).rejects.toThrow('at most 64 tokens');
    await expect(idsOf(model, { maxNewTokens: 1, temperature: -1 })).rejects.toThrow('temperature');
  });
  it('weights that are not finite are named as such', async () => {
    const model = await tinyPhi3(backend);
    model.loadStateDict(
      new Map([
        [
          'model.norm.weight',
          { dtype: 'f32', shape: [16], bytes: new Uint8Array(new Float32Array(16).fill(Number.NaN).buffer) },
        ],
      ]),
      { strict: false },
    );
    await expect(idsOf(model, { maxNewTokens: 1 })).rejects.toThrow('logits must be finite');
  });
});

describe('a trained model', () => {
  it('stories260k continues as run.c of llama2.c does, token by token', async (ctx) => {
    const data = resolve(import.meta.dirname, '../../../../shared/data/stories260k');
    if (!existsSync(data)) return ctx.skip('skipped: ../shared/data/stories260k is not on this machine');
    const { promptIds, ids } = JSON.parse(readFileSync(resolve(data, 'greedy.json'), 'utf8'));
    const device = await cpu();
    try {
      const model = await loadPhi3(nodeFiles(), resolve(data, 'phi3'), { backend: device });
      expect([...promptIds, ...(await idsOf(model, { maxNewTokens: ids.length - 1 }, promptIds))]).toEqual(ids);
    } finally {
      await device.close();
    }
  });
});
