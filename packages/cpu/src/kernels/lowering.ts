/** Nodes of the scalar expression language to vector code. */
import { type Condition, type ElementwiseProgram, nodesOf, type Scalar } from '@lorikeet/tensor';
import type { FunctionBuilder, Local } from '../assembler.ts';
import { f32x4, type I32, i32x4, type V128, v128 } from '../instructions.ts';
import type { Features, StorageType } from './lanes.ts';
import { type VectorMath, vectorMath } from './math.ts';
import { uniformLanes } from './threefry.ts';

/** What a kernel is compiled for. */
export interface ElementwiseClass {
  readonly program: ElementwiseProgram;
  readonly inputs: readonly StorageType[];
  readonly outputs: readonly StorageType[];
  /** Input i repeats one element along the innermost axis. */
  readonly repeats: readonly boolean[];
  /** All dtypes are integers: 32-bit wrapping arithmetic, as the reference computes it. */
  readonly integer: boolean;
}

/** Whether the integer lowering knows every node; the others need floats. */
export function compilesAsInteger(program: ElementwiseProgram): boolean {
  return nodesOf(program.outputs).every(({ node }) => {
    if (node.kind === 'unary') return node.op === 'neg' || node.op === 'abs' || node.op === 'floor';
    if (node.kind === 'binary') return node.op !== 'div' && node.op !== 'pow';
    if (node.kind === 'constant') return Number.isInteger(node.value);
    return node.kind !== 'uniform';
  });
}

/** Equal for nodes that compute the same from the same values. */
function keyOf({ node }: Scalar, of: (child: Scalar) => number): string {
  switch (node.kind) {
    case 'constant':
      return Object.is(node.value, -0) ? 'constant -0' : `constant ${node.value}`;
    case 'uniform':
      return `uniform ${node.k0} ${node.k1}`;
    case 'unary':
      return `${node.op} ${of(node.a)}`;
    case 'binary':
      return `${node.op} ${of(node.a)} ${of(node.b)}`;
    case 'select': {
      const { op, a, b } = node.condition;
      return `select ${op} ${of(a)} ${of(b)} ${of(node.a)} ${of(node.b)}`;
    }
    default:
      return `${node.kind} ${node.index}`;
  }
}

/** Expression nodes to vector code. */
export class Lowering {
  readonly #f: FunctionBuilder;
  readonly #math: VectorMath;
  readonly #kind: ElementwiseClass;
  readonly #args: Local<'i32'>;
  readonly #parameterBase: number;

  constructor(
    f: FunctionBuilder,
    features: Features,
    kind: ElementwiseClass,
    args: Local<'i32'>,
    parameterBase: number,
  ) {
    this.#f = f;
    this.#math = vectorMath(f, features);
    this.#kind = kind;
    this.#args = args;
    this.#parameterBase = parameterBase;
  }

