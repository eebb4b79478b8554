/**
 * The only module that touches npm `typed-array-utils` 0.2.4. Meant for headers and hashes, not for weights.
 *
 * The library has defects that this module keeps out of reach (measured on 0.2.4):
 * `unsafeCompare*` inverts the test of the last 1-3 bytes (never called), a bare SharedArrayBuffer reads as empty
 * (only views are taken here), hex parsing drops what is not hex (checked first), and many arguments overflow the stack.
 */
import {
  bufferSourceToDataView,
  bytesToHexString,
  compareUint8Arrays,
  concatUint8Arrays,
  hexStringToBytes,
} from 'typed-array-utils';

const maxArguments = 1024;

/** One new array with all chunks behind each other. Views of shared memory are copied too. */
export function concatBytes(chunks: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  if (chunks.length <= maxArguments) return concatUint8Arrays(...chunks) as Uint8Array<ArrayBuffer>;
  const groups: Uint8Array[] = [];
  for (let i = 0; i < chunks.length; i += maxArguments) groups.push(concatBytes(chunks.slice(i, i + maxArguments)));
  return concatBytes(groups);
}

/** Lower-case hex, two digits a byte. */
export function bytesToHex(bytes: Uint8Array): string {
  return bytesToHexString(bytes as Uint8Array<ArrayBuffer>);
}

/**
 * The bytes a hex string spells, either case.
 * @throws RangeError when it has an odd length or a character that is not hex
 */
export function hexToBytes(hex: string): Uint8Array<ArrayBuffer> {
  if (!/^([0-9a-f]{2})*$/i.test(hex))
    throw new RangeError(`hexToBytes: must be pairs of hex digits: ${hex.slice(0, 80)}`);
  return hexStringToBytes(hex) as Uint8Array<ArrayBuffer>;
}

/** A DataView over the same memory as `bytes`, offset and length kept. */
export function dataView(bytes: Uint8Array): DataView {
  return bufferSourceToDataView(bytes as Uint8Array<ArrayBuffer>);
}

/** Whether both hold the same bytes. Takes equal time wherever they differ; slow (about 5 ns a byte), so for hashes and headers. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return compareUint8Arrays(a, b);
}
