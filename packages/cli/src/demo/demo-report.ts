/** What the demo shows at its end: tables, dialogues, plots; on the terminal and as one HTML file. */
import { formatCount, formatDuration, formatPercent } from '../terminal/format.ts';
import { renderPlot } from '../terminal/plot.ts';
import { renderTable } from '../terminal/table.ts';

/** summary.json of the demo. */
export interface DemoSummary {
  readonly evalLossBefore: number;
  readonly evalLossAfter: number;
  /** Part of the held-out requests that are answered exactly right, 0 .. 1. */
  readonly exactMatchBefore: number;
  readonly exactMatchAfter: number;
  readonly heldOutRequests: number;
  readonly trainableParameters: number;
  readonly steps: number;
  readonly tokensPerSecond: number;
  /** Of the training alone. */
  readonly seconds: number;
  /** Most memory of the process that trained. */
  readonly peakBytes: number;
  readonly adapter: string;
}

export interface Dialogue {
  readonly prompt: string;
  readonly reference: string;
  readonly before: string;
  readonly after: string;
}

export interface DemoReport {
  readonly summary: DemoSummary;
  readonly dialogues: readonly Dialogue[];
  readonly losses: readonly { readonly step: number; readonly loss: number }[];
  readonly chatCommand: string;
}

const resultRows = ({ summary: s }: DemoReport): [string, string, string][] => [
  ['exactly right', formatPercent(s.exactMatchBefore), formatPercent(s.exactMatchAfter)],
  ['held-out loss', s.evalLossBefore.toFixed(4), s.evalLossAfter.toFixed(4)],
];

const cost = ({ summary: s }: DemoReport): string =>
  `${formatCount(s.trainableParameters)} parameters trained in ${formatDuration(s.seconds * 1000)}, ${formatCount(s.steps)} steps, ${formatCount(s.tokensPerSecond)} tokens/s`;

/** The report for a terminal. */
export function renderDemoText(report: DemoReport, columns: number): string {
  const { summary, dialogues, losses } = report;
  const width = Math.max(20, Math.floor((columns - 6) / 3));
  return [
    renderTable(
      [
        { title: `${summary.heldOutRequests} held-out requests` },
        { title: 'before', align: 'right' },
        { title: 'after', align: 'right' },
      ],
      resultRows(report),
    ),
    '',
    cost(report),
    '',
    renderTable(
      ['request', 'before', 'after'].map((title) => ({ title, maxColumns: width })),
      dialogues.map(({ prompt, before, after }) => [prompt, before, after]),
    ),
    '',
    renderPlot(
      losses.map(({ step, loss }) => ({ x: step, y: loss })),
      {
        title: 'training loss',
        xLabel: 'step',
        columns: Math.max(30, Math.min(72, columns - 10)),
        rows: 10,
      },
    ),
  ].join('\n');
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};
const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => entities[character]!);

/** One HTML file with nothing outside of it: no script, no font, no picture is loaded. */
export function renderDemoHtml(report: DemoReport): string {
  const row = (cells: readonly string[], tag = 'td'): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lorikeet demo</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733; background: #fff; }
  table { border-collapse: collapse; margin: 1rem 0; width: 100%; }
  th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.8rem; border-bottom: 1px solid #d5dce4; overflow-wrap: anywhere; }
  svg { width: 100%; height: auto; }
  code { background: #eef2f6; padding: 0.1rem 0.3rem; overflow-wrap: anywhere; }
  @media (prefers-color-scheme: dark) { body { color: #e3e9ef; background: #14191f; } th, td { border-color: #36424f; } code { background: #26303a; } }
</style>
<h1>Before and after fine-tuning</h1>
<table><thead>${row([`${report.summary.heldOutRequests} held-out requests`, 'before', 'after'], 'th')}</thead><tbody>${resultRows(
    report,
  )
    .map((cells) => row(cells))
    .join('')}</tbody></table>
<p>${escapeHtml(cost(report))}.</p>
<h2>Three requests the model never saw</h2>
<table><thead>${row(['request', 'before', 'after'], 'th')}</thead><tbody>${report.dialogues.map(({ prompt, before, after }) => row([prompt, before, after])).join('')}</tbody></table>
<h2>Training loss</h2>
${lossSvg(report.losses)}
<h2>Talk to it</h2>
<p><code>${escapeHtml(report.chatCommand)}</code></p>
</html>
`;
}

/** Loss over steps as a line, with the ends of the axes named. */
function lossSvg(losses: DemoReport['losses']): string {
  const [width, height, left, bottom] = [720, 260, 56, 28];
  const finite = losses.filter(({ loss }) => Number.isFinite(loss));
  if (finite.length === 0) return '<p>No step was trained.</p>';
  const high = Math.max(...finite.map(({ loss }) => loss));
  const [first, last] = [finite[0]!.step, finite.at(-1)!.step];
  const x = (step: number): number => left + ((step - first) / Math.max(1, last - first)) * (width - left - 8);
  const y = (loss: number): number => 8 + (1 - loss / (high || 1)) * (height - bottom - 8);
  const points = finite.map(({ step, loss }) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(' ');
  const label = (at: number, down: number, anchor: string, text: string): string =>
    `<text x="${at}" y="${down}" text-anchor="${anchor}" font-size="13" fill="currentColor">${text}</text>`;
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Training loss by step">
<path d="M${left} 8V${height - bottom}H${width - 8}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>
<polyline points="${points}" fill="none" stroke="#2a9d63" stroke-width="2"/>
${label(left - 8, 16, 'end', high.toFixed(2))}${label(left - 8, height - bottom, 'end', '0')}${label(left, height - 8, 'start', `step ${first}`)}${label(width - 8, height - 8, 'end', `step ${last}`)}
</svg>`;
}
