/** One thing that a check found wrong. */
export interface Problem {
  /** Path from the repository root, with forward slashes. */
  readonly path: string;
  /** Line number from 1; absent when the whole file is meant. */
  readonly line?: number;
  /** What must hold, what was found, what to do. */
  readonly message: string;
}

/** What one check has to say after it ran. */
export interface Outcome {
  readonly problems: readonly Problem[];
  /** What was looked at, for the table: "123 files". */
  readonly detail: string;
}

/** An outcome with the check's name and the time it took. */
export interface Row extends Outcome {
  readonly name: string;
  readonly elapsedMs: number;
}

/** `path:line  message`, the form that editors and terminals make clickable. */
export function formatProblem({ path, line, message }: Problem): string {
  return `${line === undefined ? path : `${path}:${line}`}  ${message}`;
}

/** The table at the end of `pnpm check`: one line a check, plain text. */
export function formatTable(rows: readonly Row[]): string {
  const cells = rows.map((row) => [
    row.name,
    row.problems.length === 0 ? 'ok' : 'FAILED',
    `${(row.elapsedMs / 1000).toFixed(1)} s`,
    row.problems.length === 0 ? row.detail : `${row.problems.length} found; ${row.detail}`,
  ]);
  const table = [['check', 'result', 'time', 'detail'], ...cells];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((row) => row[column]!.length)));
  return table
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** The number of the line, from 1, that holds the character at `offset`. */
export function lineAt(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf('\n'); at !== -1 && at < offset; at = text.indexOf('\n', at + 1)) line++;
  return line;
}
