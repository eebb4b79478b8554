/** Cases of the family lora beside PEFT's plain folders: first values from the base, biases, and folders of ours. */
import { join } from 'node:path';
import { memoryFiles, nodeFiles, readJson } from '@lorikeet/files';
import * as lora from '@lorikeet/lora';
import { Linear, Module, type ModuleLike, trainableParameters } from '@lorikeet/nn';
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import { openSafetensors } from '@lorikeet/safetensors';
import { type Backend, noGrad, openScope, randomKey, type Tensor, zeros } from '@lorikeet/tensor';
import { type CaseContext, type Finding, tensorFinding, upload } from './findings.ts';
import { openModel, readBatch, sameNames } from './models.ts';
import { modelLimit } from './tolerances.ts';
import { makeAdapter } from './written-adapters.ts';

export type Json = Readonly<Record<string, unknown>>;

/** Written differently on purpose: versions and paths, a list where PEFT also takes a number, names that 'all-linear' came to. */
const written: ReadonlySet<string> = new Set([
  'auto_mapping', 'base_model_name_or_path', 'peft_version', 'target_modules', 'task_type', 'inference_mode',
  // PEFT's harmless initializations are loaded as plain ones.
  'init_lora_weights',
]); // biome-ignore format: a list

/** A value of adapter_config.json in one form. */
const inOneForm = (value: unknown): string =>
  JSON.stringify(
    value === null || value === undefined || value === '' || (Array.isArray(value) && value.length === 0)
      ? null
      : Array.isArray(value)
        ? value.toSorted()
        : typeof value === 'object'
          ? value
          : [value],
  );

/** Both say the same, and ours has no key that PEFT does not know. */
export function sameConfig(ours: Json, theirs: Json): void {
  const unknown = Object.keys(ours).filter((key) => !(key in theirs));
  if (unknown.length > 0)
    throw new Error(`saveAdapter: adapter_config.json must have PEFT's keys only: got ${unknown.join(', ')}.`);
  const different = Object.keys(ours).filter((key) => !written.has(key) && inOneForm(ours[key]) !== inOneForm(theirs[key])); // biome-ignore format: one line
  if (different.length > 0)
    throw new Error(
      `saveAdapter: adapter_config.json must say what PEFT's does: ${different.map((key) => `${key} is ${JSON.stringify(ours[key])}, PEFT's ${JSON.stringify(theirs[key])}`).join('; ')}.`,
    );
}

/** Logits of the case's sequences. */
const logitsOf = (model: Phi3ForCausalLM, context: CaseContext): Tensor =>
  noGrad(() => model.logits(readBatch(context)));

/** The adapted layer at a path. */
export function layerAt(model: ModuleLike, path: string): lora.LoraLinear {
  const found = [...lora.loraLayers(model)].find(([at]) => at === path);
  if (!found) throw new Error(`lora: ${path} must be adapted: it is not.`);
  return found[1] as lora.LoraLinear;
}

/** PiSSA, OLoRA or LoftQ: begun here as PEFT begins it; PEFT's folder loaded as it was trained and converted to plain LoRA. */
export async function runInit(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { model: base, adapter } = testCase.attributes as { model: string; adapter: string };
  const folder = join(recording.directory, adapter);
  const files = nodeFiles();
  const json = (await readJson(files, join(folder, 'adapter_config.json'))) as Json;
  const { config } = lora.parseLoraConfig(json);
  const expected = (name: string) => recording.tensor(testCase.outputs[name]!);
  const findings = await begun(context, base, config);
  // Random decompositions are done anew by PEFT too, and alternated quantization may round a weight to the other side.
  const init = String(config.initLoraWeights);
  const repeatable = !init.includes('niter') && (config.loftqConfig?.loftqIter ?? 1) === 1;
  const folders = [...(repeatable ? [adapter] : []), ...(init === 'loftq' ? [] : [`${adapter}-plain`])];
  for (const name of folders) {
    using model = await openModel(recording, base, backend);
    await lora.loadAdapter(files, join(recording.directory, name), model);
    using logits = logitsOf(model, context);
    findings.push(
      await tensorFinding(`logits of ${name}`, logits, expected('logits'), modelLimit('logits', backend.name)),
    );
    if (name === adapter && init !== 'loftq') findings.push(...(await converted(context, model, config)));
  }
  return findings;
}

