const flagLetters: Readonly<Record<string, string>> = { i: 'i', m: 'm', s: 's' };

/**
 * A regular expression of Python's `re` as one of ours that must match a whole text. Translated: leading flags `(?i)`,
 * named groups `(?P<n>...)`, `(?P=n)`, `\A` and `\Z`. What else differs between the languages (possessive quantifiers,
 * conditionals) is refused by the JavaScript parser rather than read differently.
 *
 * @throws SyntaxError that shows the expression
 */
export function pythonFullMatch(source: string, what: string): RegExp {
  const leading = /^\(\?([ims]+)\)/.exec(source);
  const flags = [...new Set(leading?.[1])].map((letter) => flagLetters[letter]).join('');
  const body = source
    .slice(leading?.[0].length ?? 0)
    .replace(/\(\?P</g, '(?<')
    .replace(/\(\?P=(\w+)\)/g, '\\k<$1>')
    .replace(/(?<!\\)((?:\\\\)*)\\A/g, '$1^')
    .replace(/(?<!\\)((?:\\\\)*)\\Z/g, '$1$');
  try {
    return new RegExp(`^(?:${body})$`, flags);
  } catch (cause) {
    throw new SyntaxError(`${what}: must be a regular expression: ${source}: ${(cause as Error).message}.`, { cause });
  }
}
