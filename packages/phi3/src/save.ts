import { type FileSystem, joinPath, writeJson } from '@lorikeet/files';
import { type WriteEntry, writeSharded } from '@lorikeet/safetensors';
import { isFloat } from '@lorikeet/tensor';
import type { Phi3ForCausalLM } from './model.ts';
import { phi3Linears, phi3Tensors } from './tensors.ts';

/** How weights are divided into files. */
export interface SavePhi3Options {
  /** Most tensor bytes in a file. Default 5e9, as transformers. */
  readonly maxShardBytes?: number;
  /** How the linears are quantized, for config.json. Absent: the model must be plain. */
  readonly quantizationConfig?: Readonly<Record<string, unknown>> | undefined;
}

/** Tensors of a plain checkpoint; with `quantized` those of linears are taken in whatever form their layers hold them. */
function entriesOf(model: Phi3ForCausalLM, quantized: boolean): WriteEntry[] {
  const state = model.stateDict();
  const expected = phi3Tensors(model.config);
  const linears = quantized ? phi3Linears(model.config) : [];
  const isOfLinear = (path: string): boolean =>
    !path.includes('.lora_') && linears.some((linear) => path.startsWith(`${linear}.`));
  const problems = [...expected].flatMap(([path, shape]) => {
    const t = state.get(path);
    if (!t) return [`${path}: missing`];
    return isOfLinear(path) || (`${t.shape}` === `${shape}` && isFloat(t.dtype))
      ? []
      : [`${path}: expected [${shape}] floats, found [${t.shape}] ${t.dtype}`];
  });
  for (const path of state.keys())
    if (!expected.has(path) && !isOfLinear(path)) problems.push(`${path}: not part of a Phi-3 checkpoint`);
  if (problems.length)
    throw new Error(
      `savePhi3: the model must be plain: ${problems.length} ${problems.length === 1 ? 'tensor is' : 'tensors are'} not:\n  ${problems.slice(0, 8).join('\n  ')}\nMerge and remove adapters first (save an adapter alone with its own function); for quantized linears pass quantizationConfig.`,
    );
  return [...state].map(([name, t]) => ({ name, dtype: t.dtype, shape: t.shape, bytes: () => t.bytes() }));
}

const torchNames = { f32: 'float32', f16: 'float16', bf16: 'bfloat16', f64: 'float64' } as Readonly<
  Record<string, string>
>;

/**
 * Writes a model folder that transformers loads: weights (sharded when large), generation_config.json, and config.json last,
 * so that a folder cut short is not a model. The directory is made; it must hold no weights yet. To replace one, write into
 * the draft of writeDirectoryAtomic. With `quantizationConfig` the linears are written as their layers hold them.
 * @returns names of the files written
 * @throws Error when the model holds adapters or other tensors that no Phi-3 checkpoint has; SafetensorsError, FileError
 */
export async function savePhi3(
  files: FileSystem,
  dir: string,
  model: Phi3ForCausalLM,
  options: SavePhi3Options = {},
): Promise<string[]> {
  const { quantizationConfig, ...sharding } = options;
  const entries = entriesOf(model, quantizationConfig !== undefined);
  await files.makeDirectory(dir);
  const written = await writeSharded(files, dir, entries, { ...sharding, metadata: { format: 'pt' } });
  const { config, stopTokenIds } = model;
  const ids = stopTokenIds.length === 1 ? stopTokenIds[0] : [...stopTokenIds];
  const generation = {
    bos_token_id: config.bosTokenId,
    eos_token_id: stopTokenIds.length ? ids : null,
    pad_token_id: config.padTokenId,
  };
  await writeJson(files, joinPath(dir, 'generation_config.json'), { _from_model_config: true, ...generation });
  // What the checkpoint was that the configuration came from says nothing of these weights.
  const { quantization_config: _, ...source } = config.source;
  const stated = {
    ...source,
    torch_dtype: torchNames[model.model.embed_tokens.weight.dtype],
    ...(quantizationConfig ? { quantization_config: quantizationConfig } : {}),
  };
  // transformers refuses a whole number there.
  await writeJson(files, joinPath(dir, 'config.json'), stated, { floatKeys: ['llm_int8_threshold'] });
  return [...written, 'generation_config.json', 'config.json'];
}