/** The model right after its adapter was put on: logits, what is left in the base, and the product that was taken out. */
async function begun(context: CaseContext, base: string, config: lora.LoraConfig): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const expected = (name: string) => recording.tensor(testCase.outputs[name]!);
  const findings: Finding[] = [];
  using tensors = openScope();
  using model = await openModel(recording, base, backend);
  await lora.applyLoraAsync(model, config, { key: randomKey(recording.seed) });
  model.eval();
  const alternated = (config.loftqConfig?.loftqIter ?? 1) > 1;
  const quantity = alternated ? 'loftqAlternated' : 'decomposed';
  if (!alternated) {
    const logits = tensors.run(() => logitsOf(model, context));
    findings.push(await tensorFinding('logits at first', logits, expected('begun/logits'), modelLimit('logits', backend.name))); // biome-ignore format: one line
  }
  if (String(config.initLoraWeights).includes('niter')) return findings;
  for (const name of Object.keys(testCase.outputs).filter((n) => n.startsWith('base/'))) {
    const path = name.slice('base/'.length);
    const layer = layerAt(model, path);
    const [left, product] = tensors.run(() => [layer.base.denseWeight(), layer.deltaWeight()]);
    const limit = modelLimit(quantity, backend.name);
    findings.push(await tensorFinding(`base of ${path}`, left!, expected(name), limit));
    findings.push(await tensorFinding(`product of ${path}`, product!, expected(`product/${path}`), limit));
  }
  return findings;
}

/** What we convert to plain LoRA has PEFT's names and shapes and, where signs are not free, its values. */
async function converted(
  { recording, testCase, backend }: CaseContext,
  model: Phi3ForCausalLM,
  config: lora.LoraConfig,
): Promise<Finding[]> {
  const { adapter } = testCase.attributes as { adapter: string };
  const saved = memoryFiles();
  await lora.saveAdapter(saved, 'plain', model);
  const place = join(recording.directory, `${adapter}-plain`);
  sameConfig(
    (await readJson(saved, 'plain/adapter_config.json')) as Json,
    (await readJson(nodeFiles(), join(place, 'adapter_config.json'))) as Json,
  );
  const ours = await openSafetensors(saved, 'plain/adapter_model.safetensors');
  const theirs = await openSafetensors(nodeFiles(), join(place, 'adapter_model.safetensors'));
  sameNames([...ours.entries.keys()], [...theirs.entries.keys()]);
  const findings: Finding[] = [];
  for (const [name, { shape }] of theirs.entries) {
    if (`${ours.entry(name).shape}` !== `${shape}`)
      throw new Error(`saveAdapter: ${name} must be [${shape}] as PEFT's: it is [${ours.entry(name).shape}].`);
    if (config.initLoraWeights !== 'olora') continue;
    using t = upload({ dtype: 'f32', shape, bytes: await ours.read(name) }, backend);
    const expected = { dtype: 'f32' as const, shape, bytes: await theirs.read(name) };
    findings.push(await tensorFinding(`converted ${name}`, t, expected, modelLimit('decomposed', backend.name)));
  }
  return findings;
}

/** fc2(tanh(fc1 x)), as Net of reference/lora_module.py. */
class Net extends Module {
  fc1: Linear;
  fc2: Linear;
  constructor(backend: Backend) {
    super();
    const linear = (inFeatures: number, outFeatures: number): Linear =>
      new Linear(zeros([outFeatures, inFeatures], { backend }), zeros([outFeatures], { backend }));
    this.fc1 = linear(6, 9);
    this.fc2 = linear(9, 4);
    this.assignPaths();
  }
  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.fc1.forward(x).tanh());
  }
}

