/** Texts and chats through `@lorikeet/tokenizer`, compared by the hashes that reference/tokenizer.py made of Python's results. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type ChatMessage, chatTemplates, createTokenizer, type Tokenizer } from '@lorikeet/tokenizer';
import { type CaseContext, type FamilyRunner, type Finding, finding, numbersOf, SkipCase } from './findings.ts';
import { exact } from './tolerances.ts';

const runs: Readonly<Record<string, FamilyRunner>> = {
  encode: runTexts,
  decode: runIds,
  chat: runChats,
  data: runDataTexts,
};

/** A recorded case of the family: generated texts, any ids, chats, or the texts of a public data set. */
export const runTokenizerCase: FamilyRunner = (context) => runs[context.testCase.op]!(context);

/** Where the public data lies that is never committed: beside the repository. */
const publicData = join(import.meta.dirname, '../../shared/data');

interface Attributes {
  /** A tokenizer beside the recording. */
  readonly tokenizer?: string;
  /** A tokenizer in the public data. */
  readonly data?: string;
  /** A file of texts or chats in the public data. */
  readonly file?: string;
  /** Items of one hash. */
  readonly block: number;
  /** How many of the texts are compared. */
  readonly count?: number;
  /** Every how many-th text or chat of the file is compared. */
  readonly stride?: number;
  readonly template?: string;
  readonly trainingTemplate?: string;
}

const attributesOf = ({ testCase }: CaseContext) => testCase.attributes as unknown as Attributes;

async function publicFile(path: string): Promise<string> {
  const place = join(publicData, path);
  if (!existsSync(place)) throw new SkipCase(`../shared/data/${path} is not on this machine`);
  return await readFile(place, 'utf8');
}

async function openTokenizer(context: CaseContext, chatTemplate?: string): Promise<Tokenizer> {
  const { tokenizer, data } = attributesOf(context);
  const text = tokenizer
    ? await readFile(join(context.recording.directory, tokenizer, 'tokenizer.json'), 'utf8')
    : await publicFile(`${data}/tokenizer.json`);
  const tokenizerJson = JSON.parse(text);
  const hasBos = tokenizerJson.added_tokens.some(({ content }: { content: string }) => content === '<s>');
  const tokenizerConfig = { eos_token: '<|endoftext|>', ...(hasBos ? { bos_token: '<s>' } : {}) };
  const hasEos = tokenizerJson.added_tokens.some(({ content }: { content: string }) => content === '<|endoftext|>');
  return createTokenizer({ tokenizerJson, ...(hasEos ? { tokenizerConfig } : {}), chatTemplate });
}

/** The first four bytes of a SHA-256 a block, as block_hashes of reference/tokenizer.py makes them. */
function blockHashes(items: readonly (string | readonly number[])[], block: number): number[] {
  return Array.from({ length: Math.ceil(items.length / block) }, (_, i) => {
    const hash = createHash('sha256');
    for (const item of items.slice(i * block, (i + 1) * block))
      hash.update(typeof item === 'string' ? `${item}\0` : `${item.join(',')}\n`);
    return hash.digest().readInt32LE(0);
  });
}

/** Findings of every recorded result that `results` has, each a list of texts or of ids. */
function hashFindings(context: CaseContext, results: Readonly<Record<string, (string | readonly number[])[]>>) {
  const { block } = attributesOf(context);
  return Object.entries(results).map(([name, made]) =>
    finding(name, blockHashes(made, block), context.recording.tensor(context.testCase.outputs[name]!), exact),
  );
}

function storedTexts({ recording, testCase }: CaseContext): string[] {
  const { bytes } = recording.tensor(testCase.inputs.utf8 as string);
  const ends = numbersOf(recording.tensor(testCase.inputs.ends as string));
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  return Array.from(ends, (end, i) => utf8.decode(bytes.subarray(i === 0 ? 0 : ends[i - 1]!, end)));
}

function stream(tokenizer: Tokenizer, ids: readonly number[]): string {
  const decoder = tokenizer.streamDecoder();
  return ids.map((id) => decoder.push(id)).join('') + decoder.end();
}

