/** Which tensors make an adapter and what PEFT calls them in adapter_model.safetensors. */
import type { ModuleLike } from '@lorikeet/nn';
import { isFloat, type Tensor } from '@lorikeet/tensor';
import type { AdapterState } from '../peft/adapter-state.ts';

/** PEFT wraps the model twice, and its keys say so. */
export const keyPrefix = 'base_model.model.';

/** A tensor of an adapter: its path in our model and its key in PEFT's file. */
export interface AdapterTensor {
  readonly path: string;
  readonly key: string;
  readonly tensor: Tensor;
}

/** PEFT's key of a path: the prefix, and `base_layer` before the bias of an adapted layer. */
export function keyOfPath(path: string, targets: ReadonlySet<string>): string {
  const owner = path.slice(0, path.lastIndexOf('.'));
  return keyPrefix + (targets.has(owner) && path.endsWith('.bias') ? `${owner}.base_layer.bias` : path);
}

/** The path of a key as PEFT, older PEFT or a merge tool writes it: the prefix, an adapter name and `base_layer` are taken out. */
export const pathOfKey = (key: string): string =>
  (key.startsWith(keyPrefix) ? key.slice(keyPrefix.length) : key)
    .replace(/\.(lora_[AB])\.(?!weight$)[^.]+\.weight$/, '.$1.weight')
    .replace(/\.base_layer\.bias$/, '.bias');

/** What PEFT saves: lora_A and lora_B of every target, biases as `bias` says, and the modules to save whole. */
export function adapterTensors(model: ModuleLike, { config, targets, saved }: AdapterState): AdapterTensor[] {
  const paths = new Set(targets.map(({ path }) => path));
  const savedPaths = new Set(saved.map(({ path }) => path));
  const isWanted = (path: string): boolean => {
    const owner = path.slice(0, path.lastIndexOf('.'));
    if (path.includes('lora_') || savedPaths.has(path)) return true;
    if (!path.includes('bias') || config.bias === 'none') return false;
    return config.bias === 'all' || (paths.has(owner) && path.endsWith('.bias'));
  };
  return [...model.stateEntries()]
    .filter(([path, tensor]) => isWanted(path) && isFloat(tensor.dtype))
    .map(([path, tensor]) => ({ path, key: keyOfPath(path, paths), tensor }));
}
