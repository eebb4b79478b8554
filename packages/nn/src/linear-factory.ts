/** How weights reach a model: sources that are read when asked for, and factories that make linear layers of them. */
import { type Backend, bytesPerElement, type DType, fromBytes, noGrad, openScope, type Tensor } from '@lorikeet/tensor';
import { Linear, type LinearLike } from './linear.ts';

/** A weight that is somewhere else yet: in a file, or to be drawn. Nothing is read before it is asked for. */
export interface TensorSource {
  /** Its name in the checkpoint. */
  readonly path: string;
  /** The file it lies in, for messages; absent where there is none. */
  readonly file?: string | undefined;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** All bytes, little-endian, row-major. */
  read(): Promise<Uint8Array>;
  /**
   * Rows start .. end along the first axis: what a quantizer packs piece by piece. Nobody has looked for NaN in them; a
   * quantizer sees it in its scales.
   */
  readRows(start: number, end: number): Promise<Uint8Array>;
  /**
   * Takes back what read or readRows gave, whose memory is free at once then: garbage of weights is larger than what a
   * collector notices in time. Absent where bytes belong to somebody.
   */
  release?(bytes: Uint8Array): void;
}

/** A linear layer to be made. */
export interface LinearRequest {
  /** The layer's path: `model.layers.0.self_attn.qkv_proj`, ..., `lm_head`. */
  readonly path: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Null in every Phi-3. */
  readonly bias: TensorSource | null;
  /** Floats [out, in]; in a quantized checkpoint whatever its maker stored under the name `weight`. */
  readonly weight: TensorSource;
  /** What else the checkpoint holds for the layer, by its name below the layer: `weight.absmax`, `SCB`, ... */
  readonly companions?: ReadonlyMap<string, TensorSource> | undefined;
  readonly backend: Backend;
}

/**
 * Makes the linear layers of a model. Quantizers are such functions; they usually leave `lm_head` to `denseLinear`. A tied
 * lm_head is not asked for: it shares the embedding's table.
 */
export interface LinearFactory {
  (request: LinearRequest): LinearLike | Promise<LinearLike>;
  /** Called once with all requests of a checkpoint before the first layer is made; throws where one cannot be met. */
  readonly check?: (requests: readonly LinearRequest[]) => void | Promise<void>;
}

export interface MaterializeOptions {
  readonly backend: Backend;
  /** Stored as this instead of the source's dtype. */
  readonly dtype?: DType | undefined;
  readonly requiresGrad?: boolean | undefined;
}

/** A tensor with a source's values, in its dtype or converted. Belongs to no scope. */
export async function materialize(source: TensorSource, options: MaterializeOptions): Promise<Tensor> {
  const { backend, dtype = source.dtype, requiresGrad = false } = options;
  const bytes = await source.read();
  using made = openScope();
  const loaded = made.run(() => fromBytes(bytes, { backend, dtype: source.dtype, shape: source.shape }));
  source.release?.(bytes);
  const tensor = dtype === source.dtype ? loaded : made.run(() => noGrad(() => loaded.cast(dtype)));
  made.keep(tensor);
  tensor.requiresGrad = requiresGrad;
  return tensor;
}

/** A source over bytes that are made when asked for. */
export function byteSource(
  spec: { readonly path: string; readonly dtype: DType; readonly shape: readonly number[] },
  make: () => Uint8Array | Promise<Uint8Array>,
): TensorSource {
  const rowBytes = bytesPerElement[spec.dtype] * spec.shape.slice(1).reduce((product, n) => product * n, 1);
  return {
    ...spec,
    read: async () => make(),
    readRows: async (start, end) => (await make()).slice(start * rowBytes, end * rowBytes),
  };
}

/** The plain layer of a linear factory: the weight as it is stored. */
export const denseLinear =
  (options: { readonly dtype?: DType | undefined; readonly trainable?: boolean | undefined } = {}): LinearFactory =>
  async ({ weight, bias, backend }) => {
    const made = { backend, dtype: options.dtype, requiresGrad: options.trainable };
    return new Linear(await materialize(weight, made), bias ? await materialize(bias, made) : undefined);
  };
