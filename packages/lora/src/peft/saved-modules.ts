/** PEFT's modules_to_save: whole modules trained as copies, the originals kept for when the adapter is off. */
import { type ModuleLike, namedModules, namedParameters } from '@lorikeet/nn';
import { isFloat, noGrad, scope, type Tensor } from '@lorikeet/tensor';
import { matchesName } from './target-matching.ts';

/** A tensor of a module to save: the place in the model that holds `copy` while the adapter is on and `original` while it is off. */
export interface SavedTensor {
  readonly path: string;
  readonly holder: Record<string, unknown>;
  readonly key: string;
  readonly original: Tensor;
  /** Trainable, f32 whatever the original is stored in. */
  readonly copy: Tensor;
}

type Place = Omit<SavedTensor, 'copy'>;

/** The plain property that holds a tensor of a module. */
function placeOf(module: ModuleLike, modulePath: string, relative: string, original: Tensor): Place {
  const path = `${modulePath}.${relative}`;
  const segments = relative.split('.');
  const key = segments.pop()!;
  let holder: unknown = module;
  for (const segment of segments)
    holder = typeof holder === 'object' && holder !== null ? (holder as Record<string, unknown>)[segment] : undefined;
  if (typeof holder !== 'object' || holder === null || (holder as Record<string, unknown>)[key] !== original)
    throw new TypeError(
      `applyLora: modulesToSave must name modules of plain properties: ${path} is not one. Name another module.`,
    );
  return { path, holder: holder as Record<string, unknown>, key, original };
}

function placesOf(model: ModuleLike, names: readonly string[]): Place[] {
  const places = new Map<string, Place>();
  for (const name of names) {
    const modules = [...namedModules(model)].filter(([path]) => path !== '' && matchesName(name, path));
    if (modules.length === 0)
      throw new Error(
        `applyLora: every entry of modulesToSave must match a module: ${JSON.stringify(name)} matches none. A tied output embedding is no module of its own.`,
      );
    for (const [modulePath, module] of modules)
      for (const [relative, tensor] of module.stateEntries())
        if (isFloat(tensor.dtype)) {
          const place = placeOf(module, modulePath, relative, tensor);
          places.set(place.path, place);
        }
  }
  return [...places.values()];
}

/** Puts a trainable copy in the place of every float tensor of the named modules. */
export function copySavedModules(model: ModuleLike, names: readonly string[]): SavedTensor[] {
  const places = placesOf(model, names);
  return places.map((place) => {
    // Multiplying by 1 is a copy: a cast to the same dtype would share the storage.
    const copy = scope(() => noGrad(() => place.original.cast('f32').mul(1)));
    copy.requiresGrad = true;
    place.holder[place.key] = copy;
    return { ...place, copy };
  });
}

/** Puts the copies (or the originals) in their places. */
export function enableSaved(saved: readonly SavedTensor[], enabled: boolean): void {
  for (const { holder, key, original, copy } of saved) holder[key] = enabled ? copy : original;
}

/** Leaves the originals in their places and frees the copies. */
export function dropSaved(saved: readonly SavedTensor[]): void {
  enableSaved(saved, false);
  for (const { copy } of saved) copy.dispose();
}

/** Leaves the copies, rounded to the originals' dtypes, and frees the originals that nothing else in the model holds. */
export function keepSaved(model: ModuleLike, saved: readonly SavedTensor[]): void {
  for (const { holder, key, original, copy } of saved) {
    const kept = noGrad(() => copy.cast(original.dtype));
    kept.requiresGrad = false;
    holder[key] = kept;
    copy.dispose();
  }
  const held = new Set(namedParameters(model).map(({ tensor }) => tensor));
  for (const { original } of saved) if (!held.has(original)) original.dispose();
}
