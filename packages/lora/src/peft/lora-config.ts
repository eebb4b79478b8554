/** How LoRA is applied to a whole model: PEFT's LoraConfig in camelCase (names, defaults and meaning of PEFT 0.21). */

/** Which biases are trained and saved beside the adapter: none, all of the model's, or those of adapted layers. */
export type BiasMode = 'none' | 'all' | 'lora_only';

/** First values that are taken from the base's weights; see applyLoraAsync. */
export type BaseInit = 'pissa' | `pissa_niter_${number}` | 'olora' | 'loftq';

/** Where lora_A and lora_B begin. */
export type LoraInit = boolean | 'gaussian' | 'orthogonal' | BaseInit;

export interface LoftqConfig {
  /** Bits of the base: 4 (nf4, blocks of 64) or 8. @defaultValue 4 */
  readonly loftqBits?: 4 | 8;
  /** Alternations of quantizing and decomposing. @defaultValue 1 */
  readonly loftqIter?: number;
}

/** Whether first values are taken from the base's weights. */
export const isBaseInit = (init: unknown): init is BaseInit =>
  typeof init === 'string' && /^(pissa|pissa_niter_\d+|olora|loftq)$/.test(init);

/** What a user may say. Every field is optional. */
export interface LoraConfig {
  /** Rank: rows of lora_A, columns of lora_B. @defaultValue 8 */
  readonly r?: number;
  /** The update is scaled by loraAlpha / r. @defaultValue 8 */
  readonly loraAlpha?: number;
  /** Probability with which an element of the adapter's input is dropped in training, in [0, 1). @defaultValue 0 */
  readonly loraDropout?: number;
  /**
   * Which linears get an adapter: a list of names (the whole path, or its end after a dot: `o_proj`), a regular expression
   * for the whole path, or `'all-linear'` (every linear but the output embedding). @defaultValue 'all-linear'; PEFT has
   * no default for Phi-3 and raises an error.
   */
  readonly targetModules?: string | readonly string[];
  /** Taken out of targetModules; same forms except 'all-linear'. */
  readonly excludeModules?: string | readonly string[];
  /** Modules trained and saved whole (a list of names), never adapted. */
  readonly modulesToSave?: readonly string[];
  /** @defaultValue 'none' */
  readonly bias?: BiasMode;
  /** Scale by loraAlpha / sqrt(r) (Kalajdzievski 2023). @defaultValue false */
  readonly useRslora?: boolean;
  /**
   * true: A uniform on +-1/sqrt(in), B zero. 'gaussian': A of N(0, 1/r), B zero. false: both uniform (a test of loading). 'orthogonal': both
   * random, B A zero. 'pissa', 'pissa_niter_N' (N subspace iterations, much faster), 'olora', 'loftq': from the weights, with applyLoraAsync.
   * @defaultValue true
   */
  readonly initLoraWeights?: LoraInit;
  /** Of initLoraWeights 'loftq'. */
  readonly loftqConfig?: LoftqConfig;
  /** Rank of some layers: keys are regular expressions for the end of a path; the first that matches wins. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  /** loraAlpha of some layers, in the same form. */
  readonly alphaPattern?: Readonly<Record<string, number>>;
  /** Indices of the layers to adapt; not together with a regular expression. */
  readonly layersToTransform?: number | readonly number[];
  /** Name of the list in which layersToTransform counts, a regular expression. Absent: the first number in the path. */
  readonly layersPattern?: string | readonly string[];
  /** Where the base comes from; written to adapter_config.json, compared when an adapter is loaded. */
  readonly baseModelNameOrPath?: string;
  readonly revision?: string;
}

/** A checked configuration with all defaults in place. */
export interface CompleteLoraConfig {
  readonly r: number;
  readonly loraAlpha: number;
  readonly loraDropout: number;
  readonly targetModules: string | readonly string[];
  readonly excludeModules: string | readonly string[];
  readonly modulesToSave: readonly string[];
  readonly bias: BiasMode;
  readonly useRslora: boolean;
  readonly initLoraWeights: LoraInit;
  readonly loftqConfig: Required<LoftqConfig>;
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  readonly layersToTransform: readonly number[];
  readonly layersPattern: readonly string[];
  readonly baseModelNameOrPath: string | undefined;
  readonly revision: string | undefined;
}

/** The short form of targetModules, in any case (PEFT lowers it). */
export const isAllLinear = (target: string | readonly string[]): boolean =>
  typeof target === 'string' && target.toLowerCase() === 'all-linear';

type Check = (value: unknown) => boolean;
const isNames: Check = (v) => Array.isArray(v) && v.every((name) => typeof name === 'string' && name !== '');
const isRank: Check = (v) => Number.isSafeInteger(v) && (v as number) > 0;
const isPositive: Check = (v) => typeof v === 'number' && Number.isFinite(v) && v > 0;
const isIndex: Check = (v) => Number.isSafeInteger(v) && (v as number) >= 0;
const isRecordOf =
  (check: Check): Check =>
  (v) =>
    typeof v === 'object' && v !== null && !Array.isArray(v) && Object.values(v).every(check);
