/** Anything that a scope can own: tensors, gradients. */
export interface Disposable {
  dispose(reason?: string): void;
}

type Frame = Set<Disposable> | null;
/** The innermost scope. Functions below put the one before back, so an exception leaves nothing behind. */
let current: Frame = null;

/** Puts a new tensor into the innermost scope, if there is one. */
export function track(item: Disposable): void {
  current?.add(item);
}

function within<T>(frame: Frame, fn: () => T): T {
  const before = current;
  current = frame;
  try {
    return fn();
  } finally {
    current = before;
  }
}

/** Runs `fn` with nothing tracked: what it makes belongs to the caller alone. */
export const untracked = <T>(fn: () => T): T => within(null, fn);

const ended = 'freed at the end of its scope; return it from the scope to keep it';

/** Every disposable inside a value: arrays, plain objects, maps and sets are searched. */
function collect(value: unknown, into: Set<unknown>): void {
  if (value === null || typeof value !== 'object' || into.has(value)) return;
  into.add(value);
  if (typeof (value as Partial<Disposable>).dispose === 'function') return;
  if (value instanceof Map) for (const item of value.values()) collect(item, into);
  else if (Array.isArray(value) || value instanceof Set) for (const item of value) collect(item, into);
  else if (isPlain(value)) for (const item of Object.values(value)) collect(item, into);
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function assertSync(op: string, value: unknown): void {
  if (value !== null && typeof value === 'object' && typeof (value as PromiseLike<unknown>).then === 'function')
    throw new TypeError(
      `${op}: fn must be synchronous: got a promise. Ops never need await; for tensors that live across an await use \`using s = openScope()\` with s.run(fn), or dispose them yourself.`,
    );
}

/** Frees what a frame holds, but for `kept`, which goes to the scope around. */
function leave(frame: Set<Disposable>, kept: Set<unknown> | null): void {
  for (const item of frame) {
    if (kept?.has(item)) track(item);
    else item.dispose(ended);
  }
}

/**
 * Frees every tensor that `fn` makes, except those it returns: alone or inside arrays, plain objects, maps (values) and
 * sets, at any depth. Instances of classes are not searched, but Gradients are kept. An exception frees everything.
 * `fn` must be synchronous; across awaits use `openScope`.
 */
export function scope<T>(fn: () => T): T {
  const frame = new Set<Disposable>();
  let kept: Set<unknown> | null = null;
  const before = current;
  current = frame;
  try {
    const result = fn();
    assertSync('scope', result);
    if (frame.size > 0) collect(result, (kept = new Set()));
    return result;
  } finally {
    current = before;
    leave(frame, kept);
  }
}

/** A scope that lives across awaits: tensors made inside `run` are freed when it is disposed. */
export class OpenScope {
  readonly #frame = new Set<Disposable>();
  /** Runs a synchronous function whose tensors belong to this scope. */
  run<T>(fn: () => T): T {
    const before = current;
    current = this.#frame;
    try {
      const result = fn();
      assertSync('OpenScope.run', result);
      return result;
    } finally {
      current = before;
    }
  }
  /** Takes a tensor out, so that it outlives this scope; false if it was not this scope's. */
  keep(item: Disposable): boolean {
    return this.#frame.delete(item);
  }
  dispose(): void {
    for (const item of this.#frame) {
      this.#frame.delete(item);
      item.dispose(ended);
    }
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** `using s = openScope()`: see OpenScope. */
export const openScope = (): OpenScope => new OpenScope();

/** Forgets a tensor that frees itself earlier than its scope, so that long scopes do not grow. */
export function untrack(item: Disposable): void {
  current?.delete(item);
}

export { assertSync };
