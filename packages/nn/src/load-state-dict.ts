import { type DType, fromBytes, isFloat, noGrad, scope, showShape, sizeOf, Tensor, writeRows } from '@lorikeet/tensor';
import { type ModuleLike, type NamedTensor, namedParameters } from './module-tree.ts';

/** A value to load: a tensor, or raw little-endian bytes as a checkpoint file holds them. */
export type StateSource =
  | Tensor
  | { readonly dtype: DType; readonly shape: readonly number[]; readonly bytes: Uint8Array };

/** What did not pair up; both are empty after a strict load. */
export interface LoadResult {
  /** Paths of the module that the state does not hold. */
  readonly missingKeys: string[];
  /** Keys of the state that the module does not have. */
  readonly unexpectedKeys: string[];
}

interface Assignment {
  readonly path: string;
  readonly target: Tensor;
  readonly source: StateSource;
}

function problemOf({ path, target, source }: Assignment): string | null {
  if (showShape(source.shape) !== showShape(target.shape))
    return `${path}: expected ${showShape(target.shape)}, got ${showShape(source.shape)}`;
  if (source.dtype !== target.dtype && !(isFloat(source.dtype) && isFloat(target.dtype)))
    return `${path}: expected ${target.dtype}, got ${source.dtype}`;
  return null;
}

/** Overwrites a tensor's elements in place, converting between float dtypes; every handle of it sees the new values. */
export function copyInto(target: Tensor, source: StateSource): void {
  if (target.size === 0) return;
  noGrad(() =>
    scope(() => {
      const { backend } = target;
      const { shape, dtype } = source;
      const local =
        source instanceof Tensor
          ? source.backend === backend
            ? source
            : null
          : fromBytes(source.bytes, { backend, shape, dtype });
      if (!local)
        throw new TypeError(
          `loadStateDict: values must be on the module's backend or be bytes: got a tensor on ${(source as Tensor).backend.name}. Pass { dtype, shape, bytes: await t.bytes() }.`,
        );
      const flat = [1, sizeOf(shape)];
      writeRows(target.reshape(flat), local.reshape(flat), 0);
    }),
  );
}

/** Pairs every key with a tensor; a tied tensor may come under any of its paths. */
function pair(
  parameters: readonly NamedTensor[],
  state: ReadonlyMap<string, StateSource>,
): { assignments: Assignment[]; result: LoadResult } {
  const assignments: Assignment[] = [];
  const missingKeys: string[] = [];
  const known = new Set<string>();
  for (const { path, tensor: target, aliases } of parameters) {
    const paths = [path, ...aliases];
    for (const p of paths) known.add(p);
    const given = paths.find((p) => state.has(p));
    if (given === undefined) missingKeys.push(path);
    else assignments.push({ path: given, target, source: state.get(given)! });
  }
  return { assignments, result: { missingKeys, unexpectedKeys: [...state.keys()].filter((k) => !known.has(k)) } };
}

/**
 * Writes a state into a module's tensors, in place. Everything is checked first: all shape and dtype mismatches, and with
 * `strict` (default) all missing and unexpected keys, stand in one error, and then nothing is written.
 *
 * @returns the keys that did not pair up
 * @throws Error with every key that does not fit; TypeError for a tensor of another backend
 */
export function loadStateDict(
  module: ModuleLike,
  state: ReadonlyMap<string, StateSource>,
  { strict = true }: { readonly strict?: boolean } = {},
): LoadResult {
  const { assignments, result } = pair(namedParameters(module), state);
  const problems = assignments.map(problemOf).filter((p) => p !== null);
  if (strict) {
    problems.push(...result.missingKeys.map((key) => `${key}: missing`));
    problems.push(...result.unexpectedKeys.map((key) => `${key}: unexpected`));
  }
  if (problems.length)
    throw new Error(
      `loadStateDict: the state must fit the module: ${problems.length} ${problems.length === 1 ? 'key does' : 'keys do'} not:\n  ${problems.join('\n  ')}\nUse the checkpoint of this configuration${strict ? ', or strict: false for a partial one' : ''}.`,
    );
  for (const { target, source } of assignments) copyInto(target, source);
  return result;
}
