/** What every adapted layer has in common, however it was made: loralib's classes and the wrapper of applyLora. */
import { type ModuleLike, namedModules } from '@lorikeet/nn';

export interface MergeOptions {
  /** Refuse, before anything is written, a merge that would put NaN or infinity into the weight. @defaultValue true */
  readonly safe?: boolean;
  /** Keep the original bytes in host memory (as many as the weight has), so that unmerge restores them bit for bit. @defaultValue true */
  readonly keepOriginal?: boolean;
}

/** A layer with a low-rank update beside a frozen weight. Told by its form, never by its class. */
export interface LoraLayer extends ModuleLike {
  /** Rank; 0 means a plain layer. */
  readonly r: number;
  /** Factor of the update. */
  readonly scaling: number;
  /** Whether the update stands in the weight. */
  readonly merged: boolean;
  /** Whether forward adds the update; see setAdapterEnabled. */
  enabled: boolean;
  /** Throws what a safe merge would, and changes nothing. */
  checkMerge(): Promise<void>;
  /** W += update, computed in f32 and rounded once to the weight's dtype. Merging twice is an error. */
  merge(options?: MergeOptions): Promise<void>;
  /** Puts the original weight back. */
  unmerge(): void;
}

export function isLoraLayer(module: ModuleLike): module is LoraLayer {
  const m = module as Partial<LoraLayer>;
  return typeof m.merge === 'function' && typeof m.unmerge === 'function' && typeof m.scaling === 'number';
}

/** Every adapted layer of a tree with its path. */
export function* loraLayers(root: ModuleLike): Iterable<readonly [path: string, layer: LoraLayer]> {
  for (const [path, module] of namedModules(root)) if (isLoraLayer(module)) yield [path, module];
}
