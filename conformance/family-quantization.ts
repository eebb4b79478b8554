/** What bitsandbytes stores is compared bit for bit; its products and whole QLoRA models within the limits of any product and model. */

import { join } from 'node:path';
import { joinPath, memoryFiles, nodeFiles } from '@lorikeet/files';
import * as lora from '@lorikeet/lora';
import { loadPhi3, type Phi3ForCausalLM } from '@lorikeet/phi3';
import { openSafetensors } from '@lorikeet/safetensors';
import {
  type Backend,
  code4bit,
  createDynamicMap,
  dequantize4bit,
  dequantizeBlockwise,
  matmul4bit,
  matmul8bit,
  noGrad,
  openScope,
  quantizeBlockwise,
  type Tensor,
  tensor,
  type Weight4bit,
} from '@lorikeet/tensor';
import { adapterParameters } from './family-lora.ts';
import { type CaseContext, type Finding, finding, numbersOf, tensorFinding, upload, verdict } from './findings.ts';
import { gradientFindings, readBatch } from './models.ts';
import { runOptimizer8bit } from './quantization-optim.ts';
import type { StoredTensor } from './recording.ts';
import { decodedWeight, exact, type Limit, modelLimit, opLimit } from './tolerances.ts';

const runnersByOp: Readonly<Record<string, (context: CaseContext) => Promise<Finding[]>>> = {
  code: runCode,
  quantize4bit: runQuantize4bit,
  quantizeBlockwise: runQuantizeBlockwise,
  matmul4bit: runMatmul4bit,
  matmul8bit: runMatmul8bit,
  qlora: runQlora,
  adamw8bit: runOptimizer8bit,
  lion8bit: runOptimizer8bit,
};

/** A recorded case of the family. */
export const runQuantizationCase = (context: CaseContext): Promise<Finding[]> =>
  runnersByOp[context.testCase.op]!(context);

const stored = ({ recording, testCase }: CaseContext, name: string): StoredTensor =>
  recording.tensor((testCase.inputs[name] ?? testCase.outputs[name]) as string);

/** Bit for bit, whatever the tensors mean. */
async function sameBits(what: string, actual: Tensor, expected: StoredTensor): Promise<Finding> {
  return tensorFinding(what, actual, expected, what === 'dequantized' ? decodedWeight(actual.backend.name) : exact);
}

async function runCode(context: CaseContext): Promise<Finding[]> {
  const name = context.testCase.attributes.code as string;
  const ours = name.endsWith('4') ? code4bit(name as 'nf4' | 'fp4') : createDynamicMap(!name.startsWith('unsigned'));
  return [finding('code', ours, stored(context, 'code'), exact)];
}

interface Blocks4bit {
  readonly quantType: 'nf4' | 'fp4';
  readonly blocksize: number;
  readonly doubleQuant: boolean;
}

/** Codes, scales, the JSON of the state and the values that come back. */
async function runQuantize4bit(context: CaseContext): Promise<Finding[]> {
  const { testCase, backend } = context;
  using tensors = openScope();
  const x = tensors.run(() => upload(stored(context, 'x'), backend));
  const settings = testCase.attributes as unknown as Blocks4bit;
  const weight = await lora.quantizeWeight4bit(lora.tensorRows(testCase.name, x), settings);
  using layer = new lora.QuantizedLinear(weight);
  const state = new Map([...layer.stateEntries()].map(([path, t]) => [path.replace(/^weight\.?/, ''), t]));
  const findings: Finding[] = [];
  for (const name of Object.keys(testCase.outputs)) {
    const ours =
      name === 'packed'
        ? weight.packed
        : name === 'dequantized'
          ? tensors.run(() => layer.denseWeight())
          : state.get(name === 'state' ? `quant_state.bitsandbytes__${settings.quantType}` : name)!;
    findings.push(await sameBits(name, ours, stored(context, name)));
  }
  return findings;
}

