/**
 * Loaded with --import: gives one source file another text, named by LORIKEET_MUTATION, while the tree stays as it is.
 */
import { registerHooks } from 'node:module';
import { pathToFileURL } from 'node:url';

/** One change: `from` occurs once in the file. */
export interface Change {
  readonly path: string;
  readonly from: string;
  readonly to: string;
}

const given = process.env.LORIKEET_MUTATION;
if (given) {
  const { path, from, to } = JSON.parse(given) as Change;
  const target = pathToFileURL(path).href;
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      if (url !== target || !loaded.source) return loaded;
      const text = typeof loaded.source === 'string' ? loaded.source : new TextDecoder().decode(loaded.source);
      return { ...loaded, source: text.replace(from, () => to) };
    },
  });
}
