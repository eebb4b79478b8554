/** The works of `peer.ts` for a library of arrays: forward, or forward and backward by the library's own derivatives. */
import type {
  AttentionSpec,
  CrossEntropySpec,
  LinearCrossEntropySpec,
  MatmulSpec,
  PeerWork,
  RopeSpec,
  SumSpec,
  WorkSpec,
} from '../peer.ts';
import type { ArrayLibrary } from './array-library.ts';
import { attention, causalMask, countLabels, crossEntropy, rmsNorm, rope, swiglu } from './compositions.ts';
import { adamwWork, loraWork, mlpWork } from './steps.ts';

/** An op over inputs of which the first `wrt` have gradients; those after them are constants. */
interface Plan<T> {
  /** The inputs; each call takes the next of several. */
  readonly turns: readonly (readonly T[])[];
  readonly f: (inputs: readonly T[]) => T;
  /** Undefined: forward alone. */
  readonly backward?: { readonly wrt: number; readonly gradient?: T };
  /** Outputs in the order of their spec, from the library's layout. */
  readonly unpack?: (outputs: Float32Array[]) => Float32Array[];
}

function planned<T>(of: ArrayLibrary<T>, { turns, f, backward, unpack }: Plan<T>): PeerWork {
  const call = of.compile((inputs) => {
    if (!backward) return [f(inputs)];
    const { wrt, gradient } = backward;
    const constants = inputs.slice(wrt, gradient ? -1 : undefined);
    const { y, gradients } = of.differentiate(
      (variables) => f([...variables, ...constants]),
      inputs.slice(0, wrt),
      gradient && inputs.at(-1),
    );
    return [y, ...gradients];
  });
  const extra = backward?.gradient ? [backward.gradient] : [];
  const given = turns.map((inputs) => [...inputs, ...extra]);
  let turn = 0;
  return {
    run: async () => {
      for (const y of await call(given[turn++ % given.length]!)) of.free(y);
    },
    async result() {
      const made = await call(given[0]!);
      const read: Float32Array[] = [];
      for (const y of made) {
        read.push(await of.read(y));
        of.free(y);
      }
      return unpack?.(read) ?? read;
    },
    dispose: () => new Set(given.flat()).forEach((x) => of.free(x)),
  };
}

function matmulPlan<T>(of: ArrayLibrary<T>, spec: MatmulSpec): Plan<T> {
  const { batch, m, k, n, transposeA, transposeB } = spec;
  const leading = batch === 1 ? [] : [batch];
  const a = of.array(spec.a, [...leading, ...(transposeA ? [k, m] : [m, k])]);
  return {
    turns: spec.b.map((b) => [a, of.array(b, [...leading, ...(transposeB ? [n, k] : [k, n])])]),
    f: ([x, w]) => of.matmul(x!, w!, transposeA, transposeB),
  };
}

/** [rows, heads, width] from and to [heads, rows, width]. */
function swapped(x: Float32Array, first: number, second: number, width: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let i = 0; i < first; i++)
    for (let j = 0; j < second; j++)
      out.set(x.subarray((i * second + j) * width, (i * second + j + 1) * width), (j * first + i) * width);
  return out;
}

function attentionPlan<T>(of: ArrayLibrary<T>, spec: AttentionSpec): Plan<T> {
  const { direction, heads, width, queries, keys, q, k, v, gradient } = spec;
  const array = (x: Float32Array, rows: number): T => of.array(swapped(x, rows, heads, width), [heads, rows, width]);
  const mask = queries > 1 ? [of.array(causalMask(queries, keys), [queries, keys])] : [];
  const query = array(q, queries);
  return {
    turns: k.map((one, i) => [query, array(one, keys), array(v[i]!, keys), ...mask]),
    f: ([x, y, z, m]) => attention(of, x!, y!, z!, m ?? null, width),
    ...(direction === 'both' && { backward: { wrt: 3, gradient: array(gradient, queries) } }),
    unpack: (outputs) => outputs.map((x) => swapped(x, heads, x.length / heads / width, width)),
  };
}

function ropePlan<T>(
  of: ArrayLibrary<T>,
  { direction, tokens, heads, width, x, cos, sin, gradient }: RopeSpec,
): Plan<T> {
  const shape = [tokens, heads, width];
  const table = (t: Float32Array): T => of.array(t, [tokens, 1, width / 2]);
  return {
    turns: [[of.array(x, shape), table(cos), table(sin)]],
    f: ([y, c, s]) => rope(of, y!, c!, s!, shape),
    ...(direction === 'both' && { backward: { wrt: 1, gradient: of.array(gradient, shape) } }),
  };
}

