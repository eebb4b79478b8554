import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { headerLength, parseHeader, SafetensorsError } from '@lorikeet/safetensors';
import type { DType } from '@lorikeet/tensor';

/** A tensor as a recording holds it: raw little-endian bytes. */
export interface StoredTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** One recorded call; reference/recording.py says what each field means. Strings name tensors of the recording. */
export interface Case {
  readonly name: string;
  readonly op: string;
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly inputs: Readonly<Record<string, string | number>>;
  readonly outputs: Readonly<Record<string, string>>;
  readonly cotangents?: Readonly<Record<string, string>>;
  readonly gradients?: Readonly<Record<string, string>>;
  readonly magnitudes?: Readonly<Record<string, { readonly key: string; readonly terms: number }>>;
  readonly tolerance?: { readonly rtol: number; readonly atol: number };
}

/** What one family's generator wrote. */
export interface Recording {
  readonly family: string;
  /** Where model and adapter folders of the recording lie. */
  readonly directory: string;
  readonly seed: number;
  readonly packageVersions: Readonly<Record<string, string>>;
  readonly cases: readonly Case[];
  /** The tensor of that key; throws when the recording lacks it. */
  tensor(key: string): StoredTensor;
}

interface Manifest extends Omit<Recording, 'directory' | 'tensor'> {
  readonly generatorSha256: string;
}

const referenceDirectory = join(import.meta.dirname, 'reference');
const shared = ['recording.py', 'requirements.txt', 'tiny_phi3.py'];

/** The hash of a family's generator, as reference/recording.py computes it. */
export async function generatorSha256(family: string): Promise<string> {
  const own = (await readdir(referenceDirectory)).filter((n) => n.startsWith(family) && n.endsWith('.py')).sort();
  const hash = createHash('sha256');
  for (const name of [...own, ...shared]) hash.update(await readFile(join(referenceDirectory, name)));
  return hash.digest('hex');
}

/** Reads one family. Refuses a recording that another version of its generator made. */
export async function readRecording(directory: string): Promise<Recording> {
  const manifest = JSON.parse(await readFile(join(directory, 'recording.json'), 'utf8')) as Manifest;
  const expected = await generatorSha256(manifest.family);
  if (manifest.generatorSha256 !== expected)
    throw new Error(
      `conformance: the recording of ${manifest.family} must come from the generator beside it: its hash is ${manifest.generatorSha256.slice(0, 12)}, the generator's ${expected.slice(0, 12)}. Run reference/record.py --only ${manifest.family} and commit both.`,
    );
  return { ...manifest, directory, tensor: await storedTensors(join(directory, 'recording.safetensors')) };
}

/** The whole file at once: it is small and every tensor of it is used. */
async function storedTensors(path: string): Promise<Recording['tensor']> {
  const bytes = new Uint8Array(await readFile(path));
  const length = headerLength(bytes.subarray(0, 8), bytes.length, path);
  const { entries } = parseHeader(bytes.subarray(0, 8 + length), bytes.length, path);
  return (key) => {
    const found = entries.get(key);
    if (!found) throw new SafetensorsError(path, `${path}: must hold tensor ${key}: it does not. Record it again.`);
    const { dtype, shape, byteOffset, byteLength } = found;
    return { dtype: dtype as DType, shape, bytes: bytes.slice(byteOffset, byteOffset + byteLength) };
  };
}

/** Every family below a folder, in alphabetical order. */
export async function readRecordings(directory: string, only?: ReadonlySet<string>): Promise<Recording[]> {
  const entries = await readdir(directory, { withFileTypes: true });
  const families = entries.flatMap((e) => (e.isDirectory() && (!only || only.has(e.name)) ? [e.name] : [])).sort();
  const missing = [...(only ?? [])].filter((family) => !families.includes(family));
  if (missing.length)
    throw new Error(`conformance: no recording of ${missing.join(', ')} in ${directory}. Run reference/record.py.`);
  return Promise.all(families.map((family) => readRecording(join(directory, family))));
}
