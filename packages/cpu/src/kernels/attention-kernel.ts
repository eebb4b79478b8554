/** The ops `attention` and `attentionGrad` as kernels: f32, heads up to 256 wide, column blocks in place. */
import type { AttentionAttributes, Call, Operand } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { floatWord } from '../team.ts';
import { attentionModule } from './attention.ts';
import { maxHeadWidth } from './attention-blocks.ts';
import { joinedWord, partWord } from './attention-decode.ts';
import { attentionWord, blockWord } from './attention-frame.ts';
import { joinWord, spanWord } from './attention-grad.ts';
import { cutBlocks, cutDecode, cutSpans, type Heads, partsOf } from './attention-plan.ts';
import type { Tile } from './micro.ts';

/** Elements a chunk of the addition of parts handles. */
const joinElements = 16 * 1024;
export function attentionKernels({ team, features }: KernelHost, tile: Tile): Record<string, Kernel> {
  const tasks = lazyTasks(team, () => attentionModule(team.memory.shape, features, tile));

  /** Writes words to memory for the time of `use`. */
  const withWords = (list: readonly number[], use: (address: number, words: number) => void): void => {
    if (list.length === 0) return;
    const address = team.memory.allocate(list.length * 4);
    try {
      team.memory.bytes.set(new Uint8Array(Int32Array.from(list).buffer), address);
      use(address, list.length);
    } finally {
      team.memory.release(address);
    }
  };

  const headsOf = (q: Operand, k: Operand): Heads => ({ heads: q.shape[1]!, kvHeads: k.shape[1]!, e: q.shape[2]! });

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
    const heads = headsOf(q, k);
    withWords(cutBlocks(a, heads), (address, count) => {
      words[attentionWord.blocks] = address;
      words[attentionWord.blockCount] = count / blockWord.size;
      team.run(tasks().attention!, words, (count / blockWord.size) * heads.heads);
    });
    decode(a, heads, words);
  };

  /** The sequences of few queries: parts of their keys, then the parts together. */
  const decode = (a: AttentionAttributes, heads: Heads, words: number[]): void => {
    const { parts, joined, sumBytes } = cutDecode(a, heads);
    if (joined.length === 0) return;
    const sums = team.memory.allocate(sumBytes);
    const placed = (list: readonly number[], { size, sums: at }: { readonly size: number; readonly sums: number }) =>
      list.map((word, i) => (i % size === at ? word + sums : word));
    try {
      withWords(placed(parts, partWord), (address, count) => {
        words[attentionWord.blocks] = address;
        team.run(tasks().attentionDecode!, words, count / partWord.size);
      });
      withWords(placed(joined, joinedWord), (address, count) => {
        words[attentionWord.blocks] = address;
        team.run(tasks().attentionDecodeJoin!, words, (count / joinedWord.size) * heads.heads);
      });
    } finally {
      team.memory.release(sums);
    }
  };

  const backward = ({ inputs, outputs, attributes }: Call): void => {
    const [grad, q, k, v, out, lse] = inputs as Operand[] & Record<0 | 1 | 2 | 3 | 4 | 5, Operand>;
    const a = attributes as unknown as AttentionAttributes;
    const [dq, dk, dv] = outputs as Operand[] & Record<0 | 1 | 2, Operand>;
    const [s, kvHeads, e] = k.shape as [number, number, number];
    const words = common(q, k, v, a);
    words[attentionWord.grad] = addressOf(grad);
    words[attentionWord.gradStride] = grad.rowStride * 4;
    words[attentionWord.out] = addressOf(out);
    words[attentionWord.lse] = addressOf(lse);
    words[attentionWord.dq] = addressOf(dq);
    words[attentionWord.dk] = addressOf(dk);
    words[attentionWord.dv] = addressOf(dv);
    const parts = partsOf(a, headsOf(q, k));
    words[attentionWord.parts] = parts;
    const spans = cutSpans(a, parts);
    const run = () =>
      withWords(spans, (address, count) => {
        words[attentionWord.blocks] = address;
        team.run(tasks().attentionGrad!, words, (count / spanWord.size) * kvHeads);
      });
    if (parts === 1) {
      run();
      return;
    }
    const count = s * kvHeads * e;
    const sums = team.memory.allocate(2 * parts * count * 4);
    try {
      words[attentionWord.partBytes] = count * 4;
      words[attentionWord.dk] = sums;
      words[attentionWord.dv] = sums + parts * count * 4;
      run();
      for (const [from, to] of [
        [words[attentionWord.dk]!, addressOf(dk)],
        [words[attentionWord.dv]!, addressOf(dv)],
      ] as const)
        join({ count, from, to, parts });
    } finally {
      team.memory.release(sums);
    }
  };

  /** Adds the parts' sums of dk or dv in order. */
  const join = ({ count, from, to, parts }: Record<'count' | 'from' | 'to' | 'parts', number>): void => {
    const words: number[] = [];
    words[joinWord.count] = count;
    words[joinWord.perChunk] = joinElements;
    words[joinWord.from] = from;
    words[joinWord.partBytes] = count * 4;
    words[joinWord.parts] = parts;
    words[joinWord.to] = to;
    team.run(tasks().attentionJoin!, words, Math.ceil(count / joinElements));
  };

  return { attention: { fits: (call) => fits(call), run: forward }, attentionGrad: { fits, run: backward } };
}
