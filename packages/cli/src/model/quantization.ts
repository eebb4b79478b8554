/** How a base is quantized: by its folder, or while it is loaded. */
import { type FileSystem, joinPath } from '@lorikeet/files';
import {
  type BitsAndBytesConfig,
  completeBitsAndBytesConfig,
  isQuantizedPath,
  quantizedBytes,
  quantizedLinear,
  readQuantizationConfig,
} from '@lorikeet/lora';
import type { LinearFactory } from '@lorikeet/nn';
import { phi3Linears, readPhi3Config } from '@lorikeet/phi3';
import { openCheckpoint } from '@lorikeet/safetensors';
import type { ResolvedConfig } from '../config/schema.ts';
import { userError } from '../errors.ts';

/** What a configuration or the options ask for. */
export type QuantizationChoice = Partial<ResolvedConfig['quantization']>;

/** `--load-in-4bit` and its relatives. */
export interface QuantizationFlags {
  readonly loadIn4bit?: boolean;
  readonly loadIn8bit?: boolean;
  readonly computeDtype?: 'f32' | 'int8';
}

/** A base as it will stand in memory. */
export interface BaseQuantization {
  /** Undefined: dense. */
  readonly linear: LinearFactory | undefined;
  /** Undefined: dense. */
  readonly config: BitsAndBytesConfig | undefined;
  /** Whether the folder is quantized already. */
  readonly stored: boolean;
}

/** The options of a command as a choice; undefined where none was given. One width takes the place of a run's other. */
export function quantizationFlag({
  loadIn4bit,
  loadIn8bit,
  computeDtype,
}: QuantizationFlags): QuantizationChoice | undefined {
  if (loadIn4bit && loadIn8bit)
    throw userError('--load-in-4bit and --load-in-8bit: must not both be given: they are.', { fix: 'Leave out one.' });
  const width = loadIn4bit ? { loadIn4bit, loadIn8bit: false } : loadIn8bit ? { loadIn4bit: false, loadIn8bit } : {};
  const given = { ...width, computeDtype };
  const chosen = Object.entries(given).filter(([, value]) => value !== undefined);
  return chosen.length === 0 ? undefined : Object.fromEntries(chosen);
}

function configOf({ computeDtype: _, ...choice }: QuantizationChoice): BitsAndBytesConfig {
  const { llmInt8SkipModules, ...others } = choice;
  // QLoRA's settings where nothing is said, as the configuration's defaults are.
  const defaults = { bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true } as const;
  return { ...defaults, ...others, ...(llmInt8SkipModules === undefined ? {} : { llmInt8SkipModules }) };
}

/** `4 bits (nf4, double quantization)` */
export function describeQuantization(config: BitsAndBytesConfig): string {
  const { loadIn4bit, bnb4bitQuantType, bnb4bitUseDoubleQuant } = completeBitsAndBytesConfig(config);
  if (!loadIn4bit) return '8 bits (LLM.int8)';
  return `4 bits (${bnb4bitQuantType}${bnb4bitUseDoubleQuant ? ', double quantization' : ''})`;
}

/**
 * What a folder's config.json and a choice come to. A folder that is quantized is taken as it is.
 * @throws CliError (exit code 2) when the choice asks for another width than the folder has
 */
export async function baseQuantization(
  files: FileSystem,
  dir: string,
  choice: QuantizationChoice = {},
): Promise<BaseQuantization> {
  const { computeDtype, loadIn4bit = false, loadIn8bit = false } = choice;
  const stored = await readQuantizationConfig(files, dir);
  if (stored === undefined) {
    if (!loadIn4bit && !loadIn8bit) return { linear: undefined, config: undefined, stored: false };
    const config = configOf(choice);
    return { linear: quantizedLinear(config, { computeDtype }), config, stored: false };
  }
  if ((loadIn4bit && !stored.loadIn4bit) || (loadIn8bit && !stored.loadIn8bit))
    throw userError('model: must be quantized as was asked for: the folder is quantized otherwise.', {
      where: joinPath(dir, 'config.json'),
      found: describeQuantization(stored),
      expected: loadIn4bit ? '4 bits' : '8 bits',
      fix: 'Leave out the option, or give the folder of the 16-bit model.',
    });
  return { linear: quantizedLinear(stored, { computeDtype }), config: stored, stored: true };
}

/** What to say of entries of llmInt8SkipModules that are no linear of a model, misspelt perhaps; they skip nothing. */
export function notesOnSkips(linears: readonly string[], { llmInt8SkipModules = [] }: BitsAndBytesConfig): string[] {
  const idle = llmInt8SkipModules.filter((entry) =>
    linears.every((path) => isQuantizedPath(path, { llmInt8SkipModules: [entry] })),
  );
  return idle.map(
    (entry) => `llmInt8SkipModules: ${JSON.stringify(entry)} is no linear of this model; it skips nothing`,
  );
}

/** Bytes of a folder's weights once they are loaded. */
export async function loadedWeightBytes(
  files: FileSystem,
  dir: string,
  { config, stored }: Pick<BaseQuantization, 'config' | 'stored'>,
): Promise<number> {
  const { entries } = await openCheckpoint(files, dir);
  const linears =
    config && !stored
      ? phi3Linears(await readPhi3Config(files, dir)).filter((path) => isQuantizedPath(path, config))
      : [];
  const quantized = new Set(linears.map((path) => `${path}.weight`));
  const {
    bnb4bitQuantType: quantType,
    bnb4bitUseDoubleQuant: doubleQuant,
    blocksize,
    loadIn4bit,
  } = completeBitsAndBytesConfig(config ?? {});
  const settings = loadIn4bit ? { quantType, blocksize, doubleQuant } : 'int8';
  return [...entries.values()].reduce((sum, { name, shape, byteLength }) => {
    const elements = shape.reduce((product, n) => product * n, 1);
    return sum + (quantized.has(name) ? quantizedBytes(elements, settings, shape[0]) : byteLength);
  }, 0);
}
