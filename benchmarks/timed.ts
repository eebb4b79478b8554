/** Seconds of one call: the mean of calls that last `least` seconds together, or of one. Runs anywhere; `sample` is benchmark.js's way. */
export async function timed(run: () => unknown, least = 0.05): Promise<number> {
  let [calls, seconds, batch] = [0, 0, 1];
  while (seconds < least) {
    const start = performance.now();
    for (let i = 0; i < batch; i++) {
      const result = run();
      if (result instanceof Promise) await result;
    }
    seconds += (performance.now() - start) / 1000;
    calls += batch;
    // Batches keep the clock's own grain and cost out of short calls.
    if (seconds < least / 20) batch *= 4;
  }
  return seconds / calls;
}
