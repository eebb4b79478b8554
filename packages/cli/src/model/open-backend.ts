import { cpu } from '@lorikeet/cpu';
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
  return withExitCode(exitCodes.user, () => cpu({ revectorize: 'auto', ...chosen }));
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
