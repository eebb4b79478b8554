/** Finds or compiles the kernel of an elementwise call, folds its axes and runs it in chunks cut by shape alone. */
import { type Call, type ElementwiseProgram, isFloat, type Operand, sameShape, sizeOf } from '@lorikeet/tensor';
import type { CpuBuffer } from '../buffer.ts';
import type { Task, Team } from '../team.ts';
import { elementsPerTurn, elementwiseModule, elementwiseWord, operandWords } from './elementwise.ts';
import { bytesPerElement, type Features, type StorageType } from './lanes.ts';
import { compilesAsInteger, type ElementwiseClass } from './lowering.ts';

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
  const row = sizeOf(shape, 1);
  for (const operand of operands) if (operand.rowStride !== row || !sameShape(operand.shape, shape)) return false;
  return true;
}

const flatStrides: readonly number[] = [1];

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

/** The axes of a call whose operands repeat or have gaps; null where a kernel cannot walk them. */
function foldOperands(operands: readonly Operand[], shape: readonly number[]): Folded | null {
  const folded = fold(
    shape,
    operands.map((operand) => stridesFor(operand, shape)),
  );
  return !folded || folded.strides.some((s) => s[s.length - 1]! > 1) ? null : folded;
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
    const { program, outputs, parameters = [] } = call;
    if (!program) return false;
    const all = [...(call.inputs as readonly Operand[]), ...outputs];
    const { shape } = outputs[0]!;
    const folded = isFlat(all, shape)
      ? { sizes: [sizeOf(shape)], strides: all.map(() => flatStrides) }
      : foldOperands(all, shape);
    if (!folded) return false;
    const task = this.#knownKernel(program, all, folded) ?? this.#newKernel(call, all, folded);
    if (!task) return false;
    this.#launch(task, folded, all, parameters);
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

  /** Writes the argument block in place: a list made for it would cost as much as the rest of a short call. */
  #launch(task: Task, { sizes, strides }: Folded, operands: readonly Operand[], parameters: readonly number[]): void {
    const innermost = sizes.length - 1;
    const inner = sizes[innermost]!;
    const size2 = innermost > 0 ? sizes[innermost - 1]! : 1;
    const size1 = innermost > 1 ? sizes[innermost - 2]! : 1;
    const rows = (innermost > 2 ? sizes[0]! : 1) * size1 * size2;
    const block = Math.min(inner, elementsPerChunk);
    const blocks = Math.ceil(inner / block);
    const perChunk =
      blocks > 1 ? 1 : Math.max(1, Math.floor(elementsPerChunk / Math.ceil(inner / elementsPerTurn) / elementsPerTurn));
    const { words, floats } = this.#team.argumentBlock;
    words[elementwiseWord.rowsPerChunk] = perChunk;
    words[elementwiseWord.block] = block;
    words[elementwiseWord.blocksPerRow] = blocks;
    words[elementwiseWord.rows] = rows;
    words[elementwiseWord.inner] = inner;
    words[elementwiseWord.size1] = size1;
    words[elementwiseWord.size2] = size2;
    let at: number = elementwiseWord.operands;
    for (let i = 0; i < operands.length; i++) {
      const { buffer, offset, dtype } = operands[i]!;
      const width = bytesPerElement[dtype as StorageType];
      const own = strides[i]!;
      words[at] = (buffer as CpuBuffer).address + offset * width;
      words[at + 1] = innermost > 2 ? own[0]! * width : 0;
      words[at + 2] = innermost > 1 ? own[innermost - 2]! * width : 0;
      words[at + 3] = innermost > 0 ? own[innermost - 1]! * width : 0;
      at += operandWords;
    }
    for (let i = 0; i < parameters.length; i++) floats[at++] = parameters[i]!;
    for (let i = 0; i < parameters.length; i++) words[at++] = parameters[i]! | 0;
    this.#team.start(task, Math.ceil(rows / perChunk) * blocks);
  }
}
