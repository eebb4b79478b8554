/**
 * A small WebAssembly assembler: functions with locals and structured control flow over one imported memory.
 * Everything the kernels need and nothing more; the bytes go straight to `new WebAssembly.Module`.
 */
import { type Code, type I32, type I64, type Int, i32, i64, int, unsignedLeb, type ValueType } from './instructions.ts';

const typeByte: Record<ValueType, number> = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b };

/** A parameter or local variable; as an expression it reads its value. */
export interface Local<T extends ValueType = ValueType> extends Code<T> {
  readonly index: number;
}

/** A function that `call` can name: its index and signature. */
export interface FunctionRef {
  readonly index: number;
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
}

/** A branch target, made by `block` and `loop`. */
export interface Label {
  readonly depth: number;
}

const localOf = <T extends ValueType>(type: T, index: number): Local<T> => ({
  type,
  index,
  bytes: [0x20, ...unsignedLeb(index)],
});

/** Writes one function body. */
export class FunctionBuilder {
  readonly params: Local[];
  readonly #locals: ValueType[] = [];
  readonly #code: number[] = [];
  readonly #prologue: number[] = [];
  readonly #hoisted = new Map<string, Local>();
  #depth = 0;

  constructor(params: readonly ValueType[]) {
    this.params = params.map((type, index) => localOf(type, index));
  }

  /** The parameter at `index`, which must have been declared as `i32`. */
  intParam(index: number): Local<'i32'> {
    return this.params[index] as Local<'i32'>;
  }

