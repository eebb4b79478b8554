/** Merging a whole model's adapters into its weights, both ways of adapting. Always an explicit call, never part of eval(). */
import { type ModuleLike, namedParameters } from '@lorikeet/nn';
import { type LoraLayer, loraLayers, type MergeOptions } from './lora-layer.ts';
import { forgetAdapter, requireAdapter } from './peft/adapter-state.ts';
import { unwrapLinears } from './peft/apply-lora.ts';
import { keepSaved } from './peft/saved-modules.ts';

/** Layers that can be merged, or an error for a weight that two places share: merging for one would change the other. */
function unmergedLayers(model: ModuleLike): LoraLayer[] {
  const layers = [...loraLayers(model)].filter(([, layer]) => layer.r > 0 && !layer.merged);
  const shared = new Map(
    namedParameters(model)
      .filter(({ aliases }) => aliases.length > 0)
      .flatMap(({ path, aliases }) => [path, ...aliases].map((p) => [p, [path, ...aliases]] as const)),
  );
  for (const [path] of layers) {
    const places = shared.get(`${path}.weight`);
    if (places)
      throw new Error(
        `mergeAdapter: a merged weight must stand in one place: ${places.join(' and ')} are one tensor. Do not adapt a tied layer, or use the adapter unmerged.`,
      );
  }
  return layers.map(([, layer]) => layer);
}

/**
 * W += s B A in every adapted layer, computed in f32 and rounded once to the weight's dtype. With `safe` (default) all layers are
 * checked before the first is written. Layers merged already stay.
 *
 * @throws NonFiniteError when a merged weight would hold NaN or infinity; nothing is written then
 */
export async function mergeAdapter(
  model: ModuleLike,
  { safe = true, keepOriginal = true }: MergeOptions = {},
): Promise<void> {
  const layers = unmergedLayers(model);
  if (safe) for (const layer of layers) await layer.checkMerge();
  for (const layer of layers) await layer.merge({ safe: false, keepOriginal });
}

/** Puts the original weights back, bit for bit, from the copies that merging kept in host memory. */
export function unmergeAdapter(model: ModuleLike): void {
  for (const [, layer] of loraLayers(model)) if (layer.merged) layer.unmerge();
}

/** Merges what applyLora put on a model and takes the adapters away: a plain model with the tuned weights remains, as PEFT's merge_and_unload. */
export async function mergeAndUnload(
  model: ModuleLike,
  { safe = true }: Pick<MergeOptions, 'safe'> = {},
): Promise<void> {
  const { saved } = requireAdapter('mergeAndUnload', model);
  await mergeAdapter(model, { safe, keepOriginal: false });
  unwrapLinears(model);
  keepSaved(model, saved);
  forgetAdapter(model);
}