  /** The outputs for four elements; `index` is the linear output index of the turn's first one. */
  compute(inputs: readonly V128[], index: I32 | undefined, part: number): V128[] {
    const { program, integer } = this.#kind;
    const values = new Map<Scalar, V128>();
    // Several outputs, such as two gradients of one op, often share what they compute.
    const known = new Map<string, Local<'v128'>>();
    for (const scalar of nodesOf(program.outputs)) {
      const key = keyOf(scalar, (child) => (values.get(child) as Local).index);
      let value = known.get(key);
      if (!value) {
        value = this.#f.vector(
          integer ? this.#integer(scalar, inputs, values) : this.#float(scalar, inputs, values, index, part),
        );
        known.set(key, value);
      }
      values.set(scalar, value);
    }
    return program.outputs.map((output) => values.get(output)!);
  }

  #floatParameter(i: number): V128 {
    return this.#f.hoist(v128.load32Splat(this.#args, (this.#parameterBase + i) * 4));
  }

  #integerParameter(i: number): V128 {
    return this.#f.hoist(v128.load32Splat(this.#args, (this.#parameterBase + this.#kind.program.parameters + i) * 4));
  }

  #float(
    { node }: Scalar,
    inputs: readonly V128[],
    values: Map<Scalar, V128>,
    index: I32 | undefined,
    part: number,
  ): V128 {
    const f = this.#f;
    const m = this.#math;
    const of = (s: Scalar) => values.get(s)!;
    switch (node.kind) {
      case 'input':
        return inputs[node.index]!;
      case 'constant':
        return m.constant(node.value);
      case 'parameter':
        return this.#floatParameter(node.index);
      case 'uniform': {
        const lanes = f.hoist(i32x4.lanesConst(part * 4, part * 4 + 1, part * 4 + 2, part * 4 + 3));
        const counter = f.vector(i32x4.add(i32x4.splat(index!), lanes));
        return uniformLanes(f, this.#integerParameter(node.k0), this.#integerParameter(node.k1), counter);
      }
      case 'unary':
        return unary[node.op](m, of(node.a));
      case 'binary':
        return binary[node.op](m, of(node.a), of(node.b));
      case 'select':
        return v128.bitSelect(compareFloat(node.condition, of), of(node.a), of(node.b));
    }
  }

  #integer({ node }: Scalar, inputs: readonly V128[], values: Map<Scalar, V128>): V128 {
    const of = (s: Scalar) => values.get(s)!;
    switch (node.kind) {
      case 'input':
        return inputs[node.index]!;
      case 'constant':
        return this.#math.bits(node.value);
      case 'parameter':
        return this.#integerParameter(node.index);
      case 'unary':
        if (node.op === 'neg') return i32x4.neg(of(node.a));
        return node.op === 'abs' ? i32x4.abs(of(node.a)) : of(node.a);
      case 'binary':
        return integerBinary[node.op as keyof typeof integerBinary](of(node.a), of(node.b));
      case 'select':
        return v128.bitSelect(compareInteger(node.condition, of), of(node.a), of(node.b));
      default:
        throw new Error(`cpu: an integer program cannot hold ${node.kind}.`);
    }
  }
}

type UnaryOp = Extract<Scalar['node'], { kind: 'unary' }>['op'];
type BinaryOp = Extract<Scalar['node'], { kind: 'binary' }>['op'];

const unary: Record<UnaryOp, (m: VectorMath, a: V128) => V128> = {
  neg: (_, a) => f32x4.neg(a),
  abs: (_, a) => f32x4.abs(a),
  exp: (m, a) => m.exp(a),
  log: (m, a) => m.log(a),
  sqrt: (_, a) => f32x4.sqrt(a),
  rsqrt: (m, a) => f32x4.div(m.constant(1), f32x4.sqrt(a)),
  sin: (m, a) => m.sin(a),
  cos: (m, a) => m.cos(a),
  tanh: (m, a) => m.tanh(a),
  sigmoid: (m, a) => m.sigmoid(a),
  erf: (m, a) => m.erf(a),
  floor: (_, a) => f32x4.floor(a),
};

const binary: Record<BinaryOp, (m: VectorMath, a: V128, b: V128) => V128> = {
  add: (_, a, b) => f32x4.add(a, b),
  sub: (_, a, b) => f32x4.sub(a, b),
  mul: (_, a, b) => f32x4.mul(a, b),
  div: (_, a, b) => f32x4.div(a, b),
  pow: (m, a, b) => m.pow(a, b),
  max: (_, a, b) => f32x4.max(a, b),
  min: (_, a, b) => f32x4.min(a, b),
};

const integerBinary = { add: i32x4.add, sub: i32x4.sub, mul: i32x4.mul, max: i32x4.maxS, min: i32x4.minS };

const compareFloat = ({ op, a, b }: Condition, of: (s: Scalar) => V128): V128 => f32x4[op](of(a), of(b));

const integerCompare = { eq: 'eq', ne: 'ne', lt: 'ltS', le: 'leS', gt: 'gtS', ge: 'geS' } as const;
const compareInteger = ({ op, a, b }: Condition, of: (s: Scalar) => V128): V128 =>
  i32x4[integerCompare[op]](of(a), of(b));
