import type { Command } from 'commander';
import { type Begin, makeCommand, withDevice } from '../command.ts';

/** placeholder until assets stand */
export function demoCommand(_begin: Begin): Command {
  return withDevice(makeCommand('demo', 'a whole fine-tuning in two minutes'));
}
