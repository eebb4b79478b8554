import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parsePhi3Config } from './config.ts';
import { phi3ParameterCount, phi3Tensors } from './tensors.ts';
import { tinyConfigJson, tinyLongRope } from './testing/tiny-phi3.ts';

const shared = resolve(import.meta.dirname, '../../../../shared/data/phi3-configs');
const mini = {
  architectures: ['Phi3ForCausalLM'], model_type: 'phi3', vocab_size: 32064, hidden_size: 3072, intermediate_size: 8192,
  num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 32, max_position_embeddings: 4096,
  original_max_position_embeddings: 4096, hidden_act: 'silu', rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null,
  sliding_window: 2047, tie_word_embeddings: false, bos_token_id: 1, eos_token_id: 32000, pad_token_id: 32000,
}; // biome-ignore format: a table
const medium = {
  ...mini,
  hidden_size: 5120,
  intermediate_size: 17920,
  num_hidden_layers: 40,
  num_attention_heads: 40,
  num_key_value_heads: 10,
};
const factors = Array<number>(48).fill(1);
const phi4mini = {
  ...mini, vocab_size: 200064, num_attention_heads: 24, num_key_value_heads: 8, max_position_embeddings: 131072,
  partial_rotary_factor: 0.75, tie_word_embeddings: true, sliding_window: 262144, bos_token_id: 199999,
  eos_token_id: 199999, pad_token_id: 199999, rope_scaling: { type: 'longrope', short_factor: factors, long_factor: factors },
}; // biome-ignore format: a table

describe('parsePhi3Config', () => {
  it('reads mini, medium and Phi-4-mini, with the published parameter counts', () => {
    const counts = [mini, medium, phi4mini].map((json) => phi3ParameterCount(parsePhi3Config(json)));
    expect(counts).toEqual([3_821_079_552, 13_960_238_080, 3_836_021_760]);
    expect(phi3Tensors(parsePhi3Config(mini)).size).toBe(195);
    expect(parsePhi3Config(medium)).toMatchObject({
      headDim: 128,
      rotaryDim: 128,
      numKeyValueHeads: 10,
      slidingWindow: 2047,
    });
    const phi4 = parsePhi3Config(phi4mini);
    expect(phi4).toMatchObject({ headDim: 128, rotaryDim: 96, tieWordEmbeddings: true, eosTokenIds: [199999] });
    expect(phi3Tensors(phi4).has('lm_head.weight')).toBe(false);
    expect(phi4.longRope!.attentionFactor).toBeCloseTo(1.1902380714, 10);
  });

  it.for(['Phi-3-mini-4k-instruct', 'Phi-3-mini-128k-instruct', 'Phi-3.5-mini-instruct'])(
    'reads the published config.json of %s',
    (name, ctx) => {
      const path = resolve(shared, name, 'config.json');
      if (!existsSync(path)) return ctx.skip(`skipped: ../shared/data/phi3-configs/${name} is not on this machine`);
      const config = parsePhi3Config(JSON.parse(readFileSync(path, 'utf8')), path);
      expect(phi3ParameterCount(config)).toBe(3_821_079_552);
      expect(config.slidingWindow).toBe(name.includes('4k') ? 2047 : 262144);
      expect(config.longRope === null).toBe(name.includes('4k'));
      if (config.longRope) expect(config.longRope.attentionFactor).toBeCloseTo(1.1902380714, 10);
    },
  );

  it('reads all spellings of LongRoPE alike', () => {
    const spellings = [
      { rope_scaling: { type: 'su', ...lists }, rope_theta: 10000 },
      { rope_scaling: { type: 'yarn', ...lists }, rope_theta: 10000 },
      { rope_scaling: { rope_type: 'longrope', ...lists }, rope_theta: 10000 },
      {
        rope_theta: undefined,
        rope_parameters: { rope_type: 'longrope', rope_theta: 10000, partial_rotary_factor: 1, ...lists },
      },
    ];
    const read = spellings.map((s) => ({
      ...parsePhi3Config(tinyConfigJson({ original_max_position_embeddings: 8, ...s })),
      source: null,
    }));
    for (const config of read) expect(config).toEqual(read[0]);
    expect(read[0]!.longRope).toEqual({ shortFactor: [1, 1.5], longFactor: [2, 8], attentionFactor: Math.sqrt(2) });
  });

  it('takes attention_factor and factor where they stand', () => {
    const factorOf = (more: object) =>
      parsePhi3Config(tinyConfigJson({ rope_scaling: { ...tinyLongRope, ...more } })).longRope!.attentionFactor;
    expect(factorOf({ attention_factor: 1.25 })).toBe(1.25);
    expect(factorOf({ factor: 64 })).toBe(Math.sqrt(2));
    expect(factorOf({})).toBe(1);
  });
});

