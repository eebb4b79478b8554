import { availableParallelism, cpus, totalmem } from 'node:os';
import type { FileSystem } from '@lorikeet/files';
import { showBytes } from '@lorikeet/trainer';
import type { Command } from 'commander';
import { type Begin, type DeviceOptions, makeCommand, withDevice } from '../command.ts';
import { exitCodeOf, exitCodes } from '../errors.ts';
import { openBackend } from '../model/open-backend.ts';
import { renderFields } from '../terminal/table.ts';
import { version } from '../version.ts';

/** What this version does not do; each has an issue of its own. */
const notYet = [
  'a quantized base (QLoRA)',
  'training fast on a GPU',
  'GGUF export',
  'a server or a page in the browser',
  'several machines',
] as const;

interface DeviceReport {
  readonly found: boolean;
  readonly details?: Readonly<Record<string, unknown>>;
  /** What is missing and what to install. */
  readonly missing?: string;
}

/** `lorikeet doctor`: what this machine can do and what was chosen. */
export function doctorCommand(begin: Begin): Command {
  return withDevice(makeCommand('doctor', 'what this machine can do and what was chosen')).action(
    async (flags: DeviceOptions) => {
      const { files, output } = begin({ ...flags });
      const report = await examine(files, flags);
      output.result({ command: 'doctor', ...report });
      output.print(describe(report));
    },
  );
}

async function examine(files: FileSystem, { threads }: DeviceOptions) {
  const [cpu, webgpu] = [await probe('cpu', threads), await probe('webgpu', undefined)];
  return {
    version,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    processor: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memory: { totalBytes: totalmem(), availableBytes: process.availableMemory() },
    disk: { path: process.cwd(), freeBytes: (await files.freeBytes('.')) ?? null },
    chosen: 'cpu',
    cpu,
    webgpu,
    notYet,
  };
}

async function probe(device: 'cpu' | 'webgpu', threads: number | undefined): Promise<DeviceReport> {
  try {
    const backend = await openBackend({ device, threads });
    try {
      return { found: true, details: backend.describe() };
    } finally {
      await backend.close();
    }
  } catch (error) {
    if (exitCodeOf(error) !== exitCodes.device) throw error;
    return { found: false, missing: (error as Error).message };
  }
}

function describe(report: Awaited<ReturnType<typeof examine>>): string {
  const { memory, disk, cpu, webgpu } = report;
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
    ['webgpu', webgpu.found ? 'ready' : 'not found'],
    ...details(webgpu),
    ['not yet', report.notYet.join('; ')],
  ]);
}
