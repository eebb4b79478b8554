import type { ModuleLike } from '@lorikeet/nn';
import type { CompleteLoraConfig } from './lora-config.ts';
import type { SavedTensor } from './saved-modules.ts';
import type { LoraTarget } from './target-matching.ts';

/** The f32 bytes of lora_A [r, in] and lora_B [out, r] before training. */
export interface InitialPair {
  readonly a: Uint8Array;
  readonly b: Uint8Array;
}

/** What applyLora did to a model. */
export interface AdapterState {
  readonly config: CompleteLoraConfig;
  /** The adapted layers, in the order of the tree. */
  readonly targets: readonly LoraTarget[];
  /** Entries of targetModules that matched nothing and were passed over. */
  readonly unmatched: readonly string[];
  /** Copies that modulesToSave trains. */
  readonly saved: readonly SavedTensor[];
  /** The first values by layer, where they were taken out of the base (PiSSA, OLoRA) or belong to it (LoftQ). */
  readonly initial?: ReadonlyMap<string, InitialPair> | undefined;
}

// Beside the model and not in it, so that its state and its properties stay those of the base.
const states = new WeakMap<ModuleLike, AdapterState>();

/** The adapter that applyLora or loadAdapter put on this model, or undefined. */
export const adapterOf = (model: ModuleLike): AdapterState | undefined => states.get(model);

/** The adapter of a model that must have one. */
export function requireAdapter(op: string, model: ModuleLike): AdapterState {
  const state = states.get(model);
  if (!state)
    throw new Error(
      `${op}: the model must have an adapter: it has none. Call applyLora or loadAdapter on this same model first.`,
    );
  return state;
}

export function rememberAdapter(model: ModuleLike, state: AdapterState): void {
  states.set(model, state);
}
export function forgetAdapter(model: ModuleLike): void {
  states.delete(model);
}
