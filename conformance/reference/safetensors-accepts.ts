/**
 * The other half of safetensors_differential.py: reads files from stdin, each behind its length as u32, and prints one JSON line
 * a file: null when it can be loaded, else the message. A dtype that the format does not know is listed by the reader but cannot be
 * loaded, so it counts as refused, as in the Rust library.
 */
import { readFileSync } from 'node:fs';
import { bitsOf, parseHeader, SafetensorsError } from '@lorikeet/safetensors';

function problemOf(file: Uint8Array): string | null {
  try {
    for (const { name, formatDtype } of parseHeader(file, file.length).entries.values()) {
      if (bitsOf(formatDtype) === undefined) return `tensor ${name}: unknown dtype ${formatDtype}`;
    }
    return null;
  } catch (error) {
    if (error instanceof SafetensorsError) return error.message;
    throw error;
  }
}

const input = new Uint8Array(readFileSync(0));
const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
const lines: string[] = [];
for (let at = 0; at < input.length; ) {
  const length = view.getUint32(at, true);
  lines.push(JSON.stringify(problemOf(input.slice(at + 4, at + 4 + length))));
  at += 4 + length;
}
process.stdout.write(`${lines.join('\n')}\n`);
