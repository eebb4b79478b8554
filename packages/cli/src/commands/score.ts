import { score } from '@lorikeet/phi3';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Begin, type DeviceOptions, makeCommand, withDevice, withModel, withQuantization } from '../command.ts';
import { exitCodes, userError, withExitCode } from '../errors.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, openModel } from '../model/open-model.ts';
import type { QuantizationFlags } from '../model/quantization.ts';
import { renderTable } from '../terminal/table.ts';

interface ScoreFlags extends DeviceOptions, QuantizationFlags {
  readonly model?: string;
  readonly adapter?: string;
  readonly text?: string;
  readonly ids?: readonly number[];
}

function idList(text: string): number[] {
  const ids = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN));
  if (ids.some((id) => !Number.isSafeInteger(id)))
    throw new InvalidArgumentError('It must be token ids with commas: 1,2,3.');
  return ids;
}

/** `lorikeet score`: how likely a model finds each token of a text. */
export function scoreCommand(begin: Begin): Command {
  return withQuantization(withDevice(withModel(makeCommand('score', 'log-probability of each token of a text'))))
    .addOption(new Option('--text <text>', 'the text').conflicts('ids'))
    .addOption(new Option('--ids <ids>', 'token ids: 1,2,3').argParser(idList))
    .action(async (flags: ScoreFlags) => {
      const { files, output } = begin({ ...flags });
      if (flags.text === undefined && flags.ids === undefined)
        throw userError('score: needs a text: none was given.', { fix: 'Add --text TEXT or --ids 1,2,3.' });
      const paths = await findModelPaths(files, flags);
      await withBackend(flags, async (backend) => {
        const { model, tokenizer } = await openModel(files, paths, backend, output);
        const ids = flags.ids ?? tokenizer.encode(flags.text!);
        const bad = ids.find((id) => id >= model.config.vocabSize);
        if (bad !== undefined)
          throw userError(`--ids: must be below the vocabulary of ${model.config.vocabSize}: got ${bad}.`);
        if (ids.length < 2)
          throw userError(`score: needs two tokens, the first is predicted from nothing: got ${ids.length}.`);
        const logprobs = Array.from(await withExitCode(exitCodes.user, () => score(model, ids)));
        const sum = logprobs.reduce((total, value) => total + value, 0);
        const tokens = ids.map((id, i) => ({
          id,
          token: tokenizer.idToToken(id) ?? '',
          logprob: i === 0 ? null : logprobs[i - 1]!,
        }));
        const mean = sum / logprobs.length;
        output.result({ command: 'score', tokens, sum, mean, perplexity: Math.exp(-mean) });
        output.print(
          renderTable(
            [{ title: 'id', align: 'right' }, { title: 'token' }, { title: 'log-probability', align: 'right' }],
            tokens.map(({ id, token, logprob }) => [`${id}`, token, logprob === null ? '-' : logprob.toFixed(4)]),
          ),
        );
        output.print(`\nsum ${sum.toFixed(4)}, mean ${mean.toFixed(4)}, perplexity ${Math.exp(-mean).toFixed(3)}`);
      });
    });
}
