import type { FileSystem } from './file-system.ts';
import { parentPath } from './paths.ts';
import { releaseTemporary, temporarySibling } from './temporary.ts';

/** What a file can be written from. A string is stored as UTF-8. */
export type FileContent = Uint8Array | string | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

function chunksOf(content: FileContent): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
  if (typeof content === 'string') return [new TextEncoder().encode(content)];
  return content instanceof Uint8Array ? [content] : content;
}

/** Writes and syncs a new file; on failure nothing is left of it. */
export async function writeSynced(files: FileSystem, path: string, content: FileContent): Promise<void> {
  const writer = await files.openWrite(path);
  try {
    for await (const chunk of chunksOf(content)) await writer.write(chunk);
    await writer.sync();
    await writer.close();
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

/**
 * Replaces or makes a file so that at any instant, power cuts included, `path` holds all of the old content or all of the new:
 * a sibling `.tmp-<pid>-<random>` is written and synced, renamed over `path`, and the directory synced (reliability: "no torn file").
 * The directory must exist. When this throws before the rename, nothing has changed.
 */
export async function writeAtomic(files: FileSystem, path: string, content: FileContent): Promise<void> {
  const temporary = temporarySibling(path, 'tmp');
  try {
    await writeSynced(files, temporary, content);
    await files.rename(temporary, path);
    await files.syncDirectory(parentPath(path));
  } catch (error) {
    await files.remove(temporary).catch(() => undefined);
    throw error;
  } finally {
    releaseTemporary(temporary);
  }
}

/** How JSON is written. */
export interface WriteJsonOptions {
  /** Keys whose whole numbers are written as `6.0`: Python reads `6` as an int, and some of its programs refuse that. */
  readonly floatKeys?: readonly string[];
}

/** Writes a value as indented JSON with a final newline, atomically. */
export async function writeJson(
  files: FileSystem,
  path: string,
  value: unknown,
  { floatKeys = [] }: WriteJsonOptions = {},
): Promise<void> {
  const names = floatKeys.map((key) => JSON.stringify(key).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|');
  // A line of indented JSON begins with its key, so a text that looks like one is not taken for it.
  const wholeNumber = new RegExp(`^( *(?:${names}): -?\\d+)(?=,?$)`, 'gm');
  const text = JSON.stringify(value, undefined, 2);
  await writeAtomic(files, path, `${names ? text.replace(wholeNumber, '$1.0') : text}\n`);
}
