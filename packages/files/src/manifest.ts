import { FileError, FormatError, ManifestError } from './errors.ts';
import type { FileSystem } from './file-system.ts';
import { joinPath, safeRelativePath } from './paths.ts';
import { hashFile } from './sha256.ts';
import { readJson } from './text.ts';

/** The file whose presence, written last, says that a directory is complete. */
export const manifestName = 'MANIFEST.json';
const manifestVersion = 1;
const maxFiles = 100_000;

/** One file of a directory. */
export interface ManifestFile {
  /** Path relative to the directory, with `/`. */
  name: string;
  /** Bytes. */
  size: number;
  /** 64 lower-case hex digits. */
  sha256: string;
}

/** Content of MANIFEST.json. */
export interface Manifest {
  /** Of this layout; a higher one was written by a newer version and is refused. */
  version: number;
  /** Name under which the directory was written; only recovery uses it, a directory may be renamed. */
  directory: string;
  /** Sorted by name; MANIFEST.json itself is not among them. */
  files: ManifestFile[];
}

/** All files below a directory, as sorted relative paths, and all directories, deepest first, the root last. */
export async function walkDirectory(
  files: FileSystem,
  dir: string,
): Promise<{ files: string[]; directories: string[] }> {
  const found: { files: string[]; directories: string[] } = { files: [], directories: [] };
  const visit = async (relative: string): Promise<void> => {
    for (const name of await files.list(joinPath(dir, relative))) {
      const path = relative === '' ? name : `${relative}/${name}`;
      if ((await files.kind(joinPath(dir, path))) === 'directory') await visit(path);
      else found.files.push(path);
    }
    found.directories.push(joinPath(dir, relative));
  };
  await visit('');
  found.files.sort();
  return found;
}

/** Describes what lies in `dir` now, hashing every file. */
export async function buildManifest(files: FileSystem, dir: string, directory: string): Promise<Manifest> {
  const entries: ManifestFile[] = [];
  for (const name of (await walkDirectory(files, dir)).files) {
    if (name === manifestName) continue;
    const path = joinPath(dir, name);
    entries.push({ name, size: await files.size(path), sha256: await hashFile(files, path) });
  }
  return { version: manifestVersion, directory, files: entries };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function checkedFile(path: string, value: unknown, seen: Set<string>): ManifestFile {
  const { name, size, sha256 } = isRecord(value) ? value : {};
  if (typeof name !== 'string' || !Number.isSafeInteger(size) || (size as number) < 0) {
    throw new ManifestError(
      path,
      `${path}: each file must have a name and a size: ${JSON.stringify(value)?.slice(0, 200)}.`,
    );
  }
  if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256)) {
    throw new ManifestError(path, `${path}: sha256 of ${JSON.stringify(name)} must be 64 hex digits.`);
  }
  try {
    safeRelativePath(name);
  } catch (cause) {
    throw new ManifestError(path, `${path}: ${(cause as Error).message}`);
  }
  if (seen.has(name)) throw new ManifestError(path, `${path}: ${JSON.stringify(name)} is listed twice.`);
  seen.add(name);
  return { name, size: size as number, sha256 };
}

function checkedManifest(path: string, value: unknown): Manifest {
  const { version, directory, files } = isRecord(value) ? value : {};
  if (typeof version === 'number' && version > manifestVersion) {
    throw new ManifestError(
      path,
      `${path}: was written by a newer version (manifest ${version}, this program knows ${manifestVersion}). Update lorikeet.`,
    );
  }
  if (
    version !== manifestVersion ||
    typeof directory !== 'string' ||
    !Array.isArray(files) ||
    files.length > maxFiles
  ) {
    throw new ManifestError(path, `${path}: must hold version 1, directory and files. The directory is not usable.`);
  }
  const seen = new Set<string>();
  return { version, directory, files: files.map((file) => checkedFile(path, file, seen)) };
}

/** Reads MANIFEST.json of a directory without looking at the files. @throws ManifestError, FileError other than ENOENT */
export async function readManifest(files: FileSystem, dir: string): Promise<Manifest> {
  const path = joinPath(dir, manifestName);
  try {
    return checkedManifest(path, await readJson(files, path));
  } catch (error) {
    if (error instanceof FileError && error.code === 'ENOENT') {
      throw new ManifestError(path, `${dir}: is not complete: it has no ${manifestName}. Use an older directory.`);
    }
    if (error instanceof FormatError && !(error instanceof ManifestError))
      throw new ManifestError(path, error.message, error);
    throw error;
  }
}

async function checkSize(files: FileSystem, dir: string, { name, size }: ManifestFile): Promise<void> {
  const path = joinPath(dir, name);
  if ((await files.kind(path)) !== 'file') {
    throw new ManifestError(path, `${path}: is missing, though ${manifestName} lists it. Use an older directory.`);
  }
  const found = await files.size(path);
  if (found !== size)
    throw new ManifestError(path, `${path}: must have ${size} bytes: it has ${found}. Use an older directory.`);
}

/**
 * Checks a directory against its MANIFEST.json: all sizes first, then all hashes. Files that are not listed are ignored.
 *
 * @returns the manifest
 * @throws ManifestError that names the first file that differs; FileError when the disk fails
 */
export async function verifyManifest(files: FileSystem, dir: string): Promise<Manifest> {
  const manifest = await readManifest(files, dir);
  for (const file of manifest.files) await checkSize(files, dir, file);
  for (const { name, sha256 } of manifest.files) {
    const path = joinPath(dir, name);
    const found = await hashFile(files, path);
    if (found !== sha256)
      throw new ManifestError(
        path,
        `${path}: must have sha256 ${sha256}: it has ${found}. The file was changed or damaged.`,
      );
  }
  return manifest;
}
