/** Works with a state that each call moves on: an optimizer's step, a step of an MLP and of LoRA. */
import type { AdamwSpec, LoraStepSpec, MlpStepSpec, PeerWork } from '../peer.ts';
import type { ArrayLibrary } from './array-library.ts';
import { adamw, adamwRates, countLabels, crossEntropy } from './compositions.ts';
import { type LoraLoss, loraLoss, mostLogitBytes } from './lora-loss.ts';

/** Calls `step(state, constants, number of the step)`, whose outputs are the next state and what is reported of the step. */
function stepping<T>(
  of: ArrayLibrary<T>,
  first: readonly T[],
  constants: readonly T[],
  step: (state: readonly T[], rest: readonly T[]) => { state: readonly T[]; report: readonly T[] },
  each: (count: number) => readonly T[] = () => [],
): { call(): Promise<readonly T[]>; dispose(): void } {
  const call = of.compile((inputs) => {
    const { state, report } = step(inputs.slice(0, first.length), inputs.slice(first.length));
    return [...state, ...report];
  });
  let [state, count] = [first, 0];
  return {
    async call() {
      const changing = each(++count);
      const made = await call([...state, ...constants, ...changing]);
      for (const x of [...state, ...changing]) of.free(x);
      state = made.slice(0, first.length);
      return made.slice(first.length);
    },
    dispose: () => {
      for (const x of [...state, ...constants]) of.free(x);
    },
  };
}

/** Work whose result is what the first `reports` calls of a fresh state report. */
function reporting<T>(
  of: ArrayLibrary<T>,
  fresh: () => { call(): Promise<readonly T[]>; dispose(): void },
  calls: number,
): PeerWork {
  const timed = fresh();
  const losses = async (): Promise<Float32Array> => {
    const steps = fresh();
    const read: number[] = [];
    for (let i = 0; i < calls; i++)
      for (const x of await steps.call()) {
        read.push(...(await of.read(x)));
        of.free(x);
      }
    steps.dispose();
    return Float32Array.from(read);
  };
  return {
    run: async () => {
      for (const x of await timed.call()) of.free(x);
    },
    result: async () => [await losses()],
    dispose: () => timed.dispose(),
  };
}

const zeros = <T>(of: ArrayLibrary<T>, shape: readonly number[]): T =>
  of.array(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);

const rateArrays = <T>(of: ArrayLibrary<T>, rates: readonly [number, number]): T[] =>
  rates.map((rate) => of.array(Float32Array.of(rate), []));

export function adamwWork<T>(of: ArrayLibrary<T>, spec: AdamwSpec): PeerWork {
  const { elements, parameter, gradient } = spec;
  const fresh = () =>
    stepping<T>(
      of,
      [of.array(parameter, [elements]), zeros(of, [elements]), zeros(of, [elements])],
      [of.array(gradient, [elements])],
      ([p, m, v], [g, ...rates]) => ({
        state: adamw(of, [p!, m!, v!], g!, rates as [T, T], spec),
        report: [],
      }),
      (count) => rateArrays(of, adamwRates(spec, count)),
    );
  const timed = fresh();
  return {
    run: () => timed.call(),
    async result() {
      const call = of.compile(([p, m, v, g, ...rates]) => adamw(of, [p!, m!, v!], g!, rates as [T, T], spec));
      const inputs = [parameter, new Float32Array(elements), new Float32Array(elements), gradient].map((x) =>
        of.array(x, [elements]),
      );
      const rates = rateArrays(of, adamwRates(spec, 1));
      const made = await call([...inputs, ...rates]);
      const read = await of.read(made[0]!);
      for (const x of [...inputs, ...rates, ...made]) of.free(x);
      return [read];
    },
    dispose: () => timed.dispose(),
  };
}

