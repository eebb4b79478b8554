import { describe, expect, it } from 'vitest';
import { ChatTemplate, TemplateError } from './template.ts';

const render = (source: string, variables = {}) => new ChatTemplate(source).render(variables);

describe('a hostile template ends in an error', () => {
  const doubling = (n: number) =>
    `{% set ns = namespace(x='가a') %}{% for i in range(${n}) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}`;
  it.each([
    ['a huge range', '{% for i in range(100000000) %}{% endfor %}', /range\(\) must stay within 100000 items/],
    [
      'nested loops',
      '{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}',
      /rendering must stay within 2000(000 steps| milliseconds)/,
    ],
    ['doubling a string', doubling(40), /a string must stay within \d+ characters/],
    [
      'doubling a list',
      '{% set ns = namespace(x=[1,2]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}',
      /a list must stay within 100000 items/,
    ],
    [
      'a macro that calls itself',
      '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}',
      /nesting must stay within 500 levels/,
    ],
    [
      'a macro that calls itself twice',
      '{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}',
      /rendering must stay within/,
    ],
    ['deep parentheses', `{{ ${'('.repeat(20_000)}1${')'.repeat(20_000)} }}`, /chat template/],
    ['a range of fractions', '{{ range(0.5) }}', /range\(\) takes integers/],
    ['half a tag', '{% if %}', /not valid Jinja/],
    ['the clock', "{{ strftime_now('%d') }}", /Pass the date/],
  ])('%s', (_, source, message) => {
    const started = performance.now();
    expect(() => render(source)).toThrow(TemplateError);
    expect(() => render(source)).toThrow(message);
    expect(performance.now() - started).toBeLessThan(6_000);
  });
  it('stops by the clock too', () => {
    const slow = new ChatTemplate(
      '{% for i in range(1000) %}{% for j in range(100) %}{{ j }}{% endfor %}{% endfor %}',
      { maxElapsedMs: 0 },
    );
    expect(() => slow.render({})).toThrow(/0 milliseconds/);
  });
});

describe('a template reaches nothing of JavaScript', () => {
  it.each([
    '{{ messages.constructor }}',
    "{{ ''['constructor'] }}",
    '{{ messages.__proto__ }}',
    '{{ [].constructor.constructor }}',
    '{{ range.constructor }}',
    '{{ globalThis }}{{ process }}',
  ])('%s', (source) => {
    expect(render(source, { messages: [{ role: 'user' }] })).toBe('');
  });
  it('and a __proto__ key of the data stays a key', () => {
    expect(render('{{ x.y }}', { x: JSON.parse('{"__proto__":{"y":1}}') })).toBe('');
    expect(({} as Record<string, unknown>).y).toBeUndefined();
  });
});

describe('what templates use', () => {
  it('shows its own message when it refuses', () => {
    const template = new ChatTemplate("{{ raise_exception('역할이 번갈아야 합니다') }}");
    expect(() => template.render({})).toThrow(
      expect.objectContaining({ message: '역할이 번갈아야 합니다', raised: true }),
    );
  });
  it('renders ranges, loops, filters and Unicode', () => {
    expect(
      render('{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}{{ range(2) | length }}{{ x | trim }}😀', {
        x: ' مرحبا ',
      }),
    ).toBe('3212مرحبا😀');
  });
  it('may look at all messages in each of thousands of turns', () => {
    const messages = Array.from({ length: 3000 }, (_, i) => ({ role: i % 2 ? 'assistant' : 'user', content: '말' }));
    const source = '{% for m in messages %}{{ messages[loop.index0].content }}{{ messages[-1].role[0] }}{% endfor %}';
    expect(render(source, { messages })).toBe('말a'.repeat(3000));
  });
  it('may leave a loop body early any number of times', () => {
    expect(render('{% for i in range(2000) %}{% if true %}{% continue %}{% endif %}{% endfor %}끝')).toBe('끝');
  });
  it('keeps the white space rules of blocks around {% generation %}', () => {
    const source = 'a\n  {%- generation -%}\n  x\n {% endgeneration %}\nb';
    expect(new ChatTemplate(source).hasGenerationTags).toBe(true);
    expect(render(source)).toBe(
      render(source.replaceAll('endgeneration', 'endif').replaceAll('generation', 'if true')),
    );
  });
});
