/** Hugging Face tokenizers, chat templates and assistant masks. */
export type { AddedToken } from './added-tokens.ts';
export type { ChatMessage } from './chat.ts';
export { type ChatTemplateName, chatTemplateNames, chatTemplates, checkChatTemplate } from './chat-templates.ts';
export type { StreamDecoder } from './decoding.ts';
export { TemplateError, type TemplateLimits } from './template.ts';
export {
  type ChatOptions,
  createTokenizer,
  type DecodeOptions,
  type EncodedChat,
  type EncodeOptions,
  type Tokenizer,
  type TokenizerSource,
} from './tokenizer.ts';
