import { type FileSystem, hashFile, joinPath, walkDirectory } from '@lorikeet/files';

/** SHA-256 in hex by path. */
export type Hashes = Readonly<Record<string, string>>;

export const hashesName = 'HASHES.json';

export const hashNote =
  'SHA-256 of every file here, which `node tools/demo/rebuild.ts --check` makes again from nothing. ' +
  'base/model.safetensors has the same bits for any number of threads and on every run, but only on one kind of ' +
  'CPU (trainedOn) and with one version of the engine: another order of a sum, or fused multiply and add elsewhere, ' +
  'changes last bits. ' +
  'All other files are the same on every machine.';

/** Hashes of all files below `dir` but HASHES.json. */
export async function hashFolder(files: FileSystem, dir: string): Promise<Hashes> {
  const out: Record<string, string> = {};
  for (const path of (await walkDirectory(files, dir)).files)
    if (path !== hashesName) out[path] = await hashFile(files, joinPath(dir, path));
  return out;
}

/** One line for each file that differs, is missing or is too many. */
export function compareHashes(expected: Hashes, found: Hashes): string[] {
  const names = [...new Set([...Object.keys(expected), ...Object.keys(found)])].sort();
  return names
    .filter((name) => expected[name] !== found[name])
    .map((name) => `${name}: expected ${expected[name] ?? 'no such file'}, got ${found[name] ?? 'no such file'}`);
}
