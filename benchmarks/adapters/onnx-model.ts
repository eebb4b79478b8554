/** Writes ONNX models: the part of its protobuf messages that a graph of a few nodes needs (onnx/onnx.proto3). */

type Values = Float32Array | BigInt64Array;

export interface OnnxTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Values;
}

export interface OnnxNode {
  readonly type: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** '' is ONNX itself. */
  readonly domain?: '' | 'com.microsoft';
  /** Whole numbers are written as ints unless wrapped in {@link float}. */
  readonly attributes?: Readonly<Record<string, number | { readonly float: number }>>;
}

export interface OnnxGraph {
  readonly inputs: readonly Pick<OnnxTensor, 'name' | 'shape'>[];
  readonly outputs: readonly string[];
  readonly initializers: readonly OnnxTensor[];
  readonly nodes: readonly OnnxNode[];
}

const [floatType, int64Type] = [1, 7];

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest >= 128n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return [...bytes, Number(rest)];
}

/** A message as the pieces of its fields, so that large tensors are copied once. */
class Message {
  readonly #parts: Uint8Array[] = [];

  /** A whole number: wire type 0. */
  int(field: number, value: number): this {
    this.#parts.push(Uint8Array.from([...varint(field << 3), ...varint(value)]));
    return this;
  }

  /** 32 bits: wire type 5. */
  float(field: number, value: number): this {
    const bits = new Uint8Array(Float32Array.of(value).buffer);
    this.#parts.push(Uint8Array.from([...varint((field << 3) | 5), ...bits]));
    return this;
  }

  /** Text, bytes or a message, with its length before it: wire type 2. */
  put(field: number, value: string | Uint8Array | Message): this {
    const parts =
      value instanceof Message ? value.#parts : [typeof value === 'string' ? new TextEncoder().encode(value) : value];
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    this.#parts.push(Uint8Array.from([...varint((field << 3) | 2), ...varint(length)]), ...parts);
    return this;
  }

  each<V>(values: readonly V[], add: (message: this, value: V) => unknown): this {
    for (const value of values) add(this, value);
    return this;
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(this.#parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of this.#parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }
}

const tensorMessage = ({ name, shape, values }: OnnxTensor): Message =>
  new Message()
    .each(shape, (m, dim) => m.int(1, dim))
    .int(2, values instanceof Float32Array ? floatType : int64Type)
    .put(8, name)
    .put(9, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));

/** A name with the type f32 and, for inputs, a shape. */
function valueMessage(name: string, shape?: readonly number[]): Message {
  const type = new Message().int(1, floatType);
  if (shape) {
    const dims = new Message().each(shape, (m, dim) => m.put(1, new Message().int(1, dim)));
    type.put(2, dims);
  }
  return new Message().put(1, name).put(2, new Message().put(1, type));
}

const nodeMessage = ({ type, inputs, outputs, domain = '', attributes = {} }: OnnxNode): Message =>
  new Message()
    .each(inputs, (m, name) => m.put(1, name))
    .each(outputs, (m, name) => m.put(2, name))
    .put(4, type)
    .each(Object.entries(attributes), (m, [name, value]) => {
      const attribute = new Message().put(1, name);
      m.put(
        5,
        typeof value === 'number' ? attribute.int(3, value).int(20, 2) : attribute.float(2, value.float).int(20, 1),
      );
    })
    .put(7, domain);

const opset = (domain: string, version: number): Message => new Message().put(1, domain).int(2, version);

/** A model of one graph, as the bytes of an .onnx file. ONNX opset 20 and com.microsoft 1. */
export function onnxModel({ inputs, outputs, initializers, nodes }: OnnxGraph): Uint8Array {
  const graph = new Message()
    .each(nodes, (m, node) => m.put(1, nodeMessage(node)))
    .put(2, 'bench')
    .each(initializers, (m, tensor) => m.put(5, tensorMessage(tensor)))
    .each(inputs, (m, { name, shape }) => m.put(11, valueMessage(name, shape)))
    .each(outputs, (m, name) => m.put(12, valueMessage(name)));
  return new Message().int(1, 9).put(7, graph).put(8, opset('', 20)).put(8, opset('com.microsoft', 1)).bytes();
}
