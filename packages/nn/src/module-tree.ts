/** Walking a tree of modules by its plain properties: no registration, the property path is the checkpoint key. */
import { Tensor } from '@lorikeet/tensor';

/** A tensor of a module and its path below that module. */
export type StateEntry = readonly [path: string, tensor: Tensor];

/**
 * What the tree needs of a module. `Module` is one; so is anything else with `stateEntries` (never tested by instanceof).
 * A module that hides another (an adapter over its base) leaves it out of `childModules` and passes its state on.
 */
export interface ModuleLike {
  /** Tensors under this module, its children's included; paths relative to it. */
  stateEntries(): Iterable<StateEntry>;
  /** Modules directly below, with their path from here. Absent: none. */
  childModules?(): Iterable<readonly [path: string, module: ModuleLike]>;
  /** Where the module stands in its tree; set by assignPaths, used for dropout keys and messages. */
  path?: string;
  /** Whether dropout is active; set by setTraining. */
  training?: boolean;
  /**
   * Whether forward, as the module stands, draws random numbers for each row of its input (dropout in training): equal rows
   * then give different results, and none may stand for another.
   */
  readonly drawsPerRow?: boolean;
  /** Frees every tensor below it. */
  dispose?(): void;
}

/** A parameter or buffer as namedParameters reports it: one tensor, its first path, and the other paths it stands under. */
export interface NamedTensor {
  readonly path: string;
  readonly tensor: Tensor;
  readonly aliases: readonly string[];
}

/** Whether a value is a module, by its form. */
export const isModuleLike = (value: unknown): value is ModuleLike =>
  typeof value === 'object' && value !== null && typeof (value as Partial<ModuleLike>).stateEntries === 'function';

const isContainer = (value: unknown): value is object =>
  Array.isArray(value) ||
  (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype);

/** Tensors in an object's own enumerable properties: its own, those of modules, and of arrays and records of either. */
export function* stateOfProperties(holder: object, prefix = ''): Iterable<StateEntry> {
  for (const [key, value] of Object.entries(holder)) {
    const path = `${prefix}${key}`;
    if (value instanceof Tensor) yield [path, value];
    else if (isModuleLike(value)) for (const [inner, t] of value.stateEntries()) yield [`${path}.${inner}`, t];
    else if (isContainer(value)) yield* stateOfProperties(value, `${path}.`);
  }
}

/** Modules in an object's own enumerable properties, arrays and records searched. */
export function* modulesOfProperties(holder: object, prefix = ''): Iterable<readonly [string, ModuleLike]> {
  for (const [key, value] of Object.entries(holder)) {
    const path = `${prefix}${key}`;
    if (isModuleLike(value)) yield [path, value];
    else if (isContainer(value) && !(value instanceof Tensor)) yield* modulesOfProperties(value, `${path}.`);
  }
}

const join = (prefix: string, path: string): string => (prefix && path ? `${prefix}.${path}` : prefix || path);

/** Every module of a tree with its path, parents first, the root under `prefix`; a shared module once. */
export function* namedModules(root: ModuleLike, prefix = ''): Iterable<readonly [string, ModuleLike]> {
  const seen = new Set<ModuleLike>();
  function* visit(module: ModuleLike, path: string): Iterable<readonly [string, ModuleLike]> {
    if (seen.has(module)) return;
    seen.add(module);
    yield [path, module];
    for (const [name, child] of module.childModules?.() ?? []) yield* visit(child, join(path, name));
  }
  yield* visit(root, prefix);
}

/** Every tensor of a tree, tied ones once under their first path with the other paths as aliases. */
export function namedParameters(root: ModuleLike): NamedTensor[] {
  const found = new Map<Tensor, { path: string; tensor: Tensor; aliases: string[] }>();
  for (const [path, tensor] of root.stateEntries()) {
    const known = found.get(tensor);
    if (known) known.aliases.push(path);
    else found.set(tensor, { path, tensor, aliases: [] });
  }
  return [...found.values()];
}

/** The tensors that backward reaches: those with requiresGrad. */
export const trainableParameters = (root: ModuleLike): NamedTensor[] =>
  namedParameters(root).filter(({ tensor }) => tensor.requiresGrad);

/** Writes each module's path into it. Call it again after changing the tree by hand; replaceModule does so by itself. */
export function assignPaths(root: ModuleLike, prefix = ''): void {
  for (const [path, module] of namedModules(root, prefix)) module.path = path;
}

/** Sets the training flag of every module. */
export function setTraining(root: ModuleLike, training: boolean): void {
  for (const [, module] of namedModules(root)) if (module.training !== undefined) module.training = training;
}

const step = (holder: object, key: string): unknown =>
  Object.hasOwn(holder, key) ? (holder as Record<string, unknown>)[key] : undefined;

/** The module at a path, '' being the root. @throws Error that lists what stands where the path ends */
export function findModule(root: ModuleLike, path: string): ModuleLike {
  if (path === '') return root;
  for (const [name, module] of namedModules(root)) if (name === path) return module;
  const names = [...namedModules(root)].map(([name]) => name).filter(Boolean);
  const cut = path.lastIndexOf('.');
  const siblings = names.filter((name) => name.lastIndexOf('.') === cut && name.startsWith(path.slice(0, cut + 1)));
  throw new Error(
    `findModule: path must name a module: ${path} does not. ${siblings.length ? `Beside it: ${siblings.slice(0, 12).join(', ')}.` : `The tree begins: ${names.slice(0, 8).join(', ')}.`}`,
  );
}

/**
 * Puts make(old) in the place of the module at `path` and returns it; the new module gets the old one's path and training
 * flag. The old module is not disposed: an adapter usually keeps it.
 *
 * @throws Error when the path names no module or does not lead through plain properties; nothing is changed then
 */
export function replaceModule<M extends ModuleLike>(root: ModuleLike, path: string, make: (old: ModuleLike) => M): M {
  const old = findModule(root, path);
  const segments = path.split('.');
  const last = segments.pop()!;
  let holder: unknown = root;
  for (const segment of segments) holder = typeof holder === 'object' && holder ? step(holder, segment) : undefined;
  if (path === '' || typeof holder !== 'object' || holder === null || step(holder, last) !== old)
    throw new Error(
      `replaceModule: path must lead through plain properties below the root: ${JSON.stringify(path)} does not.`,
    );
  const made = make(old);
  (holder as Record<string, unknown>)[last] = made;
  assignPaths(made, join(root.path ?? '', path));
  if (old.training !== undefined) setTraining(made, old.training);
  return made;
}
