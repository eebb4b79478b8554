import { Embedding, Linear, type LinearLike, RMSNorm } from '@lorikeet/nn';
import type { Backend, DType, Tensor } from '@lorikeet/tensor';
import type { Phi3Config } from './config.ts';
import { Phi3Attention, Phi3DecoderLayer, Phi3ForCausalLM, Phi3MLP, Phi3Model } from './model.ts';
import { type LinearFactory, materialize, type TensorSource } from './tensor-source.ts';
import { phi3Tensors } from './tensors.ts';

/** Where the model is built and how its weights are stored. */
export interface BuildOptions {
  readonly backend: Backend;
  /** Makes the linear layers. Default: dense ones. */
  readonly linear?: LinearFactory | undefined;
  /** Store weights as this dtype. Default: the source's. */
  readonly dtype?: DType | undefined;
  /** Whether weights start with requiresGrad. Default false: what LoRA freezes anyway. */
  readonly trainable?: boolean | undefined;
}

/** The plain layer of a linear factory: the weight as it is stored. */
export const denseLinear =
  (options: { readonly dtype?: DType | undefined; readonly trainable?: boolean | undefined } = {}): LinearFactory =>
  async ({ weight, bias, backend }) => {
    const made = { backend, dtype: options.dtype, requiresGrad: options.trainable };
    return new Linear(await materialize(weight, made), bias ? await materialize(bias, made) : undefined);
  };

/**
 * Builds the model tensor by tensor, in the order of the checkpoint, so that no more than one weight is held twice. When a
 * source or the factory fails, what was made is freed.
 *
 * @param sourceOf gives each tensor of `phi3Tensors(config)` by its path, with the shape it must have
 * @returns the model in training mode; loadPhi3 calls eval()
 */
export async function buildPhi3(
  config: Phi3Config,
  sourceOf: (path: string, shape: readonly number[]) => TensorSource,
  options: BuildOptions,
): Promise<Phi3ForCausalLM> {
  const { backend, dtype, trainable } = options;
  const factory = options.linear ?? denseLinear({ dtype, trainable });
  const shapes = phi3Tensors(config);
  const made: { dispose(): void }[] = [];
  const tensor = async (path: string): Promise<Tensor> => {
    const t = await materialize(sourceOf(path, shapes.get(path)!), { backend, dtype, requiresGrad: trainable });
    made.push(t);
    return t;
  };
  const linear = async (path: string): Promise<LinearLike> => {
    const [outFeatures, inFeatures] = shapes.get(`${path}.weight`) as [number, number];
    const weight = sourceOf(`${path}.weight`, [outFeatures, inFeatures]);
    const layer = await factory({ path, inFeatures, outFeatures, bias: null, weight, backend });
    made.push({ dispose: () => [...layer.stateEntries()].forEach(([, t]) => t.dispose()) });
    return layer;
  };
  const norm = async (path: string): Promise<RMSNorm> => new RMSNorm(await tensor(`${path}.weight`), config.rmsNormEps);
  try {
    const table = await tensor('model.embed_tokens.weight');
    const layers: Phi3DecoderLayer[] = [];
    for (let i = 0; i < config.numHiddenLayers; i++) layers.push(await layer(config, i, linear, norm));
    const model = new Phi3Model(
      new Embedding(table, { paddingIdx: config.padTokenId }),
      layers,
      await norm('model.norm'),
    );
    const head = config.tieWordEmbeddings ? new Linear(table) : await linear('lm_head');
    return new Phi3ForCausalLM(config, model, head);
  } catch (error) {
    for (const item of made) item.dispose();
    throw error;
  }
}

async function layer(
  config: Phi3Config,
  index: number,
  linear: (path: string) => Promise<LinearLike>,
  norm: (path: string) => Promise<RMSNorm>,
): Promise<Phi3DecoderLayer> {
  const path = `model.layers.${index}`;
  const qkv = await linear(`${path}.self_attn.qkv_proj`);
  return new Phi3DecoderLayer({
    attention: new Phi3Attention(config, index, qkv, await linear(`${path}.self_attn.o_proj`)),
    mlp: new Phi3MLP(await linear(`${path}.mlp.gate_up_proj`), await linear(`${path}.mlp.down_proj`)),
    inputNorm: await norm(`${path}.input_layernorm`),
    postAttentionNorm: await norm(`${path}.post_attention_layernorm`),
    residPdrop: config.residPdrop,
  });
}
