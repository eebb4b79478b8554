/** Command lines that a person can paste. */
import { isAbsolute, relative } from 'node:path';
import { entryPath } from '../entry.ts';

/** A word of a command line as a POSIX shell takes it back. */
export const quoteWord = (word: string): string =>
  /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** A path as it is shortest from where the user stands: relative when it lies below. */
export function shortPath(path: string): string {
  const way = relative(process.cwd(), path);
  return way !== '' && !way.startsWith('..') && !isAbsolute(way) ? way : path;
}

/** How this program was started, so that what it prints can be started the same way. */
function programWords(): string[] {
  const { npm_lifecycle_event: script, npm_config_user_agent: agent = '' } = process.env;
  const pnpm = /^pnpm\/(\S+)/.exec(agent)?.[1];
  if (script !== undefined && pnpm !== undefined) return ['npx', '-y', `pnpm@${pnpm}`, 'lorikeet'];
  // The published package is bundled; only in the workspace do sources run.
  return entryPath.endsWith('.ts') ? ['node', shortPath(entryPath)] : ['lorikeet'];
}

/** A command line of this program. */
export const commandLine = (words: readonly string[]): string => [...programWords(), ...words].map(quoteWord).join(' ');
