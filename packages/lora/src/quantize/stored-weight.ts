/** Quantized weights in a checkpoint, as bitsandbytes' layers save them: checked by their headers first, then read. */
import type { LinearRequest, TensorSource } from '@lorikeet/nn';
import { SafetensorsError } from '@lorikeet/safetensors';
import {
  bytesPerElement,
  code4bit,
  type DType,
  decode,
  fromBytes,
  isFloat,
  type QuantType4bit,
  showShape,
  sizeOf,
  type Tensor,
  type Weight4bit,
  type Weight8bit,
} from '@lorikeet/tensor';
import { parseQuantState, type QuantState, quantStateKey } from './quant-state.ts';

/** How a layer's weight lies in a checkpoint. */
export type StoredForm = 'dense' | '4bit' | 'int8';

const place = ({ file = 'checkpoint', path }: TensorSource): string => `${file}: tensor ${JSON.stringify(path)}`;

/** An error about one tensor of a checkpoint. */
function refuse(source: TensorSource, problem: string): never {
  throw new SafetensorsError(source.file ?? 'checkpoint', `${place(source)}: ${problem}`, { tensor: source.path });
}

/** What the tensors of a layer are, by their names and dtypes. */
export function storedForm({ weight, companions = new Map() }: LinearRequest): StoredForm {
  const names = [...companions.keys()];
  if (weight.dtype === 'u8' || names.some((name) => name.startsWith('weight.'))) return '4bit';
  if (weight.dtype === 'i8' || names.includes('SCB')) return 'int8';
  return 'dense';
}

/** Throws unless a dense weight is floats [out, in] without anything beside it. */
export function checkDense({ weight, inFeatures, outFeatures, companions = new Map() }: LinearRequest): void {
  const [extra] = companions.values();
  if (extra) refuse(extra, 'is not a tensor of this model.');
  if (!isFloat(weight.dtype) || showShape(weight.shape) !== showShape([outFeatures, inFeatures]))
    refuse(
      weight,
      `must be floats ${showShape([outFeatures, inFeatures])}: it is ${weight.dtype} ${showShape(weight.shape)}. Use config.json and weights of one model.`,
    );
}

/** The named companion, checked; the tensor that lacks it stands in the message. */
function companionOf(
  { weight, companions }: LinearRequest,
  name: string,
  spec: { readonly dtype: DType; readonly shape: readonly number[]; readonly why: string },
): TensorSource {
  const found = companions?.get(name);
  if (!found)
    return refuse(
      weight,
      `must come with ${JSON.stringify(weight.path.replace(/weight$/, name))}, ${spec.why}: it is missing. Quantize the model again.`,
    );
  if (found.dtype !== spec.dtype || showShape(found.shape) !== showShape(spec.shape))
    refuse(
      found,
      `must be ${spec.dtype} ${showShape(spec.shape)}, ${spec.why}: it is ${found.dtype} ${showShape(found.shape)}.`,
    );
  return found;
}

/** The quantization state of a 4-bit weight: exactly one, of a known type. */
function stateSource({ weight, companions = new Map() }: LinearRequest): [TensorSource, QuantType4bit] {
  const states = [...companions].filter(([name]) => name.startsWith('weight.quant_state'));
  const [first, second] = states;
  if (!first)
    return refuse(
      weight,
      `must come with its quantization state, ${JSON.stringify(`${weight.path}.quant_state.bitsandbytes__nf4`)} or __fp4: it is missing. Save the model with bitsandbytes 0.41 or later.`,
    );
  if (second) refuse(second[1], `must be the only quantization state: ${JSON.stringify(first[1].path)} is there too.`);
  const [name, source] = first;
  const quantType = (['nf4', 'fp4'] as const).find((type) => name === quantStateKey(type));
  if (!quantType) refuse(source, 'must be of quant_type nf4 or fp4: it is of another.');
  return [source, quantType!];
}

/**
 * Checks a 4-bit weight and everything beside it by shapes and dtypes, and reads its state.
 * @throws SafetensorsError with file, tensor and what does not fit
 */
export async function checkStored4bit(request: LinearRequest): Promise<QuantState> {
  const { weight, companions = new Map(), inFeatures, outFeatures } = request;
  const [source, quantType] = stateSource(request);
  if (source.dtype !== 'u8' || source.shape.length !== 1 || source.shape[0]! > 65536)
    refuse(source, `must be the u8 bytes of a JSON: it is ${source.dtype} ${showShape(source.shape)}.`);
  const state = await readState(source, quantType);
  const shape = [outFeatures, inFeatures];
  if (showShape(state.shape) !== showShape(shape))
    refuse(source, `its shape must be ${showShape(shape)}, as config.json says: it is ${showShape(state.shape)}.`);
  const count = outFeatures * inFeatures;
  const bytes = sizeOf(weight.shape) * bytesPerElement[weight.dtype];
  if (bytes !== (count + 1) >> 1)
    refuse(
      weight,
      `must hold ${(count + 1) >> 1} bytes, two weights of ${showShape(shape)} in each: it holds ${bytes} (${weight.dtype} ${showShape(weight.shape)}).`,
    );
  const known = checkScales(request, state);
  for (const [name, extra] of companions)
    if (!known.has(name)) refuse(extra, 'is no part of a 4-bit weight: bitsandbytes writes no such tensor.');
  return state;
}

