#!/usr/bin/env node
import { ignoreBrokenPipes } from './output.ts';
import { runCli } from './program.ts';

ignoreBrokenPipes();
process.exitCode = await runCli(process.argv.slice(2));
