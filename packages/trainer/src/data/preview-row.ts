import type { Row } from './row.ts';
import { type DataTokenizer, type TokenizeOptions, tokenizeRow } from './tokenize-rows.ts';

/** One row as the training sees it: what `data preview` prints, trained text in colour. */
export interface RowPreview {
  readonly line: number;
  readonly tokens: readonly TokenPreview[];
  /** Neighbouring tokens of one kind joined, with whole characters: a token may hold a third of a Hangul syllable. */
  readonly spans: readonly { readonly text: string; readonly trained: boolean }[];
  readonly trainedTokens: number;
}

/** One token as the training sees it. */
export interface TokenPreview {
  readonly id: number;
  /** The token's own text, as the vocabulary spells it. */
  readonly token: string;
  readonly trained: boolean;
  /** Beyond `maxLength`: cut off in training. */
  readonly truncated: boolean;
}

/** Shows tokens and loss mask of a row. @throws {Error} as {@link tokenizeRow} */
export function previewRow(
  row: Row,
  tokenizer: DataTokenizer & { idToToken(id: number): string | undefined },
  { lossOn, maxLength }: TokenizeOptions = {},
): RowPreview {
  const { ids, trained } = tokenizeRow(row, tokenizer, lossOn);
  const tokens = ids.map((id, i) => {
    const truncated = i >= (maxLength ?? Number.POSITIVE_INFINITY);
    // The first token is predicted from nothing.
    return { id, token: tokenizer.idToToken(id) ?? '', trained: i > 0 && trained[i]! && !truncated, truncated };
  });
  return {
    line: row.line,
    tokens,
    spans: joinSpans(tokens, (end) => tokenizer.decode(ids.slice(0, end))),
    trainedTokens: tokens.filter((token) => token.trained).length,
  };
}

/** Texts are cut from the text of the whole row: decoded alone, a span would lose the space it begins with. */
function joinSpans(tokens: readonly TokenPreview[], textUpTo: (end: number) => string): RowPreview['spans'] {
  const spans: { text: string; trained: boolean }[] = [];
  let start = 0;
  let shown = 0;
  for (let end = 1; end <= tokens.length; end++) {
    if (end < tokens.length && tokens[end]!.trained === tokens[start]!.trained) continue;
    const text = textUpTo(end);
    spans.push({ text: text.slice(shown), trained: tokens[start]!.trained });
    [start, shown] = [end, text.length];
  }
  return spans;
}
