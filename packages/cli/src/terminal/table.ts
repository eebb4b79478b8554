import { displayWidth, padToWidth, wrapToWidth } from './width.ts';

export interface Column {
  readonly title: string;
  /** @defaultValue 'left' */
  readonly align?: 'left' | 'right';
  /** Longer cells are wrapped to this many columns of the terminal. */
  readonly maxColumns?: number;
}

/** Rows of text under titles, columns lined up by display width. Cells may hold several lines. */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const cells = [columns.map(({ title }) => title), ...rows].map((row) =>
    columns.map(({ maxColumns }, i) => wrapToWidth(row[i] ?? '', maxColumns ?? Number.POSITIVE_INFINITY)),
  );
  const widths = columns.map((_, i) => Math.max(...cells.flatMap((row) => row[i]!.map(displayWidth))));
  const printRow = (row: readonly string[][]): string[] =>
    Array.from({ length: Math.max(...row.map((cell) => cell.length)) }, (_, line) =>
      row
        .map((cell, i) => padToWidth(cell[line] ?? '', widths[i]!, columns[i]!.align))
        .join('  ')
        .trimEnd(),
    );
  const [titles, ...body] = cells.map(printRow);
  return [...titles!, widths.map((width) => '─'.repeat(width)).join('  '), ...body.flat()].join('\n');
}

/** `name: value` lines with the values lined up. */
export function renderFields(fields: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...fields.map(([name]) => displayWidth(name)));
  return fields.map(([name, value]) => `${padToWidth(name, width)}  ${value}`.trimEnd()).join('\n');
}
