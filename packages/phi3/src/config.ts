import { type FileSystem, joinPath, readJson } from '@lorikeet/files';

/** LongRoPE (Ding et al. 2024): two lists of divisors of the rotation frequencies and one factor on cosines and sines. */
export interface LongRope {
  /** One divisor a frequency, for sequences of at most originalMaxPositionEmbeddings tokens. */
  readonly shortFactor: readonly number[];
  /** The same for longer sequences, all of their tokens. */
  readonly longFactor: readonly number[];
  /** Multiplies cosines and sines, for short sequences too: sqrt(1 + ln(factor) / ln(original)) unless given. */
  readonly attentionFactor: number;
}

/** What a Phi-3 model is, from its `config.json`; names are those of transformers in camelCase. */
export interface Phi3Config {
  /** Rows of the embedding; may be more than the tokenizer has ids. */
  readonly vocabSize: number;
  /** d, the width of activations. */
  readonly hiddenSize: number;
  /** f, the width inside the feed-forward part. */
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  /** e, features of a head: hiddenSize / numAttentionHeads unless given. */
  readonly headDim: number;
  /** Most tokens of a sequence. */
  readonly maxPositionEmbeddings: number;
  /** Tokens above which LongRoPE takes its long factors. */
  readonly originalMaxPositionEmbeddings: number;
  /** Base of the rotation frequencies. */
  readonly ropeTheta: number;
  /** Features of a head that are rotated; even. */
  readonly rotaryDim: number;
  readonly longRope: LongRope | null;
  /** Keys a query sees, itself included; null: all. */
  readonly slidingWindow: number | null;
  readonly rmsNormEps: number;
  /** Dropout on both residual branches in training. */
  readonly residPdrop: number;
  /** Standard deviation of initPhi3's weights. */
  readonly initializerRange: number;
  /** lm_head shares the embedding's table (Phi-4-mini). */
  readonly tieWordEmbeddings: boolean;
  readonly bosTokenId: number | null;
  /** Of config.json; generation_config.json's go before them in a loaded model. */
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** The JSON it was read from, every key kept: what savePhi3 writes. */
  readonly source: Readonly<Record<string, unknown>>;
}

/** A config.json that is not a Phi-3 this program can run; lists every field with what was expected and found. */
export class Phi3ConfigError extends Error {
  override name = 'Phi3ConfigError';
}

const show = (value: unknown): string => {
  const text = value === undefined ? 'nothing' : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
};
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Reads fields and collects what is wrong with them. */
class Fields {
  readonly problems: string[] = [];
  readonly #json: Readonly<Record<string, unknown>>;
  readonly #prefix: string;
  constructor(json: Readonly<Record<string, unknown>>, prefix = '', problems: string[] = []) {
    this.#json = json;
    this.#prefix = prefix;
    this.problems = problems;
  }
  raw(name: string): unknown {
    return Object.hasOwn(this.#json, name) ? (this.#json[name] ?? undefined) : undefined;
  }
  expect(name: string, expected: string, found: unknown = this.raw(name)): void {
    this.problems.push(`${this.#prefix}${name}: expected ${expected}, found ${show(found)}`);
  }
  number(name: string, valid: (n: number) => boolean, expected: string, or?: number): number {
    const value = this.raw(name) ?? or;
    if (typeof value === 'number' && valid(value)) return value;
    this.expect(name, expected);
    return 1;
  }
  /** A whole number in 1 .. 2^24: a bound that keeps sizes exact and a hostile file from asking for the impossible. */
  size(name: string, or?: number, most = 2 ** 24): number {
    return this.number(name, (n) => Number.isInteger(n) && n >= 1 && n <= most, `an integer in 1 .. ${most}`, or);
  }
  tokenId(name: string, vocabSize: number): number | null {
    const value = this.raw(name);
    if (value === undefined) return null;
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < vocabSize) return value;
    this.expect(name, `null or an id below vocab_size ${vocabSize}`);
    return null;
  }
  /** Positive numbers, exactly `length` of them. */
  factors(name: string, length: number): readonly number[] {
    const value = this.raw(name);
    if (Array.isArray(value) && value.length === length && value.every((x) => typeof x === 'number' && x > 0))
      return value as number[];
    const found = Array.isArray(value) ? `${value.length} entries` : value;
    this.expect(name, `${length} positive numbers (half of the rotated features)`, found);
    return [];
  }
  nested(name: string): Fields | null {
    const value = this.raw(name);
    if (value === undefined) return null;
    if (isRecord(value)) return new Fields(value, `${name}.`, this.problems);
    this.expect(name, 'an object');
    return null;
  }
}