/** Ids three ways (special tokens read, added, or taken as plain text), decoded two ways and as a stream. */
async function runTexts(context: CaseContext): Promise<Finding[]> {
  const tokenizer = await openTokenizer(context);
  const texts = storedTexts(context).slice(0, attributesOf(context).count);
  const ids = texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true }));
  return hashFindings(context, {
    ids,
    'with special tokens': texts.map((text) => tokenizer.encode(text, { allowSpecial: true })),
    'as plain text': texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false })),
    decoded: ids.map((list) => tokenizer.decode(list)),
    'decoded without special tokens': ids.map((list) => tokenizer.decode(list, { skipSpecialTokens: true })),
    streamed: ids.map((list) => stream(tokenizer, list)),
  });
}

/** Any ids in any order. */
async function runIds(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase } = context;
  const tokenizer = await openTokenizer(context);
  const stored = (name: string) => numbersOf(recording.tensor(testCase.inputs[name] as string)) as Int32Array;
  const ids = stored('ids');
  let start = 0;
  const lists = Array.from(stored('lengths'), (n) => {
    start += n;
    return [...ids.subarray(start - n, start)];
  });
  return hashFindings(context, {
    decoded: lists.map((list) => tokenizer.decode(list)),
    'decoded without special tokens': lists.map((list) => tokenizer.decode(list, { skipSpecialTokens: true })),
  });
}

/**
 * Text, ids and mask of chats: by the model's own template, again by the one with `{% generation %}` tags, and for Phi-3's by the
 * one that goes by that name here.
 */
async function runChats(context: CaseContext): Promise<Finding[]> {
  const { template, trainingTemplate } = attributesOf(context);
  const chats = await storedChats(context);
  const findings: Finding[] = [];
  const templates = { 'own template': template, 'training template': trainingTemplate };
  const named = context.testCase.name.endsWith(' phi3') ? { 'template by name': chatTemplates.phi3 } : {};
  for (const [label, chatTemplate] of Object.entries({ ...templates, ...named })) {
    const tokenizer = await openTokenizer(context, chatTemplate);
    const encoded = chats.map((chat) => tokenizer.encodeChat(chat));
    const made = hashFindings(context, {
      text: chats.map((chat) => tokenizer.applyChatTemplate(chat)),
      ids: encoded.map(({ ids }) => ids),
      mask: encoded.map(({ assistantMask }) => assistantMask.map(Number)),
      promptIds: chats.map((chat) => tokenizer.chatIds(chat, { addGenerationPrompt: true })),
    });
    findings.push(...made.map(({ what, ...rest }) => ({ what: `${what}, ${label}`, ...rest })));
  }
  return findings;
}

async function storedChats(context: CaseContext): Promise<ChatMessage[][]> {
  const { file, stride = 1 } = attributesOf(context);
  if (!file) return storedTexts(context).map((text) => JSON.parse(text));
  const lines = (await publicFile(file)).split('\n').filter((line, i) => line !== '' && i % stride === 0);
  return lines.map((line) => JSON.parse(line).messages);
}

function* strings(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value;
  else if (typeof value === 'object' && value !== null) for (const item of Object.values(value)) yield* strings(item);
}

/** The strings of a data set in order, as data_texts of reference/tokenizer.py takes them. */
async function dataTexts(path: string): Promise<string[]> {
  const text = await publicFile(path);
  const lines = text.split('\n');
  if (path.endsWith('.txt')) return lines.filter((line) => line !== '');
  return [
    ...strings(
      path.endsWith('.jsonl') ? lines.filter((line) => line.trim()).map((line) => JSON.parse(line)) : JSON.parse(text),
    ),
  ];
}

/** Every stride-th text of a data set; all of them with LORIKEET_ALL_TEXTS=1, which takes a while. */
async function runDataTexts(context: CaseContext): Promise<Finding[]> {
  const { file, stride = 1 } = attributesOf(context);
  const tokenizer = await openTokenizer(context);
  const all = process.env.LORIKEET_ALL_TEXTS === '1';
  const texts = (await dataTexts(file!)).filter((_, i) => all || i % stride === 0);
  const ids = texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true }));
  return hashFindings(context, all ? { 'ids of all texts': ids } : { ids });
}
