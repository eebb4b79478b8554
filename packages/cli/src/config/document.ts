/** A YAML 1.2 file as sections of keys, each with its line: nothing is converted or merged before it is checked. */
import { isAlias, isMap, isScalar, LineCounter, type Node, type Pair, parseDocument, type YAMLMap } from 'yaml';
import { userError } from '../errors.ts';

/** A key of a section with its value as plain data. */
export interface ConfigEntry {
  readonly key: string;
  readonly value: unknown;
  /** `finetune.yaml:7`, or the option that set it. */
  readonly where: string;
}

/** A top-level section: its keys, or what stands there instead. */
export interface ConfigSection {
  readonly name: string;
  readonly where: string;
  readonly entries: readonly ConfigEntry[];
}

const maxFileBytes = 1 << 20;
// How often aliases may expand: yaml's own default, and enough for anything written by hand.
const maxAliasCount = 100;

/**
 * Reads the sections of a configuration.
 *
 * @throws CliError (exit code 2) with the line: not YAML, duplicate keys, tabs as indent, alias bombs, a section that is no map
 */
export function parseSections(text: string, file: string): ConfigSection[] {
  if (text.length > maxFileBytes)
    throw userError(`${file}: a configuration must be at most ${maxFileBytes} characters: it has ${text.length}.`);
  const lines = new LineCounter();
  const document = parseDocument(text, { version: '1.2', lineCounter: lines, prettyErrors: false, logLevel: 'silent' });
  const lineOf = (offset: number | undefined): string => `${file}:${lines.linePos(offset ?? 0).line}`;
  const [problem] = document.errors;
  if (problem)
    throw userError(`${file}: must be YAML: ${firstSentence(problem.message)}.`, {
      where: lineOf(problem.pos[0]),
      fix: problem.code === 'TAB_AS_INDENT' ? 'Indent with spaces.' : 'Correct this line.',
    });
  if (!isMap(document.contents))
    throw userError(
      `${file}: must hold sections (model, quantization, data, training, peft): it holds ${describeNode(document.contents)}.`,
      {
        where: `${file}:1`,
        fix: 'lorikeet init DATA writes a configuration to begin with.',
      },
    );
  const whereOf = (pair: Pair): string => lineOf((pair.key as Node | null)?.range?.[0]);
  return document.contents.items.map((pair) => {
    const name = keyText(pair, whereOf(pair));
    const resolved = isAlias(pair.value) ? pair.value.resolve(document) : pair.value;
    if (resolved === null || (isScalar(resolved) && resolved.value === null))
      return { name, where: whereOf(pair), entries: [] };
    if (!isMap(resolved)) {
      const scalar: ConfigEntry = { key: '', value: plain(pair.value, document, whereOf(pair)), where: whereOf(pair) };
      return { name, where: whereOf(pair), entries: [scalar] };
    }
    const entries = (resolved as YAMLMap).items.map((item) => ({
      key: keyText(item, whereOf(item)),
      value: plain(item.value, document, whereOf(item)),
      where: whereOf(item),
    }));
    return { name, where: whereOf(pair), entries };
  });
}

const firstSentence = (message: string): string => message.split(/\n| at line /)[0]!.replace(/[.:]$/, '');

const describeNode = (node: unknown): string => (node === null ? 'nothing' : 'one value or a list');

function keyText(pair: Pair, where: string): string {
  const key = isScalar(pair.key) ? pair.key.value : undefined;
  if (typeof key !== 'string')
    throw userError('configuration: every key must be a plain text.', { where, fix: 'Put the key in quotes.' });
  return key;
}

type Document = ReturnType<typeof parseDocument>;

function plain(node: unknown, document: Document, where: string): unknown {
  if (node === null || node === undefined) return null;
  try {
    return (node as Node).toJS(document, { maxAliasCount });
  } catch (error) {
    throw userError('configuration: aliases must not expand without end: this value does.', {
      where,
      fix: 'Write the value out instead of using & and *.',
      cause: error,
    });
  }
}

/** `training.learningRate=1e-4` of the command line as an entry of a section. @throws CliError (exit code 2) */
export function parseOverride(text: string): ConfigSection {
  const match = /^([\w-]+)\.([\w-]+)=([\s\S]*)$/.exec(text);
  const where = `--set ${text}`;
  if (!match)
    throw userError('--set: must be section.key=value.', {
      where,
      found: text,
      fix: 'For example: --set training.learningRate=1e-4',
    });
  const [, name, key, value] = match as unknown as [string, string, string, string];
  const document = parseDocument(value, { version: '1.2', prettyErrors: false, logLevel: 'silent' });
  if (document.errors.length) throw userError('--set: the value must be YAML.', { where, found: value });
  return { name, where, entries: [{ key, value: plain(document.contents, document, where), where }] };
}
