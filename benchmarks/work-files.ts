/** Work as a folder of files, for a peer in another process: `spec.json`, in which `{"array": NAME, "type": T}` stands for raw little-endian values. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ArrayFile, parseWork } from './parse-work.ts';
import type { WorkSpec } from './peer.ts';

type Values = Float32Array | Int32Array;

const bytesOf = (values: Values): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** Writes a spec; equal arrays are one file. */
export function writeWork(folder: string, spec: WorkSpec): void {
  mkdirSync(folder, { recursive: true });
  const names = new Map<Values, string>();
  const text = JSON.stringify(spec, (_, value: unknown) => {
    if (!(value instanceof Float32Array || value instanceof Int32Array)) return value;
    const name = names.get(value) ?? `${names.size}.bin`;
    if (!names.has(value)) writeFileSync(join(folder, name), bytesOf(value));
    names.set(value, name);
    return { array: name, type: value instanceof Float32Array ? 'f32' : 'i32' } satisfies ArrayFile;
  });
  writeFileSync(join(folder, 'spec.json'), text);
}

const bufferOf = (path: string): ArrayBuffer => {
  const { buffer, byteOffset, byteLength } = readFileSync(path);
  return buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer;
};

/** Reads what {@link writeWork} wrote. */
export const readWork = (folder: string): WorkSpec =>
  parseWork(readFileSync(join(folder, 'spec.json'), 'utf8'), (name) => bufferOf(join(folder, name)));

/** Outputs as files `0.out`, `1.out`, ...: how a result crosses processes. */
export function writeOutputs(folder: string, outputs: readonly Float32Array[]): void {
  for (const [i, values] of outputs.entries()) writeFileSync(join(folder, `${i}.out`), bytesOf(values));
}

export const readOutputs = (folder: string, count: number): Float32Array[] =>
  Array.from({ length: count }, (_, i) => new Float32Array(bufferOf(join(folder, `${i}.out`))));
