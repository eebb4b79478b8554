/** The ops `adamw8bit` and `lion8bit`. */
import { type AdamW8bitRates, type Call, type Operand, sizeOf, stateBlocksize } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { floatWord } from '../team.ts';
import { type FloatType, isFloatType } from './lanes.ts';
import type { MapTables } from './map-tables.ts';
import { momentWords, numberNames, optimizer8bitModule, type Stepped, stepTask, stepWord } from './optimizer-8bit.ts';

const blocksPerChunk = 64;
const maxElements = 2 ** 31 - (blocksPerChunk + 1) * stateBlocksize;

/** The numbers of a step as the formulas take them, each rounded to f32 once. */
function numbersOf(kind: Stepped, r: AdamW8bitRates): number[] {
  const numbers: Record<string, number> = {
    gradScale: r.gradScale,
    beta1: r.beta1,
    enter1: 1 - r.beta1,
    beta2: r.beta2,
    enter2: 1 - r.beta2,
    correction2: r.correction2,
    eps: r.eps,
    rate: kind === 'adamw' ? -r.lr / r.correction1 : r.lr,
    before: 1 - r.lr * r.weightDecay,
    after: 1 - r.lr * r.weightDecayAfter,
  };
  return numberNames[kind].map((name) => floatWord(numbers[name]!));
}

export function optimizer8bitKernels({ team }: KernelHost, tables: MapTables): Record<`${Stepped}8bit`, Kernel> {
  const tasks = lazyTasks(team, () => optimizer8bitModule(team.memory.shape));
  const kernel = (kind: Stepped): Kernel => ({
    fits: ({ inputs: [param, grad] }: Call) =>
      isFloatType(param!.dtype) && isFloatType(grad!.dtype) && sizeOf(param!.shape) < maxElements,
    run: ({ inputs, attributes }: Call) => {
      const [param, grad, ...state] = inputs as Operand[];
      const n = sizeOf(param!.shape);
      const words = new Array<number>(stepWord.numbers).fill(0);
      words[stepWord.param] = addressOf(param!);
      words[stepWord.grad] = addressOf(grad!);
      words[stepWord.n] = n;
      words[stepWord.blocksPerChunk] = blocksPerChunk;
      for (let i = 0; i < state.length / 3; i++) {
        const [codes, absmax, map] = state.slice(i * 3, i * 3 + 3) as [Operand, Operand, Operand];
        const moment = [addressOf(codes), addressOf(absmax), addressOf(map), tables.of(map)];
        words.splice(stepWord.moments + i * momentWords, momentWords, ...moment);
      }
      words.push(...numbersOf(kind, attributes as unknown as AdamW8bitRates));
      const task = stepTask(kind, param!.dtype as FloatType, grad!.dtype as FloatType);
      team.run(tasks()[task]!, words, Math.ceil(n / (blocksPerChunk * stateBlocksize)));
    },
  });
  return { adamw8bit: kernel('adamw'), lion8bit: kernel('lion') };
}
