import type { FileSystem } from '@lorikeet/files';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { type Command, Option } from 'commander';
import {
  type Begin,
  collect,
  type DeviceOptions,
  makeCommand,
  numberWhere,
  wholeNumber,
  withChatTemplate,
  withDevice,
  withModel,
  withQuantization,
} from '../command.ts';
import { exitCodes, userError, withExitCode } from '../errors.ts';
import { requireTemplate } from '../model/chat-template.ts';
import { generateText, type TextOptions } from '../model/generate-text.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, openModel } from '../model/open-model.ts';
import type { QuantizationFlags } from '../model/quantization.ts';

/** How text is continued; shared with chat. */
export interface SamplingFlags {
  readonly maxNewTokens: number;
  readonly greedy?: boolean;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly seed: number;
  readonly stop: readonly string[];
}

/** Adds the options of sampling. */
export function withSampling(command: Command, maxNewTokens: number): Command {
  return command
    .option('--max-new-tokens <n>', 'tokens to generate at most', wholeNumber(1), maxNewTokens)
    .option('--greedy', 'always the most likely token (what happens without a sampling option)')
    .option(
      '--temperature <x>',
      'sample; above 1 more varied, below 1 less',
      numberWhere((x) => x > 0, 'above 0'),
    )
    .option('--top-k <n>', 'sample among the k most likely tokens', wholeNumber(1))
    .option(
      '--top-p <x>',
      'sample among the most likely tokens that sum to this',
      numberWhere((x) => x > 0 && x <= 1, 'in (0, 1]'),
    )
    .option(
      '--min-p <x>',
      'sample among tokens at least this part as likely as the best',
      numberWhere((x) => x >= 0 && x <= 1, 'in [0, 1]'),
    )
    .option(
      '--repetition-penalty <x>',
      'above 1 makes tokens less likely to come again',
      numberWhere((x) => x > 0, 'above 0'),
    )
    .option('--seed <n>', 'seed of sampling', wholeNumber(0), 0)
    .option('--stop <text>', 'end before this text; may be repeated', collect, []);
}

/** Options of the generation from the flags; any sampling flag samples, none is greedy. */
export function textOptions(flags: SamplingFlags): TextOptions {
  const { maxNewTokens, greedy, temperature, topK, topP, minP, repetitionPenalty, seed, stop } = flags;
  const asked = [temperature, topK, topP, minP].some((value) => value !== undefined);
  if (greedy && asked)
    throw userError('--greedy: takes no sampling option: one was given.', {
      fix: 'Leave out --greedy, or --temperature, --top-k, --top-p and --min-p.',
    });
  const given = Object.fromEntries(
    Object.entries({ temperature, topK, topP, minP, repetitionPenalty }).filter(([, value]) => value !== undefined),
  );
  return { maxNewTokens, seed, stopStrings: stop, doSample: asked, ...given };
}

interface GenerateFlags extends DeviceOptions, QuantizationFlags, SamplingFlags {
  readonly model?: string;
  readonly adapter?: string;
  readonly prompt?: string;
  readonly chatTemplate?: string;
  readonly chat?: boolean;
  readonly raw?: boolean;
}

/** `lorikeet generate`: one text from one prompt. */
export function generateCommand(begin: Begin): Command {
  const command = withSampling(
    withChatTemplate(
      withQuantization(withDevice(withModel(makeCommand('generate', 'continue a prompt, or answer it as a chat')))),
    ),
    256,
  );
  return command
    .option('-p, --prompt <text>', 'the prompt; - reads it from stdin')
    .addOption(
      new Option('--chat', 'the prompt is what a user says (default where the model has a chat template)').conflicts(
        'raw',
      ),
    )
    .addOption(new Option('--raw', 'the prompt is the beginning of the text'))
    .action(async (flags: GenerateFlags) => {
      const { files, output } = begin({ ...flags });
      const options = textOptions(flags);
      const prompt = await readPrompt(flags.prompt);
      const paths = await findModelPaths(files as FileSystem, flags);
      await withBackend(flags, async (backend) => {
        const { model, tokenizer } = await openModel(files, paths, backend, output);
        const isChat = flags.chat ?? (!flags.raw && tokenizer.chatTemplate !== undefined);
        if (isChat) requireTemplate(tokenizer, 'generate', 'option');
        const promptIds = await promptTokens(tokenizer, prompt, isChat);
        const start = performance.now();
        const made = await withExitCode(exitCodes.user, () =>
          generateText(model, tokenizer, promptIds, options, (piece) => output.stream(piece)),
        );
        const seconds = (performance.now() - start) / 1000;
        output.print();
        output.result({
          command: 'generate',
          text: made.text,
          ids: made.ids,
          promptIds,
          finishReason: made.finishReason,
          tokensPerSecond: made.ids.length / seconds,
        });
      });
    });
}

async function readPrompt(given: string | undefined): Promise<string> {
  if (given === undefined)
    throw userError('--prompt: must be given: it is missing.', {
      fix: 'Add --prompt TEXT, or --prompt - to read it from stdin.',
    });
  if (given !== '-') return given;
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

async function promptTokens(tokenizer: Tokenizer, prompt: string, isChat: boolean): Promise<number[]> {
  if (isChat)
    return withExitCode(exitCodes.user, () =>
      tokenizer.chatIds([{ role: 'user', content: prompt }], { addGenerationPrompt: true }),
    );
  const ids = tokenizer.encode(prompt);
  if (ids.length > 0) return ids;
  if (tokenizer.bosTokenId === undefined)
    throw userError('--prompt: must not be empty: this model has no token to begin with.');
  return [tokenizer.bosTokenId];
}
