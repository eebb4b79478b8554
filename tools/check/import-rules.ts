import { builtinModules } from 'node:module';
import { posix } from 'node:path';
import type { Outcome, Problem } from './report.ts';
import { type SourceImport, sourceImports } from './source-imports.ts';
import { isTest, type Manifest, manifestOf, sourceFiles, type Workspace } from './workspace.ts';

/** Which packages a package may import, and how it may reach Node's own modules. */
interface Layer {
  readonly imports: readonly string[];
  /** Packages of which only types may be imported. */
  readonly types?: readonly string[];
  /** `never`: runs in a browser unchanged; `getBuiltinModule`: may ask at run time; `free`: Node only. */
  readonly node: 'never' | 'getBuiltinModule' | 'free';
}

/** The arrows of ARCHITECTURE.md: the one table that says who may import whom. */
export const layers: Readonly<Record<string, Layer>> = {
  '@lorikeet/tensor': { imports: [], node: 'never' },
  '@lorikeet/cpu': { imports: ['@lorikeet/tensor'], node: 'getBuiltinModule' },
  '@lorikeet/webgpu': { imports: ['@lorikeet/tensor'], node: 'getBuiltinModule' },
  '@lorikeet/gpujs': { imports: ['@lorikeet/tensor'], node: 'never' },
  '@lorikeet/files': { imports: [], node: 'getBuiltinModule' },
  '@lorikeet/safetensors': { imports: ['@lorikeet/files'], node: 'never' },
  '@lorikeet/tokenizer': { imports: [], node: 'never' },
  '@lorikeet/nn': { imports: ['@lorikeet/tensor'], node: 'never' },
  '@lorikeet/phi3': {
    imports: ['@lorikeet/nn', '@lorikeet/tensor', '@lorikeet/safetensors', '@lorikeet/files'],
    node: 'never',
  },
  '@lorikeet/lora': {
    imports: ['@lorikeet/nn', '@lorikeet/tensor', '@lorikeet/safetensors', '@lorikeet/files'],
    node: 'never',
  },
  '@lorikeet/trainer': {
    imports: ['@lorikeet/nn', '@lorikeet/tensor', '@lorikeet/safetensors', '@lorikeet/files'],
    types: ['@lorikeet/tokenizer'],
    node: 'never',
  },
};

/** These never import each other, not even in tests: LoRA finds linears by contract, the trainer takes a Module. */
const strangers = ['@lorikeet/phi3', '@lorikeet/lora', '@lorikeet/trainer'];
const cli = 'lorikeet';
const builtins = new Set(builtinModules);

/** Checks every import of every TypeScript file in a workspace folder against {@link layers} and its package.json. */
export function checkImportRules(workspace: Workspace): Outcome {
  const root = workspace.manifests.find(({ folder }) => folder === '');
  const files = sourceFiles(workspace);
  const problems = files.flatMap(({ path, text }) => {
    const manifest = manifestOf(workspace, path);
    if (manifest === undefined || manifest.folder === '') return [];
    return sourceImports(text).flatMap((found): Problem[] => {
      const message = whyForbidden(found, path, manifest, root);
      return message === undefined ? [] : [{ path, line: found.line, message }];
    });
  });
  return { problems, detail: `${files.length} files` };
}

function whyForbidden(found: SourceImport, path: string, owner: Manifest, root?: Manifest): string | undefined {
  const { specifier } = found;
  if (specifier.startsWith('.')) return whyRelativeForbidden(specifier, path, owner);
  if (specifier.startsWith('node:') || builtins.has(specifier)) return whyNodeForbidden(found, path, owner);
  const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
  if (name === owner.name) return `${owner.name} imports itself by name: write the relative path`;
  return whyLayerForbidden(found, name, path, owner) ?? whyUndeclared(found, name, path, owner, root);
}

function whyRelativeForbidden(specifier: string, path: string, owner: Manifest): string | undefined {
  const target = posix.join(posix.dirname(path), specifier);
  if (target.startsWith(`${owner.folder}/`)) return undefined;
  return `'${specifier}' leaves ${owner.folder}: import the package by its name, or move what is shared`;
}

function whyNodeForbidden(
  { specifier, via, typeOnly }: SourceImport,
  path: string,
  owner: Manifest,
): string | undefined {
  const access = isTest(path) ? 'free' : (layers[owner.name]?.node ?? 'free');
  if (access === 'free' || (access === 'getBuiltinModule' && (via === 'getBuiltinModule' || typeOnly)))
    return undefined;
  if (access === 'getBuiltinModule') {
    return `${owner.name} runs in browsers too: reach '${specifier}' through process.getBuiltinModule`;
  }
  return `${owner.name} runs in browsers and may not use '${specifier}': take a FileSystem or a backend from the caller`;
}

function whyLayerForbidden(found: SourceImport, name: string, path: string, owner: Manifest): string | undefined {
  const isPackage = owner.folder.startsWith('packages/');
  if (isPackage && name === cli) return 'nobody imports the command line: move what is shared into a package';
  if (strangers.includes(owner.name) && strangers.includes(name)) {
    return `${owner.name} and ${name} never import each other: only the command line and examples know both`;
  }
  const layer = layers[owner.name];
  if (layer === undefined || !name.startsWith('@lorikeet/') || isTest(path) || layer.imports.includes(name)) {
    return undefined;
  }
  if (layer.types?.includes(name)) {
    return found.typeOnly ? undefined : `${owner.name} may import only types from ${name}: write \`import type\``;
  }
  const allowed = layer.imports.length === 0 ? 'no package of this workspace' : layer.imports.join(', ');
  return `${owner.name} may not import ${name}: it may import ${allowed}`;
}

/** Source needs a dependency; tests, and types that are erased, may also stand on development dependencies. */
function whyUndeclared(found: SourceImport, name: string, path: string, owner: Manifest, root?: Manifest) {
  if (owner.dependencies.has(name) || owner.peerDependencies.has(name)) return undefined;
  const development = isTest(path) || found.typeOnly || !owner.folder.startsWith('packages/');
  if (development && (owner.devDependencies.has(name) || root?.devDependencies.has(name))) return undefined;
  return `'${name}' is not declared in ${owner.folder}/package.json: add it to its dependencies`;
}
