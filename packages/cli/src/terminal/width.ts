/** How many columns a text takes on a terminal: Korean, Japanese, Chinese and emoji take two. */

const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

/** Code points of East Asian Width W or F (Unicode 16, EastAsianWidth.txt), joined into ranges; emoji are found by property. */
const wideRanges: readonly (readonly [number, number])[] = [
  [0x1100, 0x115f], [0x2329, 0x232a], [0x2e80, 0x303e], [0x3041, 0x33ff], [0x3400, 0x4dbf], [0x4e00, 0xa4cf],
  [0xa960, 0xa97f], [0xac00, 0xd7a3], [0xf900, 0xfaff], [0xfe10, 0xfe19], [0xfe30, 0xfe6f], [0xff00, 0xff60],
  [0xffe0, 0xffe6], [0x16fe0, 0x18cff], [0x1aff0, 0x1b2ff], [0x1f200, 0x1f265], [0x20000, 0x3fffd],
]; // biome-ignore format: a table

const emoji = /\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F|\p{Regional_Indicator}{2}|[0-9#*]\uFE0F?\u20E3/u;
const withoutWidth = /^[\p{Mn}\p{Me}\p{Cf}\p{Cc}]*$/u;
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const escapes = /\u001b\[[0-9;?]*[A-Za-z]/g;

function graphemeWidth(grapheme: string): number {
  if (withoutWidth.test(grapheme)) return 0;
  if (emoji.test(grapheme)) return 2;
  const code = grapheme.codePointAt(0)!;
  return wideRanges.some(([from, to]) => code >= from && code <= to) ? 2 : 1;
}

/** Control characters (C0, DEL, C1) as escapes: what a downloaded file names its tensors must not steer the terminal. Lines and tabs stay. */
export const showControls = (text: string): string =>
  text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

/** Columns of a text on one line; colour sequences take none. */
export function displayWidth(text: string): number {
  const plain = text.replace(escapes, '');
  if (/^[\x20-\x7e]*$/.test(plain)) return plain.length;
  let columns = 0;
  for (const { segment } of segmenter.segment(plain)) columns += graphemeWidth(segment);
  return columns;
}

/** The text with spaces after it (or before, with 'right') up to `columns`. */
export function padToWidth(text: string, columns: number, align: 'left' | 'right' = 'left'): string {
  const space = ' '.repeat(Math.max(0, columns - displayWidth(text)));
  return align === 'right' ? space + text : text + space;
}

/** As much of a text as fits, ending in an ellipsis where something is left out; never half a character. No colours. */
export function truncateToWidth(text: string, columns: number): string {
  if (displayWidth(text) <= columns) return text;
  let out = '';
  let used = 0;
  for (const { segment } of segmenter.segment(text)) {
    const width = graphemeWidth(segment);
    if (used + width > columns - 1) break;
    out += segment;
    used += width;
  }
  return columns > 0 ? `${out}…` : '';
}

/** Lines of at most `columns`, broken at spaces where there are any; wide scripts break between characters. No colours. */
export function wrapToWidth(text: string, columns: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line = '';
    let used = 0;
    for (const piece of paragraph.split(/(?<=\s)/u).flatMap((word) => splitLongWord(word, columns))) {
      const width = displayWidth(piece.trimEnd());
      if (used + width > columns && line !== '') {
        lines.push(line.trimEnd());
        [line, used] = ['', 0];
      }
      line += piece;
      used += displayWidth(piece);
    }
    lines.push(line.trimEnd());
  }
  return lines;
}

function splitLongWord(word: string, columns: number): string[] {
  if (displayWidth(word) <= columns) return [word];
  const parts: string[] = [];
  let part = '';
  for (const { segment } of segmenter.segment(word)) {
    if (part !== '' && displayWidth(part) + graphemeWidth(segment) > columns) {
      parts.push(part);
      part = '';
    }
    part += segment;
  }
  return [...parts, part];
}
