/** How a model's linears are quantized: transformers' BitsAndBytesConfig in camelCase (names, defaults, JSON of 5.23). */
import { type FileSystem, FormatError, joinPath, readJson } from '@lorikeet/files';
import type { QuantType4bit } from '@lorikeet/tensor';
import { camelCase } from '../peft/parse-lora-config.ts';
import { pythonFullMatch } from '../peft/python-regex.ts';

/** torch's names of what an activation may be cast to. Arithmetic is f32 here whatever is said; Python reads it from the file. */
export type ComputeDType = 'float32' | 'bfloat16' | 'float16';

/** What a user may say; Python's snake_case goes through parseBitsAndBytesConfig. */
export interface BitsAndBytesConfig {
  /** NF4 or FP4, 64 weights a block. @defaultValue false */
  readonly loadIn4bit?: boolean;
  /** LLM.int8: one scale a row, outlier columns apart. @defaultValue false */
  readonly loadIn8bit?: boolean;
  /** @defaultValue 'fp4', transformers' default; QLoRA's is 'nf4' */
  readonly bnb4bitQuantType?: QuantType4bit;
  /** Quantize the scales of blocks too (double quantization). @defaultValue false, transformers' default; QLoRA's is true */
  readonly bnb4bitUseDoubleQuant?: boolean;
  /** @defaultValue 'float32' */
  readonly bnb4bitComputeDtype?: ComputeDType;
  /** The dtype under which packed bytes are stored; only how Python's FSDP sees them. @defaultValue 'uint8' */
  readonly bnb4bitQuantStorage?: 'uint8' | 'int8' | 'float16' | 'bfloat16' | 'float32';
  /** Activations of at least this magnitude make their column an outlier, computed in full; 0: none are. @defaultValue 6 */
  readonly llmInt8Threshold?: number;
  /** Linears that stay dense: names, beginnings or regular expressions of paths. @defaultValue ['lm_head'] */
  readonly llmInt8SkipModules?: readonly string[];
  readonly llmInt8EnableFp32CpuOffload?: boolean;
  /** Only false: 8-bit weights that are trained themselves are not supported. */
  readonly llmInt8HasFp16Weight?: boolean;
  /** Weights of a block; bitsandbytes' layers always take 64. @defaultValue 64 */
  readonly blocksize?: number;
}

/** A checked configuration with all defaults in place. */
export type CompleteBitsAndBytesConfig = Required<Omit<BitsAndBytesConfig, 'llmInt8SkipModules'>> & {
  /** Undefined: the output embedding alone. */
  readonly llmInt8SkipModules: readonly string[] | undefined;
};

/** QLoRA's settings (Dettmers et al. 2023), the default of the command line: NF4 is nearer to normal weights than FP4. */
export const qloraConfig = {
  loadIn4bit: true,
  bnb4bitQuantType: 'nf4',
  bnb4bitUseDoubleQuant: true,
} as const satisfies BitsAndBytesConfig;

/** Weights of a block that bitsandbytes knows. */
export const blocksizes4bit: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

const isFlag = (v: unknown): boolean => typeof v === 'boolean';
const oneOf =
  (...allowed: readonly unknown[]) =>
  (v: unknown): boolean =>
    allowed.includes(v);

/** A path that an entry of the list begins: up to a dot, or the whole of it. */
const skipped = (entry: string): RegExp =>
  pythonFullMatch(`(?:${entry})(?:(?<=\\.)|(?=\\.|$)).*`, 'llmInt8SkipModules');

function isExpression(entry: string): boolean {
  try {
    skipped(entry);
    return true;
  } catch {
    return false;
  }
}

const rules: { readonly [K in keyof Required<BitsAndBytesConfig>]: readonly [(v: unknown) => boolean, string] } = {
  loadIn4bit: [isFlag, 'true or false'],
  loadIn8bit: [isFlag, 'true or false'],
  bnb4bitQuantType: [oneOf('nf4', 'fp4'), "'nf4' or 'fp4'"],
  bnb4bitUseDoubleQuant: [isFlag, 'true or false'],
  bnb4bitComputeDtype: [oneOf('float32', 'bfloat16', 'float16'), "'float32', 'bfloat16' or 'float16'"],
  bnb4bitQuantStorage: [
    oneOf('uint8', 'int8', 'float16', 'bfloat16', 'float32'),
    "'uint8' or the name of a torch dtype",
  ],
  llmInt8Threshold: [(v) => typeof v === 'number' && v >= 0 && Number.isFinite(v), 'a number of at least 0'],
  llmInt8SkipModules: [
    (v) => Array.isArray(v) && v.every((entry) => typeof entry === 'string' && entry !== '' && isExpression(entry)),
    'a list of names or regular expressions',
  ],
  llmInt8EnableFp32CpuOffload: [isFlag, 'true or false'],
  llmInt8HasFp16Weight: [oneOf(false), 'false (8-bit weights are frozen here)'],
  blocksize: [oneOf(...blocksizes4bit), `one of ${blocksizes4bit.join(', ')}`],
};

/**
 * Checks a configuration and fills in transformers' defaults.
 * @throws TypeError with every wrong field and what it must be
 */
