import fc from 'fast-check';
import { expect, test } from 'vitest';
import { onnxModel } from './onnx-model.ts';

type Field = readonly [number, bigint | Uint8Array];

/** The fields of a protobuf message, read by the wire format alone. */
function fieldsOf(bytes: Uint8Array): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let [value, shift] = [0n, 0n];
    for (; ; shift += 7n) {
      const byte = bytes[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    const wire = key & 7;
    if (wire === 0) fields.push([key >> 3, varint()]);
    else {
      const length = wire === 5 ? 4 : Number(varint());
      expect(at + length).toBeLessThanOrEqual(bytes.length);
      fields.push([key >> 3, bytes.slice(at, (at += length))]);
    }
  }
  return fields;
}

const all = (bytes: Uint8Array, field: number): Uint8Array[] =>
  fieldsOf(bytes).flatMap(([number, value]) => (number === field ? [value as Uint8Array] : []));
const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

test('a model reads back as it was described', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 2 }),
      fc.integer({ min: -5, max: 1 << 20 }),
      fc.float({ noNaN: true }),
      (shape, whole, number) => {
        const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => i + number);
        const model = onnxModel({
          inputs: [{ name: 'x', shape }],
          outputs: ['y'],
          initializers: [{ name: 'w', shape, values }],
          nodes: [
            {
              type: 'QuickGelu',
              domain: 'com.microsoft',
              inputs: ['x', 'w'],
              outputs: ['y'],
              attributes: { axis: whole, alpha: { float: number } },
            },
          ],
        });
        const graph = all(model, 7)[0]!;
        const node = all(graph, 1)[0]!;
        expect([all(node, 1), all(node, 2), all(node, 4), all(node, 7)].flat().map(text)).toEqual([
          ...['x', 'w', 'y', 'QuickGelu', 'com.microsoft'],
        ]);
        const [axis, alpha] = all(node, 5).map(fieldsOf);
        expect(axis!.slice(1)).toEqual([
          [3, BigInt.asUintN(64, BigInt(whole))],
          [20, 2n],
        ]);
        expect(new Float32Array((alpha![1]![1] as Uint8Array).buffer)[0]).toBe(number);
        const weight = all(graph, 5)[0]!;
        const dims = fieldsOf(weight).flatMap(([field, value]) => (field === 1 ? [Number(value)] : []));
        expect(dims).toEqual(shape);
        expect(new Float32Array(all(weight, 9)[0]!.buffer)).toEqual(values);
        const input = all(graph, 11)[0]!;
        const typed = all(all(all(input, 2)[0]!, 1)[0]!, 2)[0]!;
        expect(all(typed, 1).map((dim) => Number(fieldsOf(dim)[0]![1]))).toEqual(shape);
      },
    ),
  );
});
