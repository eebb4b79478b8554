/** The results as text: a table in the terminal, and a Markdown table with the machine and the versions. */
import type { Result } from './rows.ts';

/** Three digits that matter, without exponents. */
export function show(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value >= 1000) return value.toFixed(0);
  return value >= 100 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : value.toPrecision(2);
}

const percent = (part: number | null): string => (part === null ? '' : `${(100 * part).toFixed(0)} %`);

/** A case's rows as they are measured. */
export function printRows(results: readonly Result[]): void {
  for (const { row, median, medians } of results) {
    const { name, shape, threads, unit, ours, limit, fractionOfLimit, peers, runs, spread } = row;
    const bound = limit === null ? '' : `  ${percent(fractionOfLimit)} of ${show(limit)}`;
    console.log(`${name}  ${shape}  ${threads} thread${threads === 1 ? '' : 's'}`);
    console.log(
      `    ours ${show(ours)} ${unit} (median ${show(median)}, spread ${percent(spread)}, ${runs} rounds)${bound}`,
    );
    for (const [peer, { version, value, ratio }] of Object.entries(peers))
      console.log(
        `    ${show(ratio).padStart(6)} x ${peer} ${version === 'this' ? '' : version} ${show(value)} (median ${show(medians[peer]!)})`,
      );
  }
}

/** What the rows were measured on. */
export interface Setting {
  readonly date: string;
  /** Facts of the machine and versions of programs, by name. */
  readonly facts: Readonly<Record<string, string>>;
}

const cell = (text: string): string => text.replaceAll('|', '\\|');

/** The whole as Markdown: best values, medians in brackets, ratios (above 1: ours is faster). */
export function markdownOf({ date, facts }: Setting, results: readonly Result[]): string {
  const head = [
    'work',
    'shape',
    'threads',
    'unit',
    'ours (median)',
    'spread',
    'limit',
    'of it',
    'beside: ratio, value (median)',
  ];
  const lines = results.map(({ row, median, medians }) => {
    const beside = Object.entries(row.peers).map(
      ([name, { value, ratio }]) => `${name} **${show(ratio)}**, ${show(value)} (${show(medians[name]!)})`,
    );
    return [
      row.name, row.shape, `${row.threads}`, row.unit, `${show(row.ours)} (${show(median)})`, percent(row.spread),
      row.limit === null ? '' : show(row.limit), percent(row.fractionOfLimit), beside.join('; '),
    ]; // biome-ignore format: a row
  });
  return [
    `# Benchmarks of ${date}`,
    '',
    ...Object.entries(facts).map(([name, value]) => `- ${name}: ${value}`),
    '',
    'Best of the rounds, medians in brackets; a ratio above 1 means that ours is faster. What the columns mean: [README](../README.md).',
    '',
    ...[head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.map(cell).join(' | ')} |`),
    '',
  ].join('\n');
}
