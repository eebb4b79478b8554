import type { Section } from './added-tokens.ts';
import type { RenderedChat, Span } from './chat.ts';

const leadingSpace = /^\s*/;

/**
 * The parts of a rendered chat that the assistant has to produce: the template's own `{% generation %}` spans if it has them, else what
 * TRL's training template for Phi-3 spans (trl 1.16, `phi3_training.jinja`): each answer, its end-of-turn token with the white
 * space after it, and the closing eos when the last turn is the assistant's.
 *
 * @returns undefined if the template has no such tags and the answers could not be traced
 */
export function assistantSpans(
  rendered: RenderedChat,
  sections: readonly Section[],
  options: { hasGenerationTags: boolean; endsWithAssistant: boolean; eosToken: string | undefined },
): readonly Span[] | undefined {
  if (options.hasGenerationTags) return rendered.generation;
  const { text, assistant } = rendered;
  const spans = assistant?.map(({ start, end }) => ({ start, end: endOfTurn(text, end, sections) }));
  const last = spans?.at(-1);
  if (
    last !== undefined &&
    options.endsWithAssistant &&
    options.eosToken &&
    text.slice(last.end).trim() === options.eosToken
  )
    last.end = text.length;
  return spans;
}

/** The end of the added token that closes the turn, with the white space behind it; `end` itself if the template prints none. */
function endOfTurn(text: string, end: number, sections: readonly Section[]): number {
  const closing = sections.find(({ token, start }) => token !== undefined && start >= end);
  if (closing === undefined || text.slice(end, closing.start).trim() !== '') return end;
  return closing.end + leadingSpace.exec(text.slice(closing.end))![0].length;
}

/**
 * Which tokens of one section lie in the spans. A token across a border counts as inside, as with Transformers'
 * `return_assistant_tokens_mask`. `encode` gives the ids of a piece of the section's text from its start.
 */
export function sectionMask(
  section: Section,
  ids: readonly number[],
  spans: readonly Span[],
  encode: (text: string) => readonly number[],
): boolean[] {
  const mask = new Array<boolean>(ids.length).fill(false);
  for (const { start, end } of spans) {
    const from = Math.max(start, section.start) - section.start;
    const to = Math.min(end, section.end) - section.start;
    if (from >= to) continue;
    const first = from === 0 ? 0 : commonPrefix(ids, encode(section.text.slice(0, from))).shared;
    mask.fill(
      true,
      first,
      to === section.text.length ? ids.length : tokensUpTo(ids, encode(section.text.slice(0, to))),
    );
  }
  return mask;
}

function tokensUpTo(ids: readonly number[], prefix: readonly number[]): number {
  const { shared, isWhole } = commonPrefix(ids, prefix);
  return isWhole ? shared : shared + 1;
}

function commonPrefix(ids: readonly number[], prefix: readonly number[]): { shared: number; isWhole: boolean } {
  let shared = 0;
  while (shared < prefix.length && ids[shared] === prefix[shared]) shared++;
  return { shared, isWhole: shared === prefix.length };
}
