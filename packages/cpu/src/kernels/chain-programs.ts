/**
 * Which elementwise programs follow each other, and one program for each such chain. A chain is compiled only when it comes
 * again, and there is an upper bound: a program that never does the same twice compiles nothing here.
 */
import {
  childrenOf,
  type ElementwiseProgram,
  input,
  parameter,
  type Scalar,
  substitute,
  uniformOf,
  withChildren,
} from '@lorikeet/tensor';

/** Chains that are remembered, and kernels made for them, at most. */
const maxChains = 1000;
const maxPrograms = 300;

/** Where an input of a link comes from: a tensor of the chain, by its number, or the result of an earlier link. */
export type Source = { readonly tensor: number } | { readonly link: number };

/** A chain so far: its last program, how that is connected, and what was seen to follow. */
export class Chain {
  readonly program: ElementwiseProgram;
  readonly before: Chain | null;
  readonly sources: readonly Source[];
  readonly #next = new Map<ElementwiseProgram, Map<number, Chain>>();
  /** By which results are wanted: bit i for link i. */
  readonly #merged: (ElementwiseProgram | undefined)[] = [];
  readonly #wanted: boolean[] = [];

  constructor(program: ElementwiseProgram, before: Chain | null, sources: readonly Source[]) {
    this.program = program;
    this.before = before;
    this.sources = sources;
  }

  next(program: ElementwiseProgram, wiring: number): Chain | undefined {
    return this.#next.get(program)?.get(wiring);
  }

  add(chain: Chain, wiring: number): void {
    let byWiring = this.#next.get(chain.program);
    if (!byWiring) this.#next.set(chain.program, (byWiring = new Map()));
    byWiring.set(wiring, chain);
  }

  /** The program that gives the wanted results; undefined where it is asked for the first time, or where there are too many. */
  merged(wanted: number, budget: { programs: number }): ElementwiseProgram | undefined {
    const known = this.#merged[wanted];
    if (known) return known;
    if (!this.#wanted[wanted]) {
      this.#wanted[wanted] = true;
      return undefined;
    }
    if (budget.programs >= maxPrograms) return undefined;
    budget.programs++;
    return (this.#merged[wanted] = merge(this, wanted));
  }
}

/** All chains that a backend has seen. */
export class Chains {
  readonly #first = new Map<ElementwiseProgram, Chain>();
  #count = 0;
  readonly budget = { programs: 0 };

  /** The chain of one program. */
  start(program: ElementwiseProgram): Chain {
    let chain = this.#first.get(program);
    if (!chain) {
      chain = new Chain(program, null, tensorsFrom(0, program.inputs));
      if (this.#count++ < maxChains) this.#first.set(program, chain);
    }
    return chain;
  }

  /** Notes that `program` may follow, for the next time. */
  learn(chain: Chain, program: ElementwiseProgram, wiring: number, sources: readonly Source[]): void {
    if (this.#count++ < maxChains) chain.add(new Chain(program, chain, sources), wiring);
  }
}

const tensorsFrom = (first: number, count: number): Source[] =>
  Array.from({ length: count }, (_, i) => ({ tensor: first + i }));

function linksOf(chain: Chain): Chain[] {
  const links: Chain[] = [];
  for (let link: Chain | null = chain; link; link = link.before) links.unshift(link);
  return links;
}

/** The links' expressions put into each other: the same operations on the same numbers, so the same bits. */
function merge(chain: Chain, wanted: number): ElementwiseProgram {
  const links = linksOf(chain);
  const results: Scalar[] = [];
  const unique = new Unique();
  let [inputs, parameters] = [0, 0];
  for (const { program, sources } of links) {
    const base = parameters;
    const values = sources.map((source) => {
      if ('link' in source) return results[source.link]!;
      inputs = Math.max(inputs, source.tensor + 1);
      return input(source.tensor);
    });
    const body = substitute(program.outputs[0]!, (node) => {
      if (node.kind === 'input') return values[node.index]!;
      if (node.kind === 'parameter') return parameter(base + node.index);
      return node.kind === 'uniform' ? uniformOf(base + node.k0, base + node.k1) : undefined;
    });
    results.push(unique.of(body));
    parameters += program.parameters;
  }
  const name = links.map(({ program, sources }) => `${program.name}(${sources.map(sourceName)})`).join('>');
  return { name: `${name}#${wanted}`, inputs, parameters, outputs: results.filter((_, i) => (wanted >> i) & 1) };
}

const sourceName = (source: Source): string => ('link' in source ? `=${source.link}` : `${source.tensor}`);

/** Equal subexpressions as one object, which a lowering computes once: swiglu's two gradients share a sigmoid. */
class Unique {
  readonly #byText = new Map<string, Scalar>();
  readonly #numbers = new Map<Scalar, number>();

  of(root: Scalar): Scalar {
    const done = new Map<Scalar, Scalar>();
    const visit = (s: Scalar): Scalar => {
      const known = done.get(s);
      if (known) return known;
      const children = childrenOf(s).map(visit);
      const text = this.#textOf(s, children);
      let made = this.#byText.get(text);
      if (!made) {
        made = withChildren(s, children);
        this.#byText.set(text, made);
        this.#numbers.set(made, this.#numbers.size);
      }
      done.set(s, made);
      return made;
    };
    return visit(root);
  }

  #textOf({ node }: Scalar, children: readonly Scalar[]): string {
    const below = children.map((child) => this.#numbers.get(child)).join(' ');
    switch (node.kind) {
      case 'constant':
        return `constant ${Object.is(node.value, -0) ? '-0' : node.value}`;
      case 'input':
      case 'parameter':
        return `${node.kind} ${node.index}`;
      case 'uniform':
        return `uniform ${node.k0} ${node.k1}`;
      case 'select':
        return `select ${node.condition.op} ${below}`;
      default:
        return `${node.op} ${below}`;
    }
  }
}
