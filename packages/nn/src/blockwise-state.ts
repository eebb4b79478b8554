import {
  type Backend,
  createDynamicMap,
  dequantizeBlockwise,
  type Moment8bit,
  quantizeBlockwise,
  type Spec,
  stateBlocksize,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import type { NamedParameter } from './clip-grad-norm.ts';
import { copyInto } from './load-state-dict.ts';
import { unscoped } from './optimizer.ts';

/** Which parameters have 8-bit state. */
export interface BlockwiseOptions {
  /** Tensors of fewer elements keep f32 state. Default 4096. */
  readonly min8bitSize?: number;
  /** Paths that keep f32 state whatever their size: bitsandbytes' override of `optim_bits`, which transformers sets for embeddings. */
  readonly keep32bit?: ReadonlySet<string>;
}

/** Moments in 8 bits: dynamic maps, blocks of 256, as bitsandbytes' 8-bit optimizers keep them. */
export class BlockwiseState {
  readonly #minSize: number;
  readonly #keep32bit: ReadonlySet<string>;
  readonly #maps = new Map<Backend, Record<'signed' | 'unsigned', Tensor>>();

  constructor({ min8bitSize = 4096, keep32bit = new Set() }: BlockwiseOptions) {
    if (!(min8bitSize >= 0)) throw new RangeError(`8-bit state: min8bitSize must be at least 0: got ${min8bitSize}.`);
    this.#minSize = min8bitSize;
    this.#keep32bit = keep32bit;
  }

  isFor({ path, tensor }: NamedParameter): boolean {
    return tensor.size >= this.#minSize && tensor.size > 0 && !this.#keep32bit.has(path);
  }

  /** `state1`, `absmax1`, ...: u8 of the parameter's shape, f32 [blocks]. */
  specs({ tensor }: NamedParameter, count: 1 | 2): Record<string, Spec> {
    const blocks = Math.ceil(tensor.size / stateBlocksize);
    return Object.fromEntries(
      Array.from({ length: count }, (_, i): [string, Spec][] => [
        [`state${i + 1}`, { shape: tensor.shape, dtype: 'u8' }],
        [`absmax${i + 1}`, { shape: [blocks], dtype: 'f32' }],
      ]).flat(),
    );
  }

  /** The first `count` moments of a parameter's buffers: a signed one, then an unsigned one. */
  moments(buffers: Readonly<Record<string, Tensor>>, count: 1 | 2): Moment8bit[] {
    const maps = this.#mapsOn(buffers.state1!.backend);
    return [maps.signed, maps.unsigned]
      .slice(0, count)
      .map((map, i) => ({ map, state: buffers[`state${i + 1}`]!, absmax: buffers[`absmax${i + 1}`]! }));
  }

  /** Runs `update` on moments widened to f32 and puts back what it made of them: for backends without a kernel of the step. */
  widened(moments: readonly Moment8bit[], update: (widened: readonly Tensor[]) => void): void {
    const settings = { blocksize: stateBlocksize };
    const wide = moments.map(({ state, absmax, map }) => dequantizeBlockwise(state, absmax, map, settings));
    update(wide);
    for (const [i, { state, absmax, map }] of moments.entries()) {
      const made = quantizeBlockwise(wide[i]!, map, settings);
      copyInto(state, made.quantized);
      copyInto(absmax, made.absmax);
    }
  }

  #mapsOn(backend: Backend): Record<'signed' | 'unsigned', Tensor> {
    let maps = this.#maps.get(backend);
    if (!maps) {
      const make = (signed: boolean): Tensor => unscoped(() => tensor([...createDynamicMap(signed)], { backend }));
      maps = { signed: make(true), unsigned: make(false) };
      this.#maps.set(backend, maps);
    }
    return maps;
  }

  dispose(): void {
    for (const maps of this.#maps.values()) for (const t of Object.values(maps)) t.dispose();
    this.#maps.clear();
  }
}
