/** An adapter folder without a model: which layers it adapts, and their factors. */
import { type FileSystem, FormatError } from '@lorikeet/files';
import type { LinearLike } from '@lorikeet/nn';
import { copyInto } from '@lorikeet/nn';
import type { TensorReader } from '@lorikeet/safetensors';
import { type Backend, fromBytes, randomKey, type Tensor } from '@lorikeet/tensor';
import { loraScaling } from '../low-rank.ts';
import type { InitialPair } from '../peft/adapter-state.ts';
import { type OriginalWeights, restoreLayer } from '../peft/apply-lora-async.ts';
import { type CompleteLoraConfig, completeLoraConfig, isBaseInit } from '../peft/lora-config.ts';
import { LoraLinear } from '../peft/lora-linear.ts';
import { patternValue } from '../peft/target-matching.ts';
import { pathOfKey } from './adapter-tensors.ts';
import { openInitial, openWeights, readConfig, readSource } from './load-adapter.ts';

/** One adapted layer in the files. */
interface LayerEntry {
  readonly r: number;
  readonly loraAlpha: number;
  readonly shape: readonly [outFeatures: number, inFeatures: number];
  /** Keys of lora_A.weight and lora_B.weight. */
  readonly keys: readonly [a: string, b: string];
}

/** What an adapter folder holds, checked by its headers; values are read layer by layer. */
export class AdapterLayers {
  readonly config: CompleteLoraConfig;
  /** Adapted layers by path. */
  readonly layers: ReadonlyMap<string, LayerEntry>;
  /** Whole tensors (modulesToSave, biases): path in the model -> key in the file. */
  readonly whole: ReadonlyMap<string, string>;
  readonly #reader: TensorReader;
  readonly #initial: TensorReader | undefined;

  constructor(config: CompleteLoraConfig, reader: TensorReader, initial: TensorReader | undefined) {
    this.config = config;
    this.#reader = reader;
    this.#initial = initial;
    const keys = new Map([...reader.entries.keys()].map((key) => [pathOfKey(key), key]));
    const layers = new Map<string, LayerEntry>();
    for (const path of [...keys.keys()].filter((name) => name.endsWith('.lora_A.weight'))) {
      const layer = path.slice(0, -'.lora_A.weight'.length);
      layers.set(layer, this.#entry(layer, keys.get(path)!, keys.get(`${layer}.lora_B.weight`)));
    }
    if (layers.size === 0)
      throw new FormatError(reader.path, `${reader.path}: must hold lora_A and lora_B of a layer: it holds none.`);
    this.layers = layers;
    this.whole = new Map([...keys].filter(([path]) => !/\.lora_[AB]\.weight$/.test(path)));
    const [odd] = [...this.whole.keys()].filter((path) => path.includes('lora_'));
    if (odd !== undefined)
      throw new FormatError(reader.path, `${reader.path}: ${odd}: is no tensor of a plain LoRA adapter.`);
  }

  #entry(layer: string, keyA: string, keyB: string | undefined): LayerEntry {
    const { path, entries } = this.#reader;
    const { rankPattern, alphaPattern } = this.config;
    const r = patternValue(rankPattern, layer, this.config.r, 'rankPattern');
    const [a, b] = [entries.get(keyA)!.shape, keyB === undefined ? undefined : entries.get(keyB)!.shape];
    if (a.length !== 2 || b?.length !== 2 || a[0] !== r || b[1] !== r)
      throw new FormatError(
        path,
        `${path}: ${layer} must have lora_A [${r}, in] and lora_B [out, ${r}], as adapter_config.json says: it has [${a}] and ${b ? `[${b}]` : 'none'}.`,
      );
    const loraAlpha = patternValue(alphaPattern, layer, this.config.loraAlpha, 'alphaPattern');
    return { r, loraAlpha, shape: [b[0]!, a[1]!], keys: [keyA, keyB!] };
  }

  /** lora_A, lora_B and the scaling of a layer; the caller frees the tensors. */
  async factors(path: string, backend: Backend): Promise<{ a: Tensor; b: Tensor; scaling: number }> {
    const { r, loraAlpha, keys } = this.layers.get(path)!;
    const read = async (key: string): Promise<Tensor> => {
      const { bytes, dtype, shape } = await readSource(this.#reader, key);
      return fromBytes(bytes, { backend, dtype, shape });
    };
    const scaling = loraScaling(r, loraAlpha, this.config.useRslora);
    return { a: await read(keys[0]), b: await read(keys[1]), scaling };
  }

  /**
   * An adapted layer with its adapter on its base, which has become what it was in training. The caller frees the base and calls
   * disposeAdapter.
   */
  async layer(path: string, base: LinearLike, originalWeights?: OriginalWeights): Promise<LoraLinear> {
    const { r, loraAlpha, keys } = this.layers.get(path)!;
    const { useRslora, initLoraWeights } = this.config;
    const layer = new LoraLinear(base, { r, loraAlpha, useRslora, initLoraWeights: 'zeros', key: randomKey(0) });
    layer.assignPaths(path);
    try {
      for (const [i, tensor] of [layer.lora_A.weight, layer.lora_B.weight].entries())
        copyInto(tensor, await readSource(this.#reader, keys[i]!));
      if (isBaseInit(initLoraWeights))
        await restoreLayer(path, layer, this.config, await this.#initialPair(path), { originalWeights });
      return layer;
    } catch (error) {
      layer.disposeAdapter();
      throw error;
    }
  }

  async #initialPair(path: string): Promise<InitialPair | undefined> {
    if (!this.#initial) return undefined;
    const [a, b] = this.layers.get(path)!.keys;
    const read = async (key: string): Promise<Uint8Array> => (await readSource(this.#initial!, key)).bytes;
    return { a: await read(a), b: await read(b) };
  }

  /** A whole tensor of the adapter in a dtype; the caller frees it. */
  async wholeBytes(path: string, dtype: 'f32' | 'f16' | 'bf16', backend: Backend): Promise<Uint8Array> {
    const source = await readSource(this.#reader, this.whole.get(path)!);
    using stored = fromBytes(source.bytes, { backend, dtype: source.dtype, shape: source.shape });
    using cast = stored.cast(dtype);
    return cast.bytes();
  }

  /** Shape of a whole tensor. */
  shapeOf(path: string): readonly number[] {
    return this.#reader.entries.get(this.whole.get(path)!)!.shape;
  }
}

/** Opens an adapter folder. @throws TypeError for an option we do not have; FileError, SafetensorsError, FormatError */
export async function openAdapterLayers(files: FileSystem, dir: string): Promise<AdapterLayers> {
  const { config } = await readConfig(files, dir);
  const complete = completeLoraConfig(config);
  return new AdapterLayers(complete, await openWeights(files, dir), await openInitial(files, dir));
}
