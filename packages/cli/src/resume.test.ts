/** A run that was interrupted, killed or made on other threads gives the same bits. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { acquireLock, lockName, nodeFiles } from '@lorikeet/files';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { lorikeet } from './testing/command-line.ts';
import { makeWorkspace, type TestWorkspace } from './testing/workspace.ts';

let space: TestWorkspace;
const adapter = (dir: string): string => space.sha256(`${dir}/adapter/adapter_model.safetensors`);
const train = (dir: string, more: readonly string[] = [], options: Parameters<typeof lorikeet>[1] = {}) =>
  lorikeet(['train', '-c', 'run.yaml', '--output-dir', dir, ...more], { cwd: space.dir, ...options });

/** Sends a signal once, when progress shows `text`. */
const signalAt = (text: string, signal: NodeJS.Signals) => {
  let sent = false;
  let seen = '';
  return (child: ChildProcess, piece: string): void => {
    seen += piece;
    if (sent || !seen.includes(text)) return;
    sent = true;
    child.kill(signal);
  };
};

/** Loss, gradient norm and rate of every logged step. */
const losses = (dir: string): unknown[] =>
  readFileSync(space.path(dir, 'log.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .map(({ step, loss, gradNorm, learningRate, epoch }) => ({ step, loss, gradNorm, learningRate, epoch }));

beforeAll(async () => {
  space = await makeWorkspace();
  const { code, stderr } = await train('whole');
  expect([code, stderr.includes('error')]).toEqual([0, false]);
});
afterAll(() => space[Symbol.dispose]());

describe('signals', () => {
  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    '%s saves, says how to go on and ends with 0; the rest gives the same bits',
    async (signal) => {
      const dir = `after-${signal}`;
      let sentAt = 0;
      const send = signalAt('step 7/', signal);
      const stopped = await train(dir, [], {
        onProgress: (child, text) => {
          send(child, text);
          if (child.killed) sentAt ||= performance.now();
        },
      });
      expect(performance.now() - sentAt).toBeLessThan(3000);
      expect(stopped.code).toBe(0);
      expect(stopped.stdout).toContain('--resume auto');
      expect(existsSync(space.path(dir, 'adapter'))).toBe(false);
      const resumed = await train(dir, ['--resume', 'auto']);
      expect(resumed.stderr).toContain('resumed from');
      expect(adapter(dir)).toBe(adapter('whole'));
      expect(losses(dir)).toEqual(losses('whole'));
    },
  );

  test('the second one ends the process at once', async () => {
    const module = JSON.stringify(new URL('./training/interrupt.ts', import.meta.url).href);
    const program = `const { catchInterrupts } = await import(${module}); catchInterrupts((signal) => console.log(signal)); setInterval(() => {}, 1000); console.log('ready');`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', program]);
    let shown = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      shown += text;
      child.kill('SIGINT'); // once for "ready", once more for the first signal's own line
    });
    const code = await new Promise((resolve) => child.once('close', resolve));
    expect([code, shown]).toEqual([130, 'ready\nSIGINT\n']);
  });
});

test('kill -9 and resume give the same bits', async () => {
  const killed = await train('killed', [], { onProgress: signalAt('checkpoint-10', 'SIGKILL') });
  expect(killed.signal).toBe('SIGKILL');
  const resumed = await train('killed', ['--resume', 'auto']);
  expect(resumed.code).toBe(0);
  expect(resumed.stderr).toContain('resumed from');
  expect(adapter('killed')).toBe(adapter('whole'));
  expect(losses('killed')).toEqual(losses('whole'));
});

test('a finished run that is resumed says the same again', async () => {
  const summary = () =>
    JSON.parse(readFileSync(space.path('killed', 'summary.json'), 'utf8')) as Record<string, unknown>;
  const before = summary();
  expect((await train('killed', ['--resume', 'auto'])).code).toBe(0);
  const { evalLoss, firstLoss, lastLoss, trainLoss, step } = before;
  expect(summary()).toMatchObject({ evalLoss, firstLoss, lastLoss, trainLoss, step, status: 'finished' });
  expect(adapter('killed')).toBe(adapter('whole'));
});

test('1, 2 and 4 threads give the same bits', async () => {
  for (const threads of [2, 4]) {
    const { code } = await train(`threads-${threads}`, [], { env: { LORIKEET_CPU: `threads=${threads}` } });
    expect(code).toBe(0);
    expect(adapter(`threads-${threads}`)).toBe(adapter('whole'));
  }
});

test('a reader of stdout that goes away does not stop the training', async () => {
  const { code } = await train('piped', ['--json'], { breakStdout: true });
  expect(code).toBe(0);
  expect(adapter('piped')).toBe(adapter('whole'));
});

test('overwriting takes nothing from a run that is under way', async () => {
  const before = space.filesBelow('whole');
  await using _ = await acquireLock(nodeFiles(), space.path('whole'));
  const refused = await train('whole', ['--set', 'training.overwriteOutputDir=true', '--set', 'peft.r=8']);
  expect(refused.code).toBe(5);
  expect(refused.stderr).toContain(`process ${process.pid} holds it`);
  expect(space.filesBelow('whole').filter((file) => file !== lockName)).toEqual(before);
});

test('other settings than those of the checkpoint are refused with every difference', async () => {
  const resolvedConfig = space.path('whole', 'config.resolved.yaml');
  const before = readFileSync(resolvedConfig, 'utf8');
  const refused = await train('whole', [
    '--resume',
    'auto',
    '--set',
    'peft.r=8',
    '--set',
    'training.seed=1',
    '--max-steps',
    '20',
  ]);
  expect(refused.code).toBe(2);
  expect(readFileSync(resolvedConfig, 'utf8')).toBe(before);
  expect(refused.stderr).toMatch(/seed: was 42, is 1/);
  expect(refused.stderr).toMatch(/peft: was .*"r":4.*is .*"r":8/);
});
