/** How much a device can hold, asked before anything is loaded. */
import { type Backend, OutOfMemoryError } from '@lorikeet/tensor';
import { showBytes } from '@lorikeet/trainer';

export interface DeviceMemory {
  /** Most bytes of all tensors together; infinite where the device sets no bound of its own. */
  readonly limitBytes: number;
  /** Of them, what everything but frozen weights must share; undefined where there is no such part. */
  readonly workBytes: number | undefined;
}

/** What the device's own description says: the cpu keeps weights in a store beside its work memory. */
export function deviceMemory(backend: Backend): DeviceMemory {
  const { workMemoryLimitBytes: work, storeLimitBytes: store } = backend.describe() as Readonly<
    Record<string, unknown>
  >;
  if (typeof work !== 'number') return { limitBytes: Number.POSITIVE_INFINITY, workBytes: undefined };
  return { limitBytes: work + (typeof store === 'number' ? store : 0), workBytes: work };
}

/**
 * @param change what makes the weights smaller, where something does
 * @throws OutOfMemoryError when weights of this size alone are more than the machine or the device holds
 */
export function requireRoomForWeights(weightBytes: number, backend: Backend, change?: string): void {
  const { limitBytes } = deviceMemory(backend);
  const freeBytes = process.availableMemory();
  const [most, of] =
    limitBytes < freeBytes ? [limitBytes, `the ${backend.name} backend can hold`] : [freeBytes, 'is free'];
  if (weightBytes > most)
    throw new OutOfMemoryError(
      `model: the weights must fit into the ${showBytes(most)} of memory that ${of}: they take ${showBytes(weightBytes)}. ${change ? `${change}, or use` : 'Use'} a smaller model${most === freeBytes ? ', or close other programs' : ''}.`,
    );
}