async function readState(source: TensorSource, quantType: QuantType4bit): Promise<QuantState> {
  try {
    return parseQuantState(await source.read(), quantType, place(source));
  } catch (error) {
    const { message } = error as Error;
    return refuse(source, message.startsWith(place(source)) ? message.slice(place(source).length + 1) : `${message}.`);
  }
}

/** Checks the scales and maps; returns the names of all companions that a weight of this state has. */
function checkScales(request: LinearRequest, state: QuantState): Set<string> {
  const { nested, blocksize, quantType } = state;
  const blocks = Math.ceil((request.outFeatures * request.inFeatures) / blocksize);
  const scales = `one scale a block of ${blocksize}`;
  const need = (name: string, dtype: DType, size: number, why: string): string => {
    companionOf(request, name, { dtype, shape: [size], why });
    return name;
  };
  const names = new Set([quantStateKey(quantType), need('weight.quant_map', 'f32', 16, 'the codes of 4 bits')]);
  if (nested) {
    names.add(need('weight.absmax', 'u8', blocks, `${scales}, in 8 bits by double quantization`));
    const groups = Math.ceil(blocks / nested.blocksize);
    names.add(need('weight.nested_absmax', 'f32', groups, `one a group of ${nested.blocksize} scales`));
    names.add(need('weight.nested_quant_map', 'f32', 256, 'the codes of the scales'));
    return names;
  }
  const doubled = request.companions?.get('weight.nested_absmax');
  if (doubled)
    refuse(
      doubled,
      'must come with nested_blocksize, nested_dtype and nested_offset in the quantization state: they are missing.',
    );
  return names.add(need('weight.absmax', 'f32', blocks, scales));
}

async function floatsOf(source: TensorSource): Promise<Float32Array> {
  const values = decode(await source.read(), source.dtype) as Float32Array;
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) refuse(source, `must be finite: element ${bad} is ${values[bad]}.`);
  return values;
}

/** Reads a checked 4-bit weight; its tensors belong to no scope. */
export async function readStored4bit(request: LinearRequest, state: QuantState): Promise<Weight4bit> {
  const { weight, backend, companions } = request;
  const at = (name: string): TensorSource => companions!.get(name)!;
  const map = await floatsOf(at('weight.quant_map'));
  const wrong = code4bit(state.quantType).findIndex((value, i) => Math.abs(value - map[i]!) > 1e-6);
  if (wrong >= 0)
    refuse(at('weight.quant_map'), `must be the codes of ${state.quantType}: entry ${wrong} is ${map[wrong]}.`);
  if (!state.nested) await floatsOf(at('weight.absmax'));
  else for (const name of ['weight.nested_absmax', 'weight.nested_quant_map']) await floatsOf(at(name));
  const made: Tensor[] = [];
  const upload = async (source: TensorSource, dtype = source.dtype, shape = source.shape): Promise<Tensor> => {
    const bytes = await source.read();
    const uploaded = fromBytes(bytes, { backend, dtype, shape });
    source.release?.(bytes);
    made.push(uploaded);
    return uploaded;
  };
  try {
    const { quantType, blocksize, dtype, shape, nested } = state;
    return {
      ...{ quantType, blocksize, dtype, shape },
      // Whatever dtype the bytes are stored under, they are pairs of codes.
      packed: await upload(weight, 'u8', [(shape[0] * shape[1] + 1) >> 1, 1]),
      absmax: await upload(at('weight.absmax')),
      nested: nested && {
        ...nested,
        absmax: await upload(at('weight.nested_absmax')),
        code: await upload(at('weight.nested_quant_map')),
      },
    };
  } catch (error) {
    for (const item of made) item.dispose();
    throw error;
  }
}

/** Checks a weight of LLM.int8 by shapes and dtypes. @throws SafetensorsError with file, tensor and what does not fit */
export function checkStored8bit(request: LinearRequest): void {
  const { weight, companions = new Map(), inFeatures, outFeatures } = request;
  const shape = [outFeatures, inFeatures];
  if (weight.dtype !== 'i8' || showShape(weight.shape) !== showShape(shape))
    refuse(weight, `must be i8 ${showShape(shape)}: it is ${weight.dtype} ${showShape(weight.shape)}.`);
  companionOf(request, 'SCB', { dtype: 'f32', shape: [outFeatures], why: 'one scale a row' });
  const format = companions.get('weight_format');
  if (format && (format.dtype !== 'u8' || sizeOf(format.shape) !== 1))
    refuse(format, `must be one u8: it is ${format.dtype} ${showShape(format.shape)}.`);
  for (const [name, extra] of companions)
    if (name !== 'SCB' && name !== 'weight_format')
      refuse(extra, 'is no part of an 8-bit weight: bitsandbytes writes no such tensor.');
}

/** Reads a checked 8-bit weight; its tensors belong to no scope. */
export async function readStored8bit({ weight, backend, companions }: LinearRequest): Promise<Weight8bit> {
  const format = companions?.get('weight_format');
  const [layout = 0] = format ? await format.read() : [];
  if (layout !== 0)
    refuse(format!, `must be 0 (row-major): it is ${layout}. Save the model with bitsandbytes 0.45 or later.`);
  const scales = companions!.get('SCB')!;
  const values = await floatsOf(scales);
  const codes = await weight.read();
  return {
    quantized: fromBytes(codes, { backend, dtype: 'i8', shape: weight.shape }),
    absmax: fromBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), {
      backend,
      dtype: 'f32',
      shape: scales.shape,
    }),
    // The checkpoint does not say what the weight was quantized from; transformers takes the model's dtype.
    dtype: 'f32',
  };
}
