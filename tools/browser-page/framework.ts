/** The part of a test framework that the backend suites need, for programs in a page, where Vitest does not run. */

export interface Outcome {
  readonly ran: number;
  /** A line for each test that failed: its name and why. */
  readonly failed: readonly string[];
}

const same = (a: unknown, b: unknown) => JSON.stringify(a) === JSON.stringify(b);

/** `describe`, `it` and `expect` that collect, and `run`, which runs what was collected. */
export function collectTests() {
  const tests: [name: string, body: () => void | Promise<void>][] = [];
  const stack: string[] = [];
  const fail = (text: string): never => {
    throw new Error(text);
  };
  return {
    describe(name: string, body: () => void): void {
      stack.push(name);
      body();
      stack.pop();
    },
    it(name: string, body: () => void | Promise<void>): void {
      tests.push([[...stack, name].join(' '), body]);
    },
    expect: (value: unknown) => ({
      toBe: (other: unknown) => Object.is(value, other) || fail(`got ${value}, expected ${other}`),
      toEqual: (other: unknown) =>
        same(value, other) || fail(`got ${JSON.stringify(value)}, expected ${JSON.stringify(other)}`),
      toThrow(text: string) {
        try {
          (value as () => unknown)();
        } catch (error) {
          if ((error as Error).message.includes(text)) return;
          throw error;
        }
        fail(`was not refused: ${text}`);
      },
    }),
    async run(): Promise<Outcome> {
      const failed: string[] = [];
      for (const [name, body] of tests) {
        try {
          await body();
        } catch (error) {
          failed.push(`${name}: ${(error as Error).message}`);
        }
      }
      return { ran: tests.length, failed };
    },
  };
}
