export * from './bytes.ts';
export * from './errors.ts';
export { CrashError, type Fault, type FaultPlan, type FaultyFiles, faultyFiles } from './faulty-files.ts';
export type { EntryKind, FileSystem, FileWriter } from './file-system.ts';
export { type JsonKind, JsonProblem, JsonScanner } from './json-scanner.ts';
export { acquireLock, type Lock, lockName } from './lock.ts';
export {
  type Manifest,
  type ManifestFile,
  manifestName,
  readManifest,
  verifyManifest,
  walkDirectory,
} from './manifest.ts';
export { type MemoryFiles, type MemoryFilesOptions, memoryFiles } from './memory-files.ts';
export { nodeFiles } from './node-files.ts';
export { opfsFiles } from './opfs-files.ts';
export { baseName, joinPath, parentPath, safeRelativePath } from './paths.ts';
export { hashFile, portableSha256, type Sha256, sha256, sha256Hex } from './sha256.ts';
export { decodeText, invalidUtf8Offset, locationOf, parseJson, readJson, readText } from './text.ts';
export { type FileContent, type WriteJsonOptions, writeAtomic, writeJson } from './write-atomic.ts';
export { type Cleaned, cleanStale, discardDirectory, writeDirectoryAtomic } from './write-directory-atomic.ts';
