import type { Operand } from '@lorikeet/tensor';
import { bytesPerElement, type StorageType } from './kernels/lanes.ts';

/** A tensor's memory: what `Backend.allocate` hands out. */
export class CpuBuffer {
  readonly address: number;
  readonly byteLength: number;
  freed = false;

  constructor(address: number, byteLength: number) {
    this.address = address;
    this.byteLength = byteLength;
  }
}

/** Byte address of an operand's first element. */
export const addressOf = ({ buffer, offset, dtype }: Operand): number =>
  (buffer as CpuBuffer).address + offset * bytesPerElement[dtype as StorageType];
