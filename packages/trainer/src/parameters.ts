import { type FileSystem, joinPath } from '@lorikeet/files';
import { copyInto, type NamedTensor } from '@lorikeet/nn';
import { openSafetensors, writeSafetensors } from '@lorikeet/safetensors';
import type { DType } from '@lorikeet/tensor';

const fileName = 'model.safetensors';

/** Writes parameters by path into a folder: what a checkpoint keeps where no other way was given. */
export async function saveParameters(
  files: FileSystem,
  dir: string,
  parameters: readonly Pick<NamedTensor, 'path' | 'tensor'>[],
): Promise<void> {
  const entries = parameters.map(({ path, tensor: t }) => ({
    name: path,
    dtype: t.dtype,
    shape: t.shape,
    bytes: () => t.bytes(),
  }));
  await writeSafetensors(files, joinPath(dir, fileName), entries, { format: 'pt' });
}

/** Reads them back in place. */
export async function loadParameters(
  files: FileSystem,
  dir: string,
  parameters: readonly Pick<NamedTensor, 'path' | 'tensor'>[],
): Promise<void> {
  const reader = await openSafetensors(files, joinPath(dir, fileName));
  for (const { path, tensor } of parameters) {
    const { dtype, shape } = reader.entry(path);
    if (`${shape}` !== `${tensor.shape}`)
      throw new Error(
        `${joinPath(dir, fileName)}: ${path} must be [${tensor.shape}]: got [${shape}]. It belongs to another model.`,
      );
    copyInto(tensor, { dtype: dtype as DType, shape, bytes: await reader.read(path) });
  }
}
