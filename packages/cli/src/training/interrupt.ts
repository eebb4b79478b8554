/** The first Ctrl-C asks a run to save and end; the second ends the process. */

export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
  /** The signal's name once it came. */
  readonly by: () => NodeJS.Signals | undefined;
}

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const abortedExitCode = 130;

/** Listens until disposed. `onFirst` is told at once, since the step under way has to end before the checkpoint. */
export function catchInterrupts(onFirst: (signal: NodeJS.Signals) => void): Interrupt {
  const controller = new AbortController();
  let by: NodeJS.Signals | undefined;
  const handle = (signal: NodeJS.Signals): void => {
    if (by !== undefined) process.exit(abortedExitCode);
    by = signal;
    onFirst(signal);
    controller.abort();
  };
  for (const signal of signals) process.on(signal, handle);
  return {
    signal: controller.signal,
    by: () => by,
    [Symbol.dispose]: () => {
      for (const signal of signals) process.off(signal, handle);
    },
  };
}
