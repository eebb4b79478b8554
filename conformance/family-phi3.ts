import { generate, KeyValueCache, type Phi3ForCausalLM, score } from '@lorikeet/phi3';
import { noGrad, openScope } from '@lorikeet/tensor';
import { type CaseContext, type Finding, finding, numbersOf, tensorFinding } from './findings.ts';
import { type Batch, gradientFindings, openModel, readBatch } from './models.ts';
import { exact, modelLimit } from './tolerances.ts';

/** A recorded case of the family: a batch, or a generation. */
export const runPhi3Case = async (context: CaseContext): Promise<Finding[]> =>
  context.testCase.op === 'generate' ? runGeneration(context) : runBatch(context);

/**
 * A whole model: logits of all tokens at once, the same from a cache token by token, the loss, and the gradient of every
 * parameter, with and without recomputed layers.
 */
async function runBatch(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  using model = await openModel(recording, testCase.attributes.model as string, backend);
  const batch = readBatch(context);
  const logits = recording.tensor(testCase.outputs.logits!);
  const limit = modelLimit('logits', backend.name);
  const findings: Finding[] = [];
  using tensors = openScope();
  findings.push(
    await tensorFinding(
      'logits',
      tensors.run(() => noGrad(() => model.logits(batch))),
      logits,
      limit,
    ),
  );
  // Where LongRoPE changes factors midway a cache is given up and filled anew, so only short sequences are continued.
  if (!batch.lengths.some((n) => model.usesLongFactors(n)))
    findings.push(finding('logits from the cache', await cachedLogits(model, batch), logits, limit));
  const parameters = model.namedParameters();
  for (const { tensor } of parameters) tensor.requiresGrad = true;
  for (const [mode, checkpointing] of [
    ['', false],
    ['recomputed ', true],
  ] as const) {
    model.gradientCheckpointing = checkpointing;
    const { loss, gradients } = tensors.run(() => {
      const made = model.loss(batch);
      return { loss: made, gradients: made.backward() };
    });
    const expected = recording.tensor(testCase.outputs.loss!);
    findings.push(await tensorFinding(`${mode}loss`, loss, expected, modelLimit('loss', backend.name)));
    findings.push(...(await gradientFindings(context, gradients, parameters, `${mode}gradient of`)));
  }
  return findings;
}

/** Greedy decoding: the same tokens, their log-probabilities, and those of the whole text. */
async function runGeneration({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const {
    model: folder,
    maxNewTokens,
    repetitionPenalty,
  } = testCase.attributes as {
    model: string;
    maxNewTokens: number;
    repetitionPenalty: number;
  };
  using model = await openModel(recording, folder, backend);
  const prompt = numbersOf(recording.tensor(testCase.inputs.ids as string));
  const ids: number[] = [];
  const logprobs: number[] = [];
  for await (const { id, logprob } of generate(model, prompt, { maxNewTokens, repetitionPenalty })) {
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

/** Each sequence in pieces: half of it at once, then one token after another. */
async function cachedLogits(model: Phi3ForCausalLM, { ids, lengths }: Batch): Promise<number[]> {
  const rows: number[] = [];
  let start = 0;
  for (const length of lengths) {
    using cache = new KeyValueCache(model.config, model.backend);
    const sequence = ids.subarray(start, start + length);
    const half = Math.max(1, length >> 1);
    const pieces = [sequence.subarray(0, half), ...Array.from(sequence.subarray(half), (id) => Int32Array.of(id))];
    for (const piece of pieces) {
      using made = openScope();
      const logits = made.run(() => noGrad(() => model.logits({ ids: piece, lengths: [piece.length] }, { cache })));
      rows.push(...(await logits.data()));
    }
    start += length;
  }
  return rows;
}
