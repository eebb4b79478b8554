/** The command line: commands, the options all of them have, and errors turned into exit codes. */
import { type FileSystem, nodeFiles } from '@lorikeet/files';
import { Command, CommanderError } from 'commander';
import type { Begin } from './command.ts';
import { chatCommand } from './commands/chat.ts';
import { dataCommand } from './commands/data.ts';
import { demoCommand } from './commands/demo.ts';
import { doctorCommand } from './commands/doctor.ts';
import { evalCommand } from './commands/eval.ts';
import { generateCommand } from './commands/generate.ts';
import { initCommand } from './commands/init.ts';
import { inspectCommand } from './commands/inspect.ts';
import { mergeCommand } from './commands/merge.ts';
import { planCommand } from './commands/plan.ts';
import { quantizeCommand } from './commands/quantize.ts';
import { scoreCommand } from './commands/score.ts';
import { trainCommand } from './commands/train.ts';
import { describeError, type ErrorObject, errorObject, exitCodeOf, exitCodes } from './errors.ts';
import { Output } from './output.ts';
import { version } from './version.ts';

const commands = [
  demoCommand,
  initCommand,
  planCommand,
  trainCommand,
  evalCommand,
  chatCommand,
  generateCommand,
  scoreCommand,
  mergeCommand,
  quantizeCommand,
  inspectCommand,
  doctorCommand,
  dataCommand,
];

/** The whole program; `begin` makes what a command works with from its options. */
function buildProgram(begin: Begin, writeOut: (text: string) => void): Command {
  const program = new Command('lorikeet')
    .description('Fine-tune Phi-3 with LoRA: no GPU, no account, no network.')
    .version(version)
    .showSuggestionAfterError(true);
  for (const make of commands) program.addCommand(make(begin));
  program.addHelpText(
    'after',
    `
Begin with:
  lorikeet demo                 a whole fine-tuning in two minutes
  lorikeet init chats.jsonl     a configuration for your own data
  lorikeet train -c finetune.yaml

Exit codes: 0 ok or interrupted, 2 option or configuration, 3 data, 4 device or memory, 5 disk, 6 NaN, 70 defect.`,
  );
  for (const command of [program, ...program.commands, ...program.commands.flatMap((c) => c.commands)])
    command.exitOverride().configureOutput({ writeOut, writeErr: () => undefined });
  return program;
}

export interface CliHost {
  readonly files: FileSystem;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
}

/** Runs a command line and returns its exit code. Nothing is thrown. */
export async function runCli(argv: readonly string[], host: Partial<CliHost> = {}): Promise<number> {
  const json = argv.includes('--json');
  const verbose = argv.includes('--verbose');
  const streams = { stdout: host.stdout ?? process.stdout, stderr: host.stderr ?? process.stderr };
  const output = new Output({ json, verbose, ...streams });
  const files = host.files ?? nodeFiles();
  const program = buildProgram(
    () => ({ files, output }),
    (text) => streams.stdout.write(text),
  );
  try {
    if (argv.length === 0) {
      output.print(program.helpInformation());
      return exitCodes.ok;
    }
    await program.parseAsync([...argv], { from: 'user' });
    return exitCodes.ok;
  } catch (error) {
    if (error instanceof CommanderError) return reportUsage(error, output, streams.stderr);
    streams.stderr.write(`${describeError(error, verbose)}\n`);
    output.result(errorObject(error));
    return exitCodeOf(error);
  }
}

function reportUsage(error: CommanderError, output: Output, stderr: NodeJS.WriteStream): number {
  if (error.exitCode === 0) return exitCodes.ok; // --help, --version
  const message = error.message.replace(/^error: /, '');
  stderr.write(
    `error: ${message}\n  fix:      lorikeet --help lists the commands, lorikeet COMMAND --help its options.\n`,
  );
  const object: ErrorObject = { error: { exitCode: exitCodes.user, message } };
  output.result(object);
  return exitCodes.user;
}
