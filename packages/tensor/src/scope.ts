/** Anything that a scope can own: tensors, gradients. */
export interface Disposable {
  dispose(reason?: string): void;
}

type Frame = Set<Disposable> | null;
const frames: Frame[] = [];

/** Puts a new tensor into the innermost scope, if there is one. */
export function track(item: Disposable): void {
  frames.at(-1)?.add(item);
}

/** Runs `fn` with nothing tracked: what it makes belongs to the caller alone. */
export function untracked<T>(fn: () => T): T {
  frames.push(null);
  try {
    return fn();
  } finally {
    frames.pop();
  }
}

const ended = 'freed at the end of its scope; return it from the scope to keep it';

/** Every disposable inside a value: arrays, plain objects, maps and sets are searched. */
function collect(value: unknown, into: Set<unknown>): void {
  if (value === null || typeof value !== 'object' || into.has(value)) return;
  into.add(value);
  if (typeof (value as Partial<Disposable>).dispose === 'function') return;
  if (value instanceof Map) for (const item of value.values()) collect(item, into);
  else if (Array.isArray(value) || value instanceof Set) for (const item of value) collect(item, into);
  else if (Object.getPrototypeOf(value) === Object.prototype)
    for (const item of Object.values(value)) collect(item, into);
}

function assertSync(op: string, value: unknown): void {
  if (value !== null && typeof value === 'object' && typeof (value as PromiseLike<unknown>).then === 'function')
    throw new TypeError(
      `${op}: fn must be synchronous: got a promise. Ops never need await; for tensors that live across an await use \`using s = openScope()\` with s.run(fn), or dispose them yourself.`,
    );
}

function leave(frame: Set<Disposable>, kept: Set<unknown>): void {
  const parent = frames.at(-1);
  for (const item of frame) {
    if (kept.has(item)) parent?.add(item);
    else item.dispose(ended);
  }
}

/** Frees every tensor that `fn` makes, except those it returns (alone or inside arrays, objects, maps, sets). */
export function scope<T>(fn: () => T): T {
  const frame = new Set<Disposable>();
  const kept = new Set<unknown>();
  frames.push(frame);
  try {
    const result = fn();
    assertSync('scope', result);
    collect(result, kept);
    return result;
  } finally {
    frames.pop();
    leave(frame, kept);
  }
}

/** A scope that lives across awaits: tensors made inside `run` are freed when it is disposed. */
export class OpenScope {
  readonly #frame = new Set<Disposable>();
  /** Runs a synchronous function whose tensors belong to this scope. */
  run<T>(fn: () => T): T {
    frames.push(this.#frame);
    try {
      const result = fn();
      assertSync('OpenScope.run', result);
      return result;
    } finally {
      frames.pop();
    }
  }
  /** Takes a tensor out, so that it outlives this scope; false if it was not this scope's. */
  keep(item: Disposable): boolean {
    return this.#frame.delete(item);
  }
  dispose(): void {
    const frame = [...this.#frame];
    this.#frame.clear();
    for (const item of frame) item.dispose(ended);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** `using s = openScope()`: see OpenScope. */
export const openScope = (): OpenScope => new OpenScope();

/** Forgets a tensor that frees itself earlier than its scope, so that long scopes do not grow. */
export function untrack(item: Disposable): void {
  frames.at(-1)?.delete(item);
}

export { assertSync };
