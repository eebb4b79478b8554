import { scope, type Tensor } from '@lorikeet/tensor';
import { type LoadResult, loadStateDict, type StateSource } from './load-state-dict.ts';
import {
  assignPaths,
  findModule,
  type ModuleLike,
  modulesOfProperties,
  type NamedTensor,
  namedModules,
  namedParameters,
  replaceModule,
  type StateEntry,
  setTraining,
  stateOfProperties,
} from './module-tree.ts';

/**
 * Base of layers and models. State is what stands in plain properties: tensors, modules, and arrays or records of either;
 * the property path is the key in checkpoints. Private (#) fields are not state.
 */
export abstract class Module implements ModuleLike {
  /** Whether dropout is active. */
  training = true;
  /** Place in the tree; see assignPaths. */
  path = '';

  /** Tensors in plain properties, its children's included, in the order of the properties. */
  stateEntries(): Iterable<StateEntry> {
    return stateOfProperties(this);
  }
  /** Modules in plain properties, arrays and records searched. */
  childModules(): Iterable<readonly [string, ModuleLike]> {
    return modulesOfProperties(this);
  }
  /** This module (path '') and all below it, parents first. */
  namedModules(): Iterable<readonly [string, ModuleLike]> {
    return namedModules(this);
  }
  /** Tensors below this module; a tied tensor once, with its other paths as aliases. */
  namedParameters(): NamedTensor[] {
    return namedParameters(this);
  }
  /** The module at a path. @throws Error that lists what stands beside it */
  findModule(path: string): ModuleLike {
    return findModule(this, path);
  }
  /** See the function replaceModule. */
  replaceModule<M extends ModuleLike>(path: string, make: (old: ModuleLike) => M): M {
    return replaceModule(this, path, make);
  }
  /** Writes paths into this module and all below it. */
  assignPaths(prefix = ''): this {
    assignPaths(this, prefix);
    return this;
  }
  /** Turns dropout on below this module. Touches no requiresGrad. */
  train(mode = true): this {
    setTraining(this, mode);
    return this;
  }
  /** Turns dropout off. Merges nothing (as loralib does) and stops no gradient: use noGrad for that. */
  eval(): this {
    return this.train(false);
  }
  /** Handles of the live tensors by path (not copies); a tied tensor under its first path. */
  stateDict(): Map<string, Tensor> {
    return new Map(this.namedParameters().map(({ path, tensor }) => [path, tensor]));
  }
  /** Writes values into this module's tensors in place; see the function loadStateDict. */
  loadStateDict(state: ReadonlyMap<string, StateSource>, options: { readonly strict?: boolean } = {}): LoadResult {
    return scope(() => loadStateDict(this, state, options));
  }
  /** Frees every tensor below this module. */
  dispose(): void {
    for (const { tensor } of this.namedParameters()) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
