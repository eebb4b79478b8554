import { OutOfMemoryError } from '@lorikeet/tensor';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LinearMemory } from './memory.ts';

const limitBytes = 4 * 1024 * 1024;

test('live blocks are aligned, never overlap and keep their bytes; freed memory joins again', () => {
  const step = fc.record({ bytes: fc.integer({ min: 0, max: 70_000 }), release: fc.nat(), frees: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const memory = new LinearMemory({ shared: false, limitBytes });
      const live: { address: number; bytes: number; mark: number }[] = [];
      for (const [i, { bytes, release, frees }] of steps.entries()) {
        if (frees && live.length > 0) {
          const [gone] = live.splice(release % live.length, 1);
          memory.release(gone!.address);
          continue;
        }
        let address: number;
        try {
          address = memory.allocate(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(OutOfMemoryError);
          continue;
        }
        expect(address % 64).toBe(0);
        memory.bytes.fill(i & 255, address, address + bytes);
        live.push({ address, bytes, mark: i & 255 });
      }
      for (const { address, bytes, mark } of live)
        expect(memory.bytes.subarray(address, address + bytes).every((byte) => byte === mark)).toBe(true);
      const ordered = [...live].sort((a, b) => a.address - b.address);
      for (const [i, block] of ordered.entries())
        if (i > 0) expect(block.address).toBeGreaterThanOrEqual(ordered[i - 1]!.address + ordered[i - 1]!.bytes + 32);
      for (const { address } of live) memory.release(address);
      expect(memory.liveBytes).toBe(0);
      const capacity = memory.capacityBytes;
      // Everything is one block again: nearly all of the capacity fits without growing.
      memory.release(memory.allocate(capacity - 65536 - 64));
      expect(memory.capacityBytes).toBe(capacity);
    }),
    { numRuns: 60 },
  );
});

test('live and peak bytes follow allocation and release', () => {
  const memory = new LinearMemory({ shared: false });
  const a = memory.allocate(1000);
  const b = memory.allocate(5000);
  const both = memory.liveBytes;
  expect(both).toBeGreaterThanOrEqual(6000);
  memory.release(a);
  memory.release(b);
  expect([memory.liveBytes, memory.peakBytes]).toEqual([0, both]);
  memory.resetPeak();
  expect(memory.peakBytes).toBe(0);
});

test('what does not fit is refused with the numbers, and nothing changes', () => {
  const memory = new LinearMemory({ shared: false, limitBytes });
  const kept = memory.allocate(1024);
  const before = memory.liveBytes;
  expect(() => memory.allocate(5_000_000)).toThrow(
    new RegExp(`5000\\d{3} bytes asked, ${before} live, limit ${limitBytes}`),
  );
  expect(memory.liveBytes).toBe(before);
  memory.release(kept);
  expect(() => memory.release(kept)).toThrow('release needs the address of a live block');
});
