import { Module } from '@lorikeet/nn';
import { referenceBackend } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ToyPhi3 } from '../testing/toy-phi3.ts';
import { applyLora } from './apply-lora.ts';
import { completeLoraConfig, type LoraConfig } from './lora-config.ts';
import { pythonFullMatch } from './python-regex.ts';
import { matchesName, patternValue, resolveTargets } from './target-matching.ts';

const backend = referenceBackend();
const model = new ToyPhi3({ backend, layers: 3 });
const pathsOf = (config: LoraConfig, unmatched: 'error' | 'ignore' = 'error'): string[] =>
  resolveTargets(model, completeLoraConfig(config), { unmatched }).targets.map(({ path }) => path);
const messageOf = (config: LoraConfig): string => {
  try {
    pathsOf(config);
  } catch (error) {
    return (error as Error).message;
  }
  return 'no error';
};
const inLayers = (...names: string[]): string[] => [0, 1, 2].flatMap((i) => names.map((n) => `model.layers.${i}.${n}`));
const allLinear = inLayers('self_attn.qkv_proj', 'self_attn.o_proj', 'mlp.gate_up_proj', 'mlp.down_proj');

// Each row was read from PEFT's check_target_module_exists; the first column is what a user writes.
const table: readonly [name: string, config: LoraConfig, paths: readonly string[]][] = [
  ['nothing said: every linear but the head', {}, allLinear],
  ['all-linear, in any case', { targetModules: 'ALL-linear' }, allLinear],
  ['the end of a path', { targetModules: ['o_proj'] }, inLayers('self_attn.o_proj')],
  ['two ends, in the order of the tree', { targetModules: ['down_proj', 'o_proj'] }, inLayers('self_attn.o_proj', 'mlp.down_proj')],
  ['a whole path', { targetModules: ['model.layers.1.mlp.down_proj'] }, ['model.layers.1.mlp.down_proj']],
  ['more than one segment', { targetModules: ['self_attn.o_proj'] }, inLayers('self_attn.o_proj')],
  ['the head by name', { targetModules: ['lm_head'] }, ['lm_head']],
  ['an expression for the whole path', { targetModules: String.raw`model\.layers\.1\..*qkv_proj` }, ['model.layers.1.self_attn.qkv_proj']],
  ['an expression with Python groups', { targetModules: String.raw`.*\.(?P<i>[02])\.mlp\.(?:down|up)_proj` }, ['model.layers.0.mlp.down_proj', 'model.layers.2.mlp.down_proj']],
  ['excluded by name', { excludeModules: ['qkv_proj', 'gate_up_proj'] }, inLayers('self_attn.o_proj', 'mlp.down_proj')],
  ['excluded by expression', { targetModules: ['o_proj'], excludeModules: '.*[12].*' }, ['model.layers.0.self_attn.o_proj']],
  ['modules to save are never adapted', { modulesToSave: ['mlp'], targetModules: ['o_proj', 'qkv_proj'] }, inLayers('self_attn.qkv_proj', 'self_attn.o_proj')],
  ['one layer', { targetModules: ['o_proj'], layersToTransform: 2 }, ['model.layers.2.self_attn.o_proj']],
  ['some layers of a named list', { targetModules: ['o_proj'], layersToTransform: [0, 2], layersPattern: 'layers' }, ['model.layers.0.self_attn.o_proj', 'model.layers.2.self_attn.o_proj']],
  ['a whole path counts in any layer', { targetModules: ['model.layers.0.self_attn.o_proj', 'down_proj'], layersToTransform: [1] }, ['model.layers.0.self_attn.o_proj', 'model.layers.1.mlp.down_proj']],
  ['all linears of one layer', { layersToTransform: 1 }, allLinear.filter((path) => path.includes('.1.'))],
]; // biome-ignore format: a table

