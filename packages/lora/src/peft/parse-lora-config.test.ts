import { describe, expect, it } from 'vitest';
import { completeLoraConfig } from './lora-config.ts';
import { parseLoraConfig } from './parse-lora-config.ts';

/** peft_config of Microsoft's sample_finetune.py for Phi-3. */
const sample = {
  r: 16,
  lora_alpha: 32,
  lora_dropout: 0.05,
  bias: 'none',
  task_type: 'CAUSAL_LM',
  target_modules: 'all-linear',
  modules_to_save: null,
};

describe('parseLoraConfig', () => {
  it("reads the tutorial's dictionary", () => {
    expect(parseLoraConfig(sample)).toEqual({
      config: { r: 16, loraAlpha: 32, loraDropout: 0.05, bias: 'none', targetModules: 'all-linear' },
      unknownKeys: [],
    });
  });
  it('reads our spelling to the same', () => {
    const ours = { r: 16, loraAlpha: 32, loraDropout: 0.05, bias: 'none', targetModules: 'all-linear' };
    expect(parseLoraConfig(ours).config).toEqual(parseLoraConfig(sample).config);
  });
  it('reads every supported key', () => {
    const { config, unknownKeys } = parseLoraConfig({
      exclude_modules: ['lm_head'],
      use_rslora: true,
      init_lora_weights: 'gaussian',
      rank_pattern: { o_proj: 4 },
      alpha_pattern: { o_proj: 2.5 },
      layers_to_transform: [0, 1],
      layers_pattern: 'layers',
      target_modules: ['o_proj'],
      base_model_name_or_path: 'base',
      revision: 'main',
      peft_type: 'LORA',
    });
    expect(unknownKeys).toEqual([]);
    expect(completeLoraConfig(config)).toMatchObject({
      useRslora: true,
      initLoraWeights: 'gaussian',
      layersToTransform: [0, 1],
      layersPattern: ['layers'],
      rankPattern: { o_proj: 4 },
    });
  });
  it('reports unknown keys and goes on', () => {
    expect(parseLoraConfig({ r: 4, lora_aplha: 8, from_the_future: null }).unknownKeys).toEqual([
      'lora_aplha',
      'from_the_future',
    ]);
  });
  it.each([
    [{ use_dora: true }, 'use_dora (DoRA) is not supported: got true'],
    [{ loftq_config: { loftq_bits: 4 } }, "loftqConfig must come with initLoraWeights 'loftq'"],
    [{ init_lora_weights: 'loftq', loftq_config: { loftq_bits: 3 } }, 'loftqConfig must be { loftqBits: 4 or 8'],
    [{ lora_bias: true }, 'lora_bias (a bias on lora_B) is not supported'],
    [{ init_lora_weights: 'corda' }, 'init_lora_weights "corda" is not supported'],
    [{ init_lora_weights: 'pisa' }, "'pissa_niter_N', 'olora' or 'loftq'"],
    [{ peft_type: 'IA3' }, 'peft_type must be "LORA": got "IA3"'],
    [{ trainable_token_indices: [1] }, 'trainable_token_indices'],
    [{ r: 4, lora_alpha: 8, loraAlpha: 9 }, 'loraAlpha must be given once'],
    [{ r: 0 }, 'r must be a whole number of at least 1: got 0'],
    [{ r: '16' }, 'r must be a whole number of at least 1: got "16"'],
    [{ lora_dropout: 1 }, 'loraDropout must be a number in [0, 1): got 1'],
    [{ bias: 'some' }, "bias must be 'none', 'all' or 'lora_only'"],
    [{ target_modules: [] }, 'targetModules must be'],
    [{ target_modules: '.*', layers_to_transform: 1 }, 'layersToTransform must come with'],
    [{ layers_pattern: 'layers' }, 'layersPattern must come with layersToTransform'],
  ])('refuses %j', (json, message) => {
    expect(() => parseLoraConfig(json)).toThrow(message);
  });
  it('names every problem at once, with its source', () => {
    expect(() => parseLoraConfig({ use_dora: true, use_qalora: true }, { source: 'run.yaml: peft_config' })).toThrow(
      /^run\.yaml: peft_config: use_dora \(DoRA\).*; use_qalora \(QA-LoRA\)/,
    );
    expect(() => parseLoraConfig({ r: -1, bias: 3 }, { source: 'a.json' })).toThrow(
      /^a\.json: r must be.*; bias must be/,
    );
  });
  it.each([[null], [[]], ['r: 8']])('refuses %j as a whole', (json) => {
    expect(() => parseLoraConfig(json)).toThrow('must be an object');
  });
  it('a misspelled field given in TypeScript is an error', () => {
    expect(() => completeLoraConfig({ rank: 4 } as object)).toThrow('rank is no field of LoraConfig');
  });
});
