import { memory, noGrad, referenceBackend, scope } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { applyLora } from '../peft/apply-lora.ts';
import { linearsOf } from '../peft/target-matching.ts';
import { ToyPhi3 } from '../testing/toy-phi3.ts';
import { prepareModelForKbitTraining } from './prepare-model-for-kbit-training.ts';
import { quantizeWeight4bit, tensorRows } from './quantize-weight.ts';
import { QuantizedLinear } from './quantized-linear.ts';

const backend = referenceBackend();
const ids = [1, 4, 7];

/** The toy with one quantized linear; all other weights bf16. */
async function quantizedToy(): Promise<ToyPhi3> {
  const model = new ToyPhi3({ backend, dtype: 'bf16' });
  const path = 'model.layers.0.self_attn.qkv_proj';
  using dense = linearsOf(model).get(path)!.denseWeight();
  const settings = { quantType: 'nf4', blocksize: 32, doubleQuant: true } as const;
  const layer = new QuantizedLinear(await quantizeWeight4bit(tensorRows(path, dense), settings));
  model.replaceModule(path, (old) => {
    old.dispose?.();
    return layer;
  });
  return model;
}
const dtypes = (model: ToyPhi3): Record<string, string> =>
  Object.fromEntries(model.namedParameters().map(({ path, tensor }) => [path, tensor.dtype]));
async function logits(model: ToyPhi3): Promise<Uint8Array> {
  using made = noGrad(() => scope(() => model.forward(ids)));
  return made.bytes();
}

describe('prepareModelForKbitTraining', () => {
  it('upcasts what is 16 bits wide, freezes all, and changes no result', async () => {
    const model = await quantizedToy();
    model.lm_head.weight.requiresGrad = true;
    const before = await logits(model);
    const lines: string[] = [];
    const report = prepareModelForKbitTraining(model, { print: (line) => lines.push(line) });
    expect(new Set(Object.values(dtypes(model)))).toEqual(new Set(['f32', 'u8']));
    expect(dtypes(model)['model.layers.0.self_attn.qkv_proj.weight']).toBe('u8');
    expect(model.namedParameters().some(({ tensor }) => tensor.requiresGrad)).toBe(false);
    expect(await logits(model)).toEqual(before);
    expect(report.embeddingBytes).toBe(2 * 11 * 6 * 4);
    expect(lines).toEqual(['embeddings and lm_head in 32 bits: 0.0 MB (keepEmbeddings16bit: 0.0 MB)']);
  });
  it('may keep the embeddings in 16 bits; the memory is what it says', async () => {
    const model = await quantizedToy();
    const live = memory(backend).liveBytes;
    const before = await logits(model);
    const report = prepareModelForKbitTraining(model, { keepEmbeddings16bit: true, print: () => undefined });
    expect(dtypes(model)).toMatchObject({ 'model.embed_tokens.weight': 'bf16', 'lm_head.weight': 'bf16' });
    expect(dtypes(model)['model.layers.1.mlp.down_proj.weight']).toBe('f32');
    expect(memory(backend).liveBytes - live).toBe(report.upcastBytes / 2);
    expect(report.embeddingBytes).toBe(2 * 11 * 6 * 2);
    expect(await logits(model)).toEqual(before);
  });
  it('says what is so where they are stored in 32 bits', () => {
    const lines: string[] = [];
    const model = new ToyPhi3({ backend, dtype: 'f32' });
    prepareModelForKbitTraining(model, { keepEmbeddings16bit: true, print: (line) => lines.push(line) });
    expect(lines).toEqual(['embeddings and lm_head are stored in 32 bits: 0.0 MB']);
  });
  it('turns gradient checkpointing on where the model has it, and comes before the adapter', async () => {
    const model = Object.assign(await quantizedToy(), { gradientCheckpointing: false });
    prepareModelForKbitTraining(model, { useGradientCheckpointing: false, print: () => undefined });
    expect(model.gradientCheckpointing).toBe(false);
    prepareModelForKbitTraining(model, { print: () => undefined });
    expect(model.gradientCheckpointing).toBe(true);
    applyLora(model, { r: 2 });
    expect(() => prepareModelForKbitTraining(model)).toThrow('the model must have no adapter yet');
  });
});
