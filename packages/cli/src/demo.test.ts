/** The demo on its own assets. The controls of its claim stand in tools/demo, where the assets are made. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { renderDemoHtml } from './demo/demo-report.ts';
import { type Ended, type LineOptions, lorikeet, oneObject } from './testing/command-line.ts';

const demoMs = 300_000;
let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lorikeet-demo-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const demo = (name: string, options: LineOptions = {}): Promise<Ended> =>
  lorikeet(['demo', '--output-dir', join(dir, name), '--json'], { env: { LORIKEET_CPU: 'threads=2' }, ...options });
const summaryOf = (name: string): Record<string, number> =>
  JSON.parse(readFileSync(join(dir, name, 'summary.json'), 'utf8')) as Record<string, number>;

describe('demo', () => {
  test('goes from under 5 % to over 90 % on held-out requests, measured in a new process', {
    timeout: demoMs,
  }, async () => {
    const ended = await demo('whole');
    expect(ended.stderr).not.toContain('error:');
    expect(ended.code).toBe(0);
    const summary = summaryOf('whole');
    expect(summary.exactMatchBefore).toBeLessThan(0.05);
    expect(summary.exactMatchAfter).toBeGreaterThan(0.9);
    expect(summary.heldOutRequests).toBeGreaterThanOrEqual(200);
    expect(summary.evalLossAfter).toBeLessThan(summary.evalLossBefore!);
    for (const name of ['trainableParameters', 'tokensPerSecond', 'seconds', 'peakBytes'])
      expect(summary[name], name).toBeGreaterThan(0);
    const object = oneObject(ended.stdout);
    expect(object).toMatchObject({ command: 'demo', status: 'finished', exactMatchAfter: summary.exactMatchAfter });
    expect(object.dialogues).toHaveLength(3);
    const page = readFileSync(join(dir, 'whole', 'report.html'), 'utf8');
    expect(page).toContain('<svg');
    expect(page).not.toMatch(/(src|href)=|@import|url\(|<script/);
  });
});

test('Ctrl-C during the training of the demo ends it cleanly', { timeout: demoMs }, async () => {
  let sent = false;
  const ended = await demo('stopped', {
    onProgress: (child, text) => {
      if (!sent && text.includes('step 5/')) sent = child.kill('SIGINT');
    },
  });
  expect(ended.stderr).toContain('SIGINT: stopping after this step');
  expect(ended.code).toBe(0);
  expect(oneObject(ended.stdout)).toMatchObject({ command: 'demo', status: 'interrupted' });
});

test('what stands in a dialogue cannot become markup', () => {
  const page = renderDemoHtml({
    summary: {
      evalLossBefore: 2, evalLossAfter: 1, exactMatchBefore: 0, exactMatchAfter: 1, heldOutRequests: 1, trainableParameters: 1,
      steps: 2, tokensPerSecond: 1, seconds: 1, peakBytes: 1, adapter: 'a',
    },
    dialogues: [{ prompt: '<img onerror=alert(1)>', reference: '', before: '"&\'', after: '</table>' }],
    losses: [{ step: 1, loss: 2 }, { step: 2, loss: Number.NaN }],
    chatCommand: 'lorikeet chat',
  }); // biome-ignore format: one report
  expect(page).toContain('&lt;img onerror=alert(1)&gt;');
  expect(page).toContain('&quot;&amp;&#39;');
  expect(page.match(/<\/table>/g)).toHaveLength(2);
  expect(page).not.toContain('NaN');
});
