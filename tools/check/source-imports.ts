import { lineAt } from './report.ts';

/** One module that a source file names. */
export interface SourceImport {
  readonly specifier: string;
  readonly line: number;
  /** `import type`, `export type`, `typeof import('x')` and `import('x').Name`: erased before the program runs. */
  readonly typeOnly: boolean;
  /** How it is reached: an import, or Node's `process.getBuiltinModule`. */
  readonly via: 'import' | 'getBuiltinModule';
}

// The formatter has run over every file, so a static import begins its line and its quotes are single; that makes a
// pattern enough where a parser would otherwise be needed.
const patterns: readonly { pattern: RegExp; via: SourceImport['via'] }[] = [
  { pattern: /^(?:import|export)(?<type> type)?\b[^'"`;=()]*?\bfrom '(?<specifier>[^'\n]+)'/gm, via: 'import' },
  { pattern: /^import '(?<specifier>[^'\n]+)'/gm, via: 'import' },
  { pattern: /(?<type>\btypeof )\bimport\(\s*['"`](?<specifier>[^'"`\n]+)['"`]/g, via: 'import' },
  { pattern: /(?<!\btypeof )\bimport\('(?<specifier>[^'\n]+)'\)(?<type>\.(?=[A-Z]))/g, via: 'import' },
  { pattern: /(?<!\btypeof )\bimport\(\s*['"`](?<specifier>[^'"`\n]+)['"`](?!\)\.[A-Z])/g, via: 'import' },
  { pattern: /\bgetBuiltinModule\??\.?\(\s*['"`](?<specifier>[^'"`\n]+)['"`]/g, via: 'getBuiltinModule' },
];

/** Every module that `text` imports, in the order of its lines; comment lines are passed over. */
export function sourceImports(text: string): SourceImport[] {
  const code = text.replace(/^[ \t]*(?:\/\/|\/?\*).*$/gm, (comment) => ' '.repeat(comment.length));
  return patterns
    .flatMap(({ pattern, via }) =>
      [...code.matchAll(pattern)].map(({ index, groups }) => ({
        specifier: groups!.specifier!,
        line: lineAt(code, index),
        typeOnly: groups!.type !== undefined,
        via,
      })),
    )
    .sort((a, b) => a.line - b.line);
}
