/**
 * Elementwise calls over large tensors are held back, and what comes next joins them where it reads the same tensors or
 * their results: one pass over memory then does the work of several. A result that is freed before the pass runs is not
 * written. Anything else that the backend is asked makes the pass run first, so nobody can tell, except by the clock.
 */
import { type Call, type Operand, sameShape, sizeOf } from '@lorikeet/tensor';
import type { CpuBuffer } from './buffer.ts';
import { type Chain, Chains, type Source } from './kernels/chain-programs.ts';
import { isFloatType } from './kernels/lanes.ts';

/** Below this many elements a pass costs less than the bookkeeping that saves it. */
const minElements = 32 * 1024;
const maxLinks = 4;
/** Inputs and results of a pass; the kernel of more would run out of registers for their addresses. */
const maxTensors = 10;

/** Whether a call may wait: one new result, floats only, all in work memory. */
function mayWait({ program, inputs, outputs }: Call): boolean {
  const out = outputs[0]!;
  if (!program || outputs.length !== 1 || !isFloatType(out.dtype) || sizeOf(out.shape) < minElements) return false;
  for (const operand of inputs) {
    const buffer = operand!.buffer as CpuBuffer;
    if (buffer.inStore || buffer === out.buffer || !isFloatType(operand!.dtype)) return false;
  }
  return true;
}

const isSame = (a: Operand, b: Operand): boolean =>
  a === b ||
  (a.buffer === b.buffer &&
    a.offset === b.offset &&
    a.rowStride === b.rowStride &&
    a.dtype === b.dtype &&
    sameShape(a.shape, b.shape));

/** How a call is connected to the chain: its inputs' sources, and the same as a number. */
interface Joint {
  readonly sources: readonly Source[];
  readonly wiring: number;
}

interface Runner {
  /** Computes one call; throws where it cannot. */
  run(call: Call): void;
  /** False where there is no kernel for it. */
  tryRun(call: Call): boolean;
  release(buffer: CpuBuffer): void;
}

export class Fusion {
  readonly #runner: Runner;
  readonly #chains = new Chains();
  #chain: Chain | null = null;
  #calls: Call[] = [];
  /** What the calls read from outside, each once. */
  #tensors: Operand[] = [];
  /** Buffers that were freed while a call names them. */
  #freed: CpuBuffer[] = [];

  constructor(runner: Runner) {
    this.#runner = runner;
  }

  /** Kernels made for chains. */
  get programCount(): number {
    return this.#chains.budget.programs;
  }

  /** Takes a call to run it later; false where it must run now, after what waits has run. */
  take(call: Call): boolean {
    if (!mayWait(call)) {
      this.flush();
      return false;
    }
    if (this.#chain === null || !this.#join(this.#chain, call)) {
      this.flush();
      this.#chain = this.#chains.start(call.program!);
      for (const operand of call.inputs) this.#tensors.push(operand!);
    }
    this.#calls.push(call);
    for (const operand of call.inputs) (operand!.buffer as CpuBuffer).waiting = true;
    (call.outputs[0]!.buffer as CpuBuffer).waiting = true;
    return true;
  }

  /** A buffer that a waiting call names is freed when that has run. */
  free(buffer: CpuBuffer): void {
    this.#freed.push(buffer);
  }

  /** Runs what waits. */
  flush(): void {
    const [chain, calls, tensors, freed] = [this.#chain, this.#calls, this.#tensors, this.#freed];
    if (chain === null) return;
    this.#chain = null;
    [this.#calls, this.#tensors, this.#freed] = [[], [], []];
    for (const { inputs, outputs } of calls) {
      for (const operand of inputs) (operand!.buffer as CpuBuffer).waiting = false;
      (outputs[0]!.buffer as CpuBuffer).waiting = false;
    }
    try {
      this.#compute(chain, calls, tensors, freed);
    } finally {
      for (const buffer of freed) this.#runner.release(buffer);
    }
  }

  #join(chain: Chain, call: Call): boolean {
    const links = this.#calls.length;
    if (links === maxLinks || !sameShape(call.outputs[0]!.shape, this.#calls[0]!.outputs[0]!.shape)) return false;
    const joint = this.#jointOf(call);
    if (!joint) return false;
    const next = chain.next(call.program!, joint.wiring);
    if (!next) {
      this.#chains.learn(chain, call.program!, joint.wiring, joint.sources);
      return false;
    }
    this.#chain = next;
    for (const [i, source] of joint.sources.entries())
      if ('tensor' in source && source.tensor >= this.#tensors.length) this.#tensors.push(call.inputs[i]!);
    return true;
  }

  /** Null where the call has nothing in common with the chain, or reads a result of it otherwise than element by element. */
  #jointOf({ inputs }: Call): Joint | null {
    const sources: Source[] = [];
    let count = this.#tensors.length;
    let wiring = 1;
    let shares = false;
    for (let i = 0; i < inputs.length; i++) {
      const operand = inputs[i]!;
      const link = this.#calls.findIndex(({ outputs }) => outputs[0]!.buffer === operand.buffer);
      // A result in 16 bits is read as it was rounded, so it must have been stored.
      if (link >= 0 && (operand.dtype !== 'f32' || !isSame(operand, this.#calls[link]!.outputs[0]!))) return null;
      const known = link >= 0 ? -1 : this.#tensors.findIndex((other) => isSame(other, operand));
      shares ||= link >= 0 || known >= 0;
      sources.push(link >= 0 ? { link } : { tensor: known >= 0 ? known : count++ });
      wiring = wiring * 32 + (link >= 0 ? 16 + link : known + 1);
    }
    return shares && count + this.#calls.length < maxTensors ? { sources, wiring } : null;
  }

  #compute(chain: Chain, calls: readonly Call[], tensors: readonly Operand[], freed: readonly CpuBuffer[]): void {
    const outputs = calls.map((call) => call.outputs[0]!);
    // The last result is computed even where nobody kept it: who times a call without reading it must not time nothing.
    const isWanted = outputs.map(({ buffer }, i) => i === calls.length - 1 || !freed.includes(buffer as CpuBuffer));
    const wanted = isWanted.reduce((bits, yes, i) => (yes ? bits | (1 << i) : bits), 0);
    const program = calls.length > 1 ? chain.merged(wanted, this.#chains.budget) : undefined;
    const parameters = calls.flatMap((call) => call.parameters ?? []);
    const pass = { ...calls.at(-1)!, inputs: tensors, outputs: outputs.filter((_, i) => isWanted[i]), parameters };
    if (program && this.#runner.tryRun({ ...pass, program })) return;
    for (const call of calls) this.#runner.run(call);
  }
}
