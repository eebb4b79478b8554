import { spawn } from 'node:child_process';
import { availableParallelism, cpus, totalmem } from 'node:os';
import type { FileSystem } from '@lorikeet/files';
import { showBytes } from '@lorikeet/trainer';
import { type Command, Option } from 'commander';
import { type Begin, type DeviceOptions, makeCommand, withDevice } from '../command.ts';
import { entryPath } from '../entry.ts';
import { exitCodeOf, exitCodes } from '../errors.ts';
import { type EngineLimits, measureEngine, missingForSpeed } from '../model/measure-engine.ts';
import { openBackend } from '../model/open-backend.ts';
import { renderFields } from '../terminal/table.ts';
import { version } from '../version.ts';

/** What this version does not do; each has an issue of its own. */
const notYet = [
  'training fast on a GPU',
  'GGUF export',
  'a server or a page in the browser',
  'several machines',
] as const;

type ProbedDevice = 'cpu' | 'webgpu';

interface DoctorFlags extends DeviceOptions {
  /** Only say what this device is; how doctor asks a process of its own. */
  readonly probe?: ProbedDevice;
}

interface DeviceReport {
  readonly found: boolean;
  readonly details?: Readonly<Record<string, unknown>>;
  /** CPU only: the processor's own limits, which no kernel can pass. */
  readonly limits?: EngineLimits;
  /** CPU only: what would make it faster. */
  readonly missingForSpeed?: readonly string[];
  /** What is missing and what to install. */
  readonly missing?: string;
}

/** `lorikeet doctor`: what this machine can do and what was chosen. */
export function doctorCommand(begin: Begin): Command {
  return withDevice(makeCommand('doctor', 'what this machine can do and what was chosen'))
    .addOption(new Option('--probe <device>').choices(['cpu', 'webgpu']).hideHelp())
    .action(async (flags: DoctorFlags) => {
      const { files, output } = begin({ ...flags });
      if (flags.probe !== undefined) {
        const found = await probe(flags.probe, undefined, (report) => output.result(report));
        if (!found.found) output.result(found);
        return;
      }
      const report = await examine(files, flags);
      output.result({ command: 'doctor', ...report });
      output.print(describe(report));
    });
}

async function examine(files: FileSystem, { threads }: DeviceOptions) {
  return {
    version,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    processor: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memory: { totalBytes: totalmem(), availableBytes: process.availableMemory() },
    disk: { path: process.cwd(), freeBytes: (await files.freeBytes('.')) ?? null },
    chosen: 'cpu',
    cpu: await probe('cpu', threads),
    webgpu: await probeInProcess('webgpu'),
    quantization: ['nf4', 'fp4', 'int8'],
    notYet,
  };
}

/** Opens a device and asks what it is; `report` gets the answer before the device is closed. */
async function probe(
  device: ProbedDevice,
  threads: number | undefined,
  report: (found: DeviceReport) => void = () => undefined,
): Promise<DeviceReport> {
  try {
    const backend = await openBackend({ device, threads });
    const details = backend.describe();
    const limits = measureEngine(backend);
    const found = { found: true, details, ...(limits && { limits, missingForSpeed: missingForSpeed(details) }) };
    report(found);
    await backend.close();
    return found;
  } catch (error) {
    if (exitCodeOf(error) !== exitCodes.device) throw error;
    return { found: false, missing: (error as Error).message };
  }
}

/** The same in a process of its own: a graphics driver that crashes must not take this report with it. */
async function probeInProcess(device: ProbedDevice): Promise<DeviceReport> {
  const child = spawn(process.execPath, [entryPath, 'doctor', '--probe', device, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((done, failed) =>
    child.once('error', failed).once('close', (...ended) => done(ended)),
  );
  try {
    // What it could still say counts, even where the driver crashed when it was closed.
    return JSON.parse(stdout.split('\n')[0]!) as DeviceReport;
  } catch {
    const last = stderr.trim().split('\n').slice(-2).join(' ');
    return { found: false, missing: `its driver crashed (${signal ?? `exit code ${code}`}): ${last}` };
  }
}

const describeLimits = (limits: EngineLimits): (readonly [string, string])[] => [
  ['  peak', `${limits.multiplyAddGflops} GFLOP/s of multiply-adds`],
  ['  bandwidth', `${limits.copyGbPerSecond} GB/s copied (read + written), ${limits.readGbPerSecond} GB/s read`],
];

function describe(report: Awaited<ReturnType<typeof examine>>): string {
  const { memory, disk, cpu, webgpu } = report;
  const { limits, missingForSpeed: lacks = [] } = cpu;
  const list = (value: unknown): string => (Array.isArray(value) ? value.join(', ') : String(value));
  const details = (device: DeviceReport): (readonly [string, string])[] =>
    device.found
      ? Object.entries(device.details!)
          .filter(([name]) => !['name', 'liveBytes', 'peakBytes'].includes(name))
          .map(([name, value]) => [
            `  ${name}`,
            name.endsWith('Bytes') && typeof value === 'number'
              ? showBytes(value)
              : typeof value === 'object' && !Array.isArray(value)
                ? JSON.stringify(value)
                : list(value),
          ])
      : [['  missing', device.missing!]];
  return renderFields([
    ['lorikeet', report.version],
    ['node', `${report.node} (${report.platform})`],
    ['processor', `${report.processor}, ${report.cores} cores`],
    ['memory', `${showBytes(memory.availableBytes)} free of ${showBytes(memory.totalBytes)}`],
    ['disk', disk.freeBytes === null ? 'unknown' : `${showBytes(disk.freeBytes)} free in ${disk.path}`],
    ['device auto', report.chosen],
    ['cpu', cpu.found ? 'ready' : 'not found'],
    ...details(cpu),
    ...(limits ? describeLimits(limits) : []),
    ...(cpu.found ? [['  missing for more', lacks.length > 0 ? lacks.join('; ') : 'nothing'] as const] : []),
    ['webgpu', webgpu.found ? 'ready' : 'not found'],
    ...details(webgpu),
    ['quantization', `${report.quantization.join(', ')} (--load-in-4bit, --load-in-8bit, lorikeet quantize)`],
    ['not yet', report.notYet.join('; ')],
  ]);
}
