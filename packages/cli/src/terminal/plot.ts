/** Line plots in characters. */
import { padToWidth } from './width.ts';

export interface Point {
  readonly x: number;
  readonly y: number;
}

export interface PlotOptions {
  /** Columns and rows of the plotting area. */
  readonly columns?: number;
  readonly rows?: number;
  readonly title?: string;
  readonly xLabel?: string;
}

// Dots of a braille cell by row and half: two columns and four rows a character.
const dots = [
  [0x01, 0x08],
  [0x02, 0x10],
  [0x04, 0x20],
  [0x40, 0x80],
] as const;

const short = (value: number): string =>
  Number.isInteger(value) || Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);

/** A line through points of rising x, in braille dots, with the ends of both axes named. Points that are not finite are left out. */
export function renderPlot(given: readonly Point[], options: PlotOptions = {}): string {
  const { columns = 60, rows = 12, title, xLabel = '' } = options;
  const points = given.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
  if (points.length === 0) return `${title ?? 'plot'}: nothing to show`;
  const [xs, ys] = [points.map(({ x }) => x), points.map(({ y }) => y)];
  const [xLow, xHigh] = [Math.min(...xs), Math.max(...xs)];
  const [yLow, yHigh] = [Math.min(...ys), Math.max(...ys)];
  const grid = Array.from({ length: rows }, () => new Uint8Array(columns));
  const place = ({ x, y }: Point): readonly [column: number, row: number] => [
    Math.round(((x - xLow) / (xHigh - xLow || 1)) * (columns * 2 - 1)),
    Math.round((1 - (y - yLow) / (yHigh - yLow || 1)) * (rows * 4 - 1)),
  ];
  points.forEach((point, i) => drawLine(grid, place(points[Math.max(0, i - 1)]!), place(point)));
  const labels = [short(yHigh), short(yLow)];
  const labelWidth = Math.max(...labels.map((label) => label.length));
  const lines = grid.map((cells, row) => {
    const label = row === 0 ? labels[0]! : row === rows - 1 ? labels[1]! : '';
    return `${padToWidth(label, labelWidth, 'right')} │${String.fromCharCode(...Array.from(cells, (c) => 0x2800 + c))}`;
  });
  const ends = `${short(xLow)} ${xLabel}`.trimEnd();
  const axis = `${' '.repeat(labelWidth)} └${'─'.repeat(columns)}`;
  const names = `${' '.repeat(labelWidth + 2)}${padToWidth(ends, Math.max(ends.length + 1, columns - short(xHigh).length))}${short(xHigh)}`;
  return [...(title ? [title] : []), ...lines, axis, names].join('\n');
}

function drawLine(grid: readonly Uint8Array[], from: readonly [number, number], to: readonly [number, number]): void {
  const steps = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1);
  for (let i = 0; i <= steps; i++) {
    const x = Math.round(from[0] + ((to[0] - from[0]) * i) / steps);
    const y = Math.round(from[1] + ((to[1] - from[1]) * i) / steps);
    grid[y >> 2]![x >> 1]! |= dots[y & 3]![x & 1]!;
  }
}

const levels = '▁▂▃▄▅▆▇█';

/** The last values as one line of bars: is it going down? */
export function renderSparkline(values: readonly number[], columns: number): string {
  const shown = values.filter(Number.isFinite).slice(-columns);
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  return shown.map((v) => levels[Math.round(((v - low) / (high - low || 1)) * (levels.length - 1))]!).join('');
}
