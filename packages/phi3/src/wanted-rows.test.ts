import { backward, noGrad, randomKey, referenceBackend, scope } from '@lorikeet/tensor';
import { expect, test } from 'vitest';
import { initPhi3, parsePhi3Config } from './index.ts';
import { KeyValueCache } from './key-value-cache.ts';
import { placesOf, wantedRows } from './wanted-rows.ts';

const config = parsePhi3Config({
  architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu', attention_bias: false, vocab_size: 40, hidden_size: 16,
  intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 64,
  original_max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null, sliding_window: null,
  bos_token_id: 1, eos_token_id: 2, pad_token_id: 0, tie_word_embeddings: false, initializer_range: 0.3, resid_pdrop: 0, embd_pdrop: 0, attention_dropout: 0,
}); // biome-ignore format: a config.json
const model = await initPhi3(config, { backend: referenceBackend(), key: randomKey(1) });
const ids = Int32Array.from({ length: 24 }, (_, i) => 3 + ((i * 7) % 37));
const lengths = [10, 14];
/** The last five tokens of each sequence are trained. */
const labels = ids.map((id, i) => ((i >= 5 && i < 10) || i >= 19 ? id : -100));

test('rows come in order and once, and not where nearly all are wanted', () => {
  expect(wantedRows(Int32Array.of(7, 2), undefined, 9)).toEqual(Int32Array.of(2, 7));
  expect(wantedRows(Int32Array.of(0, 1, 2), Int32Array.of(4, 1, 4), 6)).toEqual(Int32Array.of(1, 4));
  expect(
    wantedRows(
      Int32Array.from({ length: 31 }, (_, i) => i),
      undefined,
      32,
    ),
  ).toBeNull();
  expect(wantedRows(new Int32Array(0), undefined, 9)).toBeNull();
  expect(placesOf(Int32Array.of(1, 4), 6)).toEqual(Int32Array.of(0, 0, 0, 0, 1, 0));
});

test.each([false, true])('loss and gradients are those of all rows (recomputed: %s)', async (recomputes) => {
  model.gradientCheckpointing = recomputes;
  const found = scope(() => {
    const loss = model.loss({ ids, labels, lengths });
    return { loss: loss.detach(), gradients: loss.backward() };
  });
  model.gradientCheckpointing = false;
  // The definition: logits of every token, then the loss of those that count.
  const wanted = scope(() => {
    const logProbabilities = model.logits({ ids, lengths }).logSoftmax(-1);
    const targets = [...labels.keys()].filter((i) => labels[i] !== -100 && i !== 0 && i !== 10);
    const picked = targets.map((i) => logProbabilities.slice(0, i - 1, i).slice(1, ids[i]!, ids[i]! + 1));
    const loss = picked[0]!.concat(picked.slice(1), 0).mean().neg();
    return { loss: loss.detach(), gradients: backward(loss) };
  });
  expect(await found.loss.item()).toBeCloseTo(await wanted.loss.item(), 5);
  for (const { path, tensor } of model.namedParameters()) {
    const [got, want] = [await found.gradients.of(tensor).data(), await wanted.gradients.of(tensor).data()];
    const largest = Math.max(1e-6, ...Array.from(want, Math.abs));
    for (let i = 0; i < want.length; i++)
      expect(Math.abs(got[i]! - want[i]!), `${path}[${i}]`).toBeLessThan(1e-4 * largest);
  }
});

test('last logits are those of all logits, with and without a cache', async () => {
  const [all, last] = noGrad(() => [model.logits({ ids, lengths }), model.logits({ ids, lengths }, { last: true })]);
  const rows = [9, 23];
  const [whole, ends] = [await all!.data(), await last!.data()];
  for (const [place, row] of rows.entries())
    for (let v = 0; v < 40; v++) expect(ends[place * 40 + v]).toBeCloseTo(whole[row * 40 + v]!, 4);
  using cache = new KeyValueCache(config, model.backend);
  const one = { ids: ids.subarray(0, 10), lengths: [10] };
  const cached = noGrad(() => model.logits(one, { last: true, cache }));
  const found = await cached.data();
  for (let v = 0; v < 40; v++) expect(found[v]).toBeCloseTo(whole[9 * 40 + v]!, 4);
  expect(cache.length).toBe(10);
});
