/** indexSelect, indexAdd, gather and scatterAdd as kernels. */
import type { Call, Operand } from '@lorikeet/tensor';
import { addressOf, inStore, widthOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import type { Task } from '../team.ts';
import { addColumns, addWord, elementWord, indexedModule, scatterColumns, selectWord } from './indexed.ts';

const bytesPerChunk = 128 * 1024;

export function indexKernels({ team }: KernelHost): Record<string, Kernel> {
  const tasks = lazyTasks(team, () => indexedModule(team.memory.shape));

  /** The indices, checked before anything moves: a kernel must not address past the table. */
  const checked = (op: string, indices: Operand, n: number): Int32Array => {
    const count = indices.shape.reduce((a, b) => a * b, 1);
    const values = new Int32Array(team.memory.bytes.buffer, addressOf(indices), count);
    for (let i = 0; i < count; i++) {
      const index = values[i]!;
      if (!(index >= 0 && index < n)) throw new RangeError(`${op}: indices must be in 0 .. ${n - 1}: got ${index}.`);
    }
    return values;
  };
  const clear = (out: Operand): void => {
    const bytes = out.shape.reduce((a, b) => a * b, 4);
    team.run(tasks().zeros!, [addressOf(out), bytes, bytesPerChunk], Math.ceil(bytes / bytesPerChunk));
  };
  const elementWords = (large: Operand, small: Operand, indices: Operand): number[] => {
    const [outer, n, inner] = large.shape as [number, number, number];
    const m = small.shape[1]!;
    const words: number[] = [];
    words[elementWord.small] = addressOf(small);
    words[elementWord.large] = addressOf(large);
    words[elementWord.indices] = addressOf(indices);
    words[elementWord.m] = m;
    words[elementWord.n] = n;
    words[elementWord.inner] = inner;
    words[elementWord.rows] = outer * m;
    words[elementWord.perChunk] = Math.max(1, Math.floor(bytesPerChunk / 4 / inner));
    words[elementWord.columnBlocks] = Math.ceil(inner / scatterColumns);
    return words;
  };
  const isF32 = ({ inputs, outputs }: Call) => inputs[0]!.dtype === 'f32' && outputs[0]!.dtype === 'f32';
  const sameType = ({ inputs, outputs }: Call) => inputs[0]!.dtype === outputs[0]!.dtype;

  return {
    indexSelect: {
      readsStore: [0],
      fits: sameType,
      run: ({ inputs, outputs }) => {
        const [x, indices] = [inputs[0]!, inputs[1]!];
        const [outer, n, inner] = x.shape as [number, number, number];
        const m = checked('indexSelect', indices, n).length;
        const bytes = inner * widthOf(x);
        const perChunk = Math.max(1, Math.floor(bytesPerChunk / Math.max(1, bytes)));
        const words: number[] = [];
        words[selectWord.from] = addressOf(x) % 2 ** 32;
        words[selectWord.from + 1] = Math.floor(addressOf(x) / 2 ** 32);
        words[selectWord.to] = addressOf(outputs[0]!);
        words[selectWord.indices] = addressOf(indices);
        words[selectWord.m] = m;
        words[selectWord.n] = n;
        words[selectWord.bytes] = bytes;
        words[selectWord.rows] = outer * m;
        words[selectWord.rowsPerChunk] = perChunk;
        const task = inStore(x) ? 'selectStoreRows' : 'selectRows';
        team.run(tasks()[task]!, words, Math.ceil((outer * m) / perChunk));
      },
    },
    indexAdd: {
      fits: isF32,
      run: ({ inputs, outputs, attributes }) => {
        const [source, indices, out] = [inputs[0]!, inputs[1]!, outputs[0]!];
        const n = attributes.n as number;
        const groups = groupsOf(checked('indexAdd', indices, n), n);
        clear(out);
        addGroups(team, tasks().addRows!, { source, indices, out }, groups);
      },
    },
    gather: {
      fits: sameType,
      run: ({ inputs, outputs }) => {
        const [x, indices, out] = [inputs[0]!, inputs[1]!, outputs[0]!];
        checked('gather', indices, x.shape[1]!);
        const words = elementWords(x, out, indices);
        const chunks = Math.ceil(words[elementWord.rows]! / words[elementWord.perChunk]!);
        team.run(tasks()[`gather${widthOf(x)}`]!, words, chunks);
      },
    },
    scatterAdd: {
      fits: isF32,
      run: ({ inputs, outputs }) => {
        const [source, indices, out] = [inputs[0]!, inputs[1]!, outputs[0]!];
        checked('scatterAdd', indices, out.shape[1]!);
        clear(out);
        const words = elementWords(out, source, indices);
        team.run(tasks().scatterAdd!, words, out.shape[0]! * words[elementWord.columnBlocks]!);
      },
    },
  };
}

/** Places that share an index, in order of appearance: `order` group by group, `starts` of each group and the end. */
interface Groups {
  readonly order: Int32Array;
  readonly starts: Int32Array;
}

function groupsOf(indices: Int32Array, n: number): Groups {
  const next = new Int32Array(n);
  for (const index of indices) next[index]!++;
  const starts: number[] = [];
  let total = 0;
  for (let i = 0; i < n; i++) {
    const count = next[i]!;
    if (count > 0) starts.push(total);
    next[i] = total;
    total += count;
  }
  const order = new Int32Array(indices.length);
  for (let j = 0; j < indices.length; j++) order[next[indices[j]!]!++] = j;
  return { order, starts: Int32Array.of(...starts, total) };
}

/** Adds rows group by group: a row of the result belongs to one chunk, and its sum has the order of the indices. */
function addGroups(
  team: KernelHost['team'],
  task: Task,
  { source, indices, out }: { readonly source: Operand; readonly indices: Operand; readonly out: Operand },
  { order, starts }: Groups,
): void {
  const [outer, m, inner] = source.shape as [number, number, number];
  const lists = team.memory.allocate((order.length + starts.length) * 4);
  try {
    const words = new Int32Array(team.memory.bytes.buffer);
    words.set(order, lists / 4);
    words.set(starts, lists / 4 + order.length);
    const groups = starts.length - 1;
    const columnBlocks = Math.ceil(inner / addColumns);
    const perChunk = Math.max(1, Math.floor(bytesPerChunk / 4 / Math.min(inner, addColumns)));
    const groupBlocks = Math.ceil(groups / perChunk);
    const block: number[] = [];
    block[addWord.source] = addressOf(source);
    block[addWord.to] = addressOf(out);
    block[addWord.indices] = addressOf(indices);
    block[addWord.order] = lists;
    block[addWord.starts] = lists + order.length * 4;
    block[addWord.groups] = groups;
    block[addWord.groupsPerChunk] = perChunk;
    block[addWord.m] = m;
    block[addWord.n] = out.shape[1]!;
    block[addWord.inner] = inner;
    block[addWord.columnBlocks] = columnBlocks;
    block[addWord.groupBlocks] = groupBlocks;
    team.run(task, block, outer * groupBlocks * columnBlocks);
  } finally {
    team.memory.release(lists);
  }
}
