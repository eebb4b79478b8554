/**
 * KernelParameters of kernels that depend on the machine: the defaults, which came from a search on the machine named below, and the
 * check of a table that another search (`pnpm bench --tune`) wrote.
 */

/** Names of the parameters, what they may be, and what they are by default. Bytes, rows and columns as the names say. */
export const tunable = {
  /** Steps of k between two visits to C. It orders the sums. */
  'matmul.blockK': { choices: [128, 192, 256, 384, 512], value: 256 },
  /** Rows and columns of the register tile where V8 pairs vectors, and where it does not. */
  'matmul.pairedTile': { choices: ['6x16', '4x16', '6x8', '4x8'], value: '6x16' },
  'matmul.plainTile': { choices: ['6x16', '4x16', '6x8', '4x8'], value: '4x8' },
  /** Rows of A swept with one panel of B. */
  'matmul.sweepRows': { choices: [48, 96, 144, 192, 288, 384], value: 192 },
  /** Rows and columns of C that a task computes at most. */
  'matmul.taskRows': { choices: [96, 192, 384, 768, 1536], value: 768 },
  'matmul.taskColumns': { choices: [32, 64, 128, 256], value: 128 },
  /** A product is cut until it has so many tasks. */
  'matmul.enoughTasks': { choices: [4, 8, 16, 32, 64], value: 16 },
  /** Multiply-adds below which one thread is faster than waking another. */
  'matmul.oneTaskWork': { choices: [16384, 32768, 65536, 131072, 262144], value: 65536 },
  'matmul.packElementsPerChunk': { choices: [16384, 32768, 65536, 131072], value: 65536 },
  /** Rows of the smaller operand up to which products are dot products of rows as they lie. It orders the sums. */
  'dots.rows': { choices: [0, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64], value: 24 },
  /** Rows of the smaller operand up to which the larger one is read from the store, where V8 pairs no loads; else copied. */
  'dots.farRows': { choices: [0, 1, 2, 4, 8], value: 2 },
  /** Bytes of the larger operand that a chunk reads. */
  'dots.bytesPerChunk': { choices: [65536, 131072, 262144, 524288], value: 262144 },
  /** Bytes of the smaller operand that stay in the first-level cache. */
  'dots.blockBytes': { choices: [8192, 16384, 24576, 32768, 65536, 131072, 1048576], value: 24576 },
  /** Rows of the larger operand taken together. */
  'dots.groupRows': { choices: [4, 8, 16, 32], value: 8 },
} as const satisfies Record<string, Parameter>;

interface Parameter {
  readonly choices: readonly (number | string)[];
  readonly value: number | string;
}

export type ParameterName = keyof typeof tunable;
/** A value for each parameter. */
export type KernelParameters = { readonly [N in ParameterName]: (typeof tunable)[N]['choices'][number] };

export type TileName = KernelParameters['matmul.pairedTile'];

const names = Object.keys(tunable) as ParameterName[];

/** Where the defaults were found. */
export const shipped = { hardware: 'Intel Xeon (Sapphire Rapids) at 2.8 GHz, 2 cores', date: '2026-11-26' };

export const defaults = Object.fromEntries(names.map((name) => [name, tunable[name].value])) as KernelParameters;

/** A table's format and the set of its parameters; a table of another version is refused. */
export const tuningVersion = 1;

/** What `pnpm bench --tune` writes. */
export interface Tuning {
  readonly version: typeof tuningVersion;
  /** Processor, its threads, and the host: for people. */
  readonly hardware: string;
  /** ISO date of the search. */
  readonly date: string;
  /** Those that differ from the defaults may stand alone. */
  readonly parameters: Partial<KernelParameters>;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const again = 'Make a new one with pnpm bench --tune FILE.';

/** A table, checked: throws TypeError for another form, RangeError for a version, key or value that this version has not. */
export function readTuning(table: unknown): Tuning {
  if (!isRecord(table))
    throw new TypeError(`cpu tuning: a table must be an object: got ${JSON.stringify(table)}. ${again}`);
  const { version, hardware, date, parameters: given, ...rest } = table;
  if (version !== tuningVersion)
    throw new RangeError(`cpu tuning: version must be ${tuningVersion}: got ${JSON.stringify(version)}. ${again}`);
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined)
    throw new RangeError(`cpu tuning: keys must be version, hardware, date, parameters: got ${unknown}. Remove it.`);
  for (const [name, value] of Object.entries({ hardware, date }))
    if (typeof value !== 'string')
      throw new TypeError(`cpu tuning: ${name} must be a text: got ${JSON.stringify(value)}. ${again}`);
  if (!isRecord(given))
    throw new TypeError(`cpu tuning: parameters must be an object: got ${JSON.stringify(given)}. ${again}`);
  for (const [name, value] of Object.entries(given)) {
    if (!names.includes(name as ParameterName))
      throw new RangeError(`cpu tuning: parameters must be among ${names.join(', ')}: got ${name}. ${again}`);
    const { choices } = tunable[name as ParameterName];
    if (!(choices as readonly unknown[]).includes(value))
      throw new RangeError(
        `cpu tuning: ${name} must be one of ${choices.join(', ')}: got ${JSON.stringify(value)}. ${again}`,
      );
  }
  return table as unknown as Tuning;
}
