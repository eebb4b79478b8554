import { execFileSync } from 'node:child_process';
import { globSync, readFileSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/** A file that is in git, or would be after `git add`. */
export interface WorkspaceFile {
  /** Path from the repository root, with forward slashes. */
  readonly path: string;
  readonly sizeBytes: number;
  /** UTF-8 text; undefined for binary files and for files too large to be source. */
  readonly text: string | undefined;
}

/** What the rules need of a package.json. */
export interface Manifest {
  /** Folder from the repository root; '' for the root itself. */
  readonly folder: string;
  readonly name: string;
  readonly dependencies: ReadonlySet<string>;
  readonly devDependencies: ReadonlySet<string>;
  readonly peerDependencies: ReadonlySet<string>;
}

export interface Workspace {
  readonly files: readonly WorkspaceFile[];
  readonly manifests: readonly Manifest[];
}

/** Larger files are data, not text that a person wrote. */
const maxTextBytes = 4 * 1024 * 1024;
const ignoredFolders = new Set(['node_modules', 'dist', 'runs', 'coverage', '.git']);

/** A workspace from texts by path; the checks' tests give their fixtures this way. */
export function workspaceOf(texts: Readonly<Record<string, string>>): Workspace {
  const files = Object.entries(texts).map(([path, text]) => ({ path, text, sizeBytes: Buffer.byteLength(text) }));
  return { files, manifests: readManifests(files) };
}

/** Reads all files of the checkout at `root`. */
export function readWorkspace(root: string): Workspace {
  const files = listPaths(root).flatMap((path): WorkspaceFile[] => {
    const sizeBytes = statSync(resolve(root, path), { throwIfNoEntry: false })?.size;
    return sizeBytes === undefined ? [] : [{ path, sizeBytes, text: readText(resolve(root, path), sizeBytes) }];
  });
  return { files, manifests: readManifests(files) };
}

/** The manifest of the innermost workspace folder that holds `path`. */
export function manifestOf(workspace: Workspace, path: string): Manifest | undefined {
  return workspace.manifests
    .filter(({ folder }) => folder === '' || path.startsWith(`${folder}/`))
    .toSorted((a, b) => b.folder.length - a.folder.length)[0];
}

/** TypeScript files, declarations excepted. */
export function sourceFiles(workspace: Workspace): { path: string; text: string }[] {
  return workspace.files.flatMap(({ path, text }) =>
    text !== undefined && path.endsWith('.ts') ? [{ path, text }] : [],
  );
}

/** Tests and benches: they may use development dependencies and do not count as source. */
export function isTest(path: string): boolean {
  return /\.(test|bench)\.ts$/.test(path);
}

/** What git holds or would add; without git (an unpacked archive) everything outside ignored folders. */
function listPaths(root: string): string[] {
  try {
    const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return [...new Set(listed.split('\0').filter((path) => path !== ''))].sort();
  } catch {
    return globSync('**', { cwd: root, exclude: (name) => ignoredFolders.has(name.split(/[\\/]/).at(-1)!) })
      .map((path) => path.replaceAll('\\', '/'))
      .filter((path) => statSync(resolve(root, path)).isFile())
      .sort();
  }
}

function readText(path: string, sizeBytes: number): string | undefined {
  if (sizeBytes > maxTextBytes) return undefined;
  const bytes = readFileSync(path);
  return bytes.includes(0) ? undefined : bytes.toString('utf8');
}

/** The folders of pnpm-workspace.yaml; benchmarks/peers is a workspace of its own. */
const workspacePackage = /^(?:(?:packages\/)?[^/]+\/)?package\.json$/;

function readManifests(files: readonly WorkspaceFile[]): Manifest[] {
  return files
    .filter(({ path }) => workspacePackage.test(path))
    .map(({ path, text }) => {
      const manifest = JSON.parse(text ?? '{}');
      const names = (key: string) => new Set(Object.keys(manifest[key] ?? {}));
      return {
        folder: path === 'package.json' ? '' : dirname(path),
        name: manifest.name ?? '',
        dependencies: names('dependencies'),
        devDependencies: names('devDependencies'),
        peerDependencies: names('peerDependencies'),
      };
    });
}
