import type { AddedToken } from './added-tokens.ts';

/** The named tokens of `tokenizer_config.json`; undefined where the config names none. */
export interface SpecialTokens {
  readonly bosToken: string | undefined;
  readonly bosTokenId: number | undefined;
  readonly eosToken: string | undefined;
  readonly eosTokenId: number | undefined;
  readonly padToken: string | undefined;
  readonly padTokenId: number | undefined;
  readonly unkToken: string | undefined;
  readonly unkTokenId: number | undefined;
}

const namedTokens = [
  'bos_token',
  'eos_token',
  'pad_token',
  'unk_token',
  'sep_token',
  'cls_token',
  'mask_token',
] as const;

/** @throws {TypeError} naming every special token of the config that the vocabulary lacks */
export function readSpecialTokens(
  config: Record<string, unknown>,
  tokenToId: (token: string) => number | undefined,
): SpecialTokens {
  const token = (name: string) => contentOf(config[name]);
  const missing = namedTokens.filter((name) => token(name) !== undefined && tokenToId(token(name)!) === undefined);
  if (missing.length > 0)
    throw new TypeError(
      `createTokenizer: special tokens of tokenizer_config.json must be in tokenizer.json: ${missing.map((name) => `${name} ${JSON.stringify(token(name))}`).join(', ')} ${missing.length > 1 ? 'are' : 'is'} not. The two files belong to different models.`,
    );
  const named = (name: string): [string | undefined, number | undefined] => {
    const content = token(name);
    return [content, content === undefined ? undefined : tokenToId(content)];
  };
  const [bosToken, bosTokenId] = named('bos_token');
  const [eosToken, eosTokenId] = named('eos_token');
  const [padToken, padTokenId] = named('pad_token');
  const [unkToken, unkTokenId] = named('unk_token');
  return { bosToken, bosTokenId, eosToken, eosTokenId, padToken, padTokenId, unkToken, unkTokenId };
}

/** Contents that a tokenizer treats as markup whatever its `special` flag says: `</s>`, `<|tool|>`, `[INST]`. */
const markup = /^(<[^\s<>]+>|\[\/?[A-Z_]+\])$/;

/** `added_tokens` of `tokenizer.json`, by rising id. @throws {TypeError} naming the entry that is malformed */
export function readAddedTokens(json: Record<string, unknown>, config: Record<string, unknown>): AddedToken[] {
  const named = new Set([
    ...namedTokens.map((name) => contentOf(config[name])),
    ...[config.additional_special_tokens, config.extra_special_tokens].flatMap(contentsOf),
  ]);
  const entries = json.added_tokens ?? [];
  if (!Array.isArray(entries)) throw new TypeError('createTokenizer: added_tokens in tokenizer.json must be a list.');
  return entries
    .map((entry, index) => {
      if (typeof entry?.content !== 'string' || !Number.isSafeInteger(entry.id) || entry.id < 0)
        throw new TypeError(
          `createTokenizer: added_tokens[${index}] must have a content and an id: got ${JSON.stringify(entry)}.`,
        );
      const special = entry.special === true;
      return {
        id: entry.id as number,
        content: entry.content as string,
        singleWord: entry.single_word === true,
        lstrip: entry.lstrip === true,
        rstrip: entry.rstrip === true,
        normalized: entry.normalized ?? !special,
        special,
        control: special || named.has(entry.content) || markup.test(entry.content),
      };
    })
    .sort((a, b) => a.id - b.id);
}

/** A token in the config is its text or an object with that text as `content`. */
function contentOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : undefined;
}

function contentsOf(value: unknown): (string | undefined)[] {
  if (Array.isArray(value)) return value.map(contentOf);
  return typeof value === 'object' && value !== null ? Object.values(value).map(contentOf) : [];
}
