/** Linear factories that quantize: what `loadPhi3({ linear })` takes. */
import { denseLinear, type LinearFactory, type LinearRequest, materialize } from '@lorikeet/nn';
import { SafetensorsError } from '@lorikeet/safetensors';
import {
  type BitsAndBytesConfig,
  type CompleteBitsAndBytesConfig,
  completeBitsAndBytesConfig,
  isQuantizedPath,
} from './bits-and-bytes-config.ts';
import { Int8Linear } from './int8-linear.ts';
import type { QuantState } from './quant-state.ts';
import { quantizeWeight4bit, quantizeWeight8bit, sourceRows } from './quantize-weight.ts';
import { QuantizedLinear } from './quantized-linear.ts';
import {
  checkDense,
  checkStored4bit,
  checkStored8bit,
  readStored4bit,
  readStored8bit,
  storedForm,
} from './stored-weight.ts';

/** What the command line and tests choose beside the configuration. */
export interface QuantizedFactoryOptions {
  /** See QuantizedLinear. @defaultValue 'f32' */
  readonly computeDtype?: 'f32' | 'int8' | undefined;
}

/** Blocks of one checkpoint have one size and one type; the first layer says which. */
function checkSame(states: readonly (readonly [LinearRequest, QuantState])[]): void {
  const [first] = states;
  if (!first) return;
  const [firstRequest, { blocksize, quantType, nested }] = first;
  const describe = (state: QuantState): string =>
    `${state.quantType} in blocks of ${state.blocksize}${state.nested ? ' with' : ' without'} double quantization`;
  for (const [{ weight }, state] of states) {
    const same = state.blocksize === blocksize && state.quantType === quantType && !state.nested === !nested;
    if (same) continue;
    const file = weight.file ?? 'checkpoint';
    throw new SafetensorsError(
      file,
      `${file}: tensor ${JSON.stringify(weight.path)}: must be quantized like ${JSON.stringify(firstRequest.weight.path)}, ${describe(first[1])}: it is ${describe(state)}. Quantize the model again.`,
      { tensor: weight.path },
    );
  }
}

/** @throws SafetensorsError for the first layer whose tensors do not fit, or whose form is not the configuration's */
async function checkAll(requests: readonly LinearRequest[], config: CompleteBitsAndBytesConfig): Promise<void> {
  const states: [LinearRequest, QuantState][] = [];
  for (const request of requests) {
    const form = storedForm(request);
    if (form === 'dense') checkDense(request);
    else if (form === '4bit') states.push([request, await checkStored4bit(request)]);
    else checkStored8bit(request);
    const wanted = config.loadIn4bit ? '4bit' : config.loadIn8bit ? 'int8' : 'dense';
    if (form === 'dense' || form === wanted) continue;
    const { file = 'checkpoint', path } = request.weight;
    throw new SafetensorsError(
      file,
      `${file}: tensor ${JSON.stringify(path)}: must be ${wanted}, as the quantization that was asked for: it is stored as ${form}. Leave out the options of quantization: config.json has them.`,
      { tensor: path },
    );
  }
  checkSame(states);
}

async function make4bit(request: LinearRequest, config: CompleteBitsAndBytesConfig, options: QuantizedFactoryOptions) {
  const { weight, bias, backend } = request;
  const { bnb4bitQuantType: quantType, bnb4bitUseDoubleQuant: doubleQuant, blocksize } = config;
  const made =
    storedForm(request) === '4bit'
      ? await readStored4bit(request, await checkStored4bit(request))
      : await quantizeWeight4bit(sourceRows(weight, backend), { quantType, blocksize, doubleQuant });
  const { computeDtype } = options;
  return new QuantizedLinear(made, { computeDtype, bias: bias ? await materialize(bias, { backend }) : undefined });
}

async function make8bit(request: LinearRequest, { llmInt8Threshold: threshold }: CompleteBitsAndBytesConfig) {
  const { weight, bias, backend } = request;
  const made =
    storedForm(request) === 'int8'
      ? await readStored8bit(request)
      : await quantizeWeight8bit(sourceRows(weight, backend));
  return new Int8Linear(made, { threshold, bias: bias ? await materialize(bias, { backend }) : undefined });
}

/**
 * A factory that quantizes each weight while it streams in, row block by row block, and takes one that is quantized in the
 * checkpoint already as it is. Layers that the configuration skips (by default `lm_head`) stay dense. With neither
 * loadIn4bit nor loadIn8bit all do.
 *
 * The factory's `check` looks at every layer's tensors before the first weight is read.
 * @throws TypeError for a wrong configuration
 */
export function quantizedLinear(config: BitsAndBytesConfig, options: QuantizedFactoryOptions = {}): LinearFactory {
  const complete = completeBitsAndBytesConfig(config);
  const dense = denseLinear();
  const make = (request: LinearRequest) => {
    const form = storedForm(request);
    if (form === 'dense' && !isQuantizedPath(request.path, config)) return dense(request);
    if (form === '4bit' || (form === 'dense' && complete.loadIn4bit)) return make4bit(request, complete, options);
    if (form === 'int8' || (form === 'dense' && complete.loadIn8bit)) return make8bit(request, complete);
    return dense(request);
  };
  return Object.assign(make, { check: (requests: readonly LinearRequest[]) => checkAll(requests, complete) });
}

type Options4bit = Omit<BitsAndBytesConfig, 'loadIn4bit' | 'loadIn8bit' | 'bnb4bitQuantType'> & QuantizedFactoryOptions;

const factory4bit = (bnb4bitQuantType: 'nf4' | 'fp4', { computeDtype, ...options }: Options4bit): LinearFactory =>
  quantizedLinear({ bnb4bitUseDoubleQuant: true, ...options, loadIn4bit: true, bnb4bitQuantType }, { computeDtype });

/** NF4 with double quantization unless told otherwise: QLoRA's base. */
export const nf4 = (options: Options4bit = {}): LinearFactory => factory4bit('nf4', options);

/** FP4 with double quantization unless told otherwise; NF4 loses less on normal weights. */
export const fp4 = (options: Options4bit = {}): LinearFactory => factory4bit('fp4', options);

/** LLM.int8. */
export const int8 = (
  options: Pick<BitsAndBytesConfig, 'llmInt8Threshold' | 'llmInt8SkipModules'> = {},
): LinearFactory => quantizedLinear({ ...options, loadIn8bit: true });
