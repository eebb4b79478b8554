/** From a YAML file and the command line to a configuration with every value checked and every default in place. */

import { dirname, resolve } from 'node:path';
import { type FileSystem, readText } from '@lorikeet/files';
import { completeBitsAndBytesConfig, completeLoraConfig, parseLoraConfig } from '@lorikeet/lora';
import type * as z from 'zod';
import { userError } from '../errors.ts';
import { type ConfigEntry, type ConfigSection, parseOverride, parseSections } from './document.ts';
import { propertiesOf, valuesOf } from './key-values.ts';
import { nearest } from './nearest.ts';
import { camelCase, handlePythonKey, pythonKeysOf, sectionAliases } from './python-names.ts';
import { keysOf, type ResolvedConfig, type SectionName, sectionNames, sectionSchemas } from './schema.ts';

export interface LoadedConfig {
  readonly config: ResolvedConfig;
  /** What is done instead of what a key asked for, each said once. */
  readonly notes: readonly string[];
}

/** A value on its way: what it is, how the user spelled it and where. */
interface Given {
  readonly value: unknown;
  readonly spelled: string;
  readonly where: string;
  readonly weak?: boolean;
}

/** Keys of ours whose values Python spells in more ways. */
const hasOtherValues: ReadonlySet<string> = new Set(['reportTo', 'optim', 'loftqConfig']);

type Sections = Record<SectionName, Map<string, Given>>;

/**
 * Reads a configuration file. Paths in it are relative to the file.
 *
 * @param overrides of the command line, `section.key=value`; they win over the file
 * @throws CliError (exit code 2) with key path, line and, for an unknown key, the nearest one
 */
export async function loadConfig(
  files: FileSystem,
  path: string,
  overrides: readonly string[] = [],
): Promise<LoadedConfig> {
  if ((await files.kind(path)) !== 'file')
    throw userError(`config: the file must exist: there is none at ${path}.`, {
      where: '-c',
      fix: 'lorikeet init DATA writes one.',
    });
  return resolveConfig(await readText(files, path), path, overrides);
}

/** The same for a text; `file` names it and tells where its paths begin. */
export function resolveConfig(text: string, file: string, overrides: readonly string[] = []): LoadedConfig {
  const notes: string[] = [];
  const given = collect(parseSections(text, file), notes);
  const late = collect(overrides.map(parseOverride), notes, 'last wins');
  for (const name of sectionNames) for (const [key, value] of late[name]) given[name].set(key, value);
  const config = Object.fromEntries(sectionNames.map((name) => [name, checkSection(name, given[name], file)]));
  const resolved = config as unknown as ResolvedConfig;
  checkOneWidth(resolved, file);
  checkTogether(resolved, file);
  return { config: withAbsolutePaths(resolved, dirname(resolve(file)), late), notes };
}

function checkOneWidth({ quantization: { loadIn4bit, loadIn8bit } }: ResolvedConfig, file: string): void {
  if (loadIn4bit && loadIn8bit)
    throw userError('config: quantization.loadIn4bit and quantization.loadIn8bit must not both be true: they are.', {
      where: file,
      fix: 'Choose one of them.',
    });
}

/** What the schema cannot say: keys that need each other, expressions. */
function checkTogether(
  { peft, quantization: { computeDtype: _, ...quantization } }: ResolvedConfig,
  file: string,
): void {
  const { llmInt8SkipModules, ...others } = quantization;
  try {
    completeLoraConfig(peft);
    completeBitsAndBytesConfig(llmInt8SkipModules ? { ...others, llmInt8SkipModules } : others);
  } catch (cause) {
    const [, name, problem] = /^(\w+): (.*)/s.exec((cause as Error).message)!;
    const section = name === 'LoraConfig' ? 'peft' : 'quantization';
    throw userError(`config: ${section}: ${problem}`, { where: file, cause });
  }
}

function withAbsolutePaths(
  { model, quantization, data, training, peft }: ResolvedConfig,
  base: string,
  late: Sections,
): ResolvedConfig {
  // A path on the command line is relative to where the user stands.
  const from = (section: SectionName, key: string): string => (late[section].has(key) ? process.cwd() : base);
  return {
    model: {
      ...model,
      path: resolve(from('model', 'path'), model.path),
      ...(model.chatTemplatePath === undefined
        ? {}
        : { chatTemplatePath: resolve(from('model', 'chatTemplatePath'), model.chatTemplatePath) }),
    },
    quantization,
    data: {
      ...data,
      train: resolve(from('data', 'train'), data.train),
      ...(data.eval === undefined ? {} : { eval: resolve(from('data', 'eval'), data.eval) }),
    },
    training: { ...training, outputDir: resolve(from('training', 'outputDir'), training.outputDir) },
    peft,
  };
}

function collect(
  sections: readonly ConfigSection[],
  notes: string[],
  repeated: 'refused' | 'last wins' = 'refused',
): Sections {
  const out = Object.fromEntries(sectionNames.map((name) => [name, new Map()])) as Sections;
  const put = (section: SectionName, key: string, given: Given): void => {
    const before = out[section].get(key);
    if (before && given.weak) return;
    if (before && !before.weak && repeated === 'refused')
      throw userError(`config: ${section}.${key} must be given once: it is given twice.`, {
        where: given.where,
        found: `${before.spelled} (${before.where}) and ${given.spelled}`,
        fix: 'Remove one of them.',
      });
    out[section].set(key, given);
  };
  for (const section of sections) {
    const name = sectionOf(section);
    if (name === 'model' && section.entries.length === 1 && section.entries[0]!.key === '') {
      const [{ value, where }] = section.entries as [ConfigEntry];
      put('model', 'path', { value, spelled: section.name, where });
    } else for (const entry of section.entries) place(name, entry, put, notes);
  }
  return out;
}