async function runQuantizeBlockwise(context: CaseContext): Promise<Finding[]> {
  const { testCase, backend } = context;
  const { signed, blocksize } = testCase.attributes as { readonly signed: boolean; readonly blocksize: number };
  using tensors = openScope();
  const made = tensors.run(() => {
    const code = tensor(createDynamicMap(signed), { backend });
    const { quantized, absmax } = quantizeBlockwise(upload(stored(context, 'x'), backend), code, { blocksize });
    return { quantized, absmax, dequantized: dequantizeBlockwise(quantized, absmax, code, { blocksize }) };
  });
  return Promise.all(Object.entries(made).map(([name, t]) => sameBits(name, t, stored(context, name))));
}

/** The recorded weight, as a file would hold it. */
function weightOf(context: CaseContext, backend: Backend): Weight4bit {
  const { quantType, blocksize, nestedOffset } = context.testCase.attributes as {
    readonly quantType: 'nf4' | 'fp4';
    readonly blocksize: number;
    readonly nestedOffset?: number;
  };
  const at = (name: string): Tensor => upload(stored(context, name), backend);
  return {
    ...{ quantType, blocksize, dtype: 'f32' },
    shape: stored(context, 'w').shape as [number, number],
    packed: at('packed'),
    absmax: at('absmax'),
    nested:
      nestedOffset === undefined
        ? undefined
        : { absmax: at('nested_absmax'), code: at('nested_quant_map'), offset: nestedOffset, blocksize: 256 },
  };
}

/** Linear4bit: the product straight from packed weights, and the gradient of its input. */
async function runMatmul4bit(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  using tensors = openScope();
  const { weight, out, gradient } = tensors.run(() => {
    const w = weightOf(context, backend);
    const x = upload(stored(context, 'x'), backend, true);
    const y = matmul4bit(x, w);
    return { weight: dequantize4bit(w), out: y, gradient: y.backward(cotangentOf(context)).of(x) };
  });
  const limit = opLimit('matmul4bit', 'output', 'f32', backend.name, 'products');
  const magnitude = (name: string) => {
    const { key, terms } = testCase.magnitudes![name]!;
    return { sums: numbersOf(recording.tensor(key)), terms };
  };
  const gradientKey = testCase.gradients!.x!;
  return [
    await sameBits('decoded weight', weight, stored(context, 'w')),
    await tensorFinding('out', out, stored(context, 'out'), limit, magnitude('out')),
    await tensorFinding('gradient of x', gradient, recording.tensor(gradientKey), limit, magnitude('x')),
  ];
}

const cotangentOf = ({ recording, testCase, backend }: CaseContext): Tensor =>
  upload(recording.tensor(testCase.cotangents!.out!), backend);

/** Linear8bitLt: codes and scales of the weight bit for bit, the product with outliers, the gradient of its input. */
async function runMatmul8bit(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { threshold } = testCase.attributes as { readonly threshold: number };
  using tensors = openScope();
  const dense = tensors.run(() => upload(stored(context, 'weight'), backend));
  using layer = new lora.Int8Linear(await lora.quantizeWeight8bit(lora.tensorRows(testCase.name, dense)), {
    threshold,
  });
  const weight = layer.weight8bit();
  const { out, gradient } = tensors.run(() => {
    const x = upload(stored(context, 'x'), backend, true);
    const y = matmul8bit(x, weight, { threshold });
    return { out: y, gradient: y.backward(cotangentOf(context)).of(x) };
  });
  const limit = opLimit('matmul8bit', 'output', 'f32', backend.name, undefined);
  return [
    await sameBits('codes', weight.quantized, stored(context, 'quantized')),
    await sameBits('SCB', weight.absmax, stored(context, 'SCB')),
    await tensorFinding('out', out, stored(context, 'out'), limit),
    await tensorFinding('gradient of x', gradient, recording.tensor(testCase.gradients!.x!), limit),
  ];
}

