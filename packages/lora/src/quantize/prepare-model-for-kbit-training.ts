/** A quantized base made ready for adapters: PEFT's prepare_model_for_kbit_training (utils/other.py of PEFT 0.21). */
import { type ModuleLike, namedModules, namedParameters } from '@lorikeet/nn';
import { noGrad, Tensor } from '@lorikeet/tensor';
import { adapterOf } from '../peft/adapter-state.ts';

export interface KbitTrainingOptions {
  /**
   * Leave `embed_tokens` and `lm_head` in the 16 bits they are stored in. Arithmetic is f32 either way, so no result changes;
   * memory is half. @defaultValue false, as PEFT
   */
  readonly keepEmbeddings16bit?: boolean;
  /** Set the model's gradientCheckpointing. @defaultValue true, as PEFT */
  readonly useGradientCheckpointing?: boolean;
  /** Gets a sentence that says what the embeddings take. @defaultValue console.log */
  readonly print?: (line: string) => void;
}

/** What was done, in bytes. */
export interface KbitTrainingReport {
  /** Of tensors that are f32 now and were 16 bits wide. */
  readonly upcastBytes: number;
  /** Of embeddings and head, as they are now. */
  readonly embeddingBytes: number;
}

const isEmbedding = (path: string): boolean => /(^|\.)(embed_tokens|lm_head)(\.|$)/.test(path);
const isHalf = ({ dtype }: Tensor): boolean => dtype === 'f16' || dtype === 'bf16';
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

/** Puts `replace(t)` in the place of every tensor in an object's own plain properties. */
function replaceTensors(holder: object, replace: (tensor: Tensor) => Tensor): void {
  for (const [key, value] of Object.entries(holder)) {
    if (value instanceof Tensor) (holder as Record<string, unknown>)[key] = replace(value);
    else if (Array.isArray(value) || Object.getPrototypeOf(value ?? 0) === Object.prototype)
      replaceTensors(value as object, replace);
  }
}

/**
 * Freezes all parameters and upcasts those in 16 bits to f32 (norms, embeddings, lm_head, linears that stayed dense); quantized
 * weights stay. Call it before applyLora.
 *
 * @throws Error when the model has an adapter already
 */
export function prepareModelForKbitTraining(
  model: ModuleLike,
  { keepEmbeddings16bit = false, useGradientCheckpointing = true, print = console.log }: KbitTrainingOptions = {},
): KbitTrainingReport {
  if (adapterOf(model))
    throw new Error(
      'prepareModelForKbitTraining: the model must have no adapter yet: it has one. Call it before applyLora.',
    );
  for (const { tensor } of namedParameters(model)) if (tensor.requiresGrad) tensor.requiresGrad = false;
  // A tied tensor stays one tensor.
  const casts = new Map<Tensor, Tensor>();
  for (const [path, module] of namedModules(model)) {
    if (keepEmbeddings16bit && isEmbedding(path)) continue;
    replaceTensors(module, (tensor) => {
      if (!isHalf(tensor)) return tensor;
      const wide = casts.get(tensor) ?? noGrad(() => tensor.cast('f32'));
      casts.set(tensor, wide);
      return wide;
    });
  }
  let upcastBytes = 0;
  for (const [narrow, wide] of casts) {
    upcastBytes += 4 * wide.size;
    narrow.dispose();
  }
  if ('gradientCheckpointing' in model && useGradientCheckpointing) model.gradientCheckpointing = true;
  const embeddings = namedParameters(model).filter(({ path }) => isEmbedding(path));
  const width = (t: Tensor): number => (isHalf(t) ? 2 : 4);
  const embeddingBytes = embeddings.reduce((sum, { tensor }) => sum + width(tensor) * tensor.size, 0);
  const other = embeddings.reduce((sum, { tensor }) => sum + (6 - width(tensor)) * tensor.size, 0);
  const upcast = new Set(casts.values());
  const inHalf = embeddings.some(({ tensor }) => isHalf(tensor) || upcast.has(tensor));
  if (!inHalf) print(`embeddings and lm_head are stored in 32 bits: ${megabytes(embeddingBytes)}`);
  else
    print(
      keepEmbeddings16bit
        ? `embeddings and lm_head stay in 16 bits: ${megabytes(embeddingBytes)} (in 32 bits: ${megabytes(other)}; no result would change)`
        : `embeddings and lm_head in 32 bits: ${megabytes(embeddingBytes)} (keepEmbeddings16bit: ${megabytes(other)})`,
    );
  return { upcastBytes, embeddingBytes };
}