export function completeBitsAndBytesConfig(config: BitsAndBytesConfig): CompleteBitsAndBytesConfig {
  const problems = Object.entries(config).flatMap(([name, value]) => {
    const rule = rules[name as keyof BitsAndBytesConfig];
    if (!rule) return [`${name} is no field of BitsAndBytesConfig. Fields: ${Object.keys(rules).join(', ')}`];
    return value === undefined || rule[0](value) ? [] : [`${name} must be ${rule[1]}: got ${JSON.stringify(value)}`];
  });
  if (config.loadIn4bit && config.loadIn8bit)
    problems.push('loadIn4bit and loadIn8bit must not both be true: they are. Choose one');
  if (problems.length) throw new TypeError(`BitsAndBytesConfig: ${problems.join('; ')}.`);
  return {
    loadIn4bit: config.loadIn4bit ?? false,
    loadIn8bit: config.loadIn8bit ?? false,
    bnb4bitQuantType: config.bnb4bitQuantType ?? 'fp4',
    bnb4bitUseDoubleQuant: config.bnb4bitUseDoubleQuant ?? false,
    bnb4bitComputeDtype: config.bnb4bitComputeDtype ?? 'float32',
    bnb4bitQuantStorage: config.bnb4bitQuantStorage ?? 'uint8',
    llmInt8Threshold: config.llmInt8Threshold ?? 6,
    llmInt8SkipModules: config.llmInt8SkipModules,
    llmInt8EnableFp32CpuOffload: config.llmInt8EnableFp32CpuOffload ?? false,
    llmInt8HasFp16Weight: config.llmInt8HasFp16Weight ?? false,
    blocksize: config.blocksize ?? 64,
  };
}

/** `load_in_4bit` -> `loadIn4bit`; what transformers writes beside the options is passed over. */
const unread: ReadonlySet<string> = new Set(['quantMethod', 'LoadIn4bit', 'LoadIn8bit']);

/**
 * A configuration from a plain object: config.json's `quantization_config`, YAML, snake_case or camelCase. Null means the
 * default. Keys that transformers would pass over with a message are returned.
 *
 * @param source file or section it came from, for messages
 * @throws TypeError that names every wrong option, and another method than bitsandbytes
 */
export function parseBitsAndBytesConfig(
  json: unknown,
  { source = 'BitsAndBytesConfig' }: { readonly source?: string } = {},
): { readonly config: BitsAndBytesConfig; readonly unknownKeys: readonly string[] } {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new TypeError(`${source}: must be an object of quantization options: got ${JSON.stringify(json)}.`);
  const method = (json as Readonly<Record<string, unknown>>).quant_method ?? 'bitsandbytes';
  if (method !== 'bitsandbytes')
    throw new TypeError(
      `${source}: quant_method must be "bitsandbytes": got ${JSON.stringify(method)}. Load the 16-bit model instead.`,
    );
  const config: Record<string, unknown> = {};
  const unknownKeys: string[] = [];
  for (const [key, value] of Object.entries(json)) {
    const name = camelCase(key);
    if (unread.has(name)) continue;
    if (!Object.hasOwn(rules, name)) unknownKeys.push(key);
    else if (Object.hasOwn(config, name))
      throw new TypeError(`${source}: ${key} must be given once: it stands in both spellings.`);
    else if (value !== null && value !== undefined) config[name] = value;
  }
  try {
    completeBitsAndBytesConfig(config as BitsAndBytesConfig);
  } catch (error) {
    throw new TypeError((error as Error).message.replace(/^BitsAndBytesConfig/, source), { cause: error });
  }
  return { config: config as BitsAndBytesConfig, unknownKeys };
}

/** Keys of it that transformers takes only as floats. */
export const bitsAndBytesFloats: readonly string[] = ['llm_int8_threshold'];

/** The object that transformers writes as `quantization_config` into config.json. */
export function bitsAndBytesJson(config: BitsAndBytesConfig): Record<string, unknown> {
  const c = completeBitsAndBytesConfig(config);
  return {
    _load_in_4bit: c.loadIn4bit,
    _load_in_8bit: c.loadIn8bit,
    bnb_4bit_compute_dtype: c.bnb4bitComputeDtype,
    bnb_4bit_quant_storage: c.bnb4bitQuantStorage,
    bnb_4bit_quant_type: c.bnb4bitQuantType,
    bnb_4bit_use_double_quant: c.bnb4bitUseDoubleQuant,
    llm_int8_enable_fp32_cpu_offload: c.llmInt8EnableFp32CpuOffload,
    llm_int8_has_fp16_weight: c.llmInt8HasFp16Weight,
    llm_int8_skip_modules: c.llmInt8SkipModules ?? null,
    llm_int8_threshold: c.llmInt8Threshold,
    load_in_4bit: c.loadIn4bit,
    load_in_8bit: c.loadIn8bit,
    quant_method: 'bitsandbytes',
  };
}

/**
 * How a model folder is quantized, from its config.json; undefined for a plain one.
 * @throws FormatError for another method than bitsandbytes or wrong options, FileError
 */
export async function readQuantizationConfig(files: FileSystem, dir: string): Promise<BitsAndBytesConfig | undefined> {
  const path = joinPath(dir, 'config.json');
  const json = (await readJson(files, path)) as Readonly<Record<string, unknown>> | null;
  const given = json?.quantization_config ?? undefined;
  if (given === undefined) return undefined;
  try {
    return parseBitsAndBytesConfig(given, { source: `${path}: quantization_config` }).config;
  } catch (cause) {
    throw new FormatError(path, (cause as Error).message);
  }
}

/**
 * Whether a linear is quantized (transformers' should_convert_module): not where an entry of the list begins its path up to
 * a dot, by itself or as a regular expression, or ends it. A list takes the place of the default, `lm_head`.
 */
export function isQuantizedPath(path: string, { llmInt8SkipModules = ['lm_head'] }: BitsAndBytesConfig): boolean {
  return !llmInt8SkipModules.some((entry) => path.endsWith(entry) || skipped(entry).test(path));
}
