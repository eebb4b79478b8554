import { Environment, Interpreter, parse, type TemplateNode, type TemplateValue, tokenize } from './hugging-face.ts';

/** Bounds of one rendering. A template comes with a model somebody else made, so it is run as untrusted code. */
export interface TemplateLimits {
  /** Evaluated expressions and statements, plus a 16th of the length of each list and a 256th of that of each string they give. */
  readonly maxSteps: number;
  /** Items of one list, `range()` included. */
  readonly maxItems: number;
  /** Characters of one string, beyond four times what goes in. */
  readonly maxChars: number;
  /** A second net under `maxSteps`; rendering a chat takes about a millisecond. */
  readonly maxElapsedMs: number;
}

const defaultLimits: TemplateLimits = {
  maxSteps: 2_000_000,
  maxItems: 100_000,
  maxChars: 1_000_000,
  maxElapsedMs: 2_000,
};
const maxSourceChars = 1_000_000;
const maxDepth = 500;

/** A chat template cannot be read, went over a limit, or refused the chat (`raise_exception`; then `raised` is true and the message is its own). */
export class TemplateError extends Error {
  readonly raised: boolean;
  constructor(message: string, options: { raised?: boolean; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'TemplateError';
    this.raised = options.raised ?? false;
  }
}

/** Jinja's interpreter with a budget: everything it computes passes through `evaluate`. */
class BoundedInterpreter extends Interpreter {
  readonly #limits: TemplateLimits;
  readonly #deadline: number;
  #steps = 0;
  #depth = 0;
  #nextClockCheck = 10_000;

  constructor(environment: Environment, limits: TemplateLimits) {
    super(environment);
    this.#limits = limits;
    this.#deadline = performance.now() + limits.maxElapsedMs;
  }

  override evaluate(node: TemplateNode, environment: Environment): TemplateValue {
    this.#spend(1);
    // Before the stack overflows: the library's variable look-up would take that error for an unknown variable.
    if (this.#depth >= maxDepth) throw overLimit('nesting', 'levels', maxDepth);
    this.#depth++;
    try {
      return this.#charge(super.evaluate(node, environment));
    } finally {
      // Also when `break` or `continue` leave by an exception.
      this.#depth--;
    }
  }

  #charge(result: TemplateValue): TemplateValue {
    const { value } = result;
    if (typeof value === 'string') {
      if (value.length > this.#limits.maxChars) throw overLimit('a string', 'characters', this.#limits.maxChars);
      this.#spend(value.length >> 8);
    } else if (Array.isArray(value)) {
      if (value.length > this.#limits.maxItems) throw overLimit('a list', 'items', this.#limits.maxItems);
      // A sixteenth: templates look at `messages` in each turn, and a chat may have thousands of turns.
      this.#spend(value.length >> 4);
    }
    return result;
  }

  #spend(steps: number): void {
    this.#steps += steps;
    if (this.#steps > this.#limits.maxSteps) throw overLimit('rendering', 'steps', this.#limits.maxSteps);
    if (this.#steps < this.#nextClockCheck) return;
    this.#nextClockCheck = this.#steps + 10_000;
    if (performance.now() > this.#deadline) throw overLimit('rendering', 'milliseconds', this.#limits.maxElapsedMs);
  }
}

function overLimit(what: string, unit: string, limit: number): TemplateError {
  return new TemplateError(
    `chat template: ${what} must stay within ${limit} ${unit}: it does not. The template loops or grows without end; use the one of the model's maker.`,
  );
}

/** Python's `range`, refused before the list is made. */
function boundedRange(maxItems: number) {
  return (first: number, last?: number, step = 1): number[] => {
    const [start, stop] = last === undefined ? [0, first] : [first, last];
    if (![start, stop, step].every(Number.isSafeInteger) || step === 0)
      throw new TemplateError(
        `chat template: range() takes integers and a step other than 0: got ${[start, stop, step]}.`,
      );
    const count = Math.max(0, Math.ceil((stop - start) / step));
    if (count > maxItems) throw overLimit('range()', 'items', maxItems);
    return Array.from({ length: count }, (_, i) => start + i * step);
  };
}

function globals(limits: TemplateLimits): Record<string, unknown> {
  return {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    range: boundedRange(limits.maxItems),
    raise_exception: (message: unknown) => {
      throw new TemplateError(String(message), { raised: true });
    },
    strftime_now: () => {
      throw new TemplateError(
        'chat template: strftime_now() asks for the clock, so the same chat would not give the same tokens twice. Pass the date as a template variable instead.',
      );
    },
  };
}

/** Transformers' `{% generation %}` tag as ordinary Jinja: prints a variable, and keeps what `-`, trim_blocks and lstrip_blocks do at its borders. */
function lowerGenerationTags(source: string): string {
  return source.replace(
    /\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}/g,
    (_, left: string, end: string | undefined, right: string) =>
      `{%${left} if true %}{{ ${end ? 'generation_close_mark' : 'generation_open_mark'} }}{% endif ${right}%}`,
  );
}

/** A parsed chat template. Nothing of JavaScript's objects can be reached from it, and what it may use is bounded. */
export class ChatTemplate {
  /** True if it says itself, with `{% generation %}`, what the assistant writes. */
  readonly hasGenerationTags: boolean;
  readonly source: string;
  readonly #program: TemplateNode;
  readonly #limits: TemplateLimits;

  /** @throws {TemplateError} if the source is not a template that `@huggingface/jinja` understands. */
  constructor(source: string, limits: Partial<TemplateLimits> = {}) {
    if (source.length > maxSourceChars)
      throw new TemplateError(`chat template: at most ${maxSourceChars} characters: got ${source.length}.`);
    this.source = source;
    this.#limits = { ...defaultLimits, ...limits };
    const lowered = lowerGenerationTags(source);
    this.hasGenerationTags = lowered !== source;
    try {
      this.#program = parse(tokenize(lowered, { lstrip_blocks: true, trim_blocks: true }));
    } catch (error) {
      throw new TemplateError(`chat template: not valid Jinja: ${messageOf(error)}`, { cause: error });
    }
  }

  /** Renders with the given variables. @throws {TemplateError} */
  render(variables: Readonly<Record<string, unknown>>): string {
    const inputChars = JSON.stringify(variables).length;
    const limits = { ...this.#limits, maxChars: this.#limits.maxChars + 4 * inputChars };
    const environment = new Environment();
    const all = { ...globals(limits), generation_open_mark: '', generation_close_mark: '', ...variables };
    try {
      for (const [name, value] of Object.entries(all)) environment.set(name, value);
      return String(new BoundedInterpreter(environment, limits).run(this.#program).value);
    } catch (error) {
      if (error instanceof TemplateError) throw error;
      if (error instanceof RangeError)
        throw new TemplateError(
          "chat template: it nests or grows beyond what can be held. Use the one of the model's maker.",
          { cause: error },
        );
      throw new TemplateError(`chat template: ${messageOf(error)}`, { cause: error });
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
