import type { Backend, BufferHandle, Call, Operand } from '../backend.ts';
import { bytesPerElement } from '../dtype.ts';
import { DeviceLostError } from '../errors.ts';
import type { Op } from '../op.ts';
import { bytesBuffer, referenceBackend } from '../reference-backend.ts';
import { sizeOf } from '../shape.ts';

const rowBytes = 1024;
const maxBuffers = 8;
const poison = 0xcb;

/** Memory in separate rows of 1 KiB, poisoned when made and when freed. */
class Rows {
  readonly rows: Uint8Array[];
  readonly byteLength: number;
  freed = false;
  constructor(byteLength: number) {
    this.byteLength = byteLength;
    this.rows = Array.from({ length: Math.ceil(byteLength / rowBytes) }, () => new Uint8Array(rowBytes).fill(poison));
  }
  join(): Uint8Array {
    const all = new Uint8Array(this.rows.length * rowBytes);
    this.rows.forEach((row, i) => all.set(row, i * rowBytes));
    return all.subarray(0, this.byteLength);
  }
  scatter(bytes: Uint8Array, byteOffset: number): void {
    for (let i = 0; i < bytes.length; i++) {
      const at = byteOffset + i;
      this.rows[Math.floor(at / rowBytes)]![at % rowBytes] = bytes[i]!;
    }
  }
}

export interface HostileBackend extends Backend {
  /** The device disappears: what is pending and everything later fails with DeviceLostError. */
  loseDevice(): void;
  /** Buffers allocated and not yet freed. */
  readonly liveBuffers: number;
}

/**
 * A backend that is as unhelpful as the contract allows, to prove that nothing above it relies on more: it runs late and
 * on another turn, keeps tensors in 1 KiB rows, poisons fresh and freed memory, refuses operands that alias unless they
 * are updated in place, allows 8 buffers a kernel, composes every fused op, and loses its device on demand.
 */
export function hostileBackend(): HostileBackend {
  const inner = referenceBackend();
  let pending: (() => void)[] = [];
  let lost: DeviceLostError | null = null;
  let failed: unknown = null;
  let live = 0;

  const check = (op: string): void => {
    if (lost) throw new DeviceLostError(`${op}: the device was lost. Make a new backend and load your tensors again.`);
  };
  const drain = async (): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve, 0));
    const work = pending;
    pending = [];
    if (!lost)
      try {
        for (const step of work) step();
      } catch (error) {
        failed ??= error;
      }
    check('read');
    if (failed) throw failed;
  };
  const alive = (buffer: BufferHandle, op: string): Rows => {
    const rows = buffer as Rows;
    if (rows.freed) throw new Error(`${op}: a kernel was given a buffer freed before it was issued.`);
    return rows;
  };

  function refuseAliases({ op, inputs, outputs }: Call): void {
    const buffers = new Set([...inputs, ...outputs].flatMap((x) => (x ? [x.buffer] : [])));
    if (buffers.size > maxBuffers)
      throw new Error(`${op.name}: a kernel may name ${maxBuffers} buffers: got ${buffers.size}.`);
    const written = outputs.map((o) => o.buffer);
    if (new Set(written).size !== written.length) throw new Error(`${op.name}: two outputs share a buffer.`);
    const mutates = 'program' in op || (op as Partial<Op>).options?.mutates;
    if (!mutates && inputs.some((x) => x && written.includes(x.buffer)))
      throw new Error(`${op.name}: an output aliases an input.`);
  }

  function runLate(call: Call): void {
    const dense = new Map<BufferHandle, BufferHandle>();
    const joined = new Map<BufferHandle, Uint8Array>();
    const convert = (x: Operand): Operand => {
      let made = dense.get(x.buffer);
      if (!made) {
        const bytes = (x.buffer as Rows).join();
        joined.set(x.buffer, bytes);
        dense.set(x.buffer, (made = bytesBuffer(bytes)));
      }
      return { ...x, buffer: made };
    };
    inner.run({ ...call, inputs: call.inputs.map((x) => x && convert(x)), outputs: call.outputs.map(convert) });
    for (const { buffer, offset, dtype, shape } of call.outputs) {
      const [start, end] = [offset * bytesPerElement[dtype], (offset + sizeOf(shape)) * bytesPerElement[dtype]];
      (buffer as Rows).scatter(joined.get(buffer)!.subarray(start, end), start);
    }
  }

  return {
    name: 'hostile',
    dtypes: inner.dtypes,
    get liveBuffers() {
      return live;
    },
    loseDevice: () => {
      lost = new DeviceLostError('hostile: the device was lost on demand.');
    },
    allocate(byteLength) {
      check('allocate');
      live++;
      return new Rows(byteLength);
    },
    free(buffer) {
      const rows = buffer as Rows;
      if (rows.freed) throw new Error('free: the buffer was freed before.');
      rows.freed = true;
      live--;
      pending.push(() => {
        for (const row of rows.rows) row.fill(poison);
      });
    },
    write(buffer, byteOffset, bytes) {
      check('write');
      const [rows, copy] = [alive(buffer, 'write'), bytes.slice()];
      pending.push(() => rows.scatter(copy, byteOffset));
    },
    async read(buffer, byteOffset, byteLength) {
      check('read');
      const rows = alive(buffer, 'read');
      let result = new Uint8Array(0);
      pending.push(() => {
        result = rows.join().slice(byteOffset, byteOffset + byteLength);
      });
      await drain();
      return result;
    },
    supports: inner.supports,
    run(call) {
      check(call.op.name);
      for (const x of [...call.inputs, ...call.outputs]) if (x) alive(x.buffer, call.op.name);
      refuseAliases(call);
      pending.push(() => runLate(call));
    },
    sync: drain,
    close: async () => {
      pending = [];
    },
    describe: () => ({ name: 'hostile', rowBytes, maxBuffers }),
  };
}
