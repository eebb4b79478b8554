import type { Operand } from '@lorikeet/tensor';
import { bytesPerElement, type StorageType } from './kernels/lanes.ts';

/** A tensor's memory: what `Backend.allocate` hands out. */
export class CpuBuffer {
  /** In work memory or, where `inStore`, in the store. */
  address: number;
  readonly byteLength: number;
  inStore = false;
  freed = false;
  /** A call that has not run yet names it. */
  waiting = false;

  constructor(address: number, byteLength: number) {
    this.address = address;
    this.byteLength = byteLength;
  }
}

/** Bytes of one of its elements. */
export const widthOf = ({ dtype }: Operand): number => bytesPerElement[dtype as StorageType];

/** Byte address of an operand's first element, in the memory that `inStore` names. */
export const addressOf = (operand: Operand): number =>
  (operand.buffer as CpuBuffer).address + operand.offset * widthOf(operand);

export const inStore = ({ buffer }: Operand): boolean => (buffer as CpuBuffer).inStore;
