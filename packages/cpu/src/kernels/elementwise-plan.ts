/** Finds or compiles the kernel of an elementwise call, folds its axes and runs it in chunks cut by shape alone. */
import { type Call, type ElementwiseProgram, isFloat, type Operand, sameShape, sizeOf } from '@lorikeet/tensor';
import type { CpuBuffer } from '../buffer.ts';
import { floatWord, type Task, type Team } from '../team.ts';
import {
  compilesAsInteger,
  type ElementwiseClass,
  elementsPerTurn,
  elementwiseModule,
  elementwiseWord,
  operandWords,
} from './elementwise.ts';
import { bytesPerElement, type Features, type StorageType } from './lanes.ts';

const elementsPerChunk = 16 * 1024;
/** Compiled kernels stay for good; past this many the reference computes, which a model never reaches. */
const maxKernels = 2000;

/** Axes after folding: up to three outer ones and the innermost. Strides in elements, one list an operand. */
interface Folded {
  readonly sizes: readonly number[];
  readonly strides: readonly (readonly number[])[];
}

/** Strides along the output's axes, 0 where the operand repeats. */
function stridesFor({ shape, rowStride }: Operand, target: readonly number[]): number[] {
  const strides = new Array<number>(target.length).fill(0);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const at = axis + target.length - shape.length;
    if (shape[axis] !== 1) strides[at] = axis === 0 ? rowStride : step;
    step *= shape[axis]!;
  }
  return strides;
}

/** Every operand has the output's shape and no gaps: one axis. */
function isFlat(operands: readonly Operand[], shape: readonly number[]): boolean {
  const row = shape.length === 0 ? 1 : sizeOf(shape, 1);
  return operands.every((operand) => sameShape(operand.shape, shape) && operand.rowStride === row);
}

/** Drops axes of size 1 and joins neighbours that every operand walks in one step; null where too many are left. */
export function fold(shape: readonly number[], strides: readonly (readonly number[])[]): Folded | null {
  const sizes: number[] = [];
  const kept: number[][] = strides.map(() => []);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] === 1) continue;
    const joins = sizes.length > 0 && strides.every((s, i) => s[axis] === kept[i]![0]! * sizes[0]!);
    if (joins) sizes[0]! *= shape[axis]!;
    else {
      sizes.unshift(shape[axis]!);
      for (const [i, s] of strides.entries()) kept[i]!.unshift(s[axis]!);
    }
  }
  if (sizes.length === 0) return { sizes: [1], strides: strides.map(() => [1]) };
  if (sizes.length > 4) return null;
  return { sizes, strides: kept };
}

const dtypeDigits: Readonly<Record<string, number>> = { f32: 0, f16: 1, bf16: 2, i32: 3, u32: 4, u8: 5, i8: 6 };

/** What a program's kernel is compiled for, four bits an operand: exact up to 13 operands, and rows have fewer. */
function digitsOf(operands: readonly Operand[], { strides }: Folded): number {
  let digits = 0;
  for (let i = 0; i < operands.length; i++) {
    const own = strides[i]!;
    digits = digits * 16 + dtypeDigits[operands[i]!.dtype]! * 2 + (own[own.length - 1] === 0 ? 1 : 0);
  }
  return digits;
}

export class Elementwise {
  readonly #team: Team;
  readonly #features: Features;
  readonly #kernels = new Map<string, Task>();
  /** The same, found without making a name: by program, then by dtypes and repeats as digits. */
  readonly #known = new WeakMap<ElementwiseProgram, Map<number, Task>>();

  constructor(team: Team, features: Features) {
    this.#team = team;
    this.#features = features;
  }

  get kernelCount(): number {
    return this.#kernels.size;
  }

  /** False where this call needs the reference. */
  run(call: Call): boolean {
    const { program, outputs } = call;
    const inputs = call.inputs as readonly Operand[];
    const all = [...inputs, ...outputs];
    if (!program || all.some(({ dtype }) => dtype === 'f64')) return false;
    const { shape } = outputs[0]!;
    const folded = isFlat(all, shape)
      ? { sizes: [sizeOf(shape)], strides: all.map(() => [1]) }
      : fold(
          shape,
          all.map((operand) => stridesFor(operand, shape)),
        );
    if (!folded || folded.strides.some((s) => s.at(-1)! > 1)) return false;
    const task = this.#knownKernel(program, all, folded) ?? this.#newKernel(call, all, folded);
    if (!task) return false;
    this.#launch(task, folded, all, call.parameters ?? []);
    return true;
  }

  #knownKernel(program: ElementwiseProgram, all: readonly Operand[], folded: Folded): Task | undefined {
    return this.#known.get(program)?.get(digitsOf(all, folded));
  }

  #newKernel({ inputs, outputs, program }: Call, all: readonly Operand[], folded: Folded): Task | undefined {
    const integer = all.every(({ dtype }) => !isFloat(dtype));
    if (integer && !compilesAsInteger(program!)) return undefined;
    const task = this.#kernel({
      program: program!,
      inputs: inputs.map((operand) => operand!.dtype as StorageType),
      outputs: outputs.map(({ dtype }) => dtype as StorageType),
      repeats: folded.strides.map((s) => s.at(-1) === 0),
      integer,
    });
    if (!task) return undefined;
    let known = this.#known.get(program!);
    if (!known) this.#known.set(program!, (known = new Map()));
    known.set(digitsOf(all, folded), task);
    return task;
  }

  #kernel(kind: ElementwiseClass): Task | undefined {
    const key = `${kind.program.name}/${kind.inputs}/${kind.outputs}/${kind.repeats.map(Number).join('')}`;
    let task = this.#kernels.get(key);
    if (!task && this.#kernels.size < maxKernels) {
      task = this.#team.install(elementwiseModule(this.#team.memory.shape, this.#features, kind)).run!;
      this.#kernels.set(key, task);
    }
    return task;
  }

  #launch(task: Task, { sizes, strides }: Folded, operands: readonly Operand[], parameters: readonly number[]): void {
    const inner = sizes.at(-1)!;
    const outer = [1, 1, 1, ...sizes.slice(0, -1)].slice(-3) as [number, number, number];
    const rows = outer[0] * outer[1] * outer[2];
    const block = Math.min(inner, elementsPerChunk);
    const blocks = Math.ceil(inner / block);
    const perChunk =
      blocks > 1 ? 1 : Math.max(1, Math.floor(elementsPerChunk / Math.ceil(inner / elementsPerTurn) / elementsPerTurn));
    const words: number[] = [];
    words[elementwiseWord.rowsPerChunk] = perChunk;
    words[elementwiseWord.block] = block;
    words[elementwiseWord.blocksPerRow] = blocks;
    words[elementwiseWord.rows] = rows;
    words[elementwiseWord.inner] = inner;
    words[elementwiseWord.size1] = outer[1];
    words[elementwiseWord.size2] = outer[2];
    let at: number = elementwiseWord.operands;
    for (const [i, operand] of operands.entries()) {
      const width = bytesPerElement[operand.dtype as StorageType];
      const own = [0, 0, 0, ...strides[i]!.slice(0, -1)].slice(-3);
      words[at] = (operand.buffer as CpuBuffer).address + operand.offset * width;
      for (let axis = 0; axis < 3; axis++) words[at + 1 + axis] = own[axis]! * width;
      at += operandWords;
    }
    for (const value of parameters) words[at++] = floatWord(value);
    for (const value of parameters) words[at++] = value | 0;
    this.#team.run(task, words, Math.ceil(rows / perChunk) * blocks);
  }
}
