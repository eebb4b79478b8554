import {
  type FileSystem,
  invalidUtf8Offset,
  JsonProblem,
  JsonScanner,
  joinPath,
  locationOf,
  safeRelativePath,
} from '@lorikeet/files';
import { SafetensorsError, shown } from './errors.ts';
import { maxHeaderBytes, maxTensors, type TensorEntry } from './header.ts';
import { openSafetensors, type TensorReader, tensorReader } from './tensor-reader.ts';

/** The weights of a model in one file, as transformers names it. */
export const singleName = 'model.safetensors';
/** Lists the shards of a model that one file does not hold. */
export const indexName = 'model.safetensors.index.json';

/**
 * Reads the `weight_map` of an index: tensor name -> shard file name, both checked.
 * @throws SafetensorsError on bad JSON, a tensor that stands twice, or a shard name that is not a plain relative path
 */
export function parseShardIndex(bytes: Uint8Array, path: string): Map<string, string> {
  const refuse = (offset: number, problem: string): never => {
    const at = locationOf(bytes, offset);
    throw new SafetensorsError(path, `${path}:${at.line}:${at.column}: ${problem}.`, at);
  };
  const invalid = invalidUtf8Offset(bytes);
  if (invalid !== undefined) refuse(invalid, 'index must be UTF-8');
  const shards = new Map<string, string>();
  const scanner = new JsonScanner(bytes);
  const tensorShard = (tensor: string): void => {
    scanner.skipSpace();
    const at = scanner.at;
    const shard = scanner.string('a shard file name', 4096);
    if (shards.size >= maxTensors) scanner.fail(`an index must have at most ${maxTensors} tensors`, at);
    shards.set(tensor, checkedShard(path, tensor, shard));
  };
  let found = false;
  try {
    scanner.object((key) => {
      if (key !== 'weight_map') return scanner.skipValue(8);
      found = true;
      scanner.object(tensorShard, 'a tensor name', 6 * 1024);
    });
    scanner.finish();
  } catch (error) {
    if (!(error instanceof JsonProblem)) throw error;
    refuse(error.offset, `index must be JSON with a weight_map: ${error.message}`);
  }
  if (!found || shards.size === 0) refuse(bytes.length, 'index must have a weight_map with tensors: it has none');
  return shards;
}

function checkedShard(path: string, tensor: string, shard: string): string {
  try {
    safeRelativePath(shard);
  } catch (cause) {
    throw new SafetensorsError(path, `${path}: shard of tensor ${shown(tensor)}: ${(cause as Error).message}`, {
      tensor,
    });
  }
  if (!shard.endsWith('.safetensors')) {
    throw new SafetensorsError(
      path,
      `${path}: shard of tensor ${shown(tensor)} must be a .safetensors file: ${shown(shard)}.`,
      { tensor },
    );
  }
  return shard;
}

/** Takes the tensors of one shard; the index and the headers must say the same. */
function addShard(
  entries: Map<string, TensorEntry>,
  { path, shard, reader, index }: { path: string; shard: string; reader: TensorReader; index: Map<string, string> },
): void {
  for (const [name, entry] of reader.entries) {
    const other = index.get(name);
    if (other !== shard) {
      const where = other === undefined ? 'the index does not list it' : `the index says ${shown(other)}`;
      throw new SafetensorsError(
        path,
        `${path}: tensor ${shown(name)} must be in exactly one shard: it is in ${shown(shard)}, ${where}.`,
        { tensor: name },
      );
    }
    entries.set(name, entry);
  }
}

async function openSharded(files: FileSystem, dir: string): Promise<TensorReader> {
  const path = joinPath(dir, indexName);
  const size = await files.size(path);
  if (size > maxHeaderBytes)
    throw new SafetensorsError(path, `${path}: index must have at most ${maxHeaderBytes} bytes: it has ${size}.`);
  const index = parseShardIndex(await files.read(path), path);
  const entries = new Map<string, TensorEntry>();
  let metadata: ReadonlyMap<string, string> | undefined;
  for (const shard of new Set(index.values())) {
    const shardPath = joinPath(dir, shard);
    if ((await files.kind(shardPath)) !== 'file') {
      throw new SafetensorsError(path, `${path}: shard must exist: ${shown(shard)} is missing. Download it again.`);
    }
    const reader = await openSafetensors(files, shardPath);
    metadata ??= reader.metadata;
    addShard(entries, { path, shard, reader, index });
  }
  for (const [tensor, shard] of index) {
    if (!entries.has(tensor)) {
      throw new SafetensorsError(
        path,
        `${path}: tensor ${shown(tensor)} must be in ${shown(shard)}: that shard does not hold it.`,
        { tensor },
      );
    }
  }
  return tensorReader(files, dir, entries, metadata ?? new Map());
}

async function explainMissing(files: FileSystem, dir: string): Promise<never> {
  if ((await files.kind(dir)) !== 'directory') {
    throw new SafetensorsError(dir, `${dir}: model folder must exist: there is none. Check the path.`);
  }
  const names = await files.list(dir);
  const pickle = names.find((name) => /\.(bin|pt|pth|ckpt)$/.test(name));
  const hint = pickle
    ? `${pickle} is pickle, which can run code and is never read. Save the model with safe_serialization=True.`
    : `found: ${names.slice(0, 10).join(', ') || 'nothing'}.`;
  throw new SafetensorsError(dir, `${dir}: must hold ${singleName} or ${indexName}: ${hint}`);
}

/**
 * Opens the weights of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
 * Every header is checked, every listed tensor is in exactly the shard the index says, and nothing else is in a shard.
 *
 * @throws SafetensorsError, FileError
 */
export async function openCheckpoint(files: FileSystem, dir: string): Promise<TensorReader> {
  const single = joinPath(dir, singleName);
  if ((await files.kind(single)) === 'file') return openSafetensors(files, single);
  if ((await files.kind(joinPath(dir, indexName))) === 'file') return openSharded(files, dir);
  return explainMissing(files, dir);
}
