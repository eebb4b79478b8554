/** First values: the law they come from, by Kolmogorov and Smirnov's test; the generators' bits differ from PyTorch's. */
import { Conv1d, Conv2d, Embedding, kaimingUniform, LayerNorm, Linear, normalInit, RMSNorm } from '@lorikeet/nn';
import { type Backend, openScope, type RandomKey, randomKey, type Tensor } from '@lorikeet/tensor';
import { type CaseContext, type Finding, finding, numbersOf, tensorFinding, verdict } from './findings.ts';
import { exact, modelLimit } from './tolerances.ts';

interface Law {
  readonly kind: 'uniform' | 'normal';
}

interface Attributes {
  readonly initialiser: string;
  // Arguments come from a JSON file that our own generator wrote for exactly these calls.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  readonly arguments: Readonly<Record<string, any>>;
  readonly laws?: Readonly<Record<string, Law>>;
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  readonly seed?: number;
}

type Made = Readonly<Record<string, Tensor>>;
type Initialise = (a: Attributes['arguments'], o: { readonly backend: Backend; readonly key: RandomKey }) => Made;

/** A module's parameters, by name. */
const parametersOf = (module: { namedParameters(): readonly { path: string; tensor: Tensor }[] }): Made =>
  Object.fromEntries(module.namedParameters().map(({ path, tensor }) => [path, tensor]));

const initialisers: Readonly<Record<string, Initialise>> = {
  Linear: (a, o) => parametersOf(Linear.init(a.inFeatures, a.outFeatures, o)),
  Embedding: (a, o) => parametersOf(Embedding.init(a.rows, a.width, o)),
  Conv1d: (a, o) => parametersOf(Conv1d.init(a.inChannels, a.outChannels, a.kernelSize, { ...o, groups: a.groups })),
  Conv2d: (a, o) => parametersOf(Conv2d.init(a.inChannels, a.outChannels, a.kernelSize, o)),
  kaimingUniform: (a, o) => ({ weight: kaimingUniform(a.shape, { ...o, a: a.a }) }),
  normalInit: (a, o) => ({ weight: normalInit(a.shape, { ...o, std: a.std }) }),
  RMSNorm: (a, o) => parametersOf(RMSNorm.init(a.width, o)),
  LayerNorm: (a, o) => parametersOf(LayerNorm.init(a.width, o)),
};

/** Values that a law is judged by: its scale is then known to a third of a percent. */
const sampleSize = 60_000;
/** sqrt(n) * D that the true law exceeds once in 50000 tests (Kolmogorov's distribution). */
const criticalValue = 2.4;

export async function runInitialiser(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { initialiser, arguments: given, laws, shapes, seed } = testCase.attributes as unknown as Attributes;
  const make = initialisers[initialiser]!;
  using tensors = openScope();
  if (!laws) {
    const made = tensors.run(() => make(given, { backend, key: randomKey(0) }));
    return Promise.all(
      Object.entries(testCase.outputs).map(([name, key]) =>
        tensorFinding(name, made[name]!, recording.tensor(key), exact),
      ),
    );
  }
  const samples: Record<string, number[]> = {};
  const key = randomKey(seed!, initialiser);
  const smallest = (): number => Math.min(...Object.keys(laws).map((name) => samples[name]?.length ?? 0));
  for (let draw = 0; smallest() < sampleSize; draw++) {
    using drawn = openScope();
    const made = drawn.run(() => make(given, { backend, key: key.fold(draw) }));
    for (const name of Object.keys(laws)) {
      if (`${made[name]!.shape}` !== `${shapes![name]}`)
        return [verdict(name, false, `has shape [${made[name]!.shape}]`)];
      const values = (samples[name] ??= []);
      if (values.length < sampleSize) values.push(...(await made[name]!.data()));
    }
  }
  return Object.entries(laws).flatMap(([name, law]) => judge(context, name, law, samples[name]!));
}

/** The scale of a sample against the recorded one, and its shape against the law of that scale. */
function judge({ recording, testCase, backend }: CaseContext, name: string, law: Law, sample: number[]): Finding[] {
  const recorded = recording.tensor(testCase.outputs[name]!);
  const scale = numbersOf(recorded)[0]!;
  const found =
    law.kind === 'uniform'
      ? sample.reduce((most, v) => Math.max(most, Math.abs(v)), 0)
      : Math.sqrt(sample.reduce((sum, v) => sum + v * v, 0) / sample.length);
  const distance = Math.sqrt(sample.length) * largestDistance(sample, law, scale);
  return [
    finding(`scale of ${name}`, [found], recorded, modelLimit('initialScale', backend.name)),
    verdict(`law of ${name}`, distance < criticalValue, `sqrt(n) D is ${distance.toFixed(2)}`),
  ];
}

/** The largest distance between the sample's distribution function and the law's. */
function largestDistance(sample: readonly number[], { kind }: Law, scale: number): number {
  const sorted = Float64Array.from(sample).sort();
  const n = sorted.length;
  let largest = 0;
  for (let i = 0; i < n; i++) {
    const x = sorted[i]! / scale;
    const expected = kind === 'uniform' ? Math.min(1, Math.max(0, (x + 1) / 2)) : normalBelow(x);
    largest = Math.max(largest, Math.abs(expected - i / n), Math.abs((i + 1) / n - expected));
  }
  return largest;
}

/** Phi(x) to 1e-7 (Abramowitz and Stegun 26.2.17). */
function normalBelow(x: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(x));
  const tail =
    (Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)) *
    t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))); // biome-ignore format: a polynomial
  return x > 0 ? 1 - tail : tail;
}
