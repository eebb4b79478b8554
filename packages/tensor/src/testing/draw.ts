import type { Backend } from '../backend.ts';
import { fromBytes } from '../creation.ts';
import { encode, isFloat } from '../dtype.ts';
import type { SampleInput } from '../op.ts';
import { RandomKey } from '../random.ts';
import { sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

/** The numbers of one sample input, drawn from its range by seed; whole numbers for integer dtypes. */
export function drawValues(input: SampleInput, seed: number): Float64Array {
  const { dtype = 'f32', low = -2, high = 2 } = input;
  if (input.values) return Float64Array.from(input.values);
  const key = new RandomKey(seed, 0xd12a);
  return Float64Array.from({ length: sizeOf(input.shape) }, (_, i) => {
    const u = key.uniform(i);
    return isFloat(dtype) ? low + (high - low) * u : Math.floor(low + (high - low) * u);
  });
}

/** The same draw as tensors on a backend. `wide` lifts floats to f64, after rounding to the sample's dtype. */
export function drawTensor(
  input: SampleInput,
  seed: number,
  backend: Backend,
  wide = false,
  requiresGrad = false,
): Tensor {
  const dtype = input.dtype ?? 'f32';
  const values = drawValues(input, seed);
  if (!wide || !isFloat(dtype))
    return fromBytes(encode(values, dtype), { backend, shape: input.shape, dtype, requiresGrad });
  return fromBytes(encode(roundTo(values, dtype), 'f64'), { backend, shape: input.shape, dtype: 'f64', requiresGrad });
}

function roundTo(values: Float64Array, dtype: 'f32' | 'f16' | 'bf16' | string): ArrayLike<number> {
  if (dtype === 'f32') return Float32Array.from(values);
  const bytes = encode(values, dtype as 'bf16');
  const bits = new Uint16Array(bytes.buffer);
  if (dtype === 'f16') return Float32Array.from(new Float16Array(bytes.buffer as ArrayBuffer));
  return Float32Array.from(bits, (b) => new Float32Array(Uint32Array.of(b << 16).buffer)[0]!);
}
