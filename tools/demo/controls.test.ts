import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { SeededRandom } from './seeded-random.ts';

// The controls of the demo's claim: whatever makes exact match rise must be learning from answers that fit requests.

const commandLine = fileURLToPath(new URL('../../packages/cli/src/main.ts', import.meta.url));
const trainFile = fileURLToPath(new URL('../../packages/cli/assets/demo/train.jsonl', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'lorikeet-controls-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Summary {
  readonly exactMatchBefore: number;
  readonly exactMatchAfter: number;
  readonly heldOutRequests: number;
}

/** `lorikeet demo` in a process of its own, with some keys of its configuration replaced. */
async function demo(name: string, overrides: readonly string[], options: readonly string[] = []): Promise<Summary> {
  const set = overrides.flatMap((override) => ['--set', override]);
  const args = [commandLine, 'demo', '--json', '--output-dir', join(folder, name), ...options, ...set];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const code = await new Promise((done, failed) => child.once('error', failed).once('close', done));
  if (code !== 0) throw new Error(`lorikeet demo ended with ${code}: ${stdout}${stderr}`);
  return JSON.parse(stdout) as Summary;
}

test('control: with a learning rate of 0 exact match stays under 5 %', async () => {
  // Twenty steps are as good as three hundred where no step changes anything.
  const summary = await demo('zero', ['training.learningRate=0', 'training.maxSteps=20', 'training.evalStrategy=no']);
  expect(summary.heldOutRequests).toBeGreaterThanOrEqual(200);
  expect(summary.exactMatchBefore).toBeLessThan(0.05);
  expect(summary.exactMatchAfter).toBe(summary.exactMatchBefore);
}, 300_000);

test('control: trained on shuffled answers exact match stays under 20 %', async () => {
  const rows = readFileSync(trainFile, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { messages: [object, object] });
  const answers = new SeededRandom(1, 'controls').shuffle(rows.map(({ messages }) => messages[1]));
  const shuffled = rows.map(({ messages }, i) => JSON.stringify({ messages: [messages[0], answers[i]] }));
  const file = join(folder, 'shuffled.jsonl');
  writeFileSync(file, `${shuffled.join('\n')}\n`);
  const summary = await demo('shuffled', [`data.train=${JSON.stringify(file)}`, 'training.evalStrategy=no']);
  expect(summary.exactMatchAfter).toBeLessThan(0.2);
}, 600_000);

test('a base in 4 bits learns as one in 16 bits: exact match within 2 points', async () => {
  // Side by side, one thread each: less than a minute on two cores.
  const [wide, packed] = await Promise.all(
    [false, true].map((loadIn4bit) => {
      const overrides = [`quantization.loadIn4bit=${loadIn4bit}`, 'training.evalStrategy=no'];
      return demo(loadIn4bit ? '4-bit' : '16-bit', overrides, ['--threads', '1']);
    }),
  );
  expect(packed!.exactMatchBefore).toBeLessThan(0.05);
  expect(packed!.exactMatchAfter).toBeGreaterThan(0.9);
  expect(Math.abs(packed!.exactMatchAfter - wide!.exactMatchAfter)).toBeLessThanOrEqual(0.02);
}, 1_200_000);
