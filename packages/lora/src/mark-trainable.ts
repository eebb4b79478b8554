/** Choosing what is trained and what is saved: loralib's two functions (loralib/utils.py 0.1.2), for both ways of adapting. */
import { type ModuleLike, namedParameters, parametersIn } from '@lorikeet/nn';
import { isFloat, type Tensor } from '@lorikeet/tensor';
import { loraLayers } from './lora-layer.ts';
import { adapterOf } from './peft/adapter-state.ts';
import type { BiasMode } from './peft/lora-config.ts';

function checkBias(op: string, bias: BiasMode): void {
  if (!['none', 'all', 'lora_only'].includes(bias))
    throw new TypeError(`${op}: bias must be 'none', 'all' or 'lora_only': got ${JSON.stringify(bias)}.`);
}

/**
 * Freezes every parameter whose path lacks `lora_` and marks the others trainable. `bias` 'all' also trains every parameter
 * whose path has `bias`, 'lora_only' the biases of adapted layers. Modules named by modulesToSave stay trainable.
 *
 * @param bias @defaultValue the configuration's after applyLora, else 'none'
 * @throws TypeError for another bias mode
 */
export function markOnlyLoraAsTrainable(model: ModuleLike, bias?: BiasMode): void {
  const adapter = adapterOf(model);
  const mode = bias ?? adapter?.config.bias ?? 'none';
  checkBias('markOnlyLoraAsTrainable', mode);
  const ofAdaptedLayers = new Set([...loraLayers(model)].map(([, layer]) => (layer as { bias?: Tensor }).bias));
  for (const { path, tensor, aliases } of namedParameters(model)) {
    const named = (part: string): boolean => [path, ...aliases].some((p) => p.includes(part));
    const wanted =
      named('lora_') ||
      (mode === 'all' && named('bias')) ||
      (mode === 'lora_only' && ofAdaptedLayers.has(tensor)) ||
      (adapter?.saved.some(({ copy }) => copy === tensor) ?? false);
    const trainable = wanted && isFloat(tensor.dtype);
    if (tensor.requiresGrad !== trainable) tensor.requiresGrad = trainable;
  }
}

/**
 * The part of the state that makes the adapter: paths with `lora_`; with 'all' also paths with `bias`; with 'lora_only' the
 * bias that stands beside a `lora_` tensor. Live handles, not copies. Load it after the base, both with `strict: false`.
 */
export function loraStateDict(model: ModuleLike, bias: BiasMode = 'none'): Map<string, Tensor> {
  checkBias('loraStateDict', bias);
  const state = new Map(model.stateEntries());
  const kept = new Map<string, Tensor>();
  for (const [path, tensor] of state) {
    const isLora = path.includes('lora_');
    if (isLora || (bias === 'all' && path.includes('bias'))) kept.set(path, tensor);
    if (!isLora || bias !== 'lora_only') continue;
    const biasPath = `${path.slice(0, path.indexOf('lora_'))}bias`;
    const beside = state.get(biasPath);
    if (beside) kept.set(biasPath, beside);
  }
  return kept;
}

/** Numbers of parameters; a tied tensor counts once. */
export interface TrainableCount {
  readonly trainable: number;
  readonly total: number;
  /** 100 trainable / total. */
  readonly percent: number;
}

/** Counts the parameters that backward reaches, and all; a weight in 4 bits counts as what it was. */
export function countTrainableParameters(model: ModuleLike): TrainableCount {
  let trainable = 0;
  let total = 0;
  for (const { path, tensor } of namedParameters(model)) {
    total += parametersIn(path, tensor);
    if (tensor.requiresGrad) trainable += tensor.size;
  }
  return { trainable, total, percent: total === 0 ? 0 : (100 * trainable) / total };
}

/** Prints PEFT's line (`trainable params: 25,165,824 || all params: ...`) and returns its numbers. */
export function printTrainableParameters(
  model: ModuleLike,
  print: (line: string) => void = console.log,
): TrainableCount {
  const count = countTrainableParameters(model);
  const grouped = (n: number): string => n.toLocaleString('en-US');
  print(
    `trainable params: ${grouped(count.trainable)} || all params: ${grouped(count.total)} || trainable%: ${count.percent.toFixed(4)}`,
  );
  return count;
}
