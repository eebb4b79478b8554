/**
 * An adapter that took its first values out of the base, as plain LoRA for the original base: W - s B0 A0 + s B A is W plus the update
 * of A' = [A; A0], B' = [B, -B0] (PEFT's save_pretrained with path_initial_model_for_weight_conversion).
 */
import { decode, encode } from '@lorikeet/tensor';
import type { InitialPair } from '../peft/adapter-state.ts';
import type { CompleteLoraConfig } from '../peft/lora-config.ts';

const doubled = (pattern: Readonly<Record<string, number>>, factor: number): Record<string, number> =>
  Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, value * factor]));

/** The configuration of the plain adapter: twice the rank, the same scaling. */
export function plainConfig(config: CompleteLoraConfig): CompleteLoraConfig {
  const factor = config.useRslora ? Math.SQRT2 : 2;
  return {
    ...config,
    r: 2 * config.r,
    loraAlpha: factor * config.loraAlpha,
    rankPattern: doubled(config.rankPattern, 2),
    alphaPattern: doubled(config.alphaPattern, factor),
    initLoraWeights: true,
  };
}

/** A' [2r, in]: f32 bytes of A over those of A0. */
export function plainA(a: Uint8Array, initial: InitialPair): Uint8Array {
  const joined = new Uint8Array(a.length + initial.a.length);
  joined.set(a);
  joined.set(initial.a, a.length);
  return joined;
}

/** B' [out, 2r]: each row of B with the row of -B0 behind it. */
export function plainB(b: Uint8Array, initial: InitialPair, r: number): Uint8Array {
  const [trained, first] = [decode(b, 'f32'), decode(initial.b, 'f32')];
  const joined = new Float32Array(2 * trained.length);
  for (let at = 0, row = 0; at < trained.length; at += r, row += 2 * r)
    for (let i = 0; i < r; i++) {
      joined[row + i] = trained[at + i]!;
      joined[row + r + i] = -first[at + i]!;
    }
  return encode(joined, 'f32');
}
