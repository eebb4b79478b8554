import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { GeneratedToken } from './generate.ts';
import { streamText } from './stream-text.ts';

/** Tokens are pieces of a text; a decoder that holds the last character back, as one in the middle of a character does. */
function decoderOf(pieces: readonly string[]) {
  let held = '';
  return {
    push(id: number): string {
      const all = held + pieces[id]!;
      held = all.slice(-1);
      return all.slice(0, -1);
    },
    end(): string {
      const rest = held;
      held = '';
      return rest;
    },
  };
}
async function* tokensOf(pieces: readonly string[], onReturn = () => {}): AsyncGenerator<GeneratedToken> {
  try {
    for (const id of pieces.keys()) yield { id, logprob: 0, isStop: pieces[id] === '<stop>' };
  } finally {
    onReturn();
  }
}
async function run(pieces: readonly string[], stopStrings: readonly string[]): Promise<string[]> {
  const out: string[] = [];
  for await (const piece of streamText(tokensOf(pieces), decoderOf(pieces), { stopStrings })) out.push(piece);
  return out;
}

describe('streamText', () => {
  it('gives the text before the first stop string, never a part of it', async () => {
    const text = fc.array(fc.stringMatching(/^[ab한]{0,3}$/), { maxLength: 8 });
    const stops = fc.array(fc.stringMatching(/^[ab한]{1,4}$/), { maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(text, stops, async (pieces, stopStrings) => {
        const whole = pieces.join('');
        const shown = await run(pieces, stopStrings);
        const begins = stopStrings.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0);
        const wanted = begins.length ? begins.map((at) => whole.slice(0, at)) : [whole];
        expect(wanted).toContain(shown.join(''));
        for (const stop of stopStrings) expect(shown.join('')).not.toContain(stop);
        expect(shown).not.toContain('');
      }),
    );
  });
  it('shows text as it comes and hides a stop token', async () => {
    expect(await run(['안녕', '하', '세요', '<stop>', 'never'], [])).toEqual(['안', '녕', '하세', '요']);
  });
  it('holds back what may become a stop string', async () => {
    expect(await run(['one', '\nUs', 'eful', '\nUser:', ' more'], ['\nUser:'])).toEqual(['on', 'e', '\nUsefu', 'l']);
  });
  it('ends the generation when a stop string is complete', async () => {
    let returned = false;
    const pieces = ['x', 'END', 'y'];
    for await (const _ of streamText(
      tokensOf(pieces, () => {
        returned = true;
      }),
      decoderOf(pieces),
      { stopStrings: ['END'] },
    ));
    expect(returned).toBe(true);
  });
  it('refuses an empty stop string', async () => {
    await expect(run(['a'], [''])).rejects.toThrow('stopStrings must not be empty');
  });
});
