/** Rotary position embedding: pairs (x[i], x[i + p]) of each head turned by the token's angles, the rest copied. */
import type { Operand } from '@lorikeet/tensor';
import { argument, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { addressOf } from '../buffer.ts';
import { f32, f32x4, i32 } from '../instructions.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { floatWord } from '../team.ts';
import { rowLoop, walk } from './row-loop.ts';

const word = {
  x: 0,
  xStride: 1,
  cos: 2,
  sin: 3,
  out: 4,
  t: 5,
  heads: 6,
  e: 7,
  pairs: 8,
  sign: 9,
  tokensPerChunk: 10,
} as const;
const elementsPerChunk = 32 * 1024;

function ropeModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  m.task('rope', (f, args, chunk) => {
    const get = (name: keyof typeof word) => f.int(argument(args, word[name]));
    const [heads, e, pairs, perChunk] = [get('heads'), get('e'), get('pairs'), get('tokensPerChunk')];
    const token = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(get('t'), i32.add(token, perChunk)));
    const headBytes = f.int(i32.shl(e, 2));
    const pairBytes = f.int(i32.shl(pairs, 2));
    const sign = f.vector(f32x4.splat(f32.load(args, word.sign * 4)));
    const [cosines, sines] = [get('cos'), get('sin')];
    f.while(token, end, 1, () => {
      const x = f.int(i32.add(argument(args, word.x), i32.mul(token, argument(args, word.xStride))));
      const to = f.int(i32.add(argument(args, word.out), i32.mul(i32.mul(token, heads), headBytes)));
      const angles = f.int(i32.mul(token, pairBytes));
      f.for(0, heads, 1, () => {
        const [first, second] = [walk(f, x), walk(f, i32.add(x, pairBytes))];
        const [toFirst, toSecond] = [walk(f, to), walk(f, i32.add(to, pairBytes))];
        const [cos, sin] = [walk(f, i32.add(cosines, angles)), walk(f, i32.add(sines, angles))];
        rowLoop(f, pairs, [first, second, toFirst, toSecond, cos, sin], ({ load }) => {
          const [a, b, c, s] = [load(first), load(second), load(cos), f.vector(f32x4.mul(load(sin), sign))];
          return [
            [toFirst, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s))],
            [toSecond, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s))],
          ];
        });
        const turned = f.int(i32.shl(pairBytes, 1));
        f.copy(i32.add(to, turned), i32.add(x, turned), i32.sub(headBytes, turned));
        f.increase(x, headBytes);
        f.increase(to, headBytes);
      });
    });
  });
  return m;
}

export function ropeKernel({ team }: KernelHost): Kernel {
  const tasks = lazyTasks(team, () => ropeModule(team.memory.shape));
  const isDense = ({ shape, rowStride }: Operand) => rowStride === shape[1];
  return {
    fits: ({ inputs }) => inputs.every((x) => x?.dtype === 'f32') && isDense(inputs[1]!) && isDense(inputs[2]!),
    run: ({ inputs, outputs, attributes }) => {
      const [x, cos, sin] = inputs as [Operand, Operand, Operand];
      const [t, heads, e] = x.shape as [number, number, number];
      const perChunk = Math.max(1, Math.floor(elementsPerChunk / (heads * e)));
      const words: number[] = [];
      words[word.x] = addressOf(x);
      words[word.xStride] = x.rowStride * 4;
      words[word.cos] = addressOf(cos);
      words[word.sin] = addressOf(sin);
      words[word.out] = addressOf(outputs[0]!);
      words[word.t] = t;
      words[word.heads] = heads;
      words[word.e] = e;
      words[word.pairs] = cos.shape[1]!;
      words[word.sign] = floatWord(attributes.inverse ? -1 : 1);
      words[word.tokensPerChunk] = perChunk;
      team.run(tasks().rope!, words, Math.ceil(t / perChunk));
    },
  };
}
