/** A small tree with Phi-3's names and fused linears, for tests: the paths are the real ones, the mathematics is shorter. */
import { copyInto, Embedding, Linear, Module, RMSNorm } from '@lorikeet/nn';
import { type Backend, type DType, normal, type RandomKey, randomKey, swiglu, type Tensor } from '@lorikeet/tensor';

export interface ToyOptions {
  readonly backend: Backend;
  readonly layers?: number;
  readonly dtype?: DType;
  readonly bias?: boolean;
  readonly seed?: number;
}

export const toyWidth = 6;
export const toyVocabulary = 11;
const feedForward = 10;

class Attention extends Module {
  qkv_proj: Linear;
  o_proj: Linear;
  constructor(make: (name: string, inFeatures: number, outFeatures: number) => Linear) {
    super();
    this.qkv_proj = make('qkv_proj', toyWidth, 3 * toyWidth);
    this.o_proj = make('o_proj', toyWidth, toyWidth);
  }
  forward(x: Tensor): Tensor {
    const [q, k, v] = this.qkv_proj.forward(x).split([toyWidth, toyWidth, toyWidth]);
    return this.o_proj.forward(q!.mul(k!).tanh().add(v!));
  }
}

class FeedForward extends Module {
  gate_up_proj: Linear;
  down_proj: Linear;
  constructor(make: (name: string, inFeatures: number, outFeatures: number) => Linear) {
    super();
    this.gate_up_proj = make('gate_up_proj', toyWidth, 2 * feedForward);
    this.down_proj = make('down_proj', feedForward, toyWidth);
  }
  forward(x: Tensor): Tensor {
    const [gate, up] = this.gate_up_proj.forward(x).split([feedForward, feedForward]);
    return this.down_proj.forward(swiglu(gate!, up!));
  }
}

class Layer extends Module {
  self_attn: Attention;
  mlp: FeedForward;
  input_layernorm: RMSNorm;
  constructor(key: RandomKey, { backend, dtype = 'f32', bias = false }: ToyOptions) {
    super();
    const make = (name: string, inFeatures: number, outFeatures: number): Linear =>
      Linear.init(inFeatures, outFeatures, { backend, dtype, bias, key: key.fold(name) });
    this.self_attn = new Attention(make);
    this.mlp = new FeedForward(make);
    this.input_layernorm = RMSNorm.init(toyWidth, { backend });
  }
  forward(x: Tensor): Tensor {
    const h = x.add(this.self_attn.forward(this.input_layernorm.forward(x)));
    return h.add(this.mlp.forward(h));
  }
}

export class ToyPhi3 extends Module {
  model: { embed_tokens: Embedding; layers: Layer[] };
  lm_head: Linear;
  constructor(options: ToyOptions) {
    super();
    const { backend, layers = 2, dtype = 'f32', seed = 1 } = options;
    const key = randomKey(seed);
    this.model = {
      embed_tokens: Embedding.init(toyVocabulary, toyWidth, { backend, dtype, key: key.fold('embed_tokens') }),
      layers: Array.from({ length: layers }, (_, i) => new Layer(key.fold(i), options)),
    };
    this.lm_head = Linear.init(toyWidth, toyVocabulary, { backend, dtype, bias: false, key: key.fold('lm_head') });
    this.assignPaths();
    this.eval();
  }
  /** ids -> logits [t, v] */
  forward(ids: readonly number[]): Tensor {
    let h = this.model.embed_tokens.forward(ids);
    for (const layer of this.model.layers) h = layer.forward(h);
    return this.lm_head.forward(h);
  }
}

/** Stands for training: random values in everything that is trainable (the adapter, copies of saved modules, biases). */
export function trainAdapter(model: ToyPhi3, { seed = 1, std = 0.3 } = {}): ToyPhi3 {
  for (const { path, tensor } of model.namedParameters()) {
    if (!tensor.requiresGrad) continue;
    using values = normal(tensor.shape, { backend: tensor.backend, key: randomKey(seed, path), std });
    copyInto(tensor, values);
  }
  return model;
}
