import { Embedding as PlainEmbedding } from '@lorikeet/nn';
import { normal, scope, type Tensor, zeros } from '@lorikeet/tensor';
import type { LoraLayer, MergeOptions } from '../lora-layer.ts';
import { checkLoraOptions, loraScaling } from '../low-rank.ts';
import { WeightMerger } from '../weight-merger.ts';
import type { LoraLayerOptions } from './options.ts';

export interface EmbeddingOptions extends LoraLayerOptions {
  /** The row of this id gets no gradient. @defaultValue null */
  readonly paddingIdx?: number | null;
}

/**
 * loralib.Embedding (0.1.2): row W[id] plus s B A[:, id] with `weight` [v, d] frozen, `lora_A` [r, v] zero and `lora_B` [d, r]
 * of N(0, 1). No dropout, as in loralib. Merging is explicit, as in `Linear`.
 */
export class Embedding extends PlainEmbedding implements LoraLayer {
  lora_A?: Tensor;
  lora_B?: Tensor;
  readonly r: number;
  readonly scaling: number;
  enabled = true;
  readonly #merger: WeightMerger;

  constructor(numEmbeddings: number, embeddingDim: number, options: EmbeddingOptions) {
    const { r = 0, loraAlpha = 1, backend, key, dtype = 'f32', paddingIdx = null } = options;
    checkLoraOptions('lora.Embedding', { r, loraAlpha });
    const made = { backend, requiresGrad: true };
    super(normal([numEmbeddings, embeddingDim], { backend, dtype, requiresGrad: r === 0, key: key.fold('weight') }), {
      paddingIdx,
    });
    this.r = r;
    this.scaling = r > 0 ? loraScaling(r, loraAlpha) : 0;
    if (r > 0) {
      this.lora_A = zeros([r, numEmbeddings], made);
      this.lora_B = normal([embeddingDim, r], { ...made, key: key.fold('lora_B') });
    }
    this.#merger = new WeightMerger({
      hasUpdate: this.r > 0,
      path: () => this.path,
      weight: () => this.weight,
      delta: (start, end) => this.deltaWeight([start, end]),
    });
  }

  get merged(): boolean {
    return this.#merger.merged;
  }

  override forward(ids: Tensor | Int32Array | readonly number[]): Tensor {
    if (this.r === 0 || !this.enabled || this.merged) return super.forward(ids);
    return scope(() => {
      // As loralib: a lookup in A^T that knows of the padding id, then a product with B^T.
      const { paddingIdx } = this;
      const low = new PlainEmbedding(this.lora_A!.transpose(0, 1), { paddingIdx }).forward(ids); // [t, r]
      return super.forward(ids).add(low.matmul(this.lora_B!, { transposeB: true }).mul(this.scaling));
    });
  }

  /** s (B A)^T [v, d] or rows of it, in f32; only with r > 0. */
  deltaWeight(rows: readonly [start: number, end: number] = [0, this.numEmbeddings]): Tensor {
    return scope(() => {
      const a = this.lora_A!.slice(1, rows[0], rows[1]);
      return a.matmul(this.lora_B!, { transposeA: true, transposeB: true }).mul(this.scaling);
    });
  }

  checkMerge(): Promise<void> {
    return this.#merger.check();
  }
  /** Adds the update to the table; a plain layer (r = 0) has none and stays. */
  merge(options?: MergeOptions): Promise<void> {
    return this.#merger.merge(options);
  }
  unmerge(): void {
    this.#merger.unmerge();
  }
}
