/** Where a command writes: tables for people on stdout, or one JSON object; progress and notes on stderr. */

export interface OutputOptions {
  /** Exactly one JSON object on stdout and nothing else. */
  readonly json?: boolean;
  readonly verbose?: boolean;
  readonly stdout?: NodeJS.WriteStream;
  readonly stderr?: NodeJS.WriteStream;
}

export class Output {
  readonly json: boolean;
  readonly verbose: boolean;
  readonly #stdout: NodeJS.WriteStream;
  readonly #stderr: NodeJS.WriteStream;
  #told = new Set<string>();

  constructor(options: OutputOptions = {}) {
    this.json = options.json ?? false;
    this.verbose = options.verbose ?? false;
    this.#stdout = options.stdout ?? process.stdout;
    this.#stderr = options.stderr ?? process.stderr;
  }

  /** Text for people; nothing with `--json`. */
  print(text = ''): void {
    if (!this.json) this.#stdout.write(`${text}\n`);
  }

  /** A piece of a stream, without a line end; nothing with `--json`. */
  stream(text: string): void {
    if (!this.json) this.#stdout.write(text);
  }

  /** The command's one object, printed with `--json` only. */
  result(value: object): void {
    if (this.json) this.#stdout.write(`${JSON.stringify(value)}\n`);
  }

  /** Something that a person should know: stderr, each text once. */
  note(message: string): void {
    if (this.#told.has(message)) return;
    this.#told.add(message);
    this.#stderr.write(`note: ${message}\n`);
  }

  /** A line of progress on stderr. */
  progress(line: string): void {
    this.#stderr.write(`${line}\n`);
  }

  /** stderr, for a bar that draws over itself. */
  get progressStream(): NodeJS.WriteStream {
    return this.#stderr;
  }

  /** Columns of the terminal; 100 where there is none. */
  get columns(): number {
    return this.#stdout.columns || 100;
  }

  /** Whether text for people may be coloured: a terminal, and NO_COLOR (no-color.org) not set. */
  get colors(): boolean {
    return !this.json && this.#stdout.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb';
  }

  /** Bold or coloured text where that is wanted. */
  style(text: string, kind: keyof typeof codes): string {
    return this.colors ? `\u001b[${codes[kind]}m${text}\u001b[0m` : text;
  }
}

const codes = { bold: '1', dim: '2', green: '32', yellow: '33', cyan: '36', inverse: '7' } as const;

/** A reader that went away (`lorikeet train | head`) must never end a training: its error is dropped. */
export function ignoreBrokenPipes(): void {
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'EIO' && error.code !== 'ERR_STREAM_DESTROYED') throw error;
    });
}