function sectionOf({ name, where, entries }: ConfigSection): SectionName {
  const found = sectionAliases.get(camelCase(name));
  if (found === undefined) {
    const near = nearest(name, sectionAliases.keys());
    const holder = sectionNames.find((section) => keysOf(section).includes(camelCase(name)));
    throw userError(`config: unknown section ${JSON.stringify(name)}.`, {
      where,
      expected: `one of ${sectionNames.join(', ')}`,
      fix: holder ? `Put ${name} into the section ${holder}.` : near ? `Did you mean ${near}?` : 'Remove it.',
    });
  }
  if (entries[0]?.key === '' && found !== 'model')
    throw userError(`config: ${name} must be a section of keys.`, {
      where,
      found: show(entries[0].value),
      expected: 'key: value lines under it',
    });
  return found;
}

function place(
  section: SectionName,
  entry: ConfigEntry,
  put: (s: SectionName, k: string, g: Given) => void,
  notes: string[],
): void {
  const { value, where } = entry;
  const key = camelCase(entry.key);
  const given = (v: unknown): Given => ({ value: v, spelled: entry.key, where });
  // Python's None asks for the default, but for saveTotalLimit, where null says "all".
  if (keysOf(section).includes(key) && !hasOtherValues.has(key)) {
    if (value !== null || key === 'saveTotalLimit') put(section, key, given(value));
    return;
  }
  const handling = handlePythonKey(section, key, value) ?? (section === 'peft' ? handlePeftKey(entry) : undefined);
  if (handling === undefined) throw unknownKey(section, entry);
  if ('refused' in handling)
    throw userError(`config: ${section}.${entry.key}: ${handling.refused}.`, {
      where,
      found: show(value),
      fix: 'Remove this key.',
    });
  if ('into' in handling)
    for (const [inner, value] of Object.entries(handling.entries))
      place(handling.into, { key: inner, value, where }, put, notes);
  if ('section' in handling && handling.value !== null)
    put(handling.section, handling.key, { ...given(handling.value), weak: handling.weak ?? false });
  if ('note' in handling && handling.note) notes.push(`${entry.key}: ${handling.note}`);
}

/** Options that PEFT knows and this program does not have: neutral values pass, others are refused. */
function handlePeftKey({
  key,
  value,
  where,
}: ConfigEntry): { readonly note: string } | { readonly quiet: true } | undefined {
  try {
    if (parseLoraConfig({ [key]: value }, { source: 'peft' }).unknownKeys.length > 0) return undefined;
  } catch (error) {
    throw userError(`config: ${error instanceof Error ? error.message : error}`, { where, cause: error });
  }
  return value === null || value === false || key === 'task_type' || key === 'taskType'
    ? { quiet: true }
    : { note: 'has no effect here' };
}

function unknownKey(section: SectionName, { key, where }: ConfigEntry): Error {
  const near = nearest(key, [...keysOf(section), ...pythonKeysOf(section)]);
  const other = sectionNames.find((name) => name !== section && keysOf(name).includes(camelCase(key)));
  return userError(`config: unknown key ${section}.${key}.`, {
    where,
    found: key,
    expected: `a key of the section ${section}: ${keysOf(section).join(', ')}`,
    fix: other ? `Put ${key} into the section ${other}.` : near ? `Did you mean ${near}?` : 'Remove it.',
  });
}

function checkSection(section: SectionName, given: ReadonlyMap<string, Given>, file: string): unknown {
  const values = Object.fromEntries([...given].map(([key, { value }]) => [key, value]));
  const result = sectionSchemas[section].safeParse(values);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const key = String(issue!.path[0] ?? '');
  const entry = given.get(key);
  const name = `${section}.${issue!.path.join('.')}`;
  if (entry === undefined)
    throw userError(`config: ${name} must be given: it is missing.`, {
      where: file,
      fix: `Add it: ${section}:\n              ${key}: ...`,
    });
  const wanted =
    issue!.code === 'invalid_union' && issue!.path.length === 1
      ? `must be ${valuesOf(propertiesOf(section).properties[key]!)}`
      : mustBe(issue!);
  throw userError(`config: ${name} ${wanted}: got ${show(entry.value)}.`, {
    where: `${entry.where} (${section}.${entry.spelled})`,
    found: show(entry.value),
    expected: wanted.replace(/^must be /, ''),
    fix: describeKey(section, key),
  });
}

const describeKey = (section: SectionName, key: string): string | undefined => {
  const shape = sectionSchemas[section].shape as Record<string, z.ZodType>;
  const meaning = shape[key]?.description;
  return meaning && `${key}: ${meaning}.`;
};

/** A zod issue in our words. */
function mustBe(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `must be ${typeNames[issue.expected] ?? issue.expected}`;
    case 'too_small':
      return issue.origin === 'string'
        ? 'must not be empty'
        : `must be ${issue.inclusive === false ? 'above' : 'at least'} ${issue.minimum}`;
    case 'too_big':
      return Number(issue.maximum) === Infinity
        ? 'must be finite'
        : `must be ${issue.inclusive === false ? 'below' : 'at most'} ${issue.maximum}`;
    case 'invalid_value':
      return `must be one of ${issue.values.map(String).join(', ')}`;
    case 'unrecognized_keys':
      return `must not hold ${issue.keys.map((key) => JSON.stringify(key)).join(', ')}`;
    default:
      return `must be right (${issue.message})`;
  }
}

const typeNames: Readonly<Record<string, string>> = {
  int: 'a whole number',
  number: 'a number',
  string: 'a text',
  boolean: 'true or false',
  array: 'a list',
  object: 'a map',
  record: 'a map',
};

/** A value of the user's configuration, which may be shown, shortened. */
function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
