/**
 * Element types that can be loaded, in our spelling. The first eight are `DType` of `@lorikeet/tensor`;
 * the others need a checked conversion (`convertElements`).
 */
export type FileDType =
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'f64'
  | 'i32'
  | 'u32'
  | 'i8'
  | 'u8'
  | 'i16'
  | 'u16'
  | 'i64'
  | 'u64'
  | 'bool';

interface FormatDType {
  /** Bits of one element. */
  bits: number;
  /** Our name; undefined: can be listed but not loaded. */
  ours?: FileDType;
}

/** Every dtype of the format (safetensors 0.8, `enum Dtype`), in its order: the writer sorts by it, widest last here. */
const table: [name: string, dtype: FormatDType][] = [
  ['BOOL', { bits: 8, ours: 'bool' }],
  ['F4', { bits: 4 }],
  ['F6_E2M3', { bits: 6 }],
  ['F6_E3M2', { bits: 6 }],
  ['U8', { bits: 8, ours: 'u8' }],
  ['I8', { bits: 8, ours: 'i8' }],
  ['F8_E5M2', { bits: 8 }],
  ['F8_E4M3', { bits: 8 }],
  ['F8_E8M0', { bits: 8 }],
  ['F8_E4M3FNUZ', { bits: 8 }],
  ['F8_E5M2FNUZ', { bits: 8 }],
  ['I16', { bits: 16, ours: 'i16' }],
  ['U16', { bits: 16, ours: 'u16' }],
  ['F16', { bits: 16, ours: 'f16' }],
  ['BF16', { bits: 16, ours: 'bf16' }],
  ['I32', { bits: 32, ours: 'i32' }],
  ['U32', { bits: 32, ours: 'u32' }],
  ['F32', { bits: 32, ours: 'f32' }],
  ['C64', { bits: 64 }],
  ['F64', { bits: 64, ours: 'f64' }],
  ['I64', { bits: 64, ours: 'i64' }],
  ['U64', { bits: 64, ours: 'u64' }],
];

const byFormatName = new Map(table);
const rank = new Map(table.map(([name], i) => [name, i]));
const formatNames = new Map(table.flatMap(([name, { ours }]) => (ours ? [[ours, name] as const] : [])));

/** Bits of one element of a dtype named as in files (`BF16`); undefined for a name the format does not know. */
export const bitsOf = (formatDtype: string): number | undefined => byFormatName.get(formatDtype)?.bits;

/** Our name for a dtype named as in files: `BF16` -> `bf16`; undefined when it cannot be loaded. */
export const fromFormatDtype = (formatDtype: string): FileDType | undefined => byFormatName.get(formatDtype)?.ours;

/** The name in files: `bf16` -> `BF16`. A name that is already a file's (`BF16`) stays; undefined for any other. */
export const toFormatDtype = (dtype: string): string | undefined =>
  formatNames.get(dtype as FileDType) ?? (byFormatName.has(dtype) ? dtype : undefined);

/** Where a dtype stands in the order by which the Rust library sorts tensors when it writes. */
export const rankOf = (formatDtype: string): number => rank.get(formatDtype) ?? -1;

/** Names of the dtypes that can be loaded, for messages. */
export const loadableFormatDtypes: readonly string[] = [...formatNames.values()];
