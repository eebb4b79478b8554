import type { Backend, DType, RandomKey } from '@lorikeet/tensor';

/** What the layers' constructors take after their sizes: loralib's options in camelCase, and where the tensors live. */
export interface LoraLayerOptions {
  /** Rank of the update; 0 gives a plain layer. @defaultValue 0 */
  readonly r?: number;
  /** The update is scaled by loraAlpha / r. @defaultValue 1 */
  readonly loraAlpha?: number;
  readonly backend: Backend;
  /** Source of the initial values; give each layer its own (`key.fold('fc1')`). */
  readonly key: RandomKey;
  /** Of the base weight and bias; the adapter is f32. @defaultValue 'f32' */
  readonly dtype?: DType;
}
