import { type CompleteLoraConfig, isAllLinear } from '../peft/lora-config.ts';
import type { LoraTarget } from '../peft/target-matching.ts';

/** A list without the defaults that PEFT writes as null. */
const orNull = <T>(list: readonly T[]): readonly T[] | null => (list.length ? list : null);

/**
 * The content of adapter_config.json: sorted keys, two spaces, no newline at the end, as Python writes it. Only keys that PEFT
 * knows since 2024 are written, so that old and new versions read it; newer ones (exclude_modules) only where they are used.
 * 'all-linear' becomes the list of the layers it meant.
 */
export function adapterConfigJson(config: CompleteLoraConfig, targets: readonly LoraTarget[]): string {
  const allLinear = isAllLinear(config.targetModules);
  const { loftqBits, loftqIter } = config.loftqConfig;
  const fields: Record<string, unknown> = {
    alpha_pattern: config.alphaPattern,
    auto_mapping: null,
    base_model_name_or_path: config.baseModelNameOrPath ?? null,
    bias: config.bias,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: config.initLoraWeights,
    layer_replication: null,
    layers_pattern: allLinear ? null : orNull(config.layersPattern),
    layers_to_transform: allLinear ? null : orNull(config.layersToTransform),
    loftq_config: config.initLoraWeights === 'loftq' ? { loftq_bits: loftqBits, loftq_iter: loftqIter } : {},
    lora_alpha: config.loraAlpha,
    lora_dropout: config.loraDropout,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: orNull(config.modulesToSave),
    peft_type: 'LORA',
    r: config.r,
    rank_pattern: config.rankPattern,
    revision: config.revision ?? null,
    target_modules: allLinear ? targets.map(({ path }) => path).toSorted() : config.targetModules,
    task_type: 'CAUSAL_LM',
    use_dora: false,
    use_rslora: config.useRslora,
  };
  if (config.excludeModules.length && !allLinear) fields.exclude_modules = config.excludeModules;
  return JSON.stringify(
    Object.fromEntries(Object.entries(fields).toSorted(([a], [b]) => (a < b ? -1 : 1))),
    undefined,
    2,
  );
}