  local<T extends ValueType>(type: T, initial?: Code<T>): Local<T> {
    const local = localOf(type, this.params.length + this.#locals.length);
    this.#locals.push(type);
    if (initial) this.set(local, initial);
    return local;
  }

  /** An `i32` local, zero unless given a value. */
  int(initial?: Int): Local<'i32'> {
    return this.local('i32', initial === undefined ? undefined : int(initial));
  }

  vector(initial?: Code<'v128'>): Local<'v128'> {
    return this.local('v128', initial);
  }

  /**
   * A value computed once at the start of the function; equal bytes share a local. For constants: a vector constant
   * inside a loop costs V8's pairing.
   */
  hoist<T extends ValueType>(value: Code<T>): Local<T> {
    const key = value.bytes.join();
    let local = this.#hoisted.get(key) as Local<T> | undefined;
    if (!local) {
      local = this.local(value.type);
      this.#hoisted.set(key, local);
      this.#prologue.push(...value.bytes, 0x21, ...unsignedLeb(local.index));
    }
    return local;
  }

  /** Appends statement bytes, such as those of `store`. */
  emit(bytes: readonly number[]): void {
    for (const byte of bytes) this.#code.push(byte);
  }

  set<T extends ValueType>(local: Local<T>, value: Code<T>): void {
    this.emit(value.bytes);
    this.emit([0x21, ...unsignedLeb(local.index)]);
  }

  setInt(local: Local<'i32'>, value: Int): void {
    this.set(local, int(value));
  }

  increase(local: Local<'i32'>, by: Int): void {
    this.set(local, i32.add(local, by));
  }

  drop(value: Code<ValueType>): void {
    this.emit(value.bytes);
    this.emit([0x1a]);
  }

  /** Leaves the block when branched to. */
  block(body: (exit: Label) => void): void {
    this.#nest([0x02, 0x40], body);
  }

  /** Repeats when branched to. */
  loop(body: (again: Label) => void): void {
    this.#nest([0x03, 0x40], body);
  }

  #nest(opening: number[], body: (label: Label) => void): void {
    this.emit(opening);
    this.#depth++;
    body({ depth: this.#depth });
    this.#depth--;
    this.emit([0x0b]);
  }

  branch(label: Label): void {
    this.emit([0x0c, ...unsignedLeb(this.#depth - label.depth)]);
  }

  branchIf(label: Label, condition: Int): void {
    this.emit(int(condition).bytes);
    this.emit([0x0d, ...unsignedLeb(this.#depth - label.depth)]);
  }

  if(condition: Int, then: () => void, otherwise?: () => void): void {
    this.emit(int(condition).bytes);
    this.emit([0x04, 0x40]);
    this.#depth++;
    then();
    if (otherwise) {
      this.emit([0x05]);
      otherwise();
    }
    this.#depth--;
    this.emit([0x0b]);
  }

  /** `for (; i < end; i += step)`, compared as signed; `i` keeps its value after the loop. */
  while(i: Local<'i32'>, end: Int, step: Int, body: () => void): void {
    this.if(i32.ltS(i, end), () => {
      this.loop((again) => {
        body();
        this.increase(i, step);
        this.branchIf(again, i32.ltS(i, end));
      });
    });
  }

  /** `for (i = start; i < end; i += step)` with a new local. */
  for(start: Int, end: Int, step: Int, body: (i: Local<'i32'>) => void): void {
    const i = this.int(start);
    this.while(i, end, step, () => body(i));
  }

  call(target: FunctionRef, ...args: (Code<ValueType> | number)[]): void {
    this.emit(callCode(target, args));
  }

  /** A call as an expression; the target must have one result. */
  callFor<T extends ValueType>(type: T, target: FunctionRef, ...args: (Code<ValueType> | number)[]): Code<T> {
    return { type, bytes: callCode(target, args) };
  }

  /** Calls the function at `slot` of the imported table with the signature of task functions. */
  callTask(typeIndex: number, slot: Int, ...args: Int[]): void {
    for (const arg of args) this.emit(int(arg).bytes);
    this.emit(int(slot).bytes);
    this.emit([0x11, ...unsignedLeb(typeIndex), 0]);
  }

  return(value?: Code<ValueType>): void {
    if (value) this.emit(value.bytes);
    this.emit([0x0f]);
  }

  /** `memory.fill`: bytes set to a value. */
  fill(address: Int, byte: Int, length: Int): void {
    for (const part of [address, byte, length]) this.emit(int(part).bytes);
    this.emit([0xfc, 11, 0]);
  }

  /** `memory.copy`: overlap is allowed. */
  copy(to: Int, from: Int, length: Int): void {
    for (const part of [to, from, length]) this.emit(int(part).bytes);
    this.emit([0xfc, 10, 0, 0]);
  }

  /** Copies from the store (memory 1) to work memory. */
  copyFromStore(to: Int, from: I64, length: Int): void {
    this.emit([...int(to).bytes, ...from.bytes, ...int(length).bytes, 0xfc, 10, 0, 1]);
  }

  body(): number[] {
    const runs: [count: number, type: ValueType][] = [];
    for (const type of this.#locals) {
      const last = runs.at(-1);
      if (last?.[1] === type) last[0]++;
      else runs.push([1, type]);
    }
    const locals = runs.flatMap(([count, type]) => [...unsignedLeb(count), typeByte[type]]);
    return [...unsignedLeb(runs.length), ...locals, ...this.#prologue, ...this.#code, 0x0b];
  }
}

const callCode = (target: FunctionRef, args: readonly (Code<ValueType> | number)[]): number[] => {
  if (args.length !== target.params.length)
    throw new Error(`assembler: a call needs ${target.params.length} arguments: ${args.length} given.`);
  const bytes = args.flatMap((arg) => [...(typeof arg === 'number' ? int(arg) : arg).bytes]);
  return [...bytes, 0x10, ...unsignedLeb(target.index)];
};

const lengthPrefixed = (items: readonly (readonly number[])[]) => [...unsignedLeb(items.length), ...items.flat()];
const section = (id: number, body: readonly number[]) => [id, ...unsignedLeb(body.length), ...body];
const text = (value: string) => {
  const bytes = [...new TextEncoder().encode(value)];
  return [...unsignedLeb(bytes.length), ...bytes];
};

/** Whether and how a module's memory is shared between threads. */
export interface MemoryShape {
  readonly shared: boolean;
  /** In pages of 64 KiB, at most 65536. */
  readonly maximumPages: number;
  /** Pages the 64-bit store may grow to; absent where there is no store. */
  readonly storePages?: number | undefined;
}

/** The signature of every task: (argument block address, chunk number, scratch address). */
export const taskParams: readonly ValueType[] = ['i32', 'i32', 'i32'];

/** Collects functions and writes a module that imports `e.memory` (and `e.table` when asked). */
export class ModuleBuilder {
  readonly #memory: MemoryShape;
  readonly #types: string[] = [];
  readonly #typeBytes: number[][] = [];
  readonly #imports: { name: string; type: number }[] = [];
  readonly #functions: { type: number; name: string | undefined; body: number[] }[] = [];
  #table = false;
  #store = false;

  constructor(memory: MemoryShape) {
    this.#memory = memory;
  }

  importTable(): void {
    this.#table = true;
  }

  /** Imports `e.store` as memory 1, which loads with 64-bit addresses read. */
  importStore(): void {
    this.#store = true;
  }

  typeIndex(params: readonly ValueType[], results: readonly ValueType[]): number {
    const key = `${params}>${results}`;
    const known = this.#types.indexOf(key);
    if (known >= 0) return known;
    this.#types.push(key);
    const list = (types: readonly ValueType[]) => lengthPrefixed(types.map((type) => [typeByte[type]]));
    this.#typeBytes.push([0x60, ...list(params), ...list(results)]);
    return this.#types.length - 1;
  }

  /** Must precede the first `function`, because imports come first in the index space. */
  importFunction(name: string, params: readonly ValueType[], results: readonly ValueType[]): FunctionRef {
    if (this.#functions.length > 0) throw new Error(`assembler: imports must precede functions: ${name}.`);
    this.#imports.push({ name, type: this.typeIndex(params, results) });
    return { index: this.#imports.length - 1, params, results };
  }

  /** Adds a function; with a name it is exported. The body may call only functions added before, or itself. */
  function(
    name: string | undefined,
    params: readonly ValueType[],
    results: readonly ValueType[],
    write: (f: FunctionBuilder, self: FunctionRef) => void,
  ): FunctionRef {
    const builder = new FunctionBuilder(params);
    const entry = { type: this.typeIndex(params, results), name, body: [] as number[] };
    const self = { index: this.#imports.length + this.#functions.length, params, results };
    this.#functions.push(entry);
    write(builder, self);
    entry.body = builder.body();
    return self;
  }

  /** An exported function that the team can run over chunks. */
  task(
    name: string,
    write: (f: FunctionBuilder, args: Local<'i32'>, chunk: Local<'i32'>, scratch: Local<'i32'>) => void,
  ): FunctionRef {
    return this.function(name, taskParams, [], (f) => write(f, f.intParam(0), f.intParam(1), f.intParam(2)));
  }

  build(): Uint8Array<ArrayBuffer> {
    const { shared, maximumPages, storePages = 0 } = this.#memory;
    const storeImport = [
      ...text('e'),
      ...text('store'),
      2,
      shared ? 7 : 5,
      ...unsignedLeb(1),
      ...unsignedLeb(storePages),
    ];
    const memory = [
      ...text('e'),
      ...text('memory'),
      2,
      shared ? 3 : 1,
      ...unsignedLeb(1),
      ...unsignedLeb(maximumPages),
    ];
    const table = [...text('e'), ...text('table'), 1, 0x70, 0, ...unsignedLeb(1)];
    const imports = this.#imports.map((entry) => [...text('e'), ...text(entry.name), 0, ...unsignedLeb(entry.type)]);
    const exported = this.#functions.flatMap((entry, index) =>
      entry.name === undefined ? [] : [[...text(entry.name), 0, ...unsignedLeb(this.#imports.length + index)]],
    );
    const parts = [
      [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
      section(1, lengthPrefixed(this.#typeBytes)),
      section(
        2,
        lengthPrefixed([...imports, memory, ...(this.#store ? [storeImport] : []), ...(this.#table ? [table] : [])]),
      ),
      section(3, lengthPrefixed(this.#functions.map((entry) => unsignedLeb(entry.type)))),
      section(7, lengthPrefixed(exported)),
      section(10, lengthPrefixed(this.#functions.map(({ body }) => [...unsignedLeb(body.length), ...body]))),
    ];
    return new Uint8Array(parts.flat());
  }
}

/** A pointer moved by a number of bytes below 4 GiB, in either memory. */
export function moved<T extends 'i32' | 'i64'>(pointer: Code<T>, by: Int): Code<T> {
  return pointer.type === 'i64'
    ? (i64.add(pointer as I64, i64.extend(by)) as Code<T>)
    : (i32.add(pointer as I32, by) as Code<T>);
}

/** The word at `index` of an argument block. */
export const argument = (args: I32, index: number): I32 => i32.load(args, index * 4);