const hint: Readonly<Record<string, string>> = {
  phi3small: 'Phi-3-small is another architecture; use Phi-3-mini or Phi-3-medium.',
  phi3_v: 'Phi-3-vision is another architecture; use Phi-3-mini or Phi-3-medium.',
};

function checkArchitecture(fields: Fields, path: string): void {
  const architectures = fields.raw('architectures');
  const listed = Array.isArray(architectures) ? architectures : undefined;
  const type = fields.raw('model_type');
  if (type !== 'phi3') fields.expect('model_type', '"phi3"');
  if (listed ? !listed.includes('Phi3ForCausalLM') : architectures !== undefined)
    fields.expect('architectures', '["Phi3ForCausalLM"]');
  if (fields.problems.length) fail(path, fields.problems, hint[String(type)]);
}

function fail(path: string, problems: readonly string[], advice = 'Use the config.json of a Phi-3 model.'): never {
  throw new Phi3ConfigError(`${path}: must describe a Phi-3 model:\n  ${problems.join('\n  ')}\n${advice}`);
}

interface Rope {
  readonly theta: number;
  readonly rotaryDim: number;
  readonly longRope: LongRope | null;
}

/** transformers' attention_factor: explicit, or from the stretch; 1 where nothing is stretched. */
function attentionFactor(fields: Fields, maxPositions: number, original: number): number {
  const explicit = fields.raw('attention_factor');
  if (typeof explicit === 'number' && explicit > 0) return explicit;
  if (explicit !== undefined) fields.expect('attention_factor', 'a positive number');
  const given = fields.raw('factor');
  const factor = typeof given === 'number' ? given : maxPositions / original;
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
}

/** Both spellings: rope_theta and rope_scaling { type } (transformers 4), rope_parameters { rope_type, rope_theta } (5). */
function parseRope(fields: Fields, headDim: number, maxPositions: number, original: number): Rope {
  const nested = fields.nested('rope_parameters') ?? fields.nested('rope_scaling');
  const thetaHolder = nested?.raw('rope_theta') === undefined ? fields : nested;
  const theta = thetaHolder.number('rope_theta', (n) => n > 0 && Number.isFinite(n), 'a positive number');
  const partialHolder = nested?.raw('partial_rotary_factor') === undefined ? fields : nested;
  const partial = partialHolder.number('partial_rotary_factor', (n) => n > 0 && n <= 1, 'a number in (0, 1]', 1);
  const rotaryDim = Math.floor(headDim * partial);
  if (rotaryDim % 2 !== 0)
    partialHolder.expect('partial_rotary_factor', `an even number of the ${headDim} features of a head`, partial);
  const type = nested?.raw('rope_type') ?? nested?.raw('type') ?? 'default';
  if (type === 'default' || !nested) return { theta, rotaryDim, longRope: null };
  // Phi-3's first releases called it su, others yarn; transformers reads all three as longrope.
  if (type !== 'longrope' && type !== 'su' && type !== 'yarn') {
    nested.expect(nested.raw('rope_type') === undefined ? 'type' : 'rope_type', '"default" or "longrope"', type);
    return { theta, rotaryDim, longRope: null };
  }
  const longRope = {
    shortFactor: nested.factors('short_factor', rotaryDim / 2),
    longFactor: nested.factors('long_factor', rotaryDim / 2),
    attentionFactor: attentionFactor(nested, maxPositions, original),
  };
  return { theta, rotaryDim, longRope };
}

