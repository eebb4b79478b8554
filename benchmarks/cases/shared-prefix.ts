/** A LoRA step on rows that share a system prompt: the prompt computed once a batch, beside ourselves without. */
import { trainableParameters } from '@lorikeet/nn';
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import { scope } from '@lorikeet/tensor';
import type { BenchCase, BenchContender } from '../case.ts';
import { batchOf, loraSteps } from '../ours/steps.ts';
import type { LoraStepSpec } from '../peer.ts';
import { wideModel } from '../wide-model.ts';

const promptTokens = 300;
/** Tokens of question and answer behind the prompt; the last three fifths are the answer, which is learned. */
const ownTokens = [60, 80, 100, 120, 140, 160, 180, 200];

function promptedRows(owns: readonly number[]): LoraStepSpec['rows'] {
  const token = (i: number): number => 3 + ((i * 7919) % 31_000);
  return owns.map((own) => {
    const answer = promptTokens + Math.round(0.4 * own);
    const ids = Int32Array.from({ length: promptTokens + own }, (_, i) => token(i < promptTokens ? i : 1000 * own + i));
    return { ids, labels: ids.map((id, i) => (i < answer ? -100 : id)) };
  });
}

/** Gradients of all trained values, one after another. */
async function gradientOf(
  model: Phi3ForCausalLM,
  rows: LoraStepSpec['rows'],
): Promise<{ loss: number; gradient: Float32Array }> {
  const made = scope(() => {
    const loss = model.loss(batchOf(rows));
    return { loss: loss.detach(), gradients: loss.backward() };
  });
  const parts: Float32Array[] = [];
  for (const { tensor } of trainableParameters(model))
    parts.push((await made.gradients.of(tensor).data()) as Float32Array);
  const gradient = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    gradient.set(part, at);
    at += part.length;
  }
  const loss = await made.loss.item();
  made.loss.dispose();
  made.gradients.dispose();
  return { loss, gradient };
}

/** How far a gradient is from another, as a part of its norm. */
function distance(got: Float32Array, want: Float32Array): number {
  let [difference, norm] = [0, 0];
  want.forEach((value, i) => {
    difference += (got[i]! - value) ** 2;
    norm += value ** 2;
  });
  return Math.sqrt(difference / norm);
}

/**
 * Sums over a thousand tokens in 32 bits are rounded by about 1e-6 of their size, in one order as in another: tokens computed
 * once must change gradients no more than twice what the same rows in another order do.
 */
async function check(model: Phi3ForCausalLM): Promise<void> {
  const owns = [20, 40, 60];
  const step = (share: boolean, order: readonly number[]) => {
    model.sharePrefix = share;
    return gradientOf(model, promptedRows(order));
  };
  const [want, got] = [await step(false, owns), await step(true, owns)];
  const turned = await step(false, owns.toReversed());
  if (!(Math.abs(got.loss - want.loss) <= 1e-6 * want.loss))
    throw new Error(`shared prefix: the loss must be ${want.loss} within 1e-6: got ${got.loss}`);
  const [found, rounding] = [distance(got.gradient, want.gradient), distance(turned.gradient, want.gradient)];
  if (!(found <= 2 * rounding))
    throw new Error(`shared prefix: gradients must be those without within rounding, ${rounding}: off by ${found}`);
}

const name = 'shared prefix';
const without = `${name}, not shared`;

export const sharedPrefixCase: BenchCase = {
  name,
  shape: `LoRA step, Phi-3 blocks of width 1024, 8 layers, bf16, r 16 on all linears: ${ownTokens.length} rows of ${promptTokens} + ${ownTokens[0]} .. ${ownTokens.at(-1)} tokens`,
  unit: 'tokens/s',
  perUnit: 1,
  async contenders({ many, defer }) {
    const folder = await wideModel(many);
    defer(folder.remove);
    const { model, adapter } = folder;
    const spec: LoraStepSpec = { op: 'loraStep', model, adapter, lr: 1e-5, rows: promptedRows(ownTokens) };
    const threads = Number(many.describe().threads);
    const contender = async (rowName: string, share: boolean): Promise<BenchContender> => {
      const ours = await loraSteps(spec, many);
      defer(ours.dispose);
      if (share) await check(ours.model);
      ours.model.sharePrefix = share;
      const versus = share ? { versus: { 'lorikeet, not shared': without } } : {};
      const work = spec.rows.reduce((sum, { ids }) => sum + ids.length, 0);
      return { name: rowName, work, run: ours.step, row: { name: rowName, threads, ...versus } };
    };
    return [await contender(name, true), await contender(without, false)];
  },
};
