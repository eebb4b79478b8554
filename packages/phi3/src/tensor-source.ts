import type { LinearLike } from '@lorikeet/nn';
import { type Backend, bytesPerElement, type DType, fromBytes, noGrad, openScope, type Tensor } from '@lorikeet/tensor';

/** A weight that is somewhere else yet: in a file, or to be drawn. Nothing is read before it is asked for. */
export interface TensorSource {
  /** Its name in the checkpoint. */
  readonly path: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** All bytes, little-endian, row-major. */
  read(): Promise<Uint8Array>;
  /** Rows start .. end along the first axis: what a quantizer packs piece by piece. */
  readRows(start: number, end: number): Promise<Uint8Array>;
}

/** A linear layer to be made. */
export interface LinearRequest {
  /** The layer's path: `model.layers.0.self_attn.qkv_proj`, ..., `lm_head`. */
  readonly path: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** Null in every Phi-3. */
  readonly bias: TensorSource | null;
  readonly weight: TensorSource;
  readonly backend: Backend;
}

/**
 * Makes the linear layers of a model. Quantizers are such functions; they usually leave `lm_head` to `denseLinear`. A tied
 * lm_head is not asked for: it shares the embedding's table.
 */
export type LinearFactory = (request: LinearRequest) => LinearLike | Promise<LinearLike>;

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
