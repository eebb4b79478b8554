import { expect, test } from 'vitest';
import { renderPlot, renderSparkline } from './plot.ts';
import { renderFields, renderTable } from './table.ts';
import { displayWidth } from './width.ts';

test('columns line up when cells hold Korean, Japanese and emoji', () => {
  const table = renderTable(
    [{ title: 'asked' }, { title: 'n', align: 'right' }],
    [
      ['한국어', '1'],
      ['日本語です', '22'],
      ['👩‍👧 hi', '333'],
      ['plain', '4'],
    ],
  );
  const lines = table.split('\n');
  expect(new Set(lines.map(displayWidth)).size).toBe(1);
  expect(lines[2]!.endsWith('  1')).toBe(true);
  expect(table).toMatchInlineSnapshot(`
    "asked         n
    ──────────  ───
    한국어        1
    日本語です   22
    👩‍👧 hi       333
    plain         4"
  `);
});

test('long cells are wrapped to their column, rows stay apart', () => {
  const table = renderTable(
    [{ title: 'a', maxColumns: 6 }, { title: 'b' }],
    [
      ['가나다라마', 'x'],
      ['one two', 'y'],
    ],
  );
  expect(table.split('\n')).toEqual(['a       b', '──────  ─', '가나다  x', '라마', 'one     y', 'two']);
});

test('fields are lined up by the widest name', () => {
  expect(
    renderFields([
      ['a', '1'],
      ['손실', '2'],
    ]),
  ).toBe('a     1\n손실  2');
});

test('a plot draws a falling line from the upper left to the lower right', () => {
  const lines = renderPlot(
    [
      { x: 1, y: 4 },
      { x: 5, y: 1 },
    ],
    { columns: 10, rows: 3, title: 'loss', xLabel: 'step' },
  ).split('\n');
  expect(lines[0]).toBe('loss');
  expect(lines[1]).toMatch(/^4 │\S/);
  expect(lines[1]!.codePointAt(3)).not.toBe(0x2800);
  expect(lines[3]!.codePointAt(lines[3]!.length - 1)).not.toBe(0x2800);
  expect(lines.at(-1)).toMatch(/1 step\s+5$/);
});

test('a plot of nothing, or of numbers that are not finite, says so', () => {
  expect(renderPlot([{ x: 1, y: Number.NaN }], { title: 'loss' })).toBe('loss: nothing to show');
  expect(renderSparkline([3, Number.NaN, 1, 2], 10)).toBe('█▁▅');
});
