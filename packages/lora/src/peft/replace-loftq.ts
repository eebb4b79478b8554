import { copyInto, type ModuleLike } from '@lorikeet/nn';
import { noGrad, randomKey, scope, truncatedSvd } from '@lorikeet/tensor';
import { requireAdapter } from './adapter-state.ts';
import { adaptedLinears } from './apply-lora.ts';
import type { OriginalWeights } from './apply-lora-async.ts';
import { balanced } from './base-initialization.ts';

export interface ReplaceLoftqOptions {
  /** The weights from before quantization; see checkpointWeights. */
  readonly originalWeights: OriginalWeights;
  /** Called after each layer with its path; false puts its values back. */
  readonly callback?: (model: ModuleLike, path: string) => boolean | Promise<boolean>;
}

/**
 * Gives the adapter of every quantized layer the low-rank matrix that comes nearest to what quantization lost (PEFT's
 * replace_lora_weights_loftq): one step of LoftQ that leaves the base alone. As in PEFT the scaling is not divided out, so it fits where
 * loraAlpha / r is 1.
 *
 * @throws Error when no adapted layer is quantized; RangeError when r is larger than a weight's sides
 */
export async function replaceLoraWeightsLoftq(model: ModuleLike, options: ReplaceLoftqOptions): Promise<void> {
  requireAdapter('replaceLoraWeightsLoftq', model);
  const layers = [...adaptedLinears(model)].filter(([, { base }]) => 'setDenseWeight' in base);
  if (layers.length === 0)
    throw new Error(
      'replaceLoraWeightsLoftq: an adapted layer must be quantized: none is. Load the base with a quantizing factory.',
    );
  for (const [path, { base, lora_A, lora_B, r }] of layers) {
    using original = await options.originalWeights(path);
    using lost = noGrad(() => scope(() => original.cast('f32').sub(base.denseWeight())));
    const { a, b } = balanced(await truncatedSvd(lost, { rank: r, key: randomKey(0, path) }));
    const [A, B] = [lora_A.weight, lora_B.weight];
    const before = { a: await A.bytes(), b: await B.bytes() };
    copyInto(A, a);
    copyInto(B, b);
    for (const t of [a, b]) t.dispose();
    if (!options.callback || (await options.callback(model, path))) continue;
    copyInto(A, { dtype: A.dtype, shape: A.shape, bytes: before.a });
    copyInto(B, { dtype: B.dtype, shape: B.shape, bytes: before.b });
  }
}
