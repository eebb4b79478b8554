/** Adapters of ours that stand for trained ones: made the same way when they are recorded and when they are checked. */
import { type AdapterState, applyLoraAsync, type LoraConfig } from '@lorikeet/lora';
import { copyInto, trainableParameters } from '@lorikeet/nn';
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import { noGrad, normal, randomKey, scope } from '@lorikeet/tensor';

/** Puts an adapter on a model and moves everything that is trained by random values. */
export async function makeAdapter(model: Phi3ForCausalLM, config: LoraConfig, seed: number): Promise<AdapterState> {
  const key = randomKey(seed);
  const state = await applyLoraAsync(model, config, { key: key.fold('first') });
  for (const { path, tensor } of trainableParameters(model)) {
    const { backend, shape } = tensor;
    using moved = noGrad(() => scope(() => tensor.add(normal(shape, { backend, key: key.fold(path), std: 0.2 }))));
    copyInto(tensor, moved);
  }
  model.eval();
  return state;
}