describe('targets', () => {
  it.each(table)('%s', (_, config, expected) => {
    expect(pathsOf(config)).toEqual(expected);
  });

  it.each([
    ['q_proj', 'model.layers.0.self_attn.qkv_proj', false],
    ['up_proj', 'model.layers.0.mlp.gate_up_proj', false],
    ['qkv_proj', 'model.layers.0.self_attn.qkv_proj', true],
    ['v_proj', 'model.layers.0.self_attn.v_proj', true],
    ['lm_head', 'lm_head', true],
    ['head', 'lm_head', false],
    ['proj', 'a.o_proj', false],
  ])('name %s means %s: %s', (entry, path, expected) => {
    expect(matchesName(entry, path)).toBe(expected);
  });

  it('a name means exactly the paths that equal it or end with it after a dot', () => {
    const name = fc.stringMatching(/^[a-c]{1,2}(\.[a-c]{1,2}){0,3}$/);
    fc.assert(
      fc.property(name, name, (entry, path) => {
        const segments = path.split('.');
        const ends = segments.map((_, i) => segments.slice(i).join('.'));
        expect(matchesName(entry, path)).toBe(ends.includes(entry));
      }),
    );
  });

  it('rank and alpha patterns: the first that matches the end wins', () => {
    const config = completeLoraConfig({
      r: 4,
      loraAlpha: 8,
      targetModules: ['o_proj', 'down_proj'],
      rankPattern: { 'layers.1.mlp.down_proj': 2, down_proj: 6 },
      alphaPattern: { '.*o_proj': 1 },
    });
    const { targets } = resolveTargets(model, config);
    expect(targets.map(({ r, loraAlpha }) => [r, loraAlpha])).toEqual([[4, 1], [6, 8], [4, 1], [2, 8], [4, 1], [6, 8]]); // biome-ignore format: pairs
    expect(patternValue({ proj: 3 }, 'a.o_proj', 9, 'rankPattern')).toBe(9);
  });
});

describe('a target that matches nothing', () => {
  it('lists the linears with their counts', () => {
    expect(messageOf({ targetModules: ['query_key_value'] })).toBe(
      'applyLora: every entry of targetModules must match a linear: "query_key_value" matches none. ' +
        "The model's linears: qkv_proj (3, as model.layers.0.self_attn.qkv_proj), o_proj (3, as model.layers.0.self_attn.o_proj), " +
        'gate_up_proj (3, as model.layers.0.mlp.gate_up_proj), down_proj (3, as model.layers.0.mlp.down_proj), lm_head (lm_head).',
    );
  });
  it('names the fused linear, also beside entries that match', () => {
    const message = messageOf({
      targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
    });
    expect(message).toContain('"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj" match none');
    for (const name of ['q_proj', 'k_proj', 'v_proj'])
      expect(message).toContain(`${name} is part of qkv_proj here: use qkv_proj`);
    for (const name of ['gate_proj', 'up_proj'])
      expect(message).toContain(`${name} is part of gate_up_proj here: use gate_up_proj`);
  });
  it('says that a module is no linear, or is excluded', () => {
    expect(messageOf({ targetModules: ['embed_tokens'] })).toContain('embed_tokens is not a linear');
    expect(messageOf({ targetModules: ['o_proj'], excludeModules: ['o_proj'] })).toContain(
      'o_proj is there, but excluded',
    );
    expect(messageOf({ targetModules: 'layers.*' })).toContain('"layers.*" matches none');
    expect(messageOf({ targetModules: ['o_proj'], layersToTransform: 7 })).toContain('not in layersToTransform');
  });
  it('is passed over where PEFT would, when told so, but never alone', () => {
    expect(pathsOf({ targetModules: ['q_proj', 'o_proj'] }, 'ignore')).toEqual(inLayers('self_attn.o_proj'));
    expect(() => pathsOf({ targetModules: ['q_proj'] }, 'ignore')).toThrow('use qkv_proj');
  });
  it('changes nothing in the model', () => {
    const before = [...model.stateEntries()].map(([path]) => path);
    expect(() => applyLora(model, { targetModules: ['o_proj', 'nothing'] })).toThrow('"nothing" matches none');
    expect([...model.stateEntries()].map(([path]) => path)).toEqual(before);
  });
  it('says so of a model without linears', () => {
    class Empty extends Module {}
    expect(() => resolveTargets(new Empty(), completeLoraConfig({}))).toThrow('The model has no linears');
  });
});

describe('expressions of Python', () => {
  it.each([
    ['(?i)MODEL.*', 'model.layers', true],
    [String.raw`\Amodel\Z`, 'model', true],
    ['(?P<a>x)(?P=a)', 'xx', true],
    ['model', 'model.layers', false],
    ['a|b', 'ab', false],
  ])('%s on %s: %s', (source, text, expected) => {
    expect(pythonFullMatch(source, 'test').test(text)).toBe(expected);
  });
  it('a broken one is an error that shows it', () => {
    expect(() => pythonFullMatch('(', 'targetModules')).toThrow('targetModules: must be a regular expression: (');
  });
});
