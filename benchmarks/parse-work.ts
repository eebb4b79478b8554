/** A spec from its JSON text; the part of `work-files.ts` that a browser can use. */
import type { WorkSpec } from './peer.ts';

/** What stands for an array in `spec.json`. */
export interface ArrayFile {
  readonly array: string;
  readonly type: 'f32' | 'i32';
}

/** The files that a spec's arrays are in. */
export const arrayNames = (text: string): string[] => [
  ...new Set([...text.matchAll(/"array":"([^"]+)"/g)].map(([, name]) => name!)),
];

/** The spec of JSON text, its arrays from `read`. */
export function parseWork(text: string, read: (name: string) => ArrayBuffer): WorkSpec {
  return JSON.parse(text, (_, value: unknown) => {
    if (value === null || typeof value !== 'object' || !('array' in value)) return value;
    const { array, type } = value as ArrayFile;
    return type === 'f32' ? new Float32Array(read(array)) : new Int32Array(read(array));
  }) as WorkSpec;
}
