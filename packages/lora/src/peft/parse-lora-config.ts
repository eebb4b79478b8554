/** Reading a LoraConfig from JSON or YAML: Python's snake_case or our camelCase. */
import { completeLoraConfig, type LoraConfig } from './lora-config.ts';

export interface ParsedLoraConfig {
  readonly config: LoraConfig;
  /** Keys that neither we nor PEFT know, as they were spelled. PEFT warns of such keys and goes on. */
  readonly unknownKeys: readonly string[];
}

const fields: ReadonlySet<string> = new Set([
  'r', 'loraAlpha', 'loraDropout', 'targetModules', 'excludeModules', 'modulesToSave', 'bias', 'useRslora',
  'initLoraWeights', 'loftqConfig', 'rankPattern', 'alphaPattern', 'layersToTransform', 'layersPattern', 'baseModelNameOrPath', 'revision',
]); // biome-ignore format: a table

/** PEFT's keys that change nothing here. */
const withoutEffect: ReadonlySet<string> = new Set([
  'autoMapping', 'inferenceMode', 'megatronCore', 'peftVersion', 'qaloraGroupSize', 'runtimeConfig', 'taskType',
]); // biome-ignore format: a table

/** PEFT's options that change the mathematics in ways we do not have; any value but these is refused. */
const unsupported: ReadonlyMap<string, string> = new Map([
  ['useDora', 'DoRA'], ['loraBias', 'a bias on lora_B'], ['useQalora', 'QA-LoRA'], ['useBdlora', 'BD-LoRA'],
  ['layerReplication', 'layer replication'], ['trainableTokenIndices', 'training single token rows'],
  ['targetParameters', 'LoRA on bare parameters'], ['evaConfig', 'EVA'], ['cordaConfig', 'CorDA'],
  ['loraGaConfig', 'LoRA-GA'], ['veloraConfig', 'VeLoRA'], ['kasaConfig', 'KaSA'], ['montecloraConfig', 'MonteCLoRA'],
  ['arrowConfig', 'Arrow routing'], ['aloraInvocationTokens', 'aLoRA'], ['megatronConfig', 'Megatron'],
  ['fanInFanOut', 'weights stored [in, out]'], ['ensureWeightTying', 'tied copies of saved modules'],
]); // biome-ignore format: a table

/** PEFT's initializations that need a pass over data first, or train in another way. */
const unsupportedInits: ReadonlySet<string> = new Set(['eva', 'corda', 'lora_ga', 'mica']);

/** `lora_alpha` -> `loraAlpha`; a camelCase key stays. */
export const camelCase = (key: string): string =>
  key.replace(/_+([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

const camelKeys = (value: unknown): unknown =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).map(([key, v]) => [camelCase(key), v]))
    : value;

const isNeutral = (value: unknown): boolean =>
  value === null ||
  value === undefined ||
  value === false ||
  (typeof value === 'object' && Object.keys(value as object).length === 0);

/** The refusal of one key's value, or null. */
function refusal(key: string, name: string, value: unknown): string | null {
  const what = unsupported.get(name);
  if (what !== undefined) return isNeutral(value) ? null : `${key} (${what}) is not supported: got ${show(value)}`;
  if (name === 'peftType' && value !== 'LORA') return `${key} must be "LORA": got ${show(value)}`;
  if (name === 'initLoraWeights' && typeof value === 'string' && unsupportedInits.has(value.toLowerCase()))
    return `${key} ${show(value)} is not supported. Use true, "gaussian", "orthogonal", "pissa", "pissa_niter_N", "olora" or "loftq"`;
  return null;
}

const show = (value: unknown): string => JSON.stringify(value) ?? String(value);

/**
 * A LoraConfig from a plain object as JSON or YAML gives it. Null means the default. Keys that no PEFT version knows are
 * returned in `unknownKeys`.
 *
 * @param source file or section it came from, for messages
 * @throws TypeError that names every unsupported option and every wrong value
 */
export function parseLoraConfig(
  json: unknown,
  { source = 'LoraConfig' }: { readonly source?: string } = {},
): ParsedLoraConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new TypeError(`${source}: must be an object of LoRA options: got ${show(json)}.`);
  const problems: string[] = [];
  const unknownKeys: string[] = [];
  const config: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(json)) {
    const name = camelCase(key);
    if (Object.hasOwn(config, name)) problems.push(`${key} must be given once: it stands in both spellings`);
    const refused = refusal(key, name, value);
    if (refused) problems.push(refused);
    else if (fields.has(name)) {
      if (value !== null && value !== undefined) config[name] = value;
      // PEFT writes {} where there is no LoftQ.
      if (name === 'loftqConfig') config[name] = isNeutral(value) ? undefined : camelKeys(value);
    } else if (!unsupported.has(name) && !withoutEffect.has(name) && name !== 'peftType') unknownKeys.push(key);
  }
  if (problems.length)
    throw new TypeError(
      `${source}: ${problems.join('; ')}. Remove ${problems.length === 1 ? 'it' : 'them'} or use plain LoRA.`,
    );
  try {
    completeLoraConfig(config as LoraConfig);
  } catch (error) {
    throw error instanceof TypeError
      ? new TypeError(error.message.replace(/^LoraConfig/, source), { cause: error })
      : error;
  }
  return { config: config as LoraConfig, unknownKeys };
}