export function mlpWork<T>(of: ArrayLibrary<T>, spec: MlpStepSpec): PeerWork {
  const { batch, sizes, lr, x, labels, weights, biases } = spec;
  const layers = weights.length;
  const loss = (parameters: readonly T[], input: T, targets: T): T => {
    let h = input;
    for (let i = 0; i < layers; i++) {
      h = of.add(of.matmul(h, parameters[i]!, false, true), parameters[layers + i]!);
      if (i < layers - 1) h = of.relu(h);
    }
    return crossEntropy(of, h, targets, sizes.at(-1)!, countLabels(labels));
  };
  const fresh = () =>
    stepping<T>(
      of,
      [
        ...weights.map((w, i) => of.array(w, [sizes[i + 1]!, sizes[i]!])),
        ...biases.map((b, i) => of.array(b, [sizes[i + 1]!])),
      ],
      [of.array(x, [batch, sizes[0]!]), of.array(labels, [batch])],
      (parameters, [input, targets]) => {
        const { y, gradients } = of.differentiate((p) => loss(p, input!, targets!), parameters);
        return { state: parameters.map((p, i) => of.sub(p, of.mul(gradients[i]!, lr))), report: [y] };
      },
    );
  return reporting(of, fresh, 2);
}

const loraAdamw = { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0 } as const;

/** [parameters, m, v, gradients, rates] to the next [parameters, m, v]: gradients clipped to norm 1, then AdamW. */
function clippedAdamw<T>(of: ArrayLibrary<T>, inputs: readonly T[], count: number, lr: number): readonly T[] {
  const [p, m, v, gradients] = [0, 1, 2, 3].map((part) => inputs.slice(part * count, (part + 1) * count));
  const rates = inputs.slice(4 * count) as [T, T];
  const squares = gradients!.map((g) => of.sum(of.mul(g, g), null)).reduce((a, b) => of.add(a, b));
  const clip = of.atMost(of.rsqrt(of.add(squares, 1e-12)), 1);
  const moved = p!.map((x, i) =>
    adamw(of, [x, m![i]!, v![i]!], of.mul(gradients![i]!, clip), rates, { lr, ...loraAdamw }),
  );
  return [0, 1, 2].flatMap((part) => moved.map((after) => after[part]!));
}

/** [loss, ...gradients] of the batch: part by part, added up. */
function batchGradients<T>(
  of: ArrayLibrary<T>,
  { adapters, weights, parts }: LoraLoss<T>,
): (parameters: readonly T[]) => Promise<readonly T[]> {
  const count = adapters.length;
  const calls = parts.map(({ constants, loss }) => {
    const call = of.compile((inputs) => {
      const { y, gradients } = of.differentiate((p) => loss(p, inputs.slice(count)), inputs.slice(0, count));
      return [y, ...gradients];
    });
    return (parameters: readonly T[]) => call([...parameters, ...weights, ...constants]);
  });
  const addUp = of.compile((both) => both.slice(0, count + 1).map((x, i) => of.add(x, both[count + 1 + i]!)));
  return async (parameters) => {
    let total: readonly T[] = await calls[0]!(parameters);
    for (const call of calls.slice(1)) {
      const both = [...total, ...(await call(parameters))];
      total = await addUp(both);
      for (const x of both) of.free(x);
    }
    return total;
  };
}

export async function loraWork<T>(
  of: ArrayLibrary<T>,
  spec: LoraStepSpec,
  mostBytes = mostLogitBytes,
): Promise<PeerWork> {
  const { lr } = spec;
  const model = await loraLoss(of, spec, mostBytes);
  const { adapters, weights, parts, share } = model;
  const count = adapters.length;
  const gradientsAt = batchGradients(of, model);
  const update = of.compile((inputs) => clippedAdamw(of, inputs, count, lr));
  const free = (arrays: readonly T[]): void => {
    for (const x of arrays) of.free(x);
  };
  const fresh = () => {
    const first = adapters.map(({ values, shape }) => of.array(values, shape));
    let state: readonly T[] = [...first, ...[...adapters, ...adapters].map(({ shape }) => zeros(of, shape))];
    let step = 0;
    return {
      async call(): Promise<readonly T[]> {
        const [loss, ...gradients] = await gradientsAt(state.slice(0, count));
        const used = [...state, ...gradients, ...rateArrays(of, adamwRates({ lr, ...loraAdamw }, ++step))];
        state = await update(used);
        free(used);
        return [loss!];
      },
      dispose: () => free(state),
    };
  };
  const work = reporting(of, fresh, 2);
  return {
    ...work,
    part: share,
    dispose: () => {
      work.dispose();
      free([...weights, ...parts.flatMap(({ constants }) => constants)]);
    },
  };
}
