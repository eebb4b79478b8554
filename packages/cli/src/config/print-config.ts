import { stringify } from 'yaml';
import type * as z from 'zod';
import { type ResolvedConfig, sectionNames, sectionSchemas } from './schema.ts';

/** A resolved configuration as YAML that trains the same again. */
export function printConfig(config: ResolvedConfig): string {
  return stringify(config, { version: '1.2', lineWidth: 0 });
}

/** Which keys a new file shows, with values of its own; all others keep their defaults. */
export type NewConfig = Readonly<Record<keyof ResolvedConfig, Readonly<Record<string, unknown>>>>;

/** A commented configuration: each key with its meaning behind it. `advice` are lines at the top. */
export function printCommentedConfig(config: NewConfig, advice: readonly string[]): string {
  const lines = advice.map((line) => (line === '' ? '#' : `# ${line}`));
  for (const section of sectionNames) {
    if (Object.keys(config[section]).length === 0) continue;
    lines.push('', `${section}:`);
    const shape = sectionSchemas[section].shape as Record<string, z.ZodType>;
    for (const [key, value] of Object.entries(config[section])) {
      const meaning = shape[key]?.description;
      const text = stringify({ [key]: value }, { version: '1.2', lineWidth: 0 }).trimEnd();
      lines.push(`  ${text.replaceAll('\n', '\n  ')}${meaning ? `  # ${meaning}` : ''}`);
    }
  }
  return `${lines.join('\n')}\n`;
}
