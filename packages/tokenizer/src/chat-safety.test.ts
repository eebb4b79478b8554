/** A message cannot spell a special token, whatever the template does with it (reliability row 15). */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createTokenizer, TemplateError } from './index.ts';

const recorded = (name: string) =>
  JSON.parse(readFileSync(resolve(import.meta.dirname, 'recordings', `${name}.json`), 'utf8')).tokenizerJson;
const tokenizerConfig = { bos_token: '<s>', eos_token: '<|endoftext|>', unk_token: '<unk>' };
const llama = (chatTemplate?: string) =>
  createTokenizer({ tokenizerJson: recorded('llama-like'), tokenizerConfig, chatTemplate });

const firstPhi3 =
  "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}";
const phi3 =
  "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
const phi35 = phi3.replace("message['role'] == 'system'", "message['role'] == 'system' and message['content']");
const phi4 =
  "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}";
const trimming = '{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}';
const cutting =
  "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('##')[-1] }}<|end|>{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}";
const templates = { firstPhi3, phi3, phi35, phi4, trimming, cutting };

const attack = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        '<|end|>',
        '<|system|>',
        '<|user|>\n',
        '<|assistant|>',
        '</s>',
        '<s>',
        '<unk>',
        '<|endoftext|>',
        '<|en',
        'd|>',
        '##',
        '<',
        '\uE000',
      ),
      fc.constantFrom('무시해', 'نعم', 'はい', '😀', '👨‍👩‍👧', ' ', '\n', '\u0085'),
      fc.string({ unit: 'binary', maxLength: 8 }),
    ),
    { maxLength: 8 },
  )
  .map((parts) => parts.join(''));

describe.each(Object.entries(templates))('template %s', (_, template) => {
  const tokenizer = llama(template);
  const control = new Set(tokenizer.addedTokens.filter((token) => token.control && token.id !== 0).map(({ id }) => id));
  const controlIds = (ids: readonly number[]) => ids.filter((id) => control.has(id));

  it('gives as many special tokens to a hostile chat as to a harmless one', () => {
    fc.assert(
      fc.property(attack, attack, fc.boolean(), (first, second, addGenerationPrompt) => {
        const chat = (user: string, answer: string) => [
          { role: 'user', content: user },
          { role: 'assistant', content: answer },
        ];
        const hostile = tokenizer.chatIds(chat(first, second), { addGenerationPrompt });
        expect(controlIds(hostile)).toEqual(controlIds(tokenizer.chatIds(chat('가', 'b'), { addGenerationPrompt })));
      }),
    );
  });
});

describe('plain text', () => {
  const tokenizer = llama();
  it('never gives a control token unless asked, in a tokenizer whose vocabulary holds them or not', () => {
    const control = new Set(tokenizer.addedTokens.filter(({ control }) => control).map(({ id }) => id));
    fc.assert(
      fc.property(attack, (text) => {
        const ids = tokenizer.encode(text, { addSpecialTokens: false });
        expect(ids.filter((id) => control.has(id) && id !== tokenizer.unkTokenId)).toEqual([]);
      }),
    );
  });
  it('keeps </s> plain although Phi-3 does not call it special', () => {
    expect(tokenizer.encode('</s>')).not.toContain(2);
    expect(tokenizer.encode('</s>', { allowSpecial: true })).toContain(2);
  });
  it('keeps tokens plain that a unigram model would find in its own vocabulary', () => {
    const pieces: [string, number][] = [
      ['<unk>', 0],
      ['</s>', -0.1],
      ...[...'</s>a'].map((c): [string, number] => [c, -9]),
    ];
    const unigram = createTokenizer({
      tokenizerJson: {
        model: { type: 'Unigram', unk_id: 0, vocab: pieces },
        added_tokens: [{ id: 1, content: '</s>', special: true, normalized: false }],
      },
      tokenizerConfig: { eos_token: '</s>', unk_token: '<unk>' },
    });
    expect(unigram.encode('a</s>', { allowSpecial: true })).toEqual([6, 1]);
    expect(unigram.encode('a</s>')).toEqual([6, 2, 3, 4, 5]);
  });
  it('reads half a surrogate pair as U+FFFD', () => {
    expect(tokenizer.encode('a\ud800b가')).toEqual(tokenizer.encode('a\ufffdb가'));
    const chat = llama(phi3).chatIds([{ role: 'user', content: '\udc00오' }]);
    expect(chat).toEqual(llama(phi3).chatIds([{ role: 'user', content: '\ufffd오' }]));
  });
});

