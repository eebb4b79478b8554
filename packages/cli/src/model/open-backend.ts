import { type CpuOptions, cpu, readTuning } from '@lorikeet/cpu';
import { nodeFiles, readJson } from '@lorikeet/files';
import type { Backend } from '@lorikeet/tensor';
import { webgpu } from '@lorikeet/webgpu';
import { exitCodes, userError, withExitCode } from '../errors.ts';

export const deviceNames = ['cpu', 'webgpu', 'auto'] as const;
export type DeviceName = (typeof deviceNames)[number];

export interface BackendOptions {
  /** 'auto' is the CPU until WebGPU is the faster one. */
  readonly device: DeviceName;
  /** CPU threads; default: one a core. */
  readonly threads?: number | undefined;
}

/** A backend that can be closed. */
export type ClosableBackend = Backend & { close(): Promise<void>; describe(): Record<string, unknown> };

/** Starts the device. @throws WebGpuUnavailableError (exit code 4), CliError for a bad thread count */
export async function openBackend({ device, threads }: BackendOptions): Promise<ClosableBackend> {
  if (device === 'webgpu') {
    if (threads !== undefined)
      throw userError('--threads: is for the CPU: --device webgpu was given.', { fix: 'Leave out one of the two.' });
    return webgpu();
  }
  const chosen = threads === undefined ? {} : { threads };
  return withExitCode(exitCodes.user, async () => cpu({ revectorize: 'auto', ...chosen, ...(await tuned()) }));
}

/** The table that LORIKEET_TUNING names, as `pnpm bench --tune` wrote it on this machine. */
async function tuned(): Promise<Pick<CpuOptions, 'tuning'>> {
  const path = process.env.LORIKEET_TUNING;
  if (!path) return {};
  try {
    return { tuning: readTuning(await readJson(nodeFiles(), path)) };
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    throw userError(`LORIKEET_TUNING: must name a tuning table: got ${path}.`, {
      found,
      fix: 'Make one with pnpm bench --tune FILE, or unset the variable.',
      cause: error,
    });
  }
}

/** Runs `work` on a device that is closed afterwards, however it ends. */
export async function withBackend<T>(
  options: BackendOptions,
  work: (backend: ClosableBackend) => Promise<T>,
): Promise<T> {
  const backend = await openBackend(options);
  try {
    return await work(backend);
  } finally {
    await backend.close();
  }
}
