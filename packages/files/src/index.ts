export * from './bytes.ts';
export * from './errors.ts';
export type { EntryKind, FileSystem, FileWriter } from './file-system.ts';
export { baseName, joinPath, parentPath, safeRelativePath } from './paths.ts';
export { hashFile, portableSha256, type Sha256, sha256, sha256Hex } from './sha256.ts';
