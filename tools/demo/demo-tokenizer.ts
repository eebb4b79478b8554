import { trainBpe } from './bpe-trainer.ts';
import { corpusDocuments } from './corpus.ts';
import { type TokenizerFiles, tokenizerFiles } from './tokenizer-files.ts';
import { slotValues } from './values.ts';

/** Articles begin many values, but are far too frequent in all other text to stay apart from their space. */
const articles = new Set(['the', 'a', 'an', 'I']);

/** The demo's tokenizer: 1,280 ids, trained on the first documents of the corpus. */
export function demoTokenizer(seed: number): TokenizerFiles {
  const values = Object.values(slotValues).flat();
  const firstWords = values.map(({ text }) => text.split(' ')[0]!).filter((word) => !articles.has(word));
  const pieces = trainBpe(corpusTexts(seed), { pieces: 1330, spacedWords: 224, bareWords: new Set(firstWords) });
  return tokenizerFiles(pieces, 512);
}

function* corpusTexts(seed: number): Generator<string> {
  for (const document of corpusDocuments(seed, 20_000)) {
    if ('text' in document) yield* document.text.split('\n');
    else for (const { content } of document.messages) yield* content.split('\n');
  }
}
