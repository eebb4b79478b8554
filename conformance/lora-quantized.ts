/** Cases of the family lora on a base in 4 bits: adapters that begin from it, and merging into it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import * as lora from '@lorikeet/lora';
import { loadPhi3, type Phi3ForCausalLM, phi3Linears, phi3Tensors } from '@lorikeet/phi3';
import { type Backend, noGrad, openScope, randomKey, type Tensor } from '@lorikeet/tensor';
import { type CaseContext, type Finding, tensorFinding } from './findings.ts';
import { layerAt } from './lora-cases.ts';
import { readBatch } from './models.ts';
import { modelLimit } from './tolerances.ts';

const nf4 = { loadIn4bit: true, bnb4bitQuantType: 'nf4' } as const;

interface Attributes {
  readonly model: string;
  readonly way: 'olora' | 'replace-loftq' | 'merge';
  readonly r: number;
  readonly adapter: string;
}

const open = (dir: string, backend: Backend): Promise<Phi3ForCausalLM> =>
  loadPhi3(nodeFiles(), dir, { backend, linear: lora.quantizedLinear(nf4) });

export async function runQuantized(context: CaseContext): Promise<Finding[]> {
  const { way } = context.testCase.attributes as unknown as Attributes;
  return way === 'merge' ? runMerge(context) : runBegun(context);
}

/** OLoRA on the decoded weights, or LoftQ's factors for what quantizing lost: the product, and the base afterwards. */
async function runBegun({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const { model: base, way, r } = testCase.attributes as unknown as Attributes;
  const dir = join(recording.directory, base);
  const config: lora.LoraConfig = { r, loraAlpha: r, targetModules: 'all-linear' };
  using tensors = openScope();
  using model = await open(dir, backend);
  if (way === 'olora') await lora.applyLoraAsync(model, { ...config, initLoraWeights: 'olora' });
  else {
    lora.applyLora(model, config, { key: randomKey(recording.seed) });
    const originalWeights = await lora.checkpointWeights(nodeFiles(), dir, backend);
    await lora.replaceLoraWeightsLoftq(model, { originalWeights });
  }
  const findings: Finding[] = [];
  for (const [name, key] of Object.entries(testCase.outputs)) {
    const [kind, path] = [name.slice(0, name.indexOf('/')), name.slice(name.indexOf('/') + 1)];
    const layer = layerAt(model, path);
    const found = tensors.run(() => (kind === 'product' ? layer.deltaWeight() : layer.base.denseWeight()));
    // What OLoRA leaves is quantized anew; the base under LoftQ's factors is not touched.
    const limit = kind === 'product' ? 'decomposed' : way === 'olora' ? 'requantized' : 'merged';
    findings.push(await tensorFinding(name, found, recording.tensor(key), modelLimit(limit, backend.name)));
  }
  return findings;
}

/** merge_and_unload in memory, and the same from folder to folder. */
async function runMerge(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { model: base, adapter } = testCase.attributes as unknown as Attributes;
  const [dir, folder] = [join(recording.directory, base), join(recording.directory, adapter)];
  using tensors = openScope();
  using model = await open(dir, backend);
  await lora.loadAdapter(nodeFiles(), folder, model);
  const logits = tensors.run(() => noGrad(() => model.logits(readBatch(context))));
  const findings = [
    await tensorFinding('logits', logits, recording.tensor(testCase.outputs.logits!), modelLimit('logits', backend.name)), // biome-ignore format: one line
  ];
  await lora.mergeAndUnload(model);
  findings.push(...(await mergedFindings(context, model, tensors.run.bind(tensors), 'in memory')));
  const place = await mkdtemp(join(tmpdir(), 'lorikeet-merge-'));
  try {
    const shapes = phi3Tensors(model.config);
    const linears = new Map(phi3Linears(model.config).map((path) => [path, shapes.get(`${path}.weight`)!]));
    await lora.mergeCheckpoint(nodeFiles(), dir, folder, place, { backend, into: 'quantized', linears, quantization: nf4 }); // biome-ignore format: one line
    using again = await open(place, backend);
    findings.push(...(await mergedFindings(context, again, tensors.run.bind(tensors), 'from folder to folder')));
  } finally {
    await rm(place, { recursive: true, force: true });
  }
  return findings;
}

async function mergedFindings(
  { recording, testCase, backend }: CaseContext,
  model: Phi3ForCausalLM,
  run: (fn: () => Tensor) => Tensor,
  how: string,
): Promise<Finding[]> {
  const linears = lora.linearsOf(model);
  const findings: Finding[] = [];
  for (const [name, key] of Object.entries(testCase.outputs)) {
    if (!name.startsWith('merged/')) continue;
    const weight = run(() => linears.get(name.slice('merged/'.length))!.denseWeight());
    const limit = modelLimit('requantized', backend.name);
    findings.push(await tensorFinding(`${name} ${how}`, weight, recording.tensor(key), limit));
  }
  return findings;
}
