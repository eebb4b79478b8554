/** The ops `attention` and `attentionGrad` as kernels: f32, heads up to 256 wide, column blocks in place. */
import type { AttentionAttributes, Call, Operand } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { floatWord } from '../team.ts';
import { attentionModule } from './attention.ts';
import { attentionWord, blockRows, blockWord, maxHeadWidth } from './attention-frame.ts';
import type { Tile } from './micro.ts';

const rowsPerDeltaChunk = 512;

/** Blocks of at most `blockRows` rows of one side, sequence by sequence, as words of `blockWord`. */
function cutBlocks({ lengths, keyLengths }: AttentionAttributes, side: 'queries' | 'keys'): Int32Array {
  const words: number[] = [];
  let [query, key] = [0, 0];
  for (const [i, queries] of lengths.entries()) {
    const keys = keyLengths[i]!;
    const [base, count, other] = side === 'queries' ? [query, queries, key] : [key, keys, query];
    for (let start = 0; start < count; start += blockRows)
      words.push(base + start, Math.min(blockRows, count - start), start, other, queries, keys);
    query += queries;
    key += keys;
  }
  return Int32Array.from(words);
}

export function attentionKernels({ team, features }: KernelHost, tile: Tile): Record<string, Kernel> {
  const tasks = lazyTasks(team, () => attentionModule(team.memory.shape, features, tile));

  /** Writes blocks to memory for the time of `use`. */
  const withBlocks = (blocks: Int32Array, use: (address: number, count: number) => void): void => {
    const address = team.memory.allocate(blocks.byteLength);
    try {
      team.memory.bytes.set(new Uint8Array(blocks.buffer), address);
      use(address, blocks.length / blockWord.size);
    } finally {
      team.memory.release(address);
    }
  };

  const common = (q: Operand, k: Operand, v: Operand, a: AttentionAttributes): number[] => {
    const [t, heads, e] = q.shape as [number, number, number];
    const words = new Array<number>(Object.keys(attentionWord).length).fill(0);
    words[attentionWord.q] = addressOf(q);
    words[attentionWord.qStride] = q.rowStride * 4;
    words[attentionWord.k] = addressOf(k);
    words[attentionWord.kStride] = k.rowStride * 4;
    words[attentionWord.v] = addressOf(v);
    words[attentionWord.vStride] = v.rowStride * 4;
    words[attentionWord.t] = t;
    words[attentionWord.heads] = heads;
    words[attentionWord.kvHeads] = k.shape[1]!;
    words[attentionWord.groupSize] = heads / k.shape[1]!;
    words[attentionWord.e] = e;
    words[attentionWord.scale] = floatWord(a.scale);
    words[attentionWord.window] = a.slidingWindow ?? 0x3fffffff;
    words[attentionWord.causal] = a.causal ? 1 : 0;
    return words;
  };

  const fits = ({ inputs, outputs, attributes }: Call): boolean => {
    const { lengths, keyLengths } = attributes as unknown as AttentionAttributes;
    const e = outputs[0]!.shape[2]!;
    return (
      [...inputs, ...outputs].every((x) => x?.dtype === 'f32') &&
      e <= maxHeadWidth &&
      lengths.every((n, i) => n === 0 || keyLengths[i]! > 0)
    );
  };

  const forward = ({ inputs, outputs, attributes }: Call): void => {
    const [q, k, v] = inputs as Operand[] & [Operand, Operand, Operand];
    const a = attributes as unknown as AttentionAttributes;
    const words = common(q, k, v, a);
    words[attentionWord.out] = addressOf(outputs[0]!);
    words[attentionWord.lse] = addressOf(outputs[1]!);
    withBlocks(cutBlocks(a, 'queries'), (address, count) => {
      words[attentionWord.blocks] = address;
      words[attentionWord.blockCount] = count;
      team.run(tasks().attention!, words, count * q.shape[1]!);
    });
  };

  const backward = ({ inputs, outputs, attributes }: Call): void => {
    const [grad, q, k, v, out, lse] = inputs as Operand[] & Record<0 | 1 | 2 | 3 | 4 | 5, Operand>;
    const a = attributes as unknown as AttentionAttributes;
    const [t, heads, e] = q.shape as [number, number, number];
    const delta = team.memory.allocate(t * heads * 4);
    try {
      const deltaWords = [t * heads, rowsPerDeltaChunk, e, addressOf(grad), addressOf(out), delta, heads, t];
      team.run(tasks().attentionDelta!, deltaWords, Math.ceil((t * heads) / rowsPerDeltaChunk));
      const words = common(q, k, v, a);
      words[attentionWord.grad] = addressOf(grad);
      words[attentionWord.gradStride] = grad.rowStride * 4;
      words[attentionWord.lse] = addressOf(lse);
      words[attentionWord.delta] = delta;
      words[attentionWord.dq] = addressOf(outputs[0]!);
      words[attentionWord.dk] = addressOf(outputs[1]!);
      words[attentionWord.dv] = addressOf(outputs[2]!);
      const passes = [
        ['queries', 'attentionGradQ', heads],
        ['keys', 'attentionGradKv', k.shape[1]!],
      ] as const;
      for (const [side, task, headCount] of passes) {
        withBlocks(cutBlocks(a, side), (address, count) => {
          words[attentionWord.blocks] = address;
          words[attentionWord.blockCount] = count;
          team.run(tasks()[task]!, words, count * headCount);
        });
      }
    } finally {
      team.memory.release(delta);
    }
  };

  return { attention: { fits: (call) => fits(call), run: forward }, attentionGrad: { fits, run: backward } };
}
