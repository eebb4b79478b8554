import { FileError } from './errors.ts';

/** Joins parts with `/`, without doubling it; empty parts are dropped. Does not resolve `..`. */
export function joinPath(...parts: string[]): string {
  const kept = parts.filter((part) => part !== '');
  return kept
    .map((part, i) => (i === 0 ? part : part.replace(/^\/+/, '')))
    .map((part, i) => (i === kept.length - 1 ? part : part.replace(/\/+$/, '')))
    .join('/');
}

const trimEnd = (path: string): string => (path.length > 1 ? path.replace(/\/+$/, '') || '/' : path);

/** The directory a path lies in: `a/b` -> `a`, `a` -> `.`, `/a` -> `/`. */
export function parentPath(path: string): string {
  const trimmed = trimEnd(path);
  const slash = trimmed.lastIndexOf('/');
  if (slash < 0) return '.';
  return slash === 0 ? '/' : trimEnd(trimmed.slice(0, slash));
}

/** The last name of a path: `a/b/` -> `b`. */
export function baseName(path: string): string {
  const trimmed = trimEnd(path);
  return trimmed.slice(trimmed.lastIndexOf('/') + 1);
}

/** The names of a path from the root, `.` and `..` resolved; `..` does not leave the root. */
export function pathSegments(path: string): string[] {
  const out: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') out.pop();
    else if (part !== '' && part !== '.') out.push(part);
  }
  return out;
}

// Windows resolves these in every directory, with any extension (Microsoft, "Naming Files, Paths, and Namespaces").
const reserved = /^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$/i;
const encoder = new TextEncoder();
const maxDecodings = 5;

function percentDecoded(name: string): string[] {
  const forms = [name];
  for (let i = 0; i < maxDecodings && name.includes('%'); i++) {
    // Only ASCII escapes matter here: every character the rules refuse is ASCII.
    const decoded = name.replace(/%([0-7][0-9a-f])/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    if (decoded === name) break;
    forms.push((name = decoded));
  }
  return forms;
}

function segmentProblem(segment: string): string | undefined {
  if (segment === '') return 'it has an empty part';
  if (segment === '.' || segment === '..') return `it has a part "${segment}"`;
  if (encoder.encode(segment).length > 255) return 'a part is longer than 255 bytes';
  if (reserved.test(segment)) return `"${segment}" is a reserved name on Windows`;
  if (/[. ]$/.test(segment)) return 'a part ends with a dot or a space';
  return undefined;
}

function pathProblem(name: string): string | undefined {
  if (name === '') return 'it is empty';
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(name)) return 'it has a control character';
  if (name.includes('\\')) return 'it has a backslash';
  if (name.includes(':')) return 'it has a colon (a drive or a URL scheme)';
  if (name.startsWith('/')) return 'it is absolute';
  if (!name.isWellFormed()) return 'it is not well-formed Unicode';
  for (const segment of name.split('/')) {
    const problem = segmentProblem(segment);
    if (problem) return problem;
  }
  return undefined;
}

/**
 * Checks a path that came from outside (an index file, a hub listing, a manifest) and returns it unchanged.
 * Refused, also when percent-encoded up to five times: absolute paths, drives and schemes, `..`, backslashes, control
 * characters, empty parts, reserved Windows names, parts over 255 bytes. Everything accepted stays below the directory it is joined to.
 *
 * @throws FileError EINVAL that shows the name and says which rule it breaks
 */
export function safeRelativePath(name: string): string {
  for (const form of percentDecoded(name)) {
    const problem = pathProblem(form);
    if (problem) {
      const shown = JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name);
      throw new FileError('EINVAL', name, `path from a file: must be a plain relative path: ${shown}: ${problem}.`);
    }
  }
  return name;
}
