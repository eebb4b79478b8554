/** The ops of normalize.ts and norms.ts as kernels: f32 rows (rmsNorm's weight of any float dtype), chunks of about 32 K elements. */
import type { Call, Operand } from '@lorikeet/tensor';
import { addressOf, CpuBuffer } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { floatWord, type Task } from '../team.ts';
import { type FloatType, floatTypes } from './lanes.ts';
import { normalizeModule } from './normalize.ts';
import { normsModule, rmsNormGradTask, rmsNormTask } from './norms.ts';

const elementsPerChunk = 32 * 1024;

const isF32 = (operand: Operand | null | undefined) => operand?.dtype === 'f32';
const isDense = ({ shape, rowStride }: Operand) =>
  shape.length < 2 || rowStride === shape.slice(1).reduce((a, b) => a * b, 1);

/** Rows of the last axis, and how many make a chunk. */
function cut(shape: readonly number[]): { readonly n: number; readonly rows: number; readonly perChunk: number } {
  const n = shape.at(-1)!;
  const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
  return { n, rows, perChunk: Math.max(1, Math.floor(elementsPerChunk / Math.max(1, n))) };
}

/** `sum` is the kernel of that op. */
export function rowKernels(host: KernelHost, sum: Kernel): Record<string, Kernel> {
  const norms = lazyTasks(host.team, () => normsModule(host.team.memory.shape));
  const tasks = lazyTasks(host.team, () => normalizeModule(host.team.memory.shape, host.features));
  /** Runs a row task over the rows of `shape`'s last axis. */
  const overRows = (task: Task, shape: readonly number[], words: readonly number[]) => {
    const { n, rows, perChunk } = cut(shape);
    host.team.run(task, [rows, perChunk, n, ...words], Math.ceil(rows / perChunk));
  };
  /** A kernel whose operands are all f32 rows of one length; `extra` are words after the addresses. */
  const simple = (name: string): Kernel => ({
    fits: ({ inputs, outputs }) =>
      [...inputs, ...outputs].every((x) => isF32(x) && isDense(x!)) && outputs[0]!.shape.length > 0,
    run: ({ inputs, outputs }) =>
      overRows(tasks()[name]!, outputs[0]!.shape, [...inputs.map((x) => addressOf(x!)), addressOf(outputs[0]!)]),
  });
  const norm = (taskName: (dtype: FloatType) => string, rowInputs: number): Kernel => ({
    fits: ({ inputs, outputs }) => {
      const rows = [...inputs.slice(0, rowInputs), ...outputs];
      return rows.every((x) => isF32(x) && isDense(x!)) && floatTypes.includes(inputs[rowInputs]!.dtype as FloatType);
    },
    run: ({ inputs, outputs, attributes }) => {
      const weight = inputs[rowInputs]!;
      const rows = inputs.slice(0, rowInputs).map((x) => addressOf(x!));
      const words = [...rows, addressOf(outputs[0]!), addressOf(weight), floatWord(attributes.eps as number)];
      overRows(norms()[taskName(weight.dtype as FloatType)]!, outputs[0]!.shape, words);
    },
  });
  const allF32: Kernel['fits'] = ({ inputs, outputs }) => [...inputs, ...outputs].every((x) => isF32(x) && isDense(x!));
  /** `order` gives the operands as the task takes them, before eps. */
  const layerNorm = (name: string, order: (call: Call) => readonly (Operand | null)[]): Kernel => ({
    fits: allF32,
    run: (call) => {
      const words = [...order(call).map((x) => addressOf(x!)), floatWord(call.attributes.eps as number)];
      overRows(norms()[name]!, call.outputs[0]!.shape, words);
    },
  });
  /** Sums over blocks of rows first, then over the blocks. */
  const weightGrad = (name: string): Kernel => ({
    fits: allF32,
    run: (call) => {
      const [grad, x] = call.inputs as [Operand, Operand];
      const { n, rows, perChunk } = cut(x.shape);
      const blocks = Math.ceil(rows / perChunk);
      const bytes = blocks * n * 4;
      const address = host.team.memory.allocate(bytes);
      try {
        const words = [addressOf(grad), addressOf(x), address, perChunk, floatWord(call.attributes.eps as number)];
        overRows(norms()[name]!, x.shape, words);
        const partial = { dtype: 'f32', shape: [1, blocks, n], offset: 0, rowStride: blocks * n } as const;
        const out = { ...call.outputs[0]!, shape: [1, n], rowStride: n };
        sum.run({ ...call, inputs: [{ ...partial, buffer: new CpuBuffer(address, bytes) }], outputs: [out] });
      } finally {
        host.team.memory.release(address);
      }
    },
  });
  /** Labels are checked here, because a kernel must not address past a row. */
  const checkLabels = (
    op: string,
    { labels, classes, ignoreIndex }: { labels: Operand; classes: number; ignoreIndex: number },
  ) => {
    const view = new Int32Array(host.team.memory.bytes.buffer, addressOf(labels), labels.shape[0]!);
    for (const [i, label] of view.entries())
      if (label !== ignoreIndex && !(label >= 0 && label < classes))
        throw new RangeError(
          `${op}: labels must be ${ignoreIndex} or in 0 .. ${classes - 1}: got ${label} at row ${i}.`,
        );
  };
  const entropy = (name: 'crossEntropy' | 'crossEntropyGrad'): Kernel => {
    const operands = ({ inputs }: Call) => (name === 'crossEntropy' ? [null, ...inputs] : inputs);
    return {
      fits: (call) => {
        const [grad, logits] = operands(call);
        return isF32(logits) && isDense(logits!) && isF32(call.outputs[0]) && (!grad || isF32(grad));
      },
      run: (call) => {
        const [grad, logits, labels] = operands(call);
        const { ignoreIndex, labelSmoothing } = call.attributes as { ignoreIndex: number; labelSmoothing: number };
        checkLabels(name, { labels: labels!, classes: logits!.shape[1]!, ignoreIndex });
        const words = [
          addressOf(logits!),
          addressOf(labels!),
          ignoreIndex,
          addressOf(call.outputs[0]!),
          floatWord(labelSmoothing),
        ];
        if (grad) words.push(addressOf(grad));
        overRows(tasks()[name]!, logits!.shape, words);
      },
    };
  };
  const crossEntropyWithGrad: Kernel = {
    fits: ({ inputs: [logits], outputs }) =>
      isF32(logits) && isDense(logits!) && outputs.every((x) => isF32(x) && isDense(x)),
    run: ({ inputs: [logits, labels], outputs: [loss, grad], attributes }) => {
      const { ignoreIndex, labelSmoothing, scale } = attributes as {
        ignoreIndex: number;
        labelSmoothing: number;
        scale: number;
      };
      checkLabels('crossEntropyWithGrad', { labels: labels!, classes: logits!.shape[1]!, ignoreIndex });
      const words = [addressOf(logits!), addressOf(labels!), ignoreIndex, addressOf(loss!), floatWord(labelSmoothing)];
      overRows(tasks().crossEntropyWithGrad!, logits!.shape, [...words, addressOf(grad!), floatWord(scale)]);
    },
  };
  return {
    softmax: simple('softmax'),
    softmaxGrad: simple('softmaxGrad'),
    logSoftmax: simple('logSoftmax'),
    rmsNorm: norm(rmsNormTask, 1),
    rmsNormGrad: norm(rmsNormGradTask, 2),
    rmsNormWeightGrad: weightGrad('rmsNormWeightGrad'),
    layerNorm: layerNorm('layerNorm', ({ inputs: [x, weight, bias], outputs: [out] }) => [x!, out!, weight!, bias!]),
    layerNormGrad: layerNorm('layerNormGrad', ({ inputs: [grad, x, weight], outputs: [out] }) => [
      grad!,
      x!,
      out!,
      weight!,
    ]),
    layerNormWeightGrad: weightGrad('layerNormWeightGrad'),
    crossEntropy: entropy('crossEntropy'),
    crossEntropyGrad: entropy('crossEntropyGrad'),
    crossEntropyWithGrad,
  };
}
