/** The things that a scope frees, each at its own place. */
type Frame = Owned[];
/** The innermost scope. Functions below put the one before back, so an exception leaves nothing behind. */
let current: Frame | null = null;

/** What a scope can own: tensors, gradients. It knows its place in its scope, so coming and going take no search. */
export abstract class Owned {
  #frame: Frame | null = null;
  #place = 0;

  abstract dispose(reason?: string): void;

  /** Puts an item into a frame, out of the one where it was. */
  static enter(item: Owned, frame: Frame): void {
    Owned.leave(item);
    item.#frame = frame;
    item.#place = frame.length;
    frame.push(item);
  }
  /** Takes an item out of its scope. */
  static leave(item: Owned): void {
    const frame = item.#frame;
    if (frame === null) return;
    const last = frame.pop()!;
    if (last !== item) {
      frame[item.#place] = last;
      last.#place = item.#place;
    }
    item.#frame = null;
  }
  static isIn(item: Owned, frame: Frame): boolean {
    return item.#frame === frame;
  }
}

/** Puts an item into the innermost scope, if there is one. */
export function track(item: Owned): void {
  if (current !== null) Owned.enter(item, current);
}

/** Forgets an item that is freed earlier than its scope, so that long scopes do not grow. */
export const untrack = Owned.leave;

function within<T>(frame: Frame | null, fn: () => T): T {
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
  if (typeof (value as Partial<Owned>).dispose === 'function') return;
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

/** Frees what a frame holds, the newest first, but for what is kept: that goes to the scope around. */
function close(frame: Frame, isKept: (item: Owned) => boolean): void {
  for (let item = frame.at(-1); item; item = frame.at(-1)) {
    Owned.leave(item);
    if (isKept(item)) track(item);
    else item.dispose(ended);
  }
}

const none = (_: Owned): boolean => false;

/** What `scope` keeps of its result. */
function keptIn(result: unknown): (item: Owned) => boolean {
  if (result instanceof Owned) return (item) => item === result;
  if (result === null || typeof result !== 'object') return none;
  const kept = new Set<unknown>();
  collect(result, kept);
  return (item) => kept.has(item);
}

/**
 * Frees every tensor that `fn` makes, except those it returns: alone or inside arrays, plain objects, maps (values) and
 * sets, at any depth. Instances of classes are not searched, but Gradients are kept. An exception frees everything.
 * `fn` must be synchronous; across awaits use `openScope`.
 */
export function scope<T>(fn: () => T): T {
  const frame: Frame = [];
  let isKept = none;
  const before = current;
  current = frame;
  try {
    const result = fn();
    assertSync('scope', result);
    if (frame.length > 0) isKept = keptIn(result);
    return result;
  } finally {
    current = before;
    close(frame, isKept);
  }
}

/** A scope that lives across awaits: tensors made inside `run` are freed when it is disposed. */
export class OpenScope {
  readonly #frame: Frame = [];
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
  keep(item: Owned): boolean {
    if (!Owned.isIn(item, this.#frame)) return false;
    Owned.leave(item);
    return true;
  }
  dispose(): void {
    close(this.#frame, none);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** `using s = openScope()`: see OpenScope. */
export const openScope = (): OpenScope => new OpenScope();

export { assertSync };
