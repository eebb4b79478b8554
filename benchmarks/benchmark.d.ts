/** The part of benchmark.js 2.1.4 that is used here; the package ships no types. */
declare module 'benchmark' {
  interface Options {
    defer?: boolean;
    minSamples?: number;
    maxTime?: number;
    minTime?: number;
    fn(deferred: { resolve(): void }): void;
  }
  export default class Benchmark {
    constructor(name: string, options: Options);
    readonly stats: { readonly sample: readonly number[] };
    readonly error?: Error;
    on(event: 'complete' | 'error', listener: () => void): this;
    run(options: { async: boolean }): this;
    static readonly version: string;
  }
}
