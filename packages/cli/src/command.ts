/** What every command shares: what it works with, and the options that all have. */
import type { FileSystem } from '@lorikeet/files';
import { Command, InvalidArgumentError, Option } from 'commander';
import { type DeviceName, deviceNames } from './model/open-backend.ts';
import type { Output } from './output.ts';

export interface CommandContext {
  readonly files: FileSystem;
  readonly output: Output;
}

/** Gives a command its context when it runs. */
export type Begin = (options: Readonly<Record<string, unknown>>) => CommandContext;

export interface DeviceOptions {
  readonly device: DeviceName;
  readonly threads?: number;
}

/** A command with `--json` and `--verbose`. */
export function makeCommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option('--json', 'print exactly one JSON object on stdout')
    .option('--verbose', 'print the stack of an error');
}

/** Adds `--device` and `--threads`. */
export function withDevice(command: Command): Command {
  return command
    .addOption(
      new Option('--device <name>', 'where to compute; auto is the CPU').choices([...deviceNames]).default('auto'),
    )
    .option('--threads <n>', 'CPU threads (default: one a core)', wholeNumber(1));
}

/** Adds `--model` and `--adapter`. */
export function withModel(command: Command): Command {
  return command
    .option('-m, --model <dir>', 'folder of the base model')
    .option('-a, --adapter <dir>', 'folder of an adapter, or of the run that made it');
}

/** Adds `--load-in-4bit`, `--load-in-8bit` and `--compute-dtype`. */
export function withQuantization(command: Command): Command {
  return command
    .option('--load-in-4bit', 'quantize the base to 4 bits while loading (nf4, double quantization)')
    .option('--load-in-8bit', 'quantize it to 8 bits (LLM.int8)')
    .addOption(
      new Option('--compute-dtype <name>', 'int8: faster and less exact products of 4-bit weights').choices([
        'f32',
        'int8',
      ]),
    );
}

/** Adds `--chat-template`. */
export function withChatTemplate(command: Command): Command {
  return command.option(
    '--chat-template <name|file>',
    "plain, phi3, or a Jinja file (default: the adapter's, else the model's)",
  );
}

/** Parses a whole number of at least `least`. */
export function wholeNumber(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < least || text.trim() === '')
      throw new InvalidArgumentError(`It must be a whole number of at least ${least}.`);
    return value;
  };
}

/** Parses a number in a range that `rule` names. */
export function numberWhere(holds: (value: number) => boolean, rule: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || !holds(value))
      throw new InvalidArgumentError(`It must be ${rule}.`);
    return value;
  };
}

/** Collects a repeated option. */
export const collect = (value: string, before: readonly string[] = []): string[] => [...before, value];
