import { join } from 'node:path';
import { memoryFiles, nodeFiles, readJson } from '@lorikeet/files';
import * as lora from '@lorikeet/lora';
import { type ModuleLike, trainableParameters } from '@lorikeet/nn';
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import { openSafetensors } from '@lorikeet/safetensors';
import { type Backend, noGrad, openScope, randomKey, type Tensor } from '@lorikeet/tensor';
import { type CaseContext, type Finding, numbersOf, tensorFinding, upload } from './findings.ts';
import { type Json, runInit, runModule, runWritten, sameConfig } from './lora-cases.ts';
import { runQuantized } from './lora-quantized.ts';
import { gradientFindings, openModel, readBatch, sameNames } from './models.ts';
import { modelLimit } from './tolerances.ts';

/** PEFT's prefix of every tensor in an adapter file, before the path in the model. */
export const peftPrefix = 'base_model.model.';

/** A recorded case of the family: an adapter folder of PEFT, one of ours that PEFT has read, or a layer of loralib. */
export async function runLoraCase(context: CaseContext): Promise<Finding[]> {
  switch (context.testCase.op) {
    case 'peft':
      return runPeft(context);
    case 'peft-init':
      return runInit(context);
    case 'peft-quantized':
      return runQuantized(context);
    case 'peft-module':
      return runModule(context);
    case 'written':
      return runWritten(context);
    default:
      return runLayer(context);
  }
}

/** An adapter that PEFT wrote: logits, loss and gradients with it, the same file written again, and the merged model. */
async function runPeft(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { model: base, adapter } = testCase.attributes as { model: string; adapter: string };
  const folder = join(recording.directory, adapter);
  using model = await openModel(recording, base, backend);
  await lora.loadAdapter(nodeFiles(), folder, model, { trainable: true });
  model.eval();
  await sameAdapterFile(model, folder);
  const batch = readBatch(context);
  using tensors = openScope();
  const { logits, loss, gradients } = tensors.run(() => {
    const made = model.loss(batch);
    return { logits: noGrad(() => model.logits(batch)), loss: made, gradients: made.backward() };
  });
  const limit = modelLimit('logits', backend.name);
  const expected = (name: string) => recording.tensor(testCase.outputs[name]!);
  const findings = [
    await tensorFinding('logits', logits, expected('logits'), limit),
    await tensorFinding('loss', loss, expected('loss'), modelLimit('loss', backend.name)),
    ...(await gradientFindings(context, gradients, adapterParameters(model))),
  ];
  await lora.mergeAndUnload(model);
  // Weights in bf16 lose bits when the update is added, in PEFT as here: then only the merged weight is compared.
  const half = model.stateDict().get('lm_head.weight')!.dtype !== 'f32';
  if (!half) {
    const merged = tensors.run(() => noGrad(() => model.logits(batch)));
    findings.push(await tensorFinding('logits of the merged model', merged, expected('logits'), limit));
  }
  const mergedLimit = modelLimit(half ? 'mergedHalf' : 'merged', backend.name);
  const weights = model.stateDict();
  for (const [name, key] of Object.entries(testCase.outputs).filter(([n]) => n.startsWith('merged/')))
    findings.push(
      await tensorFinding(name, weights.get(name.slice('merged/'.length))!, recording.tensor(key), mergedLimit),
    );
  return findings;
}

/** What an adapter trains, named as in PEFT's file. */
export const adapterParameters = (model: Phi3ForCausalLM) =>
  trainableParameters(model).map(({ path, tensor }) => ({ path: `${peftPrefix}${path}`, tensor }));

