import { crossEntropy, noGrad, openScope, scope, tensor } from '@lorikeet/tensor';
import { inEvalMode } from './generate.ts';
import type { Phi3ForCausalLM } from './model.ts';

/**
 * Log-probabilities of a text under the model: entry i is that of ids[i + 1] after ids[0 .. i], so there is one fewer than
 * ids, in nats. Logits exist for 256 tokens at a time.
 *
 * @throws RangeError for more ids than max_position_embeddings
 */
export async function score(model: Phi3ForCausalLM, ids: ArrayLike<number>): Promise<Float64Array> {
  const out = new Float64Array(Math.max(0, ids.length - 1));
  if (out.length === 0) return out;
  const { backend } = model;
  const all = Int32Array.from(ids);
  using kept = openScope();
  const hidden = kept.run(() =>
    inEvalMode(model, () => noGrad(() => model.forward({ ids: all, lengths: [all.length] }))),
  );
  const chunkRows = 256;
  for (let start = 0; start < out.length; start += chunkRows) {
    const end = Math.min(out.length, start + chunkRows);
    using losses = inEvalMode(model, () =>
      noGrad(() =>
        scope(() => {
          const labels = tensor(all.slice(start + 1, end + 1), { backend, dtype: 'i32' });
          return crossEntropy(model.lm_head.forward(hidden.slice(0, start, end)), labels, { reduction: 'none' });
        }),
      ),
    );
    out.set(
      (await losses.data()).map((loss) => -loss),
      start,
    );
  }
  return out;
}