/** A bias mode of PEFT on a module with biases: output, what is trained under which name, and its gradients. */
export async function runModule({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const { adapter } = testCase.attributes as { adapter: string };
  using tensors = openScope();
  using net = tensors.run(() => new Net(backend));
  const state = Object.entries(testCase.inputs).filter(([name]) => name.startsWith('state/'));
  net.loadStateDict(
    new Map(state.map(([name, key]) => [name.slice('state/'.length), recording.tensor(key as string)])),
  );
  await lora.loadAdapter(nodeFiles(), join(recording.directory, adapter), net, { trainable: true });
  net.eval();
  const { out, gradients } = tensors.run(() => {
    const made = net.forward(upload(recording.tensor(testCase.inputs.x as string), backend));
    const cotangent = upload(recording.tensor(testCase.cotangents!.out!), backend);
    return { out: made, gradients: made.mul(cotangent).sum().backward() };
  });
  const findings = [
    await tensorFinding('out', out, recording.tensor(testCase.outputs.out!), modelLimit('merged', backend.name)),
  ];
  const keyOf = (path: string): string => `base_model.model.${path === 'fc1.bias' ? 'fc1.base_layer.bias' : path}`;
  const trained = trainableParameters(net).map(({ path, tensor }) => ({ path: keyOf(path), tensor }));
  sameNames(trained.map(({ path }) => path), Object.keys(testCase.gradients ?? {})); // biome-ignore format: one line
  for (const { path, tensor } of trained) {
    const expected = recording.tensor(testCase.gradients![path]!);
    findings.push(await tensorFinding(`gradient of ${path}`, gradients.of(tensor), expected, modelLimit('gradient', backend.name))); // biome-ignore format: one line
  }
  return findings;
}

/** An adapter of ours that PEFT has read: written again it is the same folder, and its logits are those PEFT computed. */
export async function runWritten(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { model: base, adapter, config, seed } = testCase.attributes as { model: string; adapter: string; config: lora.LoraConfig; seed: number }; // biome-ignore format: one line
  using model = await openModel(recording, base, backend);
  await makeAdapter(model, config, seed);
  using logits = logitsOf(model, context);
  const findings = [
    await tensorFinding('logits', logits, recording.tensor(testCase.outputs.logits!), modelLimit('logits', backend.name)), // biome-ignore format: one line
  ];
  const files = memoryFiles();
  await lora.saveAdapter(files, 'adapter', model);
  const folder = join(recording.directory, adapter);
  const text = async (source: Pick<typeof files, 'read'>, path: string): Promise<string> => Buffer.from(await source.read(path)).toString(); // biome-ignore format: one line
  if (
    (await text(files, 'adapter/adapter_config.json')) !==
    (await text(nodeFiles(), join(folder, 'adapter_config.json')))
  )
    // biome-ignore format: one line
    throw new Error('saveAdapter: adapter_config.json must be the text that PEFT has read: it is not. Record again.');
  const ours = await openSafetensors(files, 'adapter/adapter_model.safetensors');
  const theirs = await openSafetensors(nodeFiles(), join(folder, 'adapter_model.safetensors'));
  sameNames([...ours.entries.keys()], [...theirs.entries.keys()]);
  // Values that a decomposition gave differ in their last bits from backend to backend.
  for (const [name, { shape }] of theirs.entries) {
    using t = upload({ dtype: 'f32', shape: ours.entry(name).shape, bytes: await ours.read(name) }, backend);
    const expected = { dtype: 'f32' as const, shape, bytes: await theirs.read(name) };
    findings.push(await tensorFinding(name, t, expected, modelLimit('decomposed', backend.name)));
  }
  lora.unloadAdapter(model);
  return findings;
}
