export { indexName, openCheckpoint, parseShardIndex, singleName } from './checkpoint.ts';
export { convertElements } from './convert.ts';
export { countNonFinite } from './count-non-finite.ts';
export { bitsOf, type FileDType, fromFormatDtype, toFormatDtype } from './dtypes.ts';
export { SafetensorsError } from './errors.ts';
export {
  type Header,
  headerLength,
  maxHeaderBytes,
  maxNameBytes,
  maxTensors,
  parseHeader,
  type TensorEntry,
} from './header.ts';
export { openSafetensors, type TensorReader } from './tensor-reader.ts';
export { type Metadata, type TensorBytes, type WriteEntry, writeSafetensors } from './write-safetensors.ts';
export { type WriteShardedOptions, writeSharded } from './write-sharded.ts';
