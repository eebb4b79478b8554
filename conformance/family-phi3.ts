import { generate, generateBatch, KeyValueCache, type LossOptions, type Phi3ForCausalLM, score } from '@lorikeet/phi3';
import { noGrad, openScope, type Tensor } from '@lorikeet/tensor';
import {
  type CaseContext,
  equalFinding,
  type FamilyRunner,
  type Finding,
  finding,
  numbersOf,
  tensorFinding,
} from './findings.ts';
import { type Batch, gradientFindings, openModel, readBatch } from './models.ts';
import { runProcessors, runSampling } from './phi3-sampling.ts';
import { exact, modelLimit } from './tolerances.ts';

const runs: Readonly<Record<string, FamilyRunner>> = {
  Phi3ForCausalLM: runBatch,
  generate: runGeneration,
  generateBatch: runBatchGeneration,
  sample: runSampling,
  process: runProcessors,
};

/** A recorded case of the family: a batch, a generation, or what the logits processors make of recorded rows. */
export const runPhi3Case: FamilyRunner = (context) => runs[context.testCase.op]!(context);

/**
 * A whole model: logits of all tokens at once, the same from a cache token by token, what enters and leaves each layer, the
 * loss, and the gradient of every parameter, with and without recomputed layers.
 */
async function runBatch(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  using model = await openModel(recording, testCase.attributes.model as string, backend);
  const batch = readBatch(context);
  const logits = recording.tensor(testCase.outputs.logits!);
  const limit = modelLimit('logits', backend.name);
  using tensors = openScope();
  const made = tensors.run(() => noGrad(() => model.logits(batch)));
  const findings = [
    await tensorFinding('logits', made, logits, limit),
    finding('logits from the cache', await cachedLogits(model, batch), logits, limit),
    ...(await hiddenStateFindings(context, model, batch)),
  ];
  const parameters = model.namedParameters();
  for (const { tensor } of parameters) tensor.requiresGrad = true;
  const options: LossOptions = testCase.attributes;
  for (const recomputed of [false, true]) {
    model.gradientCheckpointing = recomputed;
    const { loss, gradients } = tensors.run(() => {
      const loss = model.loss(batch, options);
      return { loss, gradients: loss.backward() };
    });
    const label = recomputed ? 'recomputed ' : '';
    const expected = recording.tensor(testCase.outputs.loss!);
    findings.push(await tensorFinding(`${label}loss`, loss, expected, modelLimit('loss', backend.name)));
    findings.push(...(await gradientFindings(context, gradients, parameters, `${label}gradient of`)));
  }
  return findings;
}

/** [t, d] each: what enters the first layer, what leaves each layer, and the last of these after the final norm. */
async function hiddenStateFindings(
  { recording, testCase, backend }: CaseContext,
  model: Phi3ForCausalLM,
  batch: Batch,
): Promise<Finding[]> {
  using tensors = openScope();
  const states: Tensor[] = [];
  const seen = (state: Tensor): number => states.push(state.alias());
  const layers = model.model.layers;
  for (const layer of layers) {
    const forward = layer.forward.bind(layer);
    layer.forward = (x, ...rest) => {
      if (states.length === 0) tensors.run(() => seen(x));
      const out = forward(x, ...rest);
      tensors.run(() => seen(out));
      return out;
    };
  }
  tensors.run(() => noGrad(() => states.push(model.forward(batch))));
  for (const layer of layers) Reflect.deleteProperty(layer, 'forward');
  const recorded = Object.entries(testCase.outputs).filter(([name]) => name.startsWith('hidden/'));
  const limit = modelLimit('logits', backend.name);
  return [
    equalFinding('hidden states', states.length, recorded.length),
    ...(await Promise.all(
      recorded.map(([name, key], i) => tensorFinding(name, states[i]!, recording.tensor(key), limit)),
    )),
  ];
}

interface Generation {
  readonly model: string;
  readonly maxNewTokens: number;
  readonly repetitionPenalty: number;
  readonly stopTokenIds: number[];
}

/** Greedy decoding: the same tokens, their log-probabilities, and those of the whole text. */
async function runGeneration({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const { model: folder, ...options } = testCase.attributes as unknown as Generation;
  using model = await openModel(recording, folder, backend);
  const prompt = numbersOf(recording.tensor(testCase.inputs.ids as string));
  const ids: number[] = [];
  const logprobs: number[] = [];
  for await (const { id, logprob } of generate(model, prompt, options)) {
    ids.push(id);
    logprobs.push(logprob);
  }
  const recorded = (name: string) => recording.tensor(testCase.outputs[name]!);
  const whole = await score(model, [...Array.from(prompt), ...ids]);
  const limit = modelLimit('logits', backend.name);
  return [
    finding('generated', ids, recorded('generated'), exact),
    finding('logprobs', logprobs, recorded('logprobs'), limit),
    finding('scores', whole, recorded('scores'), limit),
  ];
}

/** Greedy decoding of several prompts: all together, and two at a time. Some end before the others. */
async function runBatchGeneration({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const { model: folder, ...options } = testCase.attributes as unknown as Generation;
  using model = await openModel(recording, folder, backend);
  const stored = (name: string) => numbersOf(recording.tensor(testCase.inputs[name] as string)) as Int32Array;
  const ids = stored('ids');
  let start = 0;
  const prompts = Array.from(stored('lengths'), (n) => {
    start += n;
    return ids.subarray(start - n, start);
  });
  const recorded = (name: string) => recording.tensor(testCase.outputs[name]!);
  const findings: Finding[] = [];
  for (const batchSize of [prompts.length, 2]) {
    const made = await generateBatch(model, prompts, { ...options, batchSize });
    const counts = made.map((tokens) => tokens.length);
    findings.push(finding(`counts, ${batchSize} together`, counts, recorded('counts'), exact));
    const values = (name: 'id' | 'logprob') => made.flat().map((token) => token[name]);
    // Of other numbers of tokens nothing more can be said than that.
    if (made.flat().length !== recorded('generated').shape[0]) continue;
    const limit = modelLimit('logits', backend.name);
    findings.push(
      finding(`generated, ${batchSize} together`, values('id'), recorded('generated'), exact),
      finding(`logprobs, ${batchSize} together`, values('logprob'), recorded('logprobs'), limit),
    );
  }
  return findings;
}

/**
 * Each sequence in pieces: half of it at once, then one token after another. Where LongRoPE changes factors midway a cache is
 * given up and filled anew, so a long sequence begins with a piece that is long already.
 */
async function cachedLogits(model: Phi3ForCausalLM, { ids, lengths }: Batch): Promise<number[]> {
  const rows: number[] = [];
  let start = 0;
  for (const length of lengths) {
    using cache = new KeyValueCache(model.config, model.backend);
    const sequence = ids.subarray(start, start + length);
    let first = Math.max(1, length >> 1);
    while (model.usesLongFactors(length) && !model.usesLongFactors(first)) first++;
    const pieces = [sequence.subarray(0, first), ...Array.from(sequence.subarray(first), (id) => Int32Array.of(id))];
    for (const piece of pieces) {
      using made = openScope();
      const logits = made.run(() => noGrad(() => model.logits({ ids: piece, lengths: [piece.length] }, { cache })));
      rows.push(...(await logits.data()));
    }
    start += length;
  }
  return rows;
}