const { type: _, ...lists } = tinyLongRope;

describe('a config that is not a Phi-3', () => {
  const refuse = (changes: Record<string, unknown>): string => {
    try {
      parsePhi3Config(tinyConfigJson(changes), 'model/config.json');
    } catch (error) {
      return (error as Error).message;
    }
    return 'accepted';
  };

  it.each<[string, Record<string, unknown>, string]>([
    [
      'another architecture',
      { model_type: 'llama', architectures: ['LlamaForCausalLM'] },
      'model_type: expected "phi3", found "llama"\n  architectures: expected ["Phi3ForCausalLM"], found ["LlamaForCausalLM"]',
    ],
    [
      'Phi-3-small',
      { model_type: 'phi3small', architectures: ['Phi3SmallForCausalLM'] },
      'Phi-3-small is another architecture',
    ],
    ['no rope_theta', { rope_theta: undefined }, 'rope_theta: expected a positive number, found nothing'],
    [
      'heads that do not divide',
      { num_key_value_heads: 3 },
      'num_key_value_heads: expected a divisor of num_attention_heads 4, found 3',
    ],
    [
      'a width that heads do not divide',
      { hidden_size: 18 },
      'hidden_size: expected a multiple of num_attention_heads 4, found 18',
    ],
    ['a size that is text', { hidden_size: '16' }, 'hidden_size: expected an integer in 1 .. 16777216, found "16"'],
    ['an impossible size', { vocab_size: 1e15 }, 'vocab_size: expected an integer'],
    [
      'another rope',
      { rope_scaling: { rope_type: 'llama3' } },
      'rope_scaling.rope_type: expected "default" or "longrope", found "llama3"',
    ],
    [
      'factor lists of another length',
      { rope_scaling: { ...tinyLongRope, long_factor: [1, 2, 3] } },
      'rope_scaling.long_factor: expected 2 positive numbers (half of the rotated features), found "3 entries"',
    ],
    [
      'an odd part of a head',
      { hidden_size: 24, partial_rotary_factor: 0.5 },
      'partial_rotary_factor: expected an even number of the 6 features of a head, found 0.5',
    ],
    ['a bias', { attention_bias: true }, 'attention_bias: expected false, found true'],
    ['another activation', { hidden_act: 'gelu' }, 'hidden_act: expected "silu", found "gelu"'],
    ['dropout on attention', { attention_dropout: 0.1 }, 'attention_dropout: expected 0'],
    [
      'a padding id outside',
      { pad_token_id: 99 },
      'pad_token_id: expected null or an id below vocab_size 37, found 99',
    ],
    ['an eos id outside', { eos_token_id: [2, 99] }, 'eos_token_id: expected ids below vocab_size 37, found [2,99]'],
    ['a window of 0', { sliding_window: 0 }, 'sliding_window: expected an integer in 1'],
    ['a tie that is text', { tie_word_embeddings: 'yes' }, 'tie_word_embeddings: expected true or false, found "yes"'],
  ])('%s is named with what was expected and found', (_name, changes, message) => {
    expect(refuse(changes)).toContain(`model/config.json: must describe a Phi-3 model`);
    expect(refuse(changes)).toContain(message);
  });

  it('all problems stand in one error', () => {
    const message = refuse({ rope_theta: undefined, hidden_act: 'relu', num_hidden_layers: -1 });
    for (const field of ['rope_theta', 'hidden_act', 'num_hidden_layers']) expect(message).toContain(field);
  });
  it('never crashes otherwise, whatever JSON stands there', () => {
    const names = Object.keys(tinyConfigJson());
    fc.assert(
      fc.property(
        fc.dictionary(fc.constantFrom(...names, 'rope_scaling', 'rope_parameters', '__proto__'), fc.jsonValue(), {
          noNullPrototype: true,
        }),
        (changes) => {
          const message = refuse(changes);
          if (message !== 'accepted') expect(message).toContain('must describe a Phi-3 model');
          expect(Object.hasOwn(Object.prototype, 'vocab_size')).toBe(false);
        },
      ),
    );
    for (const value of [null, 3, 'x', []]) expect(() => parsePhi3Config(value)).toThrow('expected an object');
  });
});
