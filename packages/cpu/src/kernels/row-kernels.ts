/** The ops of normalize.ts as kernels: f32 rows (norm weights of any float dtype), chunks of about 32 K elements. */
import type { Call, Operand } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { floatWord, type Task } from '../team.ts';
import { type FloatType, floatTypes } from './lanes.ts';
import { normalizeModule, rmsNormGradTask, rmsNormTask } from './normalize.ts';

const elementsPerChunk = 32 * 1024;

const isF32 = (operand: Operand | null | undefined) => operand?.dtype === 'f32';
const isDense = ({ shape, rowStride }: Operand) =>
  shape.length < 2 || rowStride === shape.slice(1).reduce((a, b) => a * b, 1);

export function rowKernels(host: KernelHost): Record<string, Kernel> {
  const tasks = lazyTasks(host.team, () => normalizeModule(host.team.memory.shape, host.features));
  /** Runs a row task over the rows of `shape`'s last axis. */
  const overRows = (task: Task, shape: readonly number[], words: readonly number[]) => {
    const n = shape.at(-1)!;
    const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
    const perChunk = Math.max(1, Math.floor(elementsPerChunk / Math.max(1, n)));
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
      overRows(tasks()[taskName(weight.dtype as FloatType)]!, outputs[0]!.shape, words);
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
  return {
    softmax: simple('softmax'),
    softmaxGrad: simple('softmaxGrad'),
    logSoftmax: simple('logSoftmax'),
    rmsNorm: norm(rmsNormTask, 1),
    rmsNormGrad: norm(rmsNormGradTask, 2),
    crossEntropy: entropy('crossEntropy'),
    crossEntropyGrad: entropy('crossEntropyGrad'),
  };
}
