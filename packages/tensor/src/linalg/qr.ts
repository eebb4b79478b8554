import { openScope } from '../scope.ts';
import type { Tensor } from '../tensor.ts';
import { columnsOf, requireFinite, requireMatrix, tensorOf, workDType } from './host-matrix.ts';
import { compactForm, householder, orthogonalFactor, type Reflectors, triangularFactor } from './householder.ts';
import { requireWhole, runIn } from './tall-operator.ts';

export interface QrOptions {
  /** Only the first so many columns of q and rows of r: all that OLoRA takes, for the price of that part. @defaultValue min(m, n) */
  readonly rank?: number;
}

/** Columns that are reduced together; what lies right of them is updated in one product. */
const panelColumns = 32;

interface Panel {
  readonly reflectors: Reflectors;
  /** V [m - at, b] and T [b, b]: the panel's reflections are I - V T V^T. */
  readonly v: Tensor;
  readonly t: Tensor;
}

/**
 * a = q r with q [m, k] of orthonormal columns and r [k, n] upper triangular, k = min(m, n) (torch.linalg.qr, 'reduced'; the signs are
 * LAPACK's, so PyTorch's). Blocked Householder: panels of 32 columns on the host in f64, the rest by products on the backend. No
 * gradient. f32, or f64 for f64.
 *
 * @param a matrix [m, n] of floats, not empty
 * @throws ShapeError, DTypeError, RangeError; NonFiniteError when a holds NaN or infinity
 */
export async function qr(a: Tensor, { rank }: QrOptions = {}): Promise<{ q: Tensor; r: Tensor }> {
  const [m, n] = requireMatrix('qr', a);
  const most = Math.min(m, n);
  const k = rank ?? most;
  requireWhole('qr: rank', k, 1, most);
  await requireFinite('qr', a);
  using made = openScope();
  const run = runIn(made);
  const panels: Panel[] = [];
  const bands: Tensor[] = []; // rows of r
  let rest = a; // what is not reduced yet: [m - at, n - at]
  for (let at = 0; at < k; at += panelColumns) {
    const width = Math.min(panelColumns, k - at);
    const columns = run(() => rest.slice(1, 0, width));
    const reflectors = householder(await columnsOf(columns), m - at, width);
    const panel = run(() => panelOf(reflectors, a));
    panels.push(panel);
    const last = at + width === k;
    const { band, below } = run(() => reduceRest(panel, rest.slice(1, width), last));
    bands.push(run(() => band.pad(1, at, 0)));
    if (rest !== a) rest.dispose();
    if (below) rest = below;
  }
  const q = run(() => formQ(panels, a, k));
  const r = run(() => (bands.length === 1 ? bands[0]! : bands[0]!.concat(bands.slice(1), 0)));
  for (const kept of [q, r]) made.keep(kept);
  return { q, r };
}

function panelOf(reflectors: Reflectors, like: Tensor): Panel {
  const { v, t } = compactForm(reflectors);
  const k = reflectors.tau.length;
  return { reflectors, v: tensorOf(v, reflectors.m, k, like), t: tensorOf(t, k, k, like) };
}

/** Applies the panel's reflections to what lies right of it. The first rows are rows of r; `below` goes on, unless this is the last panel. */
function reduceRest({ reflectors, v, t }: Panel, right: Tensor, last: boolean): { band: Tensor; below: Tensor | null } {
  const width = reflectors.tau.length;
  const own = tensorOf(triangularFactor(reflectors, width), width, width, v);
  if (right.shape[1] === 0) return { band: own, below: null };
  // (I - V T V^T)^T right = right - V (T^T (V^T right))
  const inner = t.matmul(v.matmul(right, { transposeA: true }), { transposeA: true });
  const wide = (part: Tensor): Tensor => part.cast(workDType(v));
  const update = (start: number, end: number): Tensor =>
    wide(right.slice(0, start, end)).sub(v.slice(0, start, end).matmul(inner));
  const band = own.concat([update(0, width)], 1);
  return { band, below: last ? null : update(width, right.shape[0]!) };
}

/** The first k columns of the product of all reflections, from the last panel to the first. */
function formQ(panels: readonly Panel[], like: Tensor, k: number): Tensor {
  let q: Tensor | null = null; // [m - at, k - at]
  for (const { reflectors, v, t } of panels.toReversed()) {
    const { m, tau } = reflectors;
    const own = tensorOf(orthogonalFactor(reflectors, tau.length), m, tau.length, like);
    if (q === null) q = own;
    else {
      const lower: Tensor = q.pad(0, tau.length, 0);
      q = own.concat([lower.sub(v.matmul(t.matmul(v.matmul(lower, { transposeA: true }))))], 1);
    }
  }
  if (q?.shape[1] !== k) throw new Error(`qr: the panels must cover ${k} columns: they cover ${q?.shape[1]}.`);
  return q;
}
