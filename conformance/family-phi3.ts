import { KeyValueCache, type Phi3ForCausalLM } from '@lorikeet/phi3';
import { noGrad, openScope } from '@lorikeet/tensor';
import { type CaseContext, type Finding, finding, tensorFinding } from './findings.ts';
import { type Batch, gradientFindings, openModel, readBatch } from './models.ts';
import { modelLimit } from './tolerances.ts';

/**
 * A whole model: logits of all tokens at once, the same from a cache token by token, the loss, and the gradient of every
 * parameter, with and without recomputed layers.
 */
export async function runPhi3Case(context: CaseContext): Promise<Finding[]> {
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
