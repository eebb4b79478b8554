/** Requests for the linears of a checkpoint, as a model's loader makes them. */
import { joinPath, type MemoryFiles, memoryFiles } from '@lorikeet/files';
import type { LinearLike, LinearRequest, TensorSource } from '@lorikeet/nn';
import { openCheckpoint, type TensorReader, type WriteEntry, writeSafetensors } from '@lorikeet/safetensors';
import type { Backend, DType } from '@lorikeet/tensor';

const sourceOf = (reader: TensorReader, path: string): TensorSource => {
  const { dtype, shape, path: file } = reader.entry(path);
  return {
    ...{ path, file, shape, dtype: dtype as DType },
    read: () => reader.read(path),
    readRows: (start, end) => reader.readRows(path, start, end),
  };
};

/** One request a path, of a model folder in memory. */
export async function storedLinears(
  files: MemoryFiles,
  dir: string,
  shapes: Readonly<Record<string, readonly [outFeatures: number, inFeatures: number]>>,
  backend: Backend,
): Promise<LinearRequest[]> {
  const reader = await openCheckpoint(files, dir);
  return Object.entries(shapes).map(([path, [outFeatures, inFeatures]]) => {
    const names = [...reader.entries.keys()].filter((n) => n.startsWith(`${path}.`) && n !== `${path}.weight`);
    const companions = new Map(names.map((name) => [name.slice(path.length + 1), sourceOf(reader, name)]));
    return {
      path,
      inFeatures,
      outFeatures,
      bias: null,
      weight: sourceOf(reader, `${path}.weight`),
      companions,
      backend,
    };
  });
}

/** The tensors of layers as a checkpoint holds them, by name. */
export async function entriesOfLinears(layers: Readonly<Record<string, LinearLike>>): Promise<Map<string, WriteEntry>> {
  const entries = new Map<string, WriteEntry>();
  for (const [path, layer] of Object.entries(layers))
    for (const [name, { dtype, shape, bytes }] of [...layer.stateEntries()].map(
      ([n, t]) => [n, { dtype: t.dtype, shape: t.shape, bytes: () => t.bytes() }] as const,
    ))
      entries.set(`${path}.${name}`, { name: `${path}.${name}`, dtype, shape, bytes: await bytes() });
  return entries;
}

/** A folder that holds these tensors. */
export async function folderOf(dir: string, entries: Iterable<WriteEntry>): Promise<MemoryFiles> {
  const files = memoryFiles();
  await files.makeDirectory(dir);
  await writeSafetensors(files, joinPath(dir, 'model.safetensors'), entries, { format: 'pt' });
  return files;
}
