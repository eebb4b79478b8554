import type { DType } from './dtype.ts';
import type { Shape } from './shape.ts';

/** A tensor handle that was garbage-collected without being disposed: its backend memory is lost until the backend closes. */
export interface Leak {
  readonly shape: Shape;
  readonly dtype: DType;
  /** Where the handle was made. */
  readonly stack: string;
}

let listener: ((leak: Leak) => void) | null = null;
const registry = new FinalizationRegistry<Leak>((leak) => listener?.(leak));

/**
 * Reports tensors that were dropped without `dispose`, `using` or a scope, with the place that made them; null ends the
 * reports. It only reports: freeing is explicit, because garbage collection comes too late for device memory. Costs a
 * stack trace a tensor, so turn it on to look for a leak.
 */
export function reportLeaks(report: ((leak: Leak) => void) | null): void {
  listener = report;
}

/** Called for each new handle. */
export function watch(handle: { readonly shape: Shape; readonly dtype: DType }): void {
  if (!listener) return;
  const stack = new Error().stack?.split('\n').slice(3).join('\n') ?? '';
  registry.register(handle, { shape: handle.shape, dtype: handle.dtype, stack }, handle);
}

/** Called when a handle is disposed. */
export function unwatch(handle: object): void {
  if (listener) registry.unregister(handle);
}
