import type { Phi3Config } from './config.ts';

/** Shapes of every tensor of a Phi-3 checkpoint by its name, [out, in] for linears; tied models have no `lm_head.weight`. */
export function phi3Tensors(config: Phi3Config): Map<string, readonly number[]> {
  const {
    hiddenSize: d,
    intermediateSize: f,
    vocabSize: v,
    numAttentionHeads: h,
    numKeyValueHeads: k,
    headDim: e,
  } = config;
  const tensors = new Map<string, readonly number[]>([['model.embed_tokens.weight', [v, d]]]);
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const layer = `model.layers.${i}`;
    tensors.set(`${layer}.self_attn.qkv_proj.weight`, [(h + 2 * k) * e, d]);
    tensors.set(`${layer}.self_attn.o_proj.weight`, [d, h * e]);
    tensors.set(`${layer}.mlp.gate_up_proj.weight`, [2 * f, d]);
    tensors.set(`${layer}.mlp.down_proj.weight`, [d, f]);
    tensors.set(`${layer}.input_layernorm.weight`, [d]);
    tensors.set(`${layer}.post_attention_layernorm.weight`, [d]);
  }
  tensors.set('model.norm.weight', [d]);
  if (!config.tieWordEmbeddings) tensors.set('lm_head.weight', [v, d]);
  return tensors;
}

/** Paths of the linear layers, in the order in which they are made; a tied lm_head is none. */
export const phi3Linears = (config: Phi3Config): string[] =>
  [...phi3Tensors(config).keys()].flatMap((name) => /^(.*_proj|lm_head)\.weight$/.exec(name)?.[1] ?? []);

/** Parameters of the whole model, tied ones counted once. */
export function phi3ParameterCount(config: Phi3Config): number {
  let count = 0;
  for (const shape of phi3Tensors(config).values()) count += shape.reduce((product, n) => product * n, 1);
  return count;
}
