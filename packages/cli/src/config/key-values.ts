/** What may be given for a key, in words: for the tables of README.md and for errors. */
import * as z from 'zod';
import { type SectionName, sectionSchemas } from './schema.ts';

/** A property of the JSON schema that zod makes of a section. */
export interface Property {
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly string[];
  readonly anyOf?: readonly Property[];
  readonly items?: Property;
  readonly pattern?: string;
  readonly default?: unknown;
  readonly description?: string;
}

const words: Readonly<Record<string, string>> = {
  boolean: 'true, false',
  integer: 'whole number',
  number: 'number',
  object: 'keys with values',
  string: 'text',
  null: 'null',
};

/** A section's keys with what the schema says of each, and those that must be given. */
export function propertiesOf(section: SectionName): {
  readonly properties: Readonly<Record<string, Property>>;
  readonly required: ReadonlySet<string>;
} {
  const { properties = {}, required = [] } = z.toJSONSchema(sectionSchemas[section], { io: 'input' });
  return { properties: properties as Record<string, Property>, required: new Set(required) };
}

/** @param quote how a literal value is written */
export function valuesOf(property: Property, quote: (literal: string) => string = (literal) => literal): string {
  const { type, const: only, enum: names, anyOf, items, pattern } = property;
  if (names) return names.map(quote).join(', ');
  if (only !== undefined) return quote(String(only));
  if (anyOf) return anyOf.map((part) => valuesOf(part, quote)).join(' or ');
  // A literal text with a number in it.
  const template = pattern && /^\^(\w+?)-\?\\d/.exec(pattern);
  if (template) return quote(`${template[1]}N`);
  return items ? `list of ${valuesOf(items, quote)}` : words[type!]!;
}
