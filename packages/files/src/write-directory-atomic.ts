import { FileError, FormatError, fileError } from './errors.ts';
import type { FileSystem } from './file-system.ts';
import { buildManifest, manifestName, verifyManifest, walkDirectory } from './manifest.ts';
import { baseName, joinPath, parentPath } from './paths.ts';
import { releaseTemporary, temporarySibling, temporaryState } from './temporary.ts';
import { writeSynced } from './write-atomic.ts';

/** Syncs everything in the draft and marks it complete: MANIFEST.json comes after all else is on the disk. */
async function seal(files: FileSystem, temporary: string, directory: string): Promise<void> {
  const written = await walkDirectory(files, temporary);
  if (written.files.includes(manifestName)) {
    throw new FileError(
      'EINVAL',
      temporary,
      `writeDirectoryAtomic: must not be given a ${manifestName}: it is made last.`,
    );
  }
  for (const name of written.files) await files.syncFile(joinPath(temporary, name));
  for (const dir of written.directories) await files.syncDirectory(dir);
  const manifest = await buildManifest(files, temporary, directory);
  await writeSynced(files, joinPath(temporary, manifestName), `${JSON.stringify(manifest, undefined, 2)}\n`);
  await files.syncDirectory(temporary);
}

/** Undoes a half-done exchange. When this fails too, the sealed draft stays, and `cleanStale` finishes the exchange. */
async function rollBack(files: FileSystem, dir: string, trash: string, temporary: string): Promise<void> {
  try {
    if (!files.renamesDirectories) await files.remove(dir);
    await files.rename(trash, dir);
    await files.remove(temporary);
  } catch {
    // Nothing may be removed now: one of the two complete directories is all the user has.
  }
}

/** Puts the sealed draft in place of what stands at `dir`. */
async function exchange(files: FileSystem, dir: string, temporary: string): Promise<void> {
  const parent = parentPath(dir);
  const trash = temporarySibling(dir, 'trash');
  try {
    await files.rename(dir, trash);
    try {
      await files.syncDirectory(parent);
      await files.rename(temporary, dir);
    } catch (error) {
      await rollBack(files, dir, trash, temporary);
      throw error;
    }
    await files.syncDirectory(parent);
    await files.remove(trash).catch(() => undefined); // the new directory stands: what is left is cleaned at the next start
  } finally {
    releaseTemporary(trash);
  }
}

/**
 * Makes or replaces a directory so that at any instant it is complete or invisible (reliability section 8):
 * `write` fills a sibling `.tmp-<pid>-<random>`; every file is synced and hashed into MANIFEST.json, written last; then the draft
 * is renamed to `dir` and the parent synced. What stood at `dir` goes through `.trash-<pid>-<random>`. Where a crash falls between
 * the two renames, `cleanStale` on the parent completes the exchange, so call it (under the lock) before looking for directories.
 *
 * @param write gets the path of the draft; its files need not be synced
 * @throws whatever failed; `dir` then is as before (or complete and new, if only the last sync failed)
 */
export async function writeDirectoryAtomic(
  files: FileSystem,
  dir: string,
  write: (temporary: string) => Promise<void>,
): Promise<void> {
  const parent = parentPath(dir);
  const temporary = temporarySibling(dir, 'tmp');
  let exchanging = false;
  try {
    await files.makeDirectory(parent);
    if ((await files.kind(dir)) === 'file') throw fileError('ENOTDIR', 'replace', dir);
    await files.makeDirectory(temporary);
    await write(temporary);
    await seal(files, temporary, baseName(dir));
    if (await files.exists(dir)) {
      exchanging = true;
      await exchange(files, dir, temporary);
    } else {
      await files.rename(temporary, dir);
      await files.syncDirectory(parent);
    }
  } catch (error) {
    // When neither exchange nor roll-back went through, the sealed draft is the one `cleanStale` will put in place.
    const needed = exchanging && !(await files.exists(dir).catch(() => false));
    if (!needed) await files.remove(temporary).catch(() => undefined);
    throw error;
  } finally {
    releaseTemporary(temporary);
  }
}

/** Removes a directory so that no half of it is ever seen under its name: renamed to `.trash-`, then removed. */
export async function discardDirectory(files: FileSystem, dir: string): Promise<void> {
  const trash = temporarySibling(dir, 'trash');
  try {
    await files.rename(dir, trash);
    await files.remove(trash);
  } finally {
    releaseTemporary(trash);
  }
}

async function completeName(files: FileSystem, dir: string): Promise<string | undefined> {
  if ((await files.kind(dir)) !== 'directory') return undefined;
  try {
    const { directory } = await verifyManifest(files, dir);
    return baseName(directory) === directory && directory !== '..' && directory !== '.' && directory !== ''
      ? directory
      : undefined;
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error; // a failing disk is no reason to remove anything
  }
}

/** Moves a complete leftover to its name if nothing complete stands there. Returns the path it got. */
async function recover(files: FileSystem, parent: string, leftover: string): Promise<string | undefined> {
  const directory = await completeName(files, leftover);
  if (directory === undefined) return undefined;
  const target = joinPath(parent, directory);
  if (await files.exists(target)) {
    // Only where renaming is copying can the name hold half a directory that is ours.
    if (files.renamesDirectories || (await completeName(files, target)) !== undefined) return undefined;
    await files.remove(target);
  }
  await files.rename(leftover, target);
  await files.syncDirectory(parent);
  return target;
}

/** What `cleanStale` did, as paths. */
export interface Cleaned {
  recovered: string[];
  removed: string[];
}

/**
 * Clears what dead processes left in a directory: `.tmp-*` and `.trash-*`. One that is complete and whose name is free is put back
 * (new drafts before old trash), so an exchange cut in the middle ends with a complete directory. Entries of living processes stay.
 */
export async function cleanStale(files: FileSystem, parent: string): Promise<Cleaned> {
  const cleaned: Cleaned = { recovered: [], removed: [] };
  if ((await files.kind(parent)) !== 'directory') return cleaned;
  const names = await files.list(parent);
  for (const kind of ['tmp', 'trash'] as const) {
    for (const name of names) {
      const state = temporaryState(name);
      if (state?.kind !== kind || !state.stale) continue;
      const path = joinPath(parent, name);
      const target = await recover(files, parent, path);
      if (target === undefined) {
        await files.remove(path);
        cleaned.removed.push(path);
      } else {
        cleaned.recovered.push(target);
      }
    }
  }
  return cleaned;
}
