import { type FileSystem, joinPath, writeAtomic } from '@lorikeet/files';
import { indexName, singleName } from './checkpoint.ts';
import { SafetensorsError } from './errors.ts';
import { type Metadata, planTensors, type WriteEntry, writeSafetensors } from './write-safetensors.ts';

/** Options of `writeSharded`. */
export interface WriteShardedOptions {
  /** Most tensor bytes in a file; a larger tensor gets a file of its own. @defaultValue 5e9, transformers' "5GB" */
  maxShardBytes?: number;
  /** `__metadata__` of each file. */
  metadata?: Metadata;
}

interface Sized {
  entry: WriteEntry;
  byteLength: number;
}

/** Greedy in the given order, as `huggingface_hub.split_state_dict_into_shards_factory` does. */
function intoShards(tensors: readonly Sized[], maxShardBytes: number): WriteEntry[][] {
  const shards: WriteEntry[][] = [];
  let current: WriteEntry[] = [];
  let currentBytes = 0;
  for (const { entry, byteLength } of tensors) {
    if (byteLength > maxShardBytes) {
      shards.push([entry]);
      continue;
    }
    if (current.length > 0 && currentBytes + byteLength > maxShardBytes) {
      shards.push(current);
      current = [];
      currentBytes = 0;
    }
    current.push(entry);
    currentBytes += byteLength;
  }
  if (current.length > 0) shards.push(current);
  return shards;
}

const byCodePoint = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/**
 * Writes a model folder in Hugging Face's form: `model.safetensors` when everything fits into one file, else
 * `model-00001-of-00003.safetensors`, ... and, last, `model.safetensors.index.json`. The directory must exist and hold no model:
 * to replace one, write into the draft of `writeDirectoryAtomic`.
 *
 * @returns the names of the files written
 * @throws SafetensorsError, FileError
 */
export async function writeSharded(
  files: FileSystem,
  dir: string,
  entries: Iterable<WriteEntry>,
  { maxShardBytes = 5e9, metadata }: WriteShardedOptions = {},
): Promise<string[]> {
  if (!(maxShardBytes > 0)) throw new RangeError(`writeSharded: maxShardBytes must be positive: ${maxShardBytes}.`);
  for (const name of [singleName, indexName]) {
    if (await files.exists(joinPath(dir, name))) {
      throw new SafetensorsError(
        dir,
        `${dir}: must hold no model yet: ${name} is there. Choose another directory or remove it.`,
      );
    }
  }
  const given = [...entries];
  const sizes = new Map(planTensors(dir, given).map(({ name, byteLength }) => [name, byteLength]));
  const shards = intoShards(
    given.map((entry) => ({ entry, byteLength: sizes.get(entry.name)! })),
    maxShardBytes,
  );
  if (shards.length <= 1) {
    await writeSafetensors(files, joinPath(dir, singleName), given, metadata);
    return [singleName];
  }
  const weightMap: [string, string][] = [];
  const written: string[] = [];
  for (const [i, shard] of shards.entries()) {
    const name = `model-${String(i + 1).padStart(5, '0')}-of-${String(shards.length).padStart(5, '0')}.safetensors`;
    await writeSafetensors(files, joinPath(dir, name), shard, metadata);
    for (const entry of shard) weightMap.push([entry.name, name]);
    written.push(name);
  }
  const totalBytes = [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
  weightMap.sort(([a], [b]) => byCodePoint(a, b));
  // Object.fromEntries defines own properties, so a tensor named __proto__ stays a key.
  const index = { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(weightMap) };
  await writeAtomic(files, joinPath(dir, indexName), `${JSON.stringify(index, undefined, 2)}\n`);
  return [...written, indexName];
}
