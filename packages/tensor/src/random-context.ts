import type { RandomKey } from './random.ts';
import { assertSync } from './scope.ts';

interface RandomContext {
  readonly key: RandomKey;
  readonly calls: Map<string, number>;
}
let current: RandomContext | null = null;

function within<T>(context: RandomContext | null, fn: () => T): T {
  const before = current;
  current = context;
  try {
    return fn();
  } finally {
    current = before;
  }
}

/** Runs a synchronous forward whose dropout masks come from `key` (fold seed, optimizer step and micro-step into it). */
export const withRandom = <T>(key: RandomKey, fn: () => T): T =>
  within({ key, calls: new Map() }, () => {
    const result = fn();
    assertSync('withRandom', result);
    return result;
  });

/** The key of the next random call at a module path; throws outside withRandom. */
export function nextKey(path: string): RandomKey {
  if (!current)
    throw new Error(
      `dropout: training needs randomness for ${path}: none was given. Wrap the forward in withRandom(key, fn), or call eval().`,
    );
  const call = current.calls.get(path) ?? 0;
  current.calls.set(path, call + 1);
  return current.key.fold(path).fold(call);
}

/** The state to repeat the calls that follow. */
export const snapshotRandom = (): RandomContext | null =>
  current && { key: current.key, calls: new Map(current.calls) };

/** Runs `fn` from a snapshot, leaving the present state alone. */
export const restoreRandom = <T>(snapshot: RandomContext | null, fn: () => T): T =>
  within(snapshot && { key: snapshot.key, calls: new Map(snapshot.calls) }, fn);
