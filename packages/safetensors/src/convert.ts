import { dataView } from '@lorikeet/files';
import { SafetensorsError, shown } from './errors.ts';
import type { TensorEntry } from './header.ts';

type Narrow = 'i32' | 'u8' | 'f32';

interface Reading {
  to: Narrow;
  elementBytes: number;
  get: (view: DataView, at: number) => number | bigint;
}

// What the engine has no dtype for, and the one it gets: values are kept exactly or refused, but for f64.
const readings: Partial<Record<TensorEntry['dtype'], Reading>> = {
  i64: { to: 'i32', elementBytes: 8, get: (view, at) => view.getBigInt64(at, true) },
  u64: { to: 'i32', elementBytes: 8, get: (view, at) => view.getBigUint64(at, true) },
  i16: { to: 'i32', elementBytes: 2, get: (view, at) => view.getInt16(at, true) },
  u16: { to: 'i32', elementBytes: 2, get: (view, at) => view.getUint16(at, true) },
  f64: { to: 'f32', elementBytes: 8, get: (view, at) => view.getFloat64(at, true) },
  bool: { to: 'u8', elementBytes: 1, get: (view, at) => view.getUint8(at) },
};
const arrays = { i32: Int32Array, u8: Uint8Array, f32: Float32Array };
const limits = { i32: [-(2 ** 31), 2 ** 31 - 1], u8: [0, 1], f32: [-Infinity, Infinity] } as const;

/**
 * Elements of a dtype that the engine does not compute in, as one it does: i64, u64, i16, u16 -> i32 (each value must fit),
 * bool -> u8 (each byte must be 0 or 1), f64 -> f32 (rounded; a finite value that would become infinite is refused).
 * Other dtypes are returned as they are.
 *
 * @param bytes of whole elements of `entry`
 * @throws SafetensorsError that names tensor, element and value
 */
export function convertElements(
  entry: TensorEntry,
  bytes: Uint8Array,
): { dtype: TensorEntry['dtype']; bytes: Uint8Array } {
  const reading = readings[entry.dtype];
  if (!reading) return { dtype: entry.dtype, bytes };
  const { to, elementBytes, get } = reading;
  const count = bytes.length / elementBytes;
  if (!Number.isInteger(count))
    throw new RangeError(`convertElements: must be whole elements of ${elementBytes} bytes: ${bytes.length} bytes.`);
  const out = new arrays[to](count);
  const [low, high] = limits[to];
  const view = dataView(bytes);
  for (let i = 0; i < count; i++) {
    const value = get(view, i * elementBytes);
    out[i] = Number(value);
    const overflow = to === 'f32' && Number.isFinite(Number(value)) && !Number.isFinite(out[i]!);
    if (value < low || value > high || overflow) {
      throw new SafetensorsError(
        entry.path,
        `${entry.path}: tensor ${shown(entry.name)}: element ${i} must fit ${to === 'u8' ? 'a bool (0 or 1)' : to}: it is ${value}.`,
        { tensor: entry.name, offset: entry.byteOffset },
      );
    }
  }
  return { dtype: to, bytes: new Uint8Array(out.buffer) };
}
