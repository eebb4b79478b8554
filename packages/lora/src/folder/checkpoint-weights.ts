import type { FileSystem } from '@lorikeet/files';
import { convertElements, openCheckpoint } from '@lorikeet/safetensors';
import { type Backend, type DType, fromBytes, isFloat } from '@lorikeet/tensor';
import type { OriginalWeights } from '../peft/apply-lora-async.ts';

/**
 * The weights of the layers in a model folder, read one by one when they are asked for: what LoftQ compares a quantized base with.
 * @throws SafetensorsError, FileError; TypeError for a layer that is quantized there too
 */
export async function checkpointWeights(files: FileSystem, dir: string, backend: Backend): Promise<OriginalWeights> {
  const reader = await openCheckpoint(files, dir);
  return async (path) => {
    const name = `${path}.weight`;
    const entry = reader.entry(name);
    const { dtype, bytes } = convertElements(entry, await reader.read(name));
    if (!isFloat(dtype as DType))
      throw new TypeError(
        `checkpointWeights: ${name} in ${dir} must be floats: it is ${dtype}. Give the folder from before quantization.`,
      );
    return fromBytes(bytes, { backend, dtype: dtype as DType, shape: entry.shape });
  };
}
