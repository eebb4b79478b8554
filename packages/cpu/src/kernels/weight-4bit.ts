/** A 4-bit weight in an argument block, and the function that decodes its absmax, once or doubly quantized. */
import { code4bit, type Layout4bit, type Operand, sizeOf } from '@lorikeet/tensor';
import { type FunctionRef, type Local, type ModuleBuilder, moved } from '../assembler.ts';
import { addressOf, inStore } from '../buffer.ts';
import { type Address, f32, i32, i64, store } from '../instructions.ts';
import { floatWord } from '../team.ts';

/** Words of a weight. `packed` and `absmax` are 64-bit addresses, of the memory that `flags` names. */
export const weightWord = {
  packed: 0,
  absmax: 2,
  nestedAbsmax: 4,
  nestedCode: 5,
  offset: 6,
  shift: 7,
  nestedShift: 8,
  rowLength: 9,
  flags: 10,
  /** The 16 codes in f32, then their bytes in four planes of 16, lowest first. */
  code: 12,
  planes: 28,
  size: 44,
} as const;
export const weightFlag = { packedInStore: 1, absmaxInStore: 2 } as const;

/** A 4-bit matrix as kernels see it. */
export interface PlacedWeight4bit {
  readonly layout: Layout4bit;
  readonly packed: Operand;
  readonly absmax: Operand;
  readonly nestedAbsmax: Operand | null;
  readonly nestedCode: Operand | null;
}

/** The parts of a weight in the order that the 4-bit ops list them. */
export const placedWeight = (
  [packed, absmax, nestedAbsmax, nestedCode]: readonly (Operand | null)[],
  layout: Layout4bit,
): PlacedWeight4bit => ({
  layout,
  packed: packed!,
  absmax: absmax!,
  nestedAbsmax: nestedAbsmax ?? null,
  nestedCode: nestedCode ?? null,
});

/** Kernels count elements in 31 bits, and a loop's end may lie some rows behind the last. */
export const fitsWeight = ({ shape }: Layout4bit): boolean => sizeOf(shape) + 512 * shape[1] < 2 ** 31;

const putAddress = (words: number[], at: number, address: number): void => {
  words[at] = address % 2 ** 32;
  words[at + 1] = Math.floor(address / 2 ** 32);
};

/** Writes a weight's words from `at` on. */
export function putWeight(words: number[], at: number, weight: PlacedWeight4bit): void {
  const { layout, packed, absmax, nestedAbsmax, nestedCode } = weight;
  putAddress(words, at + weightWord.packed, addressOf(packed));
  putAddress(words, at + weightWord.absmax, addressOf(absmax));
  words[at + weightWord.nestedAbsmax] = nestedAbsmax ? addressOf(nestedAbsmax) : 0;
  words[at + weightWord.nestedCode] = nestedCode ? addressOf(nestedCode) : 0;
  words[at + weightWord.offset] = floatWord(layout.offset);
  words[at + weightWord.shift] = Math.log2(layout.blocksize);
  words[at + weightWord.nestedShift] = Math.log2(layout.nestedBlocksize);
  words[at + weightWord.rowLength] = layout.shape[1];
  words[at + weightWord.flags] =
    (inStore(packed) ? weightFlag.packedInStore : 0) + (inStore(absmax) ? weightFlag.absmaxInStore : 0);
  words[at + weightWord.flags + 1] = 0;
  const code = new Uint32Array(code4bit(layout.quantType).slice().buffer);
  const bytes = new Uint8Array(code.buffer);
  const planes = new Uint32Array(Uint8Array.from({ length: 64 }, (_, i) => bytes[(i % 16) * 4 + (i >> 4)]!).buffer);
  for (let i = 0; i < 16; i++) {
    words[at + weightWord.code + i] = code[i]!;
    words[at + weightWord.planes + i] = planes[i]!;
  }
}

/** (weight, first element, count, elements from one to the next, to, bytes from one result to the next). */
export function absmaxFunction(m: ModuleBuilder, withStore: boolean): FunctionRef {
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [weight, element, count, step, to, toStep] = f.params as Local<'i32'>[];
    const word = (name: keyof typeof weightWord) => f.int(i32.load(weight!, weightWord[name] * 4));
    const [shift, nestedShift, nested, code] = [
      word('shift'),
      word('nestedShift'),
      word('nestedAbsmax'),
      word('nestedCode'),
    ];
    const offset = f.local('f32', f32.load(weight!, weightWord.offset * 4));
    const base = f.local('i64', i64.load(weight!, weightWord.absmax * 4));
    const near = f.int(i32.wrap(base));
    const [end, block] = [f.int(i32.add(element!, i32.mul(count!, step!))), f.int()];
    const loop = (isNested: boolean, far: boolean) =>
      f.while(element!, end, step!, () => {
        f.set(block, i32.shrU(element!, shift));
        const at = (bytes: number): Address => {
          const by = bytes === 1 ? block : i32.shl(block, 2);
          return far ? moved(base, by) : i32.add(near, by);
        };
        const decoded = isNested
          ? f32.add(
              f32.mul(
                f32.load(i32.add(code, i32.shl(i32.load8u(at(1)), 2))),
                f32.load(i32.add(nested, i32.shl(i32.shrU(block, nestedShift), 2))),
              ),
              offset,
            )
          : f32.load(at(4));
        f.emit(store.f32(to!, decoded));
        f.increase(to!, toStep!);
      });
    const both = (far: boolean) =>
      f.if(
        code,
        () => loop(true, far),
        () => loop(false, far),
      );
    if (!withStore) {
      both(false);
      return;
    }
    f.if(
      i32.and(word('flags'), weightFlag.absmaxInStore),
      () => both(true),
      () => both(false),
    );
  });
}
