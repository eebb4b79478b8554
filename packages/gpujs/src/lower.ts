/** The scalar expression language as the text of a gpu.js kernel function. */
import { type ElementwiseProgram, nodesOf, type Scalar, type UnaryName } from '@lorikeet/tensor';

/** A kernel's text, and what to pass to it: inputs first, then parameters, constants, uniforms. */
export interface Lowered {
  readonly source: string;
  readonly constants: readonly number[];
  /** Parameter indices of each uniform's key. */
  readonly uniforms: readonly (readonly [k0: number, k1: number])[];
}

/** W. J. Cody's form in Chebyshev coefficients (Numerical Recipes, erfc): 1.2e-7 everywhere. */
const erfcCoefficients = [
  0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
  -1.26551223,
];

type Line = (name: string, a: string, constant: (value: number) => string) => string;

const call =
  (fn: string): Line =>
  (name, a) =>
    `const ${name} = Math.${fn}(${a});`;

const unary: Readonly<Record<UnaryName, Line>> = {
  neg: (name, a, c) => `const ${name} = ${c(0)} - ${a};`,
  abs: call('abs'),
  exp: call('exp'),
  log: call('log'),
  sqrt: call('sqrt'),
  rsqrt: (name, a, c) => `const ${name} = ${c(1)} / Math.sqrt(${a});`,
  sin: call('sin'),
  cos: call('cos'),
  tanh: call('tanh'),
  sigmoid: (name, a, c) => `const ${name} = ${c(1)} / (${c(1)} + Math.exp(${c(0)} - ${a}));`,
  erf: (name, a, c) => {
    const t = `${name}t`;
    const series = erfcCoefficients.slice(1).reduce((sum, k) => `(${sum} * ${t} + ${c(k)})`, c(erfcCoefficients[0]!));
    return `const ${t} = ${c(1)} / (${c(1)} + ${c(0.5)} * Math.abs(${a}));
  let ${name} = ${c(1)} - ${t} * Math.exp(${series} - ${a} * ${a});
  if (${a} < ${c(0)}) { ${name} = ${c(0)} - ${name}; }`;
  },
  floor: call('floor'),
};
const infix = { add: '+', sub: '-', mul: '*', div: '/' } as const;
const comparisons = { eq: '===', ne: '!==', lt: '<', le: '<=', gt: '>', ge: '>=' } as const;

/**
 * Lowers output `index` of a program. Constants are arguments: gpu.js would take a whole number in the text for an
 * integer. Uniforms are arguments too, because their generator needs 32-bit integers.
 */
export function lower(program: ElementwiseProgram, index: number): Lowered {
  const nodes = nodesOf([program.outputs[index]!]);
  const constants: number[] = [];
  const uniforms: (readonly [number, number])[] = [];
  const constant = (value: number): string => {
    const known = constants.findIndex((c) => Object.is(c, value));
    return `c${known >= 0 ? known : constants.push(value) - 1}`;
  };
  const names = new Map<Scalar, string>(nodes.map((scalar, i) => [scalar, `v${i}`]));
  const lines = nodes.map((scalar) => {
    const { node } = scalar;
    const name = names.get(scalar)!;
    const at = (s: Scalar): string => names.get(s)!;
    switch (node.kind) {
      case 'input':
        return `const ${name} = x${node.index}[this.thread.x];`;
      case 'parameter':
        return `const ${name} = p${node.index};`;
      case 'constant':
        return `const ${name} = ${constant(node.value)};`;
      case 'uniform':
        return `const ${name} = u${uniforms.push([node.k0, node.k1]) - 1}[this.thread.x];`;
      case 'unary':
        return unary[node.op](name, at(node.a), constant);
      case 'binary':
        if (node.op === 'max' || node.op === 'min')
          return `const ${name} = Math.${node.op}(${at(node.a)}, ${at(node.b)});`;
        if (node.op === 'pow')
          return `let ${name} = Math.pow(${at(node.a)}, ${at(node.b)});
  if (${at(node.a)} === ${constant(1)}) { ${name} = ${constant(1)}; }`;
        return `const ${name} = ${at(node.a)} ${infix[node.op]} ${at(node.b)};`;
      case 'select': {
        const { op, a, b } = node.condition;
        return `let ${name} = ${at(node.b)};
  if (${at(a)} ${comparisons[op]} ${at(b)}) { ${name} = ${at(node.a)}; }`;
      }
    }
  });
  const list = (letter: string, count: number): string[] => Array.from({ length: count }, (_, i) => `${letter}${i}`);
  const parameters = [
    ...list('x', program.inputs),
    ...list('p', program.parameters),
    ...list('c', constants.length),
    ...list('u', uniforms.length),
  ];
  const source = `function (${parameters.join(', ')}) {
  ${lines.join('\n  ')}
  return ${names.get(program.outputs[index]!)};
}`;
  return { source, constants, uniforms };
}
