/** What the row kernels of a weight in 4 bits share: a chunk's rows of W, their scales and where they lie, and results. */
import { argument, type FunctionBuilder, type FunctionRef, type Local, moved } from '../assembler.ts';
import { type Code, type F32, f32, type I32, type Int, i32, i64, store } from '../instructions.ts';
import { weightFlag, weightWord } from './weight-4bit.ts';

type IntLocal = Local<'i32'>;

/** Most rows of A that these kernels take. */
export const maxRows = 4;
/** A chunk has a multiple of so many rows of W: the waits for their memory overlap. */
export const rowGroup = 32;
/** Elements of a row that one vector of nibbles covers. */
export const group = 32;

/** `a` is arranged, `aStride` in bytes. */
export const rowsWord = {
  c: 0,
  cStride: 1,
  m: 2,
  n: 3,
  rowsPerChunk: 4,
  bias: 5,
  a: 6,
  aStride: 7,
  weight: 8,
} as const;

export class RowsFrame4bit {
  /** The weight's words. */
  readonly weight: IntLocal;
  readonly rowLength: IntLocal;
  /** log2 of the elements that share a scale, and how many such slots a row has. */
  readonly slotShift: IntLocal;
  readonly slots: IntLocal;
  /** The chunk's rows of W. */
  readonly row: IntLocal;
  readonly end: IntLocal;
  readonly #f: FunctionBuilder;
  readonly #args: IntLocal;
  readonly #base: Local<'i64'>;
  readonly #isFar: IntLocal;
  readonly #withStore: boolean;

  constructor(f: FunctionBuilder, args: IntLocal, chunk: IntLocal, withStore: boolean) {
    this.#f = f;
    this.#args = args;
    this.#withStore = withStore;
    this.weight = f.int(i32.add(args, rowsWord.weight * 4));
    const own = (name: keyof typeof weightWord) => f.int(i32.load(this.weight, weightWord[name] * 4));
    this.rowLength = own('rowLength');
    const shift = own('shift');
    // A scale holds for a whole block where rows end between blocks, else for a group.
    const cutsBlocks = i32.and(this.rowLength, i32.sub(i32.shl(1, shift), 1));
    this.slotShift = f.int(i32.select(cutsBlocks, Math.log2(group), shift));
    this.slots = f.int(i32.shrU(this.rowLength, this.slotShift));
    this.row = f.int(i32.mul(chunk, this.word('rowsPerChunk')));
    this.end = f.int(i32.min(this.word('n'), i32.add(this.row, this.word('rowsPerChunk'))));
    this.#base = f.local('i64', i64.load(this.weight, weightWord.packed * 4));
    this.#isFar = f.int(i32.and(own('flags'), weightFlag.packedInStore));
  }

  word(name: keyof typeof rowsWord): IntLocal {
    return this.#f.hoist(argument(this.#args, rowsWord[name]));
  }

  /** Decodes the scales of a row. */
  decode(absmax: FunctionRef, row: Int, to: I32): void {
    const element = i32.mul(row, this.rowLength);
    this.#f.call(absmax, this.weight, element, this.slots, i32.shl(1, this.slotShift), to, 4);
  }

  /** Runs `use` with the address of a row's first byte, in the memory where the weight lies. */
  inMemory(row: Int, use: (packed: Code<'i32'> | Code<'i64'>, far: boolean) => void): void {
    const bytes = this.#f.int(i32.shrU(i32.mul(row, this.rowLength), 1));
    const near = () => use(i32.add(i32.wrap(this.#base), bytes), false);
    if (this.#withStore) this.#f.if(this.#isFar, () => use(moved(this.#base, bytes), true), near);
    else near();
  }

  /** C[row, column] = sum + bias. */
  finish(row: Int, column: I32, sum: F32): void {
    const f = this.#f;
    const [bias, at] = [this.word('bias'), f.int(i32.shl(column, 2))];
    const value = f.local('f32', sum);
    f.if(bias, () => f.set(value, f32.add(value, f32.load(i32.add(bias, at)))));
    f.emit(store.f32(i32.add(i32.add(this.word('c'), i32.mul(row, this.word('cStride'))), at), value));
  }
}
