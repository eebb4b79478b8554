/** Tiny models whose weights both sides draw from Threefry, as reference/sft_run.py does: a recording then holds none. */
import { memoryFiles, writeJson } from '@lorikeet/files';
import { copyInto, type NamedParameter } from '@lorikeet/nn';
import { loadPhi3, type Phi3ForCausalLM, parsePhi3Config, phi3Tensors } from '@lorikeet/phi3';
import { writeSafetensors } from '@lorikeet/safetensors';
import { type Backend, type RandomKey, randomKey } from '@lorikeet/tensor';

/** Uniforms in [low, high) in f32: computed in f64 and rounded once, as NumPy does. */
function uniformBytes(size: number, key: RandomKey, low: number, high: number): Uint8Array {
  const values = Float32Array.from({ length: size }, (_, i) => low + (high - low) * key.uniform(i));
  return new Uint8Array(values.buffer);
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);

/** A frozen model of that configuration (keys of config.json): norms around 1, all else of variance 1 / inputs. */
export async function seededPhi3(
  config: Readonly<Record<string, unknown>>,
  seed: number,
  backend: Backend,
): Promise<Phi3ForCausalLM> {
  const files = memoryFiles();
  const json = { architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu', ...config };
  await files.makeDirectory('base');
  await writeJson(files, 'base/config.json', json);
  const entries = [...phi3Tensors(parsePhi3Config(json))].map(([name, shape]) => {
    const width = Math.sqrt(3) / Math.sqrt(shape.at(-1)!);
    const [low, high] = name.includes('norm') ? [0.7, 1.3] : [-width, width];
    const bytes = async (): Promise<Uint8Array> =>
      uniformBytes(sizeOf(shape), randomKey(seed, 'base', name), low!, high!);
    return { name, dtype: 'f32' as const, shape, bytes };
  });
  await writeSafetensors(files, 'base/model.safetensors', entries, { format: 'pt' });
  return loadPhi3(files, 'base', { backend });
}

/** Gives an adapter its first values: lora_A as PEFT spreads it, lora_B within ±startB. Names are those of PEFT's file. */
export function startAdapter(parameters: readonly NamedParameter[], seed: number, startB: number): void {
  for (const { path, tensor } of parameters) {
    const { shape, size } = tensor;
    const width = path.includes('lora_B') ? startB : 1 / Math.sqrt(shape.at(-1)!);
    const bytes = uniformBytes(size, randomKey(seed, 'adapter', path), -width, width);
    copyInto(tensor, { dtype: 'f32', shape, bytes });
  }
}
