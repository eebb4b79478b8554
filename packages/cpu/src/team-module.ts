/**
 * The team's task loop in WebAssembly. A job is a table slot, an argument block and a number of chunks; threads claim
 * chunks by compare-exchange on one 64-bit word (generation, next chunk), so a thread that wakes late and still holds an
 * old job's facts cannot claim a chunk of a new one.
 */
import { type MemoryShape, ModuleBuilder, taskParams } from './assembler.ts';
import { i32, i64, int, store } from './instructions.ts';

/** Byte addresses in the first page of the memory, one cache line a word that several threads write. */
export const control = {
  sequence: 64,
  claim: 128,
  done: 192,
  total: 256,
  slot: 260,
  args: 264,
  moduleCount: 268,
  sleepers: 320,
  stop: 384,
  failed: 388,
  spins: 392,
  mainWaits: 448,
  failureText: 512,
  modules: 1024,
  /** Argument block of the running job, 16 KiB. */
  arguments: 49152,
  /** Modules that fit between `modules` and `arguments`, 16 bytes each. */
  maxModules: 3008,
  slots: 8192,
} as const;

/** `next` of a claim word whose job is over: larger than any chunk count. */
const closed = 0x7fffffffn;
const waitSliceNs = 100_000_000n;
/** 30 s of slices without any chunk finishing: the machine is not just busy. */
const maxIdleSlices = 300;

/** What `run` returns. */
export const runResult = { ok: 0, failed: 1, stalled: 2 } as const;

/** Exports `run(slot, args, chunks, scratch, moduleCount, mayBlock)`, `alone(slot, args, chunks, scratch)`, `worker(scratch)`. */
export function teamModule(memory: MemoryShape): Uint8Array<ArrayBuffer> {
  const m = new ModuleBuilder(memory);
  m.importTable();
  const install = m.importFunction('install', ['i32', 'i32'], []);
  const task = m.typeIndex(taskParams, []);

  const drain = m.function(undefined, ['i32'], [], (f) => {
    const scratch = f.intParam(0);
    const claim = f.local('i64');
    const [chunk, total, slot, args, modules] = [f.int(), f.int(), f.int(), f.int(), f.int()];
    f.loop((again) => {
      f.set(claim, i64.atomicLoad(control.claim));
      f.set(chunk, i32.wrap(claim));
      f.set(total, i32.atomicLoad(control.total));
      f.set(slot, i32.atomicLoad(control.slot));
      f.set(args, i32.atomicLoad(control.args));
      f.set(modules, i32.atomicLoad(control.moduleCount));
      f.if(i32.geU(chunk, total), () => f.return());
      f.if(i32.ltU(i32.load(i32.sub(scratch, 64)), modules), () => f.call(install, modules, scratch));
      const seen = i64.atomicCompareExchange(control.claim, claim, i64.add(claim, i64.const(1n)));
      f.branchIf(again, i32.eqz(i64.eq(seen, claim)));
      f.callTask(task, slot, args, chunk, scratch);
      f.if(i32.eq(i32.add(i32.atomicAdd(control.done, 1), 1), total), () => {
        f.if(i32.atomicLoad(control.mainWaits), () => f.drop(i32.atomicNotify(control.done, 1)));
      });
      f.branch(again);
    });
  });

  m.function('worker', ['i32'], [], (f) => {
    const scratch = f.intParam(0);
    const [sequence, turns] = [f.int(), f.int()];
    f.loop((again) => {
      f.set(sequence, i32.atomicLoad(control.sequence));
      f.call(drain, scratch);
      f.if(i32.atomicLoad(control.stop), () => f.return());
      f.setInt(turns, 0);
      f.loop((spin) => {
        f.branchIf(again, i32.ne(i32.atomicLoad(control.sequence), sequence));
        f.increase(turns, 1);
        // Read at each turn: another team may take the cores meanwhile.
        f.branchIf(spin, i32.ltS(turns, i32.atomicLoad(control.spins)));
      });
      f.drop(i32.atomicAdd(control.sleepers, 1));
      f.drop(i32.atomicWait(control.sequence, sequence, i64.const(-1n)));
      f.drop(i32.atomicAdd(control.sleepers, -1));
      f.branch(again);
    });
  });

  m.function('alone', ['i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [slot, args, chunks, scratch] = [f.intParam(0), f.intParam(1), f.intParam(2), f.intParam(3)];
    f.for(0, chunks, 1, (chunk) => f.callTask(task, slot, args, chunk, scratch));
  });

  m.function('run', ['i32', 'i32', 'i32', 'i32', 'i32', 'i32'], ['i32'], (f) => {
    const [slot, args, chunks, scratch] = [f.intParam(0), f.intParam(1), f.intParam(2), f.intParam(3)];
    const [modules, mayBlock] = [f.intParam(4), f.intParam(5)];
    const generation = f.local('i64');
    const [done, spins, idleSlices, before] = [f.int(), f.int(), f.int(), f.int()];
    f.set(
      generation,
      i64.shl(i64.add(i64.shrU(i64.atomicLoad(control.claim), i64.const(32n)), i64.const(1n)), i64.const(32n)),
    );
    f.emit(store.atomicI32(control.slot, slot));
    f.emit(store.atomicI32(control.args, args));
    f.emit(store.atomicI32(control.total, chunks));
    f.emit(store.atomicI32(control.moduleCount, modules));
    f.emit(store.atomicI32(control.done, int(0)));
    f.emit(store.atomicI64(control.claim, generation));
    f.drop(i32.atomicAdd(control.sequence, 1));
    f.if(i32.atomicLoad(control.sleepers), () => f.drop(i32.atomicNotify(control.sequence, i32.sub(chunks, 1))));
    f.call(drain, scratch);
    f.set(spins, i32.atomicLoad(control.spins));
    f.block((finished) => {
      f.loop((again) => {
        f.set(done, i32.atomicLoad(control.done));
        f.branchIf(finished, i32.eq(done, chunks));
        f.if(i32.atomicLoad(control.failed), () => f.return(int(1)));
        f.increase(spins, -1);
        f.branchIf(again, i32.or(i32.gtS(spins, 0), i32.eqz(mayBlock)));
        f.emit(store.atomicI32(control.mainWaits, int(1)));
        f.drop(i32.atomicWait(control.done, done, i64.const(waitSliceNs)));
        f.emit(store.atomicI32(control.mainWaits, int(0)));
        f.setInt(idleSlices, i32.select(i32.eq(before, done), i32.add(idleSlices, 1), 0));
        f.set(before, done);
        f.if(i32.gtS(idleSlices, maxIdleSlices), () => f.return(int(2)));
        f.branch(again);
      });
    });
    // Close the claim before the next job's facts are written: see the file comment.
    f.emit(store.atomicI64(control.claim, i64.or(generation, i64.const(closed))));
    f.return(int(0));
  });
  return m.build();
}
