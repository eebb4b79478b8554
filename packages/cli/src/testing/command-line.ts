/** Runs the command line as a user does, in a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const entry = fileURLToPath(new URL('../main.ts', import.meta.url));

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface LineOptions {
  readonly cwd?: string;
  /** What stdin holds; without it stdin is empty. */
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Called with the process at each piece of stderr, to send signals. */
  readonly onProgress?: (child: ChildProcess, text: string) => void;
  /** Close the reading end of stdout at once, as `| head -0` does. */
  readonly breakStdout?: boolean;
}

/** Ends when the process has ended; never throws for its exit code. */
export async function lorikeet(args: readonly string[], options: LineOptions = {}): Promise<Ended> {
  const { cwd, input = '', env = {}, onProgress, breakStdout = false } = options;
  const child = spawn(process.execPath, [entry, ...args], {
    env: { ...process.env, LORIKEET_CPU: 'threads=1', ...env },
    ...(cwd === undefined ? {} : { cwd }),
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  if (breakStdout) child.stdout.destroy();
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    onProgress?.(child, text);
  });
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

/** The one JSON object that stdout must be. */
export function oneObject(stdout: string): Record<string, unknown> {
  const lines = stdout.trimEnd().split('\n');
  if (lines.length !== 1)
    throw new Error(`stdout must be one line of JSON: got ${lines.length} lines: ${stdout.slice(0, 300)}`);
  return JSON.parse(lines[0]!) as Record<string, unknown>;
}
