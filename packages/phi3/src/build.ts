import {
  denseLinear,
  Embedding,
  Linear,
  type LinearFactory,
  type LinearLike,
  type LinearRequest,
  materialize,
  RMSNorm,
  type TensorSource,
} from '@lorikeet/nn';
import type { Backend, DType, Tensor } from '@lorikeet/tensor';
import type { Phi3Config } from './config.ts';
import { Phi3Attention, Phi3DecoderLayer, Phi3ForCausalLM, Phi3MLP, Phi3Model } from './model.ts';
import { phi3Linears, phi3Tensors } from './tensors.ts';

/** Where the model is built and how its weights are stored. */
export interface BuildOptions {
  readonly backend: Backend;
  /** Makes the linear layers. Default: dense ones. */
  readonly linear?: LinearFactory | undefined;
  /** Store weights as this dtype. Default: the source's. */
  readonly dtype?: DType | undefined;
  /** Whether weights start with requiresGrad. Default false: what LoRA freezes anyway. */
  readonly trainable?: boolean | undefined;
  /** What a checkpoint holds beside the weight of a linear layer, by name below it. Default: nothing. */
  readonly companionsOf?: ((path: string) => ReadonlyMap<string, TensorSource>) | undefined;
  /** Called with the path of each weight when its tensor or layer is made. */
  readonly onMade?: ((path: string) => void) | undefined;
}

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
  const { backend, dtype, trainable, companionsOf, onMade } = options;
  const factory = options.linear ?? denseLinear({ dtype, trainable });
  const shapes = phi3Tensors(config);
  const made: { dispose(): void }[] = [];
  const tensor = async (path: string): Promise<Tensor> => {
    const t = await materialize(sourceOf(path, shapes.get(path)!), { backend, dtype, requiresGrad: trainable });
    made.push(t);
    onMade?.(path);
    return t;
  };
  const requestOf = (path: string): LinearRequest => {
    const [outFeatures, inFeatures] = shapes.get(`${path}.weight`) as [number, number];
    const weight = sourceOf(`${path}.weight`, [outFeatures, inFeatures]);
    return { path, inFeatures, outFeatures, bias: null, weight, companions: companionsOf?.(path), backend };
  };
  const linear = async (path: string): Promise<LinearLike> => {
    const layer = await factory(requestOf(path));
    made.push({ dispose: () => [...layer.stateEntries()].forEach(([, t]) => t.dispose()) });
    onMade?.(`${path}.weight`);
    return layer;
  };
  const norm = async (path: string): Promise<RMSNorm> => new RMSNorm(await tensor(`${path}.weight`), config.rmsNormEps);
  await factory.check?.(phi3Linears(config).map(requestOf));
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
