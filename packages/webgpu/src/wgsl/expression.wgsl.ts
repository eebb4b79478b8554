/** Lowers the scalar expression language to WGSL statements. */
import { type Condition, type ElementwiseProgram, nodesOf, type Scalar, type ScalarNode } from '@lorikeet/tensor';

/** What the surrounding kernel provides: WGSL for the leaves. */
export interface Leaves {
  input(index: number): string;
  parameter(index: number): string;
  /** The bits of a parameter that is a random key. */
  key(index: number): string;
  /** The linear output index. */
  readonly index: string;
}

/** Parameters that are halves of random keys: they travel as u32, since an f32 cannot hold them. */
export const keyParameters = (program: ElementwiseProgram): number[] => [
  ...new Set(nodesOf(program.outputs).flatMap(({ node }) => (node.kind === 'uniform' ? [node.k0, node.k1] : []))),
];

/** A number as a WGSL literal that no compiler refuses. */
function literal(value: number, integer: boolean): string {
  if (integer) {
    const whole = Math.trunc(value) | 0;
    return whole === -(2 ** 31) ? 'i32(-2147483647 - 1)' : `i32(${whole})`;
  }
  const rounded = Math.fround(value);
  if (Number.isFinite(rounded)) return `f32(${rounded})`;
  return `special(0x${new Uint32Array(Float32Array.of(rounded).buffer)[0]!.toString(16)}u)`;
}

const floatUnary = {
  neg: (a: string) => `-${a}`,
  abs: (a: string) => `abs(${a})`,
  exp: (a: string) => `exp_f32(${a})`,
  log: (a: string) => `log_f32(${a})`,
  sqrt: (a: string) => `sqrt(${a})`,
  rsqrt: (a: string) => `(1.0 / sqrt(${a}))`,
  sin: (a: string) => `sin_f32(${a})`,
  cos: (a: string) => `cos_f32(${a})`,
  tanh: (a: string) => `tanh_f32(${a})`,
  sigmoid: (a: string) => `sigmoid_f32(${a})`,
  erf: (a: string) => `erf_f32(${a})`,
  floor: (a: string) => `floor(${a})`,
};
const floatBinary = {
  add: (a: string, b: string) => `${a} + ${b}`,
  sub: (a: string, b: string) => `${a} - ${b}`,
  mul: (a: string, b: string) => `${a} * ${b}`,
  div: (a: string, b: string) => `div_f32(${a}, ${b})`,
  pow: (a: string, b: string) => `pow_f32(${a}, ${b})`,
  max: (a: string, b: string) => `max_nan(${a}, ${b})`,
  min: (a: string, b: string) => `min_nan(${a}, ${b})`,
};
// Integer programs wrap at 32 bits and divide toward zero; a quotient by zero is 0, as in the reference.
const integerBinary = {
  ...floatBinary,
  div: (a: string, b: string) => `select(${a} / select(${b}, 1, ${b} == 0), 0, ${b} == 0)`,
  pow: (a: string, b: string) => `to_i32(pow_f32(f32(${a}), f32(${b})))`,
  max: (a: string, b: string) => `max(${a}, ${b})`,
  min: (a: string, b: string) => `min(${a}, ${b})`,
};
const integerUnary = { neg: floatUnary.neg, abs: floatUnary.abs, floor: (a: string) => a };
const operators = { eq: '==', ne: '!=', lt: '<', le: '<=', gt: '>', ge: '>=' };

/** `let t0 = ...;` lines in evaluation order, and the names of the outputs. */
export function lowerProgram(
  program: ElementwiseProgram,
  integer: boolean,
  leaves: Leaves,
): { readonly statements: string; readonly outputs: readonly string[] } {
  const names = new Map<Scalar, string>();
  const name = (s: Scalar): string => names.get(s)!;
  const condition = ({ op, a, b }: Condition): string => {
    const [x, y] = [name(a), name(b)];
    const plain = `(${x} ${operators[op]} ${y})`;
    if (integer) return plain;
    return op === 'ne' ? `(!ordered(${x}, ${y}) || ${plain})` : `(ordered(${x}, ${y}) && ${plain})`;
  };
  const unary = (op: keyof typeof floatUnary, a: string): string => {
    if (!integer) return floatUnary[op](a);
    return op in integerUnary
      ? integerUnary[op as keyof typeof integerUnary](a)
      : `to_i32(${floatUnary[op](`f32(${a})`)})`;
  };
  const expression = (node: ScalarNode): string => {
    switch (node.kind) {
      case 'constant':
        return literal(node.value, integer);
      case 'input':
        return leaves.input(node.index);
      case 'parameter':
        return leaves.parameter(node.index);
      case 'uniform':
        // A uniform lies in [0, 1): truncated, it is 0.
        return integer ? '0' : `uniform24(${leaves.key(node.k0)}, ${leaves.key(node.k1)}, ${leaves.index})`;
      case 'unary':
        return unary(node.op, name(node.a));
      case 'binary':
        return (integer ? integerBinary : floatBinary)[node.op](name(node.a), name(node.b));
      case 'select':
        return `select(${name(node.b)}, ${name(node.a)}, ${condition(node.condition)})`;
    }
  };
  const lines = nodesOf(program.outputs).map((s, i) => {
    names.set(s, `t${i}`);
    return `let t${i}: ${integer ? 'i32' : 'f32'} = ${expression(s.node)};`;
  });
  return { statements: lines.join('\n    '), outputs: program.outputs.map(name) };
}
