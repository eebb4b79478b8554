/**
 * The scalar expression language: elementwise math written once and lowered by every backend (closures over f64 here,
 * WebAssembly SIMD in cpu, WGSL in webgpu). An expression is a graph of `Scalar` nodes; a node used twice is one object,
 * so a lowering that remembers nodes by identity computes it once.
 */
export type UnaryName =
  | 'neg' | 'abs' | 'exp' | 'log' | 'sqrt' | 'rsqrt' | 'sin' | 'cos' | 'tanh' | 'sigmoid' | 'erf' | 'floor'; // biome-ignore format: one screen
export type BinaryName = 'add' | 'sub' | 'mul' | 'div' | 'pow' | 'max' | 'min';
export type CompareName = 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge';

export type ScalarNode =
  | { kind: 'input'; index: number }
  | { kind: 'constant'; value: number }
  | { kind: 'parameter'; index: number }
  /** 24-bit uniform in [0, 1): threefry2x32(key = u32 parameters k0, k1; counter = linear output index, 0)[0] >>> 8, over 2^24. */
  | { kind: 'uniform'; k0: number; k1: number }
  | { kind: 'unary'; op: UnaryName; a: Scalar }
  | { kind: 'binary'; op: BinaryName; a: Scalar; b: Scalar }
  | { kind: 'select'; condition: Condition; a: Scalar; b: Scalar };

/** A truth value inside an expression; only `select` consumes it. `max` and `min` propagate NaN, comparisons with NaN are false (`ne`: true). */
export class Condition {
  readonly op: CompareName;
  readonly a: Scalar;
  readonly b: Scalar;
  constructor(op: CompareName, a: Scalar, b: Scalar) {
    this.op = op;
    this.a = a;
    this.b = b;
  }
}

export type ScalarLike = Scalar | number;

/** A number inside an expression. */
export class Scalar {
  readonly node: ScalarNode;
  constructor(node: ScalarNode) {
    this.node = node;
  }
  #unary(op: UnaryName): Scalar {
    return new Scalar({ kind: 'unary', op, a: this });
  }
  #binary(op: BinaryName, b: ScalarLike): Scalar {
    return new Scalar({ kind: 'binary', op, a: this, b: scalar(b) });
  }
  #compare(op: CompareName, b: ScalarLike): Condition {
    return new Condition(op, this, scalar(b));
  }
  neg(): Scalar {
    return this.#unary('neg');
  }
  abs(): Scalar {
    return this.#unary('abs');
  }
  exp(): Scalar {
    return this.#unary('exp');
  }
  log(): Scalar {
    return this.#unary('log');
  }
  sqrt(): Scalar {
    return this.#unary('sqrt');
  }
  rsqrt(): Scalar {
    return this.#unary('rsqrt');
  }
  sin(): Scalar {
    return this.#unary('sin');
  }
  cos(): Scalar {
    return this.#unary('cos');
  }
  tanh(): Scalar {
    return this.#unary('tanh');
  }
  sigmoid(): Scalar {
    return this.#unary('sigmoid');
  }
  erf(): Scalar {
    return this.#unary('erf');
  }
  floor(): Scalar {
    return this.#unary('floor');
  }
  add(b: ScalarLike): Scalar {
    return this.#binary('add', b);
  }
  sub(b: ScalarLike): Scalar {
    return this.#binary('sub', b);
  }
  mul(b: ScalarLike): Scalar {
    return this.#binary('mul', b);
  }
  div(b: ScalarLike): Scalar {
    return this.#binary('div', b);
  }
  pow(b: ScalarLike): Scalar {
    return this.#binary('pow', b);
  }
  max(b: ScalarLike): Scalar {
    return this.#binary('max', b);
  }
  min(b: ScalarLike): Scalar {
    return this.#binary('min', b);
  }
  eq(b: ScalarLike): Condition {
    return this.#compare('eq', b);
  }
  ne(b: ScalarLike): Condition {
    return this.#compare('ne', b);
  }
  lt(b: ScalarLike): Condition {
    return this.#compare('lt', b);
  }
  le(b: ScalarLike): Condition {
    return this.#compare('le', b);
  }
  gt(b: ScalarLike): Condition {
    return this.#compare('gt', b);
  }
  ge(b: ScalarLike): Condition {
    return this.#compare('ge', b);
  }
}

export const scalar = (value: ScalarLike): Scalar =>
  typeof value === 'number' ? new Scalar({ kind: 'constant', value }) : value;
export const input = (index: number) => new Scalar({ kind: 'input', index });
export const parameter = (index: number) => new Scalar({ kind: 'parameter', index });
export const uniformOf = (k0: number, k1: number) => new Scalar({ kind: 'uniform', k0, k1 });
export const select = (condition: Condition, a: ScalarLike, b: ScalarLike): Scalar =>
  new Scalar({ kind: 'select', condition, a: scalar(a), b: scalar(b) });

/** What a backend compiles: one expression an output, over `inputs` tensors and `parameters` run-time numbers. */
export interface ElementwiseProgram {
  /** Unique: equal names mean equal programs, so it serves as a cache key. */
  readonly name: string;
  readonly inputs: number;
  readonly parameters: number;
  readonly outputs: readonly Scalar[];
}

/** The nodes of an expression in evaluation order, each once. */
export function nodesOf(roots: readonly Scalar[]): Scalar[] {
  const order: Scalar[] = [];
  const seen = new Set<Scalar>();
  const visit = (s: Scalar): void => {
    if (seen.has(s)) return;
    seen.add(s);
    for (const child of childrenOf(s)) visit(child);
    order.push(s);
  };
  for (const root of roots) visit(root);
  return order;
}

export function childrenOf({ node }: Scalar): Scalar[] {
  switch (node.kind) {
    case 'input':
    case 'constant':
    case 'parameter':
    case 'uniform':
      return [];
    case 'unary':
      return [node.a];
    case 'binary':
      return [node.a, node.b];
    case 'select':
      return [node.condition.a, node.condition.b, node.a, node.b];
  }
}

/** The same operation over other operands, in the order of `childrenOf`. */
export function withChildren(s: Scalar, children: readonly Scalar[]): Scalar {
  const { node } = s;
  const [a, b, c, d] = children;
  switch (node.kind) {
    case 'unary':
      return new Scalar({ ...node, a: a! });
    case 'binary':
      return new Scalar({ ...node, a: a!, b: b! });
    case 'select':
      return new Scalar({ ...node, condition: new Condition(node.condition.op, a!, b!), a: c!, b: d! });
    default:
      return s;
  }
}

/** The same expression with its leaves replaced. */
export function substitute(root: Scalar, replace: (node: ScalarNode) => Scalar | undefined): Scalar {
  const done = new Map<Scalar, Scalar>();
  const visit = (s: Scalar): Scalar => {
    const known = done.get(s);
    if (known) return known;
    const made = replace(s.node) ?? withChildren(s, childrenOf(s).map(visit));
    done.set(s, made);
    return made;
  };
  return visit(root);
}
