/**
 * Lets timers, signals and messages in between two pieces of work of a busy CPU. Where there is `setImmediate` (Node) a turn
 * of the event loop takes microseconds; a timer of 0 takes a millisecond, a fortieth of a step of a small model.
 */
export const breathe = (): Promise<void> =>
  new Promise((resolve) => {
    if (typeof globalThis.setImmediate === 'function') globalThis.setImmediate(resolve);
    else setTimeout(resolve, 0);
  });
