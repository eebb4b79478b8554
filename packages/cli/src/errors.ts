/** From an error to what a person reads and what a script branches on. */
import { FileError, FormatError } from '@lorikeet/files';
import { DeviceLostError, NonFiniteError, OutOfMemoryError } from '@lorikeet/tensor';
import { TemplateError } from '@lorikeet/tokenizer';
import { WebGpuUnavailableError } from '@lorikeet/webgpu';

/** The process's exit codes: stable, scripts branch on them. */
export const exitCodes = {
  ok: 0,
  /** A wrong option, configuration or path. */
  user: 2,
  /** A file whose content cannot be used. */
  data: 3,
  /** Device missing or lost, memory exhausted. */
  device: 4,
  /** The disk failed or refused. */
  disk: 5,
  /** NaN or infinity. */
  numerical: 6,
  /** A defect of this program. */
  internal: 70,
} as const;

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

export interface ErrorDetails {
  /** A place: `train.jsonl:812`, `finetune.yaml:7 (training.learningRate)`, an option. */
  readonly where?: string;
  readonly found?: string;
  readonly expected?: string;
  /** What to do. */
  readonly fix?: string;
  readonly cause?: unknown;
}

/** An error that is the user's to solve: what failed, where, found and expected, how to fix it. */
export class CliError extends Error {
  override name = 'CliError';
  readonly exitCode: ExitCode;
  readonly details: ErrorDetails;

  constructor(exitCode: ExitCode, what: string, details: ErrorDetails = {}) {
    super(what, details.cause === undefined ? undefined : { cause: details.cause });
    this.exitCode = exitCode;
    this.details = details;
  }
}

/** A wrong option, configuration or path: exit code 2. */
export const userError = (what: string, details?: ErrorDetails): CliError =>
  new CliError(exitCodes.user, what, details);

/** Runs `work`; an error of a library whose message already says what to do gets this exit code. Errors with a code of their own keep it. */
export async function withExitCode<T>(exitCode: ExitCode, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Error && exitCodeOf(error) === exitCodes.internal && !isDefect(error))
      throw new CliError(exitCode, error.message, { cause: error });
    throw error;
  }
}

const plainNames: ReadonlySet<string> = new Set(['Error', 'RangeError', 'TypeError', 'SyntaxError']);

/** Errors of a class of their own (ShapeError) and TypeErrors that V8 raised itself ("x is not a function") are never the user's. */
const isDefect = (error: Error): boolean =>
  !plainNames.has(error.name) ||
  (error instanceof TypeError &&
    /is not (a function|iterable|defined|a constructor)|^Cannot (read|set)/.test(error.message));

const namedDataErrors = new Set(['Phi3ConfigError', 'Phi3CheckpointError', 'Phi3LoadError']);

/** The exit code of any error. */
export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof CliError) return error.exitCode;
  if (error instanceof FileError) return exitCodes.disk;
  if (error instanceof FormatError || error instanceof TemplateError) return exitCodes.data;
  if (error instanceof NonFiniteError) return exitCodes.numerical;
  if (error instanceof OutOfMemoryError || error instanceof DeviceLostError) return exitCodes.device;
  if (error instanceof WebGpuUnavailableError) return exitCodes.device;
  if (error instanceof Error && namedDataErrors.has(error.name)) return exitCodes.data;
  if (error instanceof RangeError && /memory|allocation|array buffer/i.test(error.message)) return exitCodes.device;
  return exitCodes.internal;
}

/** What `--json` prints of an error. */
export interface ErrorObject {
  readonly error: {
    readonly exitCode: ExitCode;
    readonly message: string;
    readonly where?: string;
    readonly found?: string;
    readonly expected?: string;
    readonly fix?: string;
  };
}

export function errorObject(error: unknown): ErrorObject {
  const { cause: _, ...details } = error instanceof CliError ? error.details : {};
  return { error: { exitCode: exitCodeOf(error), message: messageOf(error), ...details } };
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** What a person reads: the parts on lines of their own; the stack only with --verbose, or when the defect is ours. */
export function describeError(error: unknown, verbose: boolean): string {
  const lines = [`error: ${messageOf(error)}`];
  const { where, found, expected, fix } = error instanceof CliError ? error.details : ({} as ErrorDetails);
  if (where) lines.push(`  where:    ${where}`);
  if (found) lines.push(`  found:    ${found}`);
  if (expected) lines.push(`  expected: ${expected}`);
  if (fix) lines.push(`  fix:      ${fix}`);
  const internal = exitCodeOf(error) === exitCodes.internal;
  if (internal) lines.push('  This is a defect of lorikeet, not of your input. Please report it with the lines below.');
  if (internal || verbose) lines.push(stackOf(error));
  return lines.join('\n');
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? error.message;
  return error.cause === undefined ? own : `${own}\ncaused by: ${stackOf(error.cause)}`;
}