function parseHeads(fields: Fields): { hiddenSize: number; heads: number; keyValueHeads: number; headDim: number } {
  const hiddenSize = fields.size('hidden_size');
  const heads = fields.size('num_attention_heads', undefined, 4096);
  const keyValueHeads = fields.size('num_key_value_heads', heads, 4096);
  if (heads % keyValueHeads !== 0) fields.expect('num_key_value_heads', `a divisor of num_attention_heads ${heads}`);
  if (fields.raw('head_dim') === undefined && hiddenSize % heads !== 0)
    fields.expect('hidden_size', `a multiple of num_attention_heads ${heads}`);
  return {
    hiddenSize,
    heads,
    keyValueHeads,
    headDim: fields.size('head_dim', Math.max(1, Math.floor(hiddenSize / heads))),
  };
}

function parseEos(fields: Fields, vocabSize: number): readonly number[] {
  const value = fields.raw('eos_token_id');
  if (value === undefined) return [];
  const ids = Array.isArray(value) ? value : [value];
  if (ids.every((id) => Number.isInteger(id) && id >= 0 && id < vocabSize)) return ids as number[];
  fields.expect('eos_token_id', `ids below vocab_size ${vocabSize}`);
  return [];
}

/** Fields that transformers' Phi-3 knows and that this one only runs at one value. */
function checkFixed(fields: Fields): void {
  const act = fields.raw('hidden_act');
  if (act !== undefined && act !== 'silu') fields.expect('hidden_act', '"silu"');
  if (fields.raw('attention_bias')) fields.expect('attention_bias', 'false');
  if (fields.raw('attention_dropout'))
    fields.expect('attention_dropout', '0 (dropout on attention weights is not supported)');
}

/**
 * A Phi-3 configuration from the object in `config.json`: mini-4k, mini-128k, 3.5-mini, medium, Phi-4-mini, in
 * transformers 4's and 5's spelling.
 * @param path names the file in errors
 * @throws Phi3ConfigError with every field that does not fit: its name, what was expected, what was found
 */
export function parsePhi3Config(json: unknown, path = 'config.json'): Phi3Config {
  if (!isRecord(json)) return fail(path, [`expected an object, found ${show(json)}`]);
  const fields = new Fields(json);
  checkArchitecture(fields, path);
  checkFixed(fields);
  const { hiddenSize, heads, keyValueHeads, headDim } = parseHeads(fields);
  const vocabSize = fields.size('vocab_size');
  const maxPositionEmbeddings = fields.size('max_position_embeddings');
  const original = fields.size('original_max_position_embeddings', maxPositionEmbeddings);
  const rope = parseRope(fields, headDim, maxPositionEmbeddings, original);
  const part = (n: number): boolean => n >= 0 && n < 1;
  const tied = fields.raw('tie_word_embeddings') ?? false;
  if (typeof tied !== 'boolean') fields.expect('tie_word_embeddings', 'true or false');
  const config: Phi3Config = {
    vocabSize,
    hiddenSize,
    intermediateSize: fields.size('intermediate_size'),
    numHiddenLayers: fields.size('num_hidden_layers', undefined, 1024),
    numAttentionHeads: heads,
    numKeyValueHeads: keyValueHeads,
    headDim,
    maxPositionEmbeddings,
    originalMaxPositionEmbeddings: original,
    ropeTheta: rope.theta,
    rotaryDim: rope.rotaryDim,
    longRope: rope.longRope,
    slidingWindow: fields.raw('sliding_window') === undefined ? null : fields.size('sliding_window'),
    rmsNormEps: fields.number('rms_norm_eps', (n) => n > 0 && n < 1, 'a number in (0, 1)'),
    residPdrop: fields.number('resid_pdrop', part, 'a number in [0, 1)', 0),
    initializerRange: fields.number('initializer_range', (n) => n >= 0, 'a number of at least 0', 0.02),
    tieWordEmbeddings: tied === true,
    bosTokenId: fields.tokenId('bos_token_id', vocabSize),
    eosTokenIds: parseEos(fields, vocabSize),
    padTokenId: fields.tokenId('pad_token_id', vocabSize),
    source: json,
  };
  if (fields.problems.length) fail(path, fields.problems);
  return config;
}

/** Reads `config.json` of a model folder. @throws Phi3ConfigError, FormatError (not JSON), FileError */
export async function readPhi3Config(files: FileSystem, dir: string): Promise<Phi3Config> {
  const path = joinPath(dir, 'config.json');
  return parsePhi3Config(await readJson(files, path), path);
}
