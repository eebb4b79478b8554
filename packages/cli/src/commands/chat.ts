import { createInterface } from 'node:readline/promises';
import { setAdapterEnabled } from '@lorikeet/lora';
import type { ChatTurn } from '@lorikeet/trainer';
import type { Command } from 'commander';
import {
  type Begin,
  type DeviceOptions,
  makeCommand,
  withChatTemplate,
  withDevice,
  withModel,
  withQuantization,
} from '../command.ts';
import { describeError, exitCodeOf, exitCodes, userError, withExitCode } from '../errors.ts';
import { requireTemplate } from '../model/chat-template.ts';
import { generateText, type TextOptions } from '../model/generate-text.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, type OpenedModel, openModel } from '../model/open-model.ts';
import type { QuantizationFlags } from '../model/quantization.ts';
import type { Output } from '../output.ts';
import { type SamplingFlags, textOptions, withSampling } from './generate.ts';

interface ChatFlags extends DeviceOptions, QuantizationFlags, SamplingFlags {
  readonly model?: string;
  readonly adapter?: string;
  readonly chatTemplate?: string;
  readonly compare?: boolean;
  readonly system?: string;
}

/** One exchange, for `--json`. */
interface Exchange {
  readonly user: string;
  readonly assistant: string;
  readonly base?: string;
}

/** `lorikeet chat`: talk to a model; with --compare to the base and the tuned model at once. */
export function chatCommand(begin: Begin): Command {
  return withSampling(
    withChatTemplate(
      withQuantization(withDevice(withModel(makeCommand('chat', 'talk to a model; /reset begins anew, /quit ends')))),
    ),
    512,
  )
    .option('--compare', 'answer with the base model and with the adapter')
    .option('--system <text>', 'system message')
    .action(async (flags: ChatFlags) => {
      const { files, output } = begin({ ...flags });
      const options = textOptions(flags);
      if (flags.compare && flags.adapter === undefined)
        throw userError('--compare: needs an adapter to compare with the base: none was given.', {
          fix: 'Add --adapter DIR.',
        });
      const paths = await findModelPaths(files, flags);
      await withBackend(flags, async (backend) => {
        const opened = await openModel(files, paths, backend, output);
        requireTemplate(opened.tokenizer, 'chat', 'option');
        const chat = new Chat(opened, options, flags, output);
        await chat.run();
        output.result({ command: 'chat', turns: chat.exchanges });
      });
    });
}

class Chat {
  readonly exchanges: Exchange[] = [];
  readonly #opened: OpenedModel;
  readonly #options: TextOptions;
  readonly #flags: ChatFlags;
  readonly #output: Output;
  #tuned: ChatTurn[] = [];
  #base: ChatTurn[] = [];
  #generation: AbortController | undefined;

  constructor(opened: OpenedModel, options: TextOptions, flags: ChatFlags, output: Output) {
    [this.#opened, this.#options, this.#flags, this.#output] = [opened, options, flags, output];
    this.#reset();
  }

  /** Reads lines until /quit, the end of stdin, or Ctrl-C at the prompt; Ctrl-C during an answer cuts the answer off. */
  async run(): Promise<void> {
    const interactive = process.stdin.isTTY === true && !this.#output.json;
    const lines = createInterface({
      input: process.stdin,
      terminal: interactive,
      ...(interactive ? { output: process.stdout } : {}),
    });
    const interrupt = (): void => {
      if (this.#generation) this.#generation.abort();
      else lines.close();
    };
    lines.on('SIGINT', interrupt);
    process.on('SIGINT', interrupt);
    if (interactive) {
      this.#output.print('Write a message; /reset begins anew, /quit ends.');
      lines.setPrompt(this.#output.style('you> ', 'bold'));
      lines.prompt();
    }
    try {
      for await (const line of lines) {
        const text = line.trim();
        if (text === '/quit' || text === '/exit') break;
        if (text === '/reset') this.#reset();
        else if (text !== '') await this.#answer(text).catch((error: unknown) => this.#takeBack(error, interactive));
        if (interactive) lines.prompt();
      }
    } finally {
      process.off('SIGINT', interrupt);
      lines.close();
    }
  }

  /** A message that does not fit ends a script, but not a conversation. */
  #takeBack(error: unknown, interactive: boolean): void {
    if (!interactive || exitCodeOf(error) !== exitCodes.user) throw error;
    this.#output.print();
    this.#output.progress(`${describeError(error, false)}\n  The message was taken back; /reset begins anew.`);
  }

  #reset(): void {
    const { system } = this.#flags;
    this.#tuned = system === undefined ? [] : [{ role: 'system', content: system }];
    this.#base = [...this.#tuned];
    if (this.exchanges.length > 0) this.#output.print('(begun anew)');
  }

  async #answer(user: string): Promise<void> {
    if (!this.#flags.compare) {
      const assistant = await this.#say(this.#tuned, user, 'model> ');
      this.exchanges.push({ user, assistant });
      return;
    }
    setAdapterEnabled(this.#opened.model, false);
    let base: string;
    try {
      base = await this.#say(this.#base, user, 'base>  ');
    } finally {
      setAdapterEnabled(this.#opened.model, true);
    }
    const assistant = await this.#say(this.#tuned, user, 'tuned> ');
    this.exchanges.push({ user, assistant, base });
  }

  /** One answer, streamed; the history gets both turns. A turn that does not fit is taken back. */
  async #say(history: ChatTurn[], user: string, label: string): Promise<string> {
    const { model, tokenizer } = this.#opened;
    history.push({ role: 'user', content: user });
    this.#output.stream(this.#output.style(label, 'cyan'));
    this.#generation = new AbortController();
    let said = '';
    try {
      await withExitCode(exitCodes.user, async () => {
        const ids = tokenizer.chatIds(history, { addGenerationPrompt: true });
        const options = { ...this.#options, signal: this.#generation!.signal };
        await generateText(model, tokenizer, ids, options, (piece) => {
          said += piece;
          this.#output.stream(piece);
        });
      });
    } catch (error) {
      if (!this.#generation.signal.aborted) {
        history.pop();
        throw error;
      }
      this.#output.stream(' (cut off)');
    } finally {
      this.#generation = undefined;
    }
    this.#output.print();
    history.push({ role: 'assistant', content: said });
    return said;
  }
}
