import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { nodeFiles } from '@lorikeet/files';
import { afterAll, describe, expect, it } from 'vitest';
import { logWithoutTimes } from './testing/tiny-run.ts';

const child = fileURLToPath(new URL('testing/kill-child.ts', import.meta.url));
const folders: string[] = [];
afterAll(() => Promise.all(folders.map((dir) => rm(dir, { recursive: true, force: true }))));

async function folder(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'kill-'));
  folders.push(dir);
  return dir;
}

/** Runs the child; kills it `afterMs` after training begins. Returns whether it came to its end. */
async function runChild(dir: string, afterMs?: number): Promise<boolean> {
  const run = spawn(process.execPath, [child, dir], { stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  run.stderr.on('data', (chunk) => (errors += String(chunk)));
  if (afterMs !== undefined) run.stdout.once('data', () => setTimeout(() => run.kill('SIGKILL'), afterMs));
  const [code, signal] = (await once(run, 'close')) as [number | null, string | null];
  expect(signal ?? code, errors).toBe(signal === 'SIGKILL' ? 'SIGKILL' : 0);
  return code === 0;
}

describe('kill -9', () => {
  it('at ten moments of a run, each followed by a resumption: the same bits as a run left alone', async () => {
    const [alone, killed] = [await folder(), await folder()];
    await runChild(alone);
    let kills = 0;
    const delays: number[] = [];
    for (; kills < 10; kills++) {
      delays.push(Math.floor(Math.random() * 90));
      if (await runChild(killed, delays.at(-1))) break;
    }
    await runChild(killed);
    expect(kills, `delays ${delays.join(', ')} ms`).toBeGreaterThanOrEqual(3);
    for (const name of ['model.safetensors', 'optimizer.safetensors']) {
      const [a, b] = await Promise.all([alone, killed].map((dir) => readFile(join(dir, 'checkpoint-60', name))));
      expect(b!.equals(a!), `${name} after delays ${delays.join(', ')} ms`).toBe(true);
    }
    expect(await logWithoutTimes(nodeFiles(), killed)).toBe(await logWithoutTimes(nodeFiles(), alone));
  }, 120_000);
});
