/** The small facts of a 4-bit weight as bitsandbytes stores them: the bytes of a JSON beside the tensors (QuantState.as_dict). */
import { parseJson } from '@lorikeet/files';
import type { QuantType4bit, Weight4bit } from '@lorikeet/tensor';
import { blocksizes4bit } from './bits-and-bytes-config.ts';

/** What the JSON says; in it the names are snake_case, and dtypes torch's. */
export interface QuantState {
  readonly quantType: QuantType4bit;
  readonly blocksize: number;
  readonly dtype: Weight4bit['dtype'];
  readonly shape: readonly [outFeatures: number, inFeatures: number];
  /** Double quantization. */
  readonly nested?: { readonly blocksize: number; readonly offset: number } | undefined;
}

/** bitsandbytes' block size of double quantization; its products take no other. */
export const nestedBlocksize = 256;

const torchNames = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' } as const;
const oursOf = new Map(Object.entries(torchNames).map(([ours, name]) => [name as string, ours as Weight4bit['dtype']]));

/** `weight.quant_state.bitsandbytes__nf4`: where the JSON stands below a layer. */
export const quantStateKey = (quantType: QuantType4bit): string => `weight.quant_state.bitsandbytes__${quantType}`;

/** A number as Python's json writes a float: `1e-05`, `0.5`, `1.0`. */
function pythonFloat(value: number): string {
  const [mantissa = '', exponent = ''] = value.toExponential().split('e');
  const power = Number(exponent);
  if (power < -4 || power >= 16)
    return `${mantissa}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

/** The bytes that bitsandbytes writes, byte for byte. */
export function quantStateBytes({ quantType, blocksize, dtype, shape, nested }: QuantState): Uint8Array {
  const fields = [
    `"quant_type": "${quantType}"`,
    `"blocksize": ${blocksize}`,
    `"dtype": "${torchNames[dtype]}"`,
    `"shape": [${shape.join(', ')}]`,
    ...(nested
      ? [
          `"nested_blocksize": ${nested.blocksize}`,
          '"nested_dtype": "float32"',
          `"nested_offset": ${pythonFloat(nested.offset)}`,
        ]
      : []),
  ];
  return new TextEncoder().encode(`{${fields.join(', ')}}`);
}

const nestedFields = ['nested_blocksize', 'nested_dtype', 'nested_offset'] as const;
const knownFields: ReadonlySet<string> = new Set(['quant_type', 'blocksize', 'dtype', 'shape', ...nestedFields]);

type Json = Readonly<Record<string, unknown>>;
const show = (value: unknown): string => (value === undefined ? 'nothing' : JSON.stringify(value));

/** What is wrong with the fields, each as `name must be ...: it is ...`. */
function problemsOf(json: Json, quantType: QuantType4bit): string[] {
  const problems: string[] = [];
  const need = (name: string, holds: boolean, mustBe: string): void => {
    if (!holds) problems.push(`${name} must be ${mustBe}: it is ${show(json[name])}`);
  };
  for (const name of Object.keys(json)) if (!knownFields.has(name)) problems.push(`${name} is no field of it`);
  need('quant_type', json.quant_type === quantType, `"${quantType}", as the tensor's name says`);
  need('blocksize', blocksizes4bit.includes(json.blocksize as number), `one of ${blocksizes4bit.join(', ')}`);
  need('dtype', oursOf.has(json.dtype as string), 'float32, float16 or bfloat16');
  const { shape } = json;
  const isShape = Array.isArray(shape) && shape.length === 2 && shape.every((n) => Number.isSafeInteger(n) && n > 0);
  need('shape', isShape, '[out, in]');
  if (!nestedFields.some((name) => Object.hasOwn(json, name))) return problems;
  need('nested_blocksize', json.nested_blocksize === nestedBlocksize, `${nestedBlocksize}`);
  need('nested_dtype', json.nested_dtype === 'float32', '"float32"');
  need('nested_offset', Number.isFinite(json.nested_offset), 'a finite number');
  return problems;
}

/**
 * Reads the JSON.
 * @param name of the tensor with its file, for messages: `model.safetensors: tensor "..."`
 * @throws FormatError when it is no JSON; Error that lists every field that is missing or wrong
 */
export function parseQuantState(bytes: Uint8Array, quantType: QuantType4bit, name: string): QuantState {
  const json = parseJson(bytes, name);
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new Error(`must be a JSON object: it is ${show(json)}`);
  const problems = problemsOf(json as Json, quantType);
  if (problems.length) throw new Error(`must be a quantization state: ${problems.join('; ')}`);
  const state = json as Json & { shape: [number, number]; blocksize: number };
  return {
    quantType,
    blocksize: state.blocksize,
    dtype: oursOf.get(state.dtype as string)!,
    shape: state.shape,
    nested: Object.hasOwn(json, 'nested_offset')
      ? { blocksize: nestedBlocksize, offset: Math.fround(state.nested_offset as number) }
      : undefined,
  };
}