function lossPlan<T>(of: ArrayLibrary<T>, spec: CrossEntropySpec | LinearCrossEntropySpec): Plan<T> {
  const { direction, rows, classes, labels } = spec;
  const targets = of.array(labels, [rows]);
  const loss = (logits: T, l: T): T => crossEntropy(of, logits, l, classes, countLabels(labels));
  const backward = direction === 'both' && { backward: { wrt: 1 } };
  if (spec.op === 'crossEntropy')
    return { turns: [[of.array(spec.logits, [rows, classes]), targets]], f: ([x, l]) => loss(x!, l!), ...backward };
  const w = of.array(spec.w, [classes, spec.width]);
  return {
    turns: [[of.array(spec.x, [rows, spec.width]), w, targets]],
    f: ([x, weight, l]) => loss(of.linear(x!, weight!), l!),
    ...backward,
  };
}

/** The plan of an op without state; null where the library lacks it. */
function planOf<T>(of: ArrayLibrary<T>, spec: WorkSpec): Plan<T> | null {
  if (spec.op === 'matmul') return matmulPlan(of, spec);
  if (spec.op === 'attention') return attentionPlan(of, spec);
  if (spec.op === 'rope') return ropePlan(of, spec);
  if (spec.op === 'crossEntropy' || spec.op === 'linearCrossEntropy') return lossPlan(of, spec);
  if (spec.op === 'map') return mapPlan(of, spec);
  if (
    spec.op !== 'rmsNorm' &&
    spec.op !== 'swiglu' &&
    spec.op !== 'softmax' &&
    spec.op !== 'sum' &&
    spec.op !== 'dropout'
  )
    return null;
  const shape = [spec.rows, spec.width];
  if (spec.op === 'sum') return sumPlan(of, spec);
  if (spec.op === 'dropout') {
    const { p, x } = spec;
    const probe = of.array(x.subarray(0, 1), [1]);
    const made = of.dropout(probe, p);
    of.free(probe);
    if (made === null) return null;
    of.free(made);
    return { turns: [[of.array(x, shape)]], f: ([y]) => of.dropout(y!, p)! };
  }
  const backward = (wrt: number): Pick<Plan<T>, 'backward'> =>
    spec.direction === 'both' ? { backward: { wrt, gradient: of.array(spec.gradient, shape) } } : {};
  if (spec.op === 'softmax') return { turns: [[of.array(spec.x, shape)]], f: ([x]) => of.softmax(x!), ...backward(1) };
  if (spec.op === 'swiglu')
    return {
      turns: [[of.array(spec.gate, shape), of.array(spec.up, shape)]],
      f: ([gate, up]) => swiglu(of, gate!, up!),
      ...backward(2),
    };
  return {
    turns: [[of.array(spec.x, shape), of.array(spec.weight, [spec.width])]],
    f: ([x, w]) => rmsNorm(of, x!, w!, spec.eps),
    ...backward(2),
  };
}

function mapPlan<T>(of: ArrayLibrary<T>, spec: Extract<WorkSpec, { op: 'map' }>): Plan<T> | null {
  const { map, elements, x, y } = spec;
  if (map === 'add')
    return { turns: [[of.array(x, [elements]), of.array(y!, [elements])]], f: ([a, b]) => of.add(a!, b!) };
  const probe = of.array(x.subarray(0, 1), [1]);
  const made = of.map(map, probe);
  of.free(probe);
  if (made === null) return null;
  of.free(made);
  return { turns: [[of.array(x, [elements])]], f: ([a]) => of.map(map, a!)! };
}

function sumPlan<T>(of: ArrayLibrary<T>, { axis, rows, width, x }: SumSpec): Plan<T> {
  return {
    turns: [[of.array(x, [rows, width])]],
    f: ([y]) => of.sum(y!, axis === 'all' ? null : axis),
  };
}

/** A work as the library does it, or null where it cannot. */
export async function composedWork<T>(of: ArrayLibrary<T>, spec: WorkSpec): Promise<PeerWork | null> {
  if (spec.op === 'generation') return null;
  if (spec.op === 'adamw') return adamwWork(of, spec);
  if (spec.op === 'mlpStep') return mlpWork(of, spec);
  if (spec.op === 'loraStep') return loraWork(of, spec);
  const plan = planOf(of, spec);
  return plan && planned(of, plan);
}
