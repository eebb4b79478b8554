/** A process run to its end, with what it took: the peak of its memory is the kernel's own mark, VmHWM. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

export interface Measured {
  readonly seconds: number;
  /** User and system time of all its threads. */
  readonly cpuSeconds: number;
  /** Largest resident set in bytes. */
  readonly peakBytes: number;
  /** What it wrote to stdout. */
  readonly stdout: string;
}

const pollMs = 100;
/** USER_HZ of Linux. */
const ticksPerSecond = 100;

/** VmHWM of a process in bytes; 0 once it is gone. */
export function peakOf(pid: number | 'self'): number {
  try {
    const line = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return line ? Number(line[1]) * 1024 : 0;
  } catch {
    return 0;
  }
}

function cpuSecondsOf(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
  } catch {
    return 0;
  }
}

/** Runs a command; stderr goes to the terminal. Memory and time are asked for every 100 ms: both only grow. @throws Error for an exit code but 0 */
export async function measure(
  command: readonly string[],
  { env = {} }: { readonly env?: Readonly<Record<string, string>> } = {},
): Promise<Measured> {
  const start = performance.now();
  const [program, ...args] = command as [string, ...string[]];
  const child: ChildProcess = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  });
  let [peakBytes, cpuSeconds, stdout] = [0, 0, ''];
  const look = (): void => {
    peakBytes = Math.max(peakBytes, peakOf(child.pid!));
    cpuSeconds = Math.max(cpuSeconds, cpuSecondsOf(child.pid!));
  };
  const timer = setInterval(look, pollMs);
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    look();
    stdout += text;
  });
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((done, failed) =>
    child.once('error', failed).once('close', (...ended) => done(ended)),
  ).finally(() => clearInterval(timer));
  if (code !== 0) throw new Error(`full-size: ${command.slice(0, 4).join(' ')} ... ended with ${signal ?? code}.`);
  return { seconds: (performance.now() - start) / 1000, cpuSeconds, peakBytes, stdout };
}

/** The last line of stdout that is a JSON object. */
export function lastObject<T>(stdout: string): T {
  const line = stdout
    .trimEnd()
    .split('\n')
    .findLast((text) => text.startsWith('{'));
  if (line === undefined)
    throw new Error(`full-size: a phase must print a JSON object: it printed ${stdout.slice(-300)}`);
  return JSON.parse(line) as T;
}