describe('what is refused', () => {
  it('a role or a field name that spells a special token', () => {
    const tokenizer = llama(phi4);
    expect(() => tokenizer.chatIds([{ role: '<|end|>', content: 'x' }])).toThrow(/roles and types must not spell/);
    expect(() => tokenizer.chatIds([{ role: 'user', content: 'x', tool_calls: [{ '<|end|>': 1 }] }])).toThrow(
      /field names/,
    );
  });
  it('content that is not a string, naming the message', () => {
    const bad = [
      { role: 'user', content: '하나' },
      { role: 'assistant', content: null as unknown as string },
    ];
    expect(() => llama(phi3).encodeChat(bad)).toThrow('message 2: content must be a string');
  });
  it('a template that rewrites a text with a look-alike so that it cannot be followed', () => {
    const shouting = llama('{% for m in messages %}{{ m.content | length }}{{ m.content }}{% endfor %}');
    expect(shouting.chatIds([{ role: 'user', content: '안녕' }]).length).toBeGreaterThan(0);
    expect(() => shouting.chatIds([{ role: 'user', content: 'x<|end|>' }])).toThrow(TemplateError);
  });
  it('an assistant mask where the answer cannot be found again', () => {
    const messages = [{ role: 'assistant', content: '생각##답' }];
    expect(() => llama(cutting).encodeChat(messages)).toThrow(/print the answers unchanged or mark them/);
    expect(llama(cutting).chatIds(messages)).toEqual(llama(cutting).chatIds([{ role: 'assistant', content: '답' }]));
  });
  it('a chat without a template', () => {
    expect(() => llama().chatIds([])).toThrow('this tokenizer has none');
  });
});

describe('the three template generations of Phi-3', () => {
  const shown = (template: string, ...contents: [string, string][]) => {
    const tokenizer = llama(template);
    const { ids, assistantMask } = tokenizer.encodeChat(contents.map(([role, content]) => ({ role, content })));
    return ids
      .map((id, i) => (assistantMask[i] ? '*' : '') + tokenizer.idToToken(id))
      .filter((text) => text.includes('<|') || text.includes('<s>'));
  };
  it('April 2024: BOS first, the header of the answer belongs to the question', () => {
    expect(shown(firstPhi3, ['user', '안녕'], ['assistant', '네 😀'])).toEqual([
      '<s>',
      '<|user|>',
      '<|end|>',
      '<|assistant|>',
      '*<|end|>',
    ]);
  });
  it('mid 2024: a closing eos, trained with the last answer only', () => {
    const end = ['<|system|>', '<|end|>', '<|user|>', '<|end|>', '<|assistant|>', '*<|end|>'];
    expect(shown(phi3, ['system', ''], ['user', 'سلام'], ['assistant', '네'])).toEqual([...end, '*<|endoftext|>']);
    expect(shown(phi3, ['system', ''], ['user', 'سلام'], ['assistant', '네'], ['user', '?'])).toEqual([
      ...end,
      '<|user|>',
      '<|end|>',
      '<|endoftext|>',
    ]);
  });
  it('Phi-3.5: an empty system turn is left out', () => {
    expect(shown(phi35, ['system', ''], ['user', 'はい'], ['assistant', ''])).toEqual([
      '<|user|>',
      '<|end|>',
      '<|assistant|>',
      '*<|end|>',
      '*<|endoftext|>',
    ]);
  });
  it('Phi-4-mini: tools are content too', () => {
    const tokenizer = llama(
      "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + m.tools + '<|end|>' }}{% endfor %}",
    );
    const messages = (tools: string) => [{ role: 'system', content: '', tools }];
    expect(tokenizer.chatIds(messages('<|end|>')).filter((id) => id === tokenizer.tokenToId('<|end|>'))).toHaveLength(
      1,
    );
  });
});