interface QloraAttributes {
  readonly dense: string;
  readonly denseF32: string;
  readonly quantized: string;
  readonly adapter: string;
  readonly config: Readonly<Record<string, unknown>>;
}

/** Files both ways, and a QLoRA step: logits, loss and the gradients of the adapter. */
async function runQlora(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { dense, denseF32, quantized, adapter, config: json } = testCase.attributes as unknown as QloraAttributes;
  const folder = (name: string): string => join(recording.directory, name);
  const files = nodeFiles();
  const { config } = lora.parseBitsAndBytesConfig(json);
  const findings = [await sameFile(folder(dense), folder(quantized), config, backend)];
  findings.push(await sameModel(folder(dense), folder(quantized), config, backend));
  using model = await loadPhi3(files, folder(denseF32), { backend, linear: lora.quantizedLinear(config) });
  await lora.loadAdapter(files, folder(adapter), model, { trainable: true });
  model.eval();
  const batch = readBatch(context);
  using tensors = openScope();
  const made = tensors.run(() => {
    const loss = model.loss(batch);
    return { logits: noGrad(() => model.logits(batch)), loss, gradients: loss.backward() };
  });
  const loose: Limit | undefined = config.loadIn8bit ? modelLimit('int8Activations', backend.name) : undefined;
  for (const name of ['logits', 'loss'] as const)
    findings.push(
      await tensorFinding(name, made[name], stored(context, name), loose ?? modelLimit(name, backend.name)),
    );
  findings.push(...(await gradientFindings(context, made.gradients, adapterParameters(model), undefined, loose)));
  return findings;
}

/** Quantizing the dense folder here gives the file that transformers wrote, byte for byte. */
async function sameFile(
  from: string,
  theirs: string,
  config: lora.BitsAndBytesConfig,
  backend: Backend,
): Promise<Finding> {
  const disk = nodeFiles();
  const files = memoryFiles();
  for (const dir of ['from', 'to']) await files.makeDirectory(dir);
  for (const name of ['config.json', 'model.safetensors'])
    await files.append(joinPath('from', name), await disk.read(join(from, name)));
  const linears = [...(await openSafetensors(files, 'from/model.safetensors')).entries.keys()].flatMap(
    (name) => /^(.*_proj|lm_head)\.weight$/.exec(name)?.[1] ?? [],
  );
  await lora.quantizeCheckpoint(files, 'from', 'to', config, { backend, linears });
  const [a, b] = [await files.read('to/model.safetensors'), await disk.read(join(theirs, 'model.safetensors'))];
  const at = a.findIndex((byte, i) => byte !== b[i]);
  const same = a.length === b.length && at < 0;
  return verdict(
    'model.safetensors',
    same,
    `${a.length} bytes here, ${b.length} recorded, different from byte ${at} on`,
  );
}

/** Their folder and the dense one quantized while it is loaded are the same model in every bit. */
async function sameModel(
  dense: string,
  quantized: string,
  config: lora.BitsAndBytesConfig,
  backend: Backend,
): Promise<Finding> {
  const files = nodeFiles();
  const read = (await lora.readQuantizationConfig(files, quantized))!;
  using theirs = await loadPhi3(files, quantized, { backend, linear: lora.quantizedLinear(read) });
  using ours = await loadPhi3(files, dense, { backend, linear: lora.quantizedLinear(config) });
  const [a, b] = [await bitsOf(theirs), await bitsOf(ours)];
  const different = [...new Set([...a.keys(), ...b.keys()])].filter((name) => a.get(name) !== b.get(name));
  return verdict('loaded weights', different.length === 0, `${different.slice(0, 3).join(', ')} differ`);
}

async function bitsOf(model: Phi3ForCausalLM): Promise<Map<string, string>> {
  const bits = new Map<string, string>();
  for (const [path, t] of model.stateDict())
    bits.set(path, `${t.dtype} ${t.shape} ${Buffer.from(await t.bytes()).toString('base64')}`);
  return bits;
}
