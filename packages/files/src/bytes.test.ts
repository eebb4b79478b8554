import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesToHex, concatBytes, dataView, equalBytes, hexToBytes } from './bytes.ts';

/** Bytes behind some others, in plain or shared memory: the library's defects were in offsets, tails and shared memory. */
const bytes = fc
  .record({ content: fc.uint8Array({ maxLength: 40 }), before: fc.nat(9), after: fc.nat(9), shared: fc.boolean() })
  .map(({ content, before, after, shared }) => {
    const length = before + content.length + after;
    const whole = new Uint8Array(shared ? new SharedArrayBuffer(length) : new ArrayBuffer(length)).fill(0xaa);
    whole.set(content, before);
    return whole.subarray(before, before + content.length);
  });

describe('bytes', () => {
  test('concatBytes is the concatenation, in new memory', () => {
    fc.assert(
      fc.property(fc.array(bytes, { maxLength: 10 }), (chunks) => {
        const joined = concatBytes(chunks);
        expect([...joined]).toEqual(chunks.flatMap((chunk) => [...chunk]));
        expect(joined.buffer).toBeInstanceOf(ArrayBuffer);
        for (const chunk of chunks) expect(joined.buffer).not.toBe(chunk.buffer);
      }),
    );
  });

  test('concatBytes takes more chunks than a call takes arguments', () => {
    const count = 300_000;
    const joined = concatBytes(Array.from({ length: count }, (_, i) => Uint8Array.of(i & 255)));
    expect(joined).toHaveLength(count);
    expect(joined.every((byte, i) => byte === (i & 255))).toBe(true);
  });

  test('hex goes both ways, and matches Buffer', () => {
    fc.assert(
      fc.property(bytes, (data) => {
        const hex = bytesToHex(data);
        expect(hex).toBe(Buffer.from(data).toString('hex'));
        expect([...hexToBytes(hex)]).toEqual([...data]);
        expect([...hexToBytes(hex.toUpperCase())]).toEqual([...data]);
      }),
    );
  });

  test.each(['a', 'abc', '0x00', 'zz', '00 11', 'é0'])(
    'hexToBytes refuses %j, which the library would read as something',
    (hex) => {
      expect(() => hexToBytes(hex)).toThrow(/pairs of hex digits/);
    },
  );

  test('dataView sees the same memory', () => {
    fc.assert(
      fc.property(bytes, (data) => {
        const view = dataView(data);
        expect(view.byteLength).toBe(data.length);
        for (let i = 0; i < data.length; i++) {
          expect(view.getUint8(i)).toBe(data[i]);
          view.setUint8(i, 7);
          expect(data[i]).toBe(7);
        }
      }),
    );
  });

  test('equalBytes is equality, also in the last one to three bytes', () => {
    fc.assert(
      fc.property(bytes, fc.nat(39), fc.integer({ min: 1, max: 255 }), (data, at, change) => {
        const copy = data.slice();
        expect(equalBytes(data, copy)).toBe(true);
        if (at < copy.length) {
          copy[at]! ^= change;
          expect(equalBytes(data, copy)).toBe(false);
        }
        expect(equalBytes(data, concatBytes([data, Uint8Array.of(0)]))).toBe(false);
      }),
      { numRuns: 500 },
    );
  });
});
