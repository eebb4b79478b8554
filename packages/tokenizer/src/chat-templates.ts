import { TemplateError } from './template.ts';

/** What a template by name needs of a tokenizer. */
interface TokenLookup {
  readonly eosToken?: string | undefined;
  tokenToId(token: string): number | undefined;
}

/** Chat templates that can be asked for by name. */
export const chatTemplates = {
  /** Phi-3-mini's own, for a tokenizer that has Phi-3's tokens and lost its template. */
  phi3: "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
  /**
   * For models without chat tokens. A header line a turn; the end-of-text token closes each answer, so that the model learns to stop.
   * Text that looks like a header is not told apart from one.
   */
  plain:
    "{{ bos_token }}{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}{{ message['role'] | capitalize }}{{ ':\\n' + message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\\nAssistant:\\n' }}{% endif %}",
} as const;

/** A key of {@link chatTemplates}. */
export type ChatTemplateName = keyof typeof chatTemplates;

/** Names of {@link chatTemplates}. */
export const chatTemplateNames = Object.keys(chatTemplates) as ChatTemplateName[];

const phi3Tokens = ['<|system|>', '<|user|>', '<|assistant|>', '<|end|>'];

/**
 * Checks that a tokenizer has the tokens that a template by name ends turns with: without them a model could not learn to stop.
 * @throws {TemplateError} naming what is missing
 */
export function checkChatTemplate(name: ChatTemplateName, tokenizer: TokenLookup): void {
  const missing = name === 'phi3' ? phi3Tokens.filter((token) => tokenizer.tokenToId(token) === undefined) : [];
  if (missing.length > 0)
    throw new TemplateError(
      `chat template: 'phi3' needs the tokens ${missing.join(', ')}: this tokenizer has none of that name. Use 'plain'.`,
    );
  if (tokenizer.eosToken === undefined)
    throw new TemplateError(
      `chat template: '${name}' ends with the eos token: the tokenizer names none. Set eos_token in tokenizer_config.json.`,
    );
}
