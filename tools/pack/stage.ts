/**
 * Packages as they are published: plain JavaScript, declarations, a manifest without workspace ranges. Sources are what
 * runs in the workspace; Node refuses TypeScript below node_modules, so a package that leaves it has to be compiled.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { build } from 'esbuild';

type Entry = Readonly<Record<'types' | 'default', string>>;

/** The part of a package.json that packing reads or changes. */
interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly exports: Readonly<Record<string, string>>;
  readonly bin?: Readonly<Record<string, string>>;
  readonly publishConfig: {
    readonly exports: Readonly<Record<string, Entry>>;
    readonly bin?: Readonly<Record<string, string>>;
  };
  readonly files: readonly string[];
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

const readManifest = (dir: string): Manifest => JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8'));

/** Folders of the packages of a workspace, from its root. */
export const packageFolders = (root: string): string[] =>
  globSync('packages/*/package.json', { cwd: root }).map(dirname).toSorted();

/**
 * Writes folders that `npm pack` and `npm publish` take as they are, each below `out` under its package's folder name.
 * What stood there is replaced.
 *
 * @param folders of the packages, from the root
 * @returns the folders written
 */
export async function stagePackages(root: string, folders: readonly string[], out: string): Promise<string[]> {
  const work = mkdtempSync(join(tmpdir(), 'lorikeet-declarations-'));
  try {
    declare(root, folders, work);
    for (const folder of folders)
      await stage(root, folder, join(work, 'out', folder, 'src'), join(out, basename(folder)));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return folders.map((folder) => join(out, basename(folder)));
}

async function stage(root: string, folder: string, declarations: string, to: string): Promise<void> {
  const dir = join(root, folder);
  const manifest = readManifest(dir);
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to, { recursive: true });
  await compile(dir, manifest, to);
  for (const path of globSync('**/*.d.ts', { cwd: declarations })) {
    mkdirSync(dirname(join(to, 'dist', path)), { recursive: true });
    writeFileSync(join(to, 'dist', path), asPublished(readFileSync(join(declarations, path), 'utf8')));
  }
  const besides = globSync([...manifest.files.filter((name) => name !== 'dist'), 'README.md'], { cwd: dir });
  for (const name of besides) cpSync(join(dir, name), join(to, name), { recursive: true });
  cpSync(join(root, 'LICENSE'), join(to, 'LICENSE'));
  writeFileSync(join(to, 'package.json'), `${JSON.stringify(publishedManifest(root, manifest), null, 2)}\n`);
}

/** One file for each entry, shared code in chunks: a class must be the same one through every entry. */
async function compile(dir: string, { name, exports, bin = {}, publishConfig }: Manifest, out: string): Promise<void> {
  const entries = [
    ...Object.entries(exports).map(([key, from]) => [publishConfig.exports[key]?.default, from] as const),
    ...Object.entries(bin).map(([key, from]) => [publishConfig.bin?.[key], from] as const),
  ];
  const entryPoints = entries.map(([to, from]) => {
    if (to === undefined) throw new Error(`pack: ${name}: publishConfig must name what ${from} becomes: it does not.`);
    return { in: join(dir, from), out: to.replace(/\.js$/, '') };
  });
  await build({
    entryPoints,
    outdir: out,
    bundle: true,
    splitting: true,
    packages: 'external',
    format: 'esm',
    platform: 'neutral',
    target: 'esnext',
    chunkNames: 'dist/chunk-[hash]',
    logLevel: 'warning',
    absWorkingDir: dir,
  });
}

/**
 * Every source of a package, by name. The compiler leaves out the declarations of a file that it happens to meet first
 * through a neighbour's node_modules, and it reads in parallel: only what is named is sure to come out.
 */
function sourcesOf(root: string, folder: string): string[] {
  const entries = Object.values(readManifest(join(root, folder)).exports);
  const hasTesting = entries.some((path) => path.includes('/testing/'));
  return globSync('src/**/*.ts', { cwd: join(root, folder) })
    .filter((path) => !/\.(test|bench)\.ts$/.test(path) && (hasTesting || !path.includes('/testing/')))
    .map((path) => join(root, folder, path));
}

/** Declarations of the packages' sources, into `work`/out. One compilation: each is a source of the others. */
function declare(root: string, folders: readonly string[], work: string): void {
  const config = {
    extends: join(root, 'tsconfig.json'),
    compilerOptions: {
      noEmit: false,
      declaration: true,
      emitDeclarationOnly: true,
      outDir: join(work, 'out'),
      rootDir: root,
      typeRoots: [join(root, 'node_modules/@types'), join(root, 'node_modules')],
    },
    files: folders.flatMap((folder) => sourcesOf(root, folder)),
    include: [],
  };
  writeFileSync(join(work, 'tsconfig.json'), JSON.stringify(config));
  runCompiler(['-p', join(work, 'tsconfig.json')]);
}

/** Neighbours as they are called once published: './tensor.ts' is './tensor.js' there. */
const asPublished = (text: string): string => text.replace(/(['"]\.\.?\/[^'"\n]*)\.ts(['"])/g, '$1.js$2');

function runCompiler(args: readonly string[]): void {
  const manifest = createRequire(import.meta.url).resolve('typescript/package.json');
  const { bin } = JSON.parse(readFileSync(manifest, 'utf8')) as { bin: { tsc: string } };
  const { status, stdout } = spawnSync(process.execPath, [resolve(dirname(manifest), bin.tsc), ...args], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`pack: the sources must compile: they do not. Run tsc -p .\n${stdout}`);
}

/** What `pnpm publish` makes of a manifest: publishConfig over the rest, versions for `workspace:` ranges. */
/**
 * What published packages ask for. Not in the workspace's manifests: there pnpm would warn on Node 20, although it runs
 * every script on the Node 24 it installs.
 */
const engines = { node: '>=24' };

function publishedManifest(root: string, manifest: Manifest): object {
  const { publishConfig, devDependencies: _, dependencies = {}, ...rest } = manifest;
  const versions = new Map(
    packageFolders(root)
      .map((folder) => readManifest(join(root, folder)))
      .map((m) => [m.name, m.version]),
  );
  const published = Object.entries(dependencies).map(([name, range]) => {
    if (!range.startsWith('workspace:')) return [name, range];
    const version = versions.get(name);
    if (version === undefined) throw new Error(`pack: ${manifest.name}: ${name} must be in the workspace: it is not.`);
    return [name, range.slice('workspace:'.length) + version];
  });
  return { ...rest, ...publishConfig, engines, dependencies: Object.fromEntries(published) };
}