const isText: Check = (v) => typeof v === 'string' && v !== '';
const isFlag: Check = (v) => typeof v === 'boolean';

function isLoftqConfig(v: unknown): boolean {
  if (typeof v !== 'object' || v === null) return false;
  const { loftqBits = 4, loftqIter = 1, ...others } = v as LoftqConfig;
  return (loftqBits === 4 || loftqBits === 8) && isRank(loftqIter) && Object.keys(others).length === 0;
}

const rules: { readonly [K in keyof Required<LoraConfig>]: readonly [check: Check, mustBe: string] } = {
  r: [isRank, 'a whole number of at least 1'],
  loraAlpha: [isPositive, 'a number above 0'],
  loraDropout: [(v) => typeof v === 'number' && v >= 0 && v < 1, 'a number in [0, 1)'],
  targetModules: [
    (v) => isText(v) || (isNames(v) && (v as string[]).length > 0),
    "'all-linear', a regular expression, or a list of at least one name",
  ],
  excludeModules: [(v) => typeof v === 'string' || isNames(v), 'a regular expression or a list of names'],
  modulesToSave: [isNames, 'a list of names'],
  bias: [(v) => v === 'none' || v === 'all' || v === 'lora_only', "'none', 'all' or 'lora_only'"],
  useRslora: [isFlag, 'true or false'],
  initLoraWeights: [
    (v) => isFlag(v) || v === 'gaussian' || v === 'orthogonal' || isBaseInit(v),
    "true, false, 'gaussian', 'orthogonal', 'pissa', 'pissa_niter_N', 'olora' or 'loftq'",
  ],
  loftqConfig: [isLoftqConfig, '{ loftqBits: 4 or 8, loftqIter: a whole number of at least 1 }'],
  rankPattern: [isRecordOf(isRank), 'an object of whole numbers of at least 1'],
  alphaPattern: [isRecordOf(isPositive), 'an object of numbers above 0'],
  layersToTransform: [(v) => isIndex(v) || (Array.isArray(v) && v.every(isIndex)), 'a layer index or a list of them'],
  layersPattern: [(v) => isText(v) || isNames(v), 'a name or a list of names'],
  baseModelNameOrPath: [(v) => typeof v === 'string', 'a string'],
  revision: [(v) => typeof v === 'string', 'a string'],
};

const listOf = <T>(value: T | readonly T[] | undefined): readonly T[] =>
  value === undefined ? [] : Array.isArray(value) ? (value as readonly T[]) : [value as T];

/**
 * Checks a configuration and fills in the defaults.
 * @throws TypeError with every wrong field and what it must be
 */
export function completeLoraConfig(config: LoraConfig): CompleteLoraConfig {
  const problems = Object.entries(config).flatMap(([name, value]) => {
    const rule = rules[name as keyof LoraConfig];
    if (!rule) return [`${name} is no field of LoraConfig. Fields: ${Object.keys(rules).join(', ')}`];
    return value === undefined || rule[0](value) ? [] : [`${name} must be ${rule[1]}: got ${JSON.stringify(value)}`];
  });
  const target = config.targetModules ?? 'all-linear';
  if (config.layersToTransform !== undefined && typeof target === 'string' && !isAllLinear(target))
    problems.push("layersToTransform must come with a list of names or 'all-linear': targetModules is an expression");
  if (config.layersPattern !== undefined && config.layersToTransform === undefined)
    problems.push('layersPattern must come with layersToTransform: it is missing');
  if (config.loftqConfig !== undefined && config.initLoraWeights !== 'loftq')
    problems.push("loftqConfig must come with initLoraWeights 'loftq': it is another");
  if (problems.length) throw new TypeError(`LoraConfig: ${problems.join('; ')}.`);
  return {
    r: config.r ?? 8,
    loraAlpha: config.loraAlpha ?? 8,
    loraDropout: config.loraDropout ?? 0,
    targetModules: target,
    excludeModules: config.excludeModules ?? [],
    modulesToSave: config.modulesToSave ?? [],
    bias: config.bias ?? 'none',
    useRslora: config.useRslora ?? false,
    initLoraWeights: config.initLoraWeights ?? true,
    loftqConfig: { loftqBits: 4, loftqIter: 1, ...config.loftqConfig },
    rankPattern: config.rankPattern ?? {},
    alphaPattern: config.alphaPattern ?? {},
    layersToTransform: listOf(config.layersToTransform),
    layersPattern: listOf(config.layersPattern),
    baseModelNameOrPath: config.baseModelNameOrPath,
    revision: config.revision,
  };
}
