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
  /** Changed on purpose, to see whether its comparison notices. */
  readonly disturbed?: true;
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
  readonly magnitudes?: Readonly<Record<string, RecordedMagnitude>>;
  /** The largest error of PyTorch's own f32 against f64, by output or input. */
  readonly torchErrors?: Readonly<Record<string, number>>;
  /** PyTorch's message where it refuses the call: then it must be refused here too. */
  readonly error?: string;
  readonly tolerance?: Tolerance;
}

/** Sums of |a||b| (or of other terms) of each element, and how many there are. */
export interface RecordedMagnitude {
  readonly key: string;
  readonly terms: number;
  /** Each term carries the op's own error besides that of the sum: a gradient summed over what was broadcast. */
  readonly rounded?: boolean;
}

/** What a case asks for instead of tolerances.ts. */
export interface Tolerance {
  readonly rtol: number;
  readonly atol: number;
  readonly reason: string;
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

interface Manifest extends Omit<Recording, 'directory' | 'tensor' | 'cases'> {
  readonly generatorSha256: string;
  readonly tolerances: Readonly<Record<string, Tolerance>>;
  readonly cases: readonly (Omit<Case, 'tolerance'> & { readonly tolerance?: string })[];
}

const referenceDirectory = join(import.meta.dirname, 'reference');
const imports = /^\s*(?:from|import) (\w+)/gm;

/** Every program that decides a family's numbers, as `sources_of` of reference/recording.py finds them. */
async function sourcesOf(family: string): Promise<Map<string, string>> {
  const names = (await readdir(referenceDirectory)).filter((n) => n.endsWith('.py')).map((n) => n.slice(0, -3));
  const waiting = names.filter((n) => n === family || n.startsWith(`${family}_`));
  const found = new Map<string, string>();
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    if (found.has(name) || !names.includes(name)) continue;
    found.set(name, await readFile(join(referenceDirectory, `${name}.py`), 'utf8'));
    waiting.push(...Array.from(found.get(name)!.matchAll(imports), (m) => m[1]!));
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The hash of a family's generator, as reference/recording.py computes it. */
export async function generatorSha256(family: string): Promise<string> {
  const hash = createHash('sha256');
  for (const text of (await sourcesOf(family)).values()) hash.update(text);
  return hash.digest('hex');
}

/** The exact versions of reference/requirements.txt by package. */
async function pinnedVersions(): Promise<Map<string, string>> {
  const text = await readFile(join(referenceDirectory, 'requirements.txt'), 'utf8');
  return new Map(text.trim().split(/\s+/).map((line) => line.split('==') as [string, string])); // biome-ignore format: one step
}

/** Reads one family. Refuses a recording that another version of its generator or of a package made. */
export async function readRecording(directory: string): Promise<Recording> {
  const manifest = JSON.parse(await readFile(join(directory, 'recording.json'), 'utf8')) as Manifest;
  const { family } = manifest;
  const again = `Run reference/record.py --only ${family} and commit both.`;
  const expected = await generatorSha256(family);
  if (manifest.generatorSha256 !== expected)
    throw new Error(
      `conformance: the recording of ${family} must come from the generator beside it: its hash is ${manifest.generatorSha256.slice(0, 12)}, the generator's ${expected.slice(0, 12)}. ${again}`,
    );
  const pins = await pinnedVersions();
  for (const [name, version] of Object.entries(manifest.packageVersions))
    if (pins.get(name) !== version)
      throw new Error(
        `conformance: the recording of ${family} must come from ${name} ${pins.get(name)}, which is pinned: it came from ${version}. ${again}`,
      );
  const cases = manifest.cases.map(({ tolerance, ...rest }) => {
    if (tolerance === undefined) return rest;
    const found = manifest.tolerances[tolerance];
    if (!found?.reason)
      throw new Error(
        `conformance: ${family} ${rest.name}: tolerance ${tolerance} must have a reason: it has none. ${again}`,
      );
    return { ...rest, tolerance: found };
  });
  return { ...manifest, cases, directory, tensor: await storedTensors(join(directory, 'recording.safetensors')) };
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
  // A name with a dot is a recording that is being made.
  const complete = entries.filter((e) => e.isDirectory() && !e.name.startsWith('.')).map((e) => e.name);
  const families = complete.filter((name) => !only || only.has(name)).sort();
  const missing = [...(only ?? [])].filter((family) => !families.includes(family));
  if (missing.length)
    throw new Error(`conformance: no recording of ${missing.join(', ')} in ${directory}. Run reference/record.py.`);
  return Promise.all(families.map((family) => readRecording(join(directory, family))));
}