/** Written again, the adapter has PEFT's tensor names, shapes and bytes, and only keys that PEFT knows. */
async function sameAdapterFile(model: ModuleLike, folder: string): Promise<void> {
  const written = memoryFiles();
  await lora.saveAdapter(written, 'adapter', model);
  const [ours, theirs] = [
    await openSafetensors(written, 'adapter/adapter_model.safetensors'),
    await openSafetensors(nodeFiles(), join(folder, 'adapter_model.safetensors')),
  ];
  sameNames([...ours.entries.keys()], [...theirs.entries.keys()]);
  for (const [name, entry] of theirs.entries) {
    const own = ours.entry(name);
    if (
      `${own.shape} ${own.dtype}` !== `${entry.shape} ${entry.dtype}` ||
      !Buffer.from(await ours.read(name)).equals(await theirs.read(name))
    )
      throw new Error(`saveAdapter: ${name} must be what was loaded: it is not.`);
  }
  sameConfig(
    (await readJson(written, 'adapter/adapter_config.json')) as Json,
    (await readJson(nodeFiles(), join(folder, 'adapter_config.json'))) as Json,
  );
}

type LayerOptions = Readonly<Record<string, number>> & {
  readonly bias?: boolean;
  readonly enableLora?: readonly boolean[];
};

function makeLayer(op: string, o: LayerOptions, backend: Backend) {
  const options = { ...o, backend, key: randomKey(1) };
  switch (op) {
    case 'lora.Linear':
      return new lora.Linear(o.inFeatures!, o.outFeatures!, options);
    case 'lora.Embedding':
      return new lora.Embedding(o.numEmbeddings!, o.embeddingDim!, options);
    case 'lora.Conv2d':
      return new lora.Conv2d(o.inChannels!, o.outChannels!, o.kernelSize!, options);
    case 'lora.MergedLinear':
      return new lora.MergedLinear(o.inFeatures!, o.outFeatures!, { ...options, enableLora: o.enableLora! });
    default:
      throw new TypeError(`conformance: loralib layer ${op} must have a case in family-lora.ts: it has none.`);
  }
}

/** A layer of loralib with recorded parameters: output, gradients, merged weight, and the output of the merged layer. */
async function runLayer({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  using tensors = openScope();
  const layer = tensors.run(() => makeLayer(testCase.op, testCase.attributes as LayerOptions, backend));
  const state = Object.entries(testCase.inputs).filter(([name]) => name.startsWith('state/'));
  layer.loadStateDict(
    new Map(state.map(([name, key]) => [name.slice('state/'.length), recording.tensor(key as string)])),
  );
  const stored = recording.tensor(testCase.inputs.x as string);
  const recorded = testCase.gradients ?? {};
  const { out, gradients, x } = tensors.run(() => {
    const x = upload(stored, backend, 'x' in recorded);
    const out = forward(layer, stored.dtype === 'i32' ? (numbersOf(stored) as Int32Array) : x);
    const cotangent = upload(recording.tensor(testCase.cotangents!.out!), backend);
    return { x, out, gradients: out.mul(cotangent).sum().backward() };
  });
  const [each, whole] = [modelLimit('merged', backend.name), modelLimit('gradient', backend.name)];
  const parameters = new Map([...layer.stateDict(), ['x', x]]);
  sameNames(
    [...parameters].flatMap(([name, t]) => (gradients.has(t) ? [name] : [])),
    Object.keys(recorded),
  );
  const findings = [await tensorFinding('out', out, recording.tensor(testCase.outputs.out!), each)];
  for (const [name, key] of Object.entries(recorded))
    findings.push(
      await tensorFinding(`gradient of ${name}`, gradients.of(parameters.get(name)!), recording.tensor(key), whole),
    );
  await layer.merge();
  const weight = parameters.get('weight') ?? parameters.get('conv.weight')!;
  findings.push(await tensorFinding('merged weight', weight, recording.tensor(testCase.outputs.merged!), each));
  const again = tensors.run(() =>
    noGrad(() => forward(layer, stored.dtype === 'i32' ? (numbersOf(stored) as Int32Array) : x)),
  );
  findings.push(await tensorFinding('out of the merged layer', again, recording.tensor(testCase.outputs.out!), each));
  return findings;
}

/** Embeddings take ids as numbers, the others a tensor: the caller knows which. */
const forward = (layer: ReturnType<typeof makeLayer>, x: Tensor | Int32Array): Tensor =>
  (layer.forward as (x: Tensor | Int32Array) => Tensor).call(layer, x);
