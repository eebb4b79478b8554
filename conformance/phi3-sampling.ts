/** Logits processors of `@lorikeet/phi3` against those of transformers. */
import { KeyValueCache, type Phi3ForCausalLM, type ProcessorOptions, processLogits } from '@lorikeet/phi3';
import { noGrad, openScope } from '@lorikeet/tensor';
import { type CaseContext, type Finding, finding, numbersOf } from './findings.ts';
import { openModel } from './models.ts';
import { modelLimit } from './tolerances.ts';

/** Recorded rows [n, v], each after the tokens of its own history [n, m]: the scores after every further processor. */
export async function runProcessors({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const options = Object.entries(testCase.attributes.options as ProcessorOptions);
  const [rows, ids] = [testCase.inputs.rows as string, testCase.inputs.ids as string].map((k) => recording.tensor(k));
  const [values, history] = [numbersOf(rows!), Array.from(numbersOf(ids!))];
  const [count, vocab] = rows!.shape as [number, number];
  const perRow = history.length / count;
  return options.map(([name], step) => {
    const applied = Object.fromEntries(options.slice(0, step + 1)) as ProcessorOptions;
    const made = Array.from({ length: count }, (_, i) => {
      const row = Float64Array.from({ length: vocab }, (_, j) => values[i * vocab + j]!);
      processLogits(row, history.slice(i * perRow, (i + 1) * perRow), { ...applied, doSample: true });
      return [...row];
    });
    const expected = recording.tensor(testCase.outputs[`after ${name}`]!);
    return finding(`after ${name}`, made.flat(), expected, modelLimit('processedLogits', backend.name));
  });
}

/** A sampled text of transformers: the scores [steps, v] that each of its tokens was drawn from, from our own logits. */
export async function runSampling({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const {
    model: folder,
    prompt,
    options,
  } = testCase.attributes as {
    model: string;
    prompt: number;
    options: ProcessorOptions;
  };
  using model = await openModel(recording, folder, backend);
  const ids = Array.from(numbersOf(recording.tensor(testCase.inputs.ids as string)));
  using cache = new KeyValueCache(model.config, model.backend);
  const scores: number[] = [];
  for (let end = prompt; end < ids.length; end++) {
    const row = Float64Array.from(await nextRow(model, ids.slice(cache.length, end), cache));
    processLogits(row, ids.slice(0, end), { ...options, doSample: true });
    scores.push(...row);
  }
  const expected = recording.tensor(testCase.outputs.scores!);
  return [finding('scores', scores, expected, modelLimit('logits', backend.name))];
}

async function nextRow(model: Phi3ForCausalLM, fresh: number[], cache: KeyValueCache): Promise<ArrayLike<number>> {
  using made = openScope();
  const batch = { ids: fresh, lengths: [fresh.length] };
  return await made.run(() => noGrad(() => model.logits(batch, { last: true, cache }))).data();
}
