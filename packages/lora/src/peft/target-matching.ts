/** Which modules a LoraConfig means: PEFT's rules (tuners_utils.check_target_module_exists of PEFT 0.21), over paths. */
import { isLinearLike, type LinearLike, type ModuleLike, namedModules } from '@lorikeet/nn';
import { isLoraLayer } from '../lora-layer.ts';
import { type CompleteLoraConfig, isAllLinear } from './lora-config.ts';
import { pythonFullMatch } from './python-regex.ts';

/** One layer that gets an adapter, with what the patterns say of it. */
export interface LoraTarget {
  readonly path: string;
  readonly r: number;
  readonly loraAlpha: number;
}

export interface ResolvedTargets {
  readonly targets: readonly LoraTarget[];
  /** Entries of targetModules that match no linear; only where `unmatched` is 'ignore'. */
  readonly unmatched: readonly string[];
}

export interface ResolveOptions {
  /** 'error' (default) or, as PEFT when at least one entry matches, 'ignore'. */
  readonly unmatched?: 'error' | 'ignore';
  /** Last name of the output embedding, which 'all-linear' leaves out. @defaultValue 'lm_head' */
  readonly outputEmbedding?: string;
}

/** Whether a list entry means a path: the whole of it, or its end after a dot. `q_proj` does not mean `qkv_proj`. */
export const matchesName = (entry: string, path: string): boolean => path === entry || path.endsWith(`.${entry}`);

/** Every linear of a tree that is no adapter itself, by path. */
export function linearsOf(root: ModuleLike): Map<string, LinearLike> {
  const found = new Map<string, LinearLike>();
  for (const [path, module] of namedModules(root))
    if (path !== '' && isLinearLike(module) && !isLoraLayer(module)) found.set(path, module);
  return found;
}

/** The last names of linears with their counts, for messages: `qkv_proj (32, as model.layers.0.self_attn.qkv_proj)`. */
export function describeLinears(paths: readonly string[]): string {
  if (paths.length === 0) return 'The model has no linears.';
  const groups = Map.groupBy(paths, (path) => path.slice(path.lastIndexOf('.') + 1));
  const lines = [...groups].map(([name, all]) =>
    all.length > 1 ? `${name} (${all.length}, as ${all[0]})` : `${name} (${all[0]})`,
  );
  return `The model's linears: ${lines.join(', ')}.`;
}

const fusedNames: Readonly<Record<string, string>> = {
  q_proj: 'qkv_proj', k_proj: 'qkv_proj', v_proj: 'qkv_proj', gate_proj: 'gate_up_proj', up_proj: 'gate_up_proj',
}; // biome-ignore format: a table

/** The value of the first pattern whose expression matches the end of the path, else `or`. */
export function patternValue(
  patterns: Readonly<Record<string, number>>,
  path: string,
  or: number,
  what: string,
): number {
  for (const [key, value] of Object.entries(patterns))
    if (pythonFullMatch(`(.*\\.)?(${key})`, what).test(path)) return value;
  return or;
}

function isExcluded(config: CompleteLoraConfig): (path: string) => boolean {
  const { excludeModules, modulesToSave } = config;
  const byName = (path: string): boolean => modulesToSave.some((entry) => `.${path}.`.includes(`.${entry}.`));
  if (typeof excludeModules === 'string' && excludeModules !== '') {
    const pattern = pythonFullMatch(excludeModules, 'excludeModules');
    return (path) => pattern.test(path) || byName(path);
  }
  const entries = typeof excludeModules === 'string' ? [] : excludeModules;
  return (path) => entries.some((entry) => matchesName(entry, path)) || byName(path);
}

/** Whether a path lies in a layer that layersToTransform names; the index is the first number in the path. */
function inLayers({ layersToTransform, layersPattern }: CompleteLoraConfig): (path: string) => boolean {
  if (layersToTransform.length === 0) return () => true;
  const patterns = layersPattern.length ? layersPattern.map((name) => `(?:.*?\\.)?${name}`) : ['.*?\\.[^.]*'];
  const tests = patterns.map((pattern) => pythonFullMatch(`${pattern}\\.(\\d+)\\..*`, 'layersPattern'));
  return (path) => {
    const index = tests
      .map((test) => test.exec(path))
      .find((match) => match !== null)
      ?.at(-1);
    return index !== undefined && layersToTransform.includes(Number(index));
  };
}

interface Match {
  readonly paths: readonly string[];
  readonly unmatched: readonly string[];
}

function matchTargets(config: CompleteLoraConfig, candidates: readonly string[], outputEmbedding: string): Match {
  const { targetModules } = config;
  const inLayer = inLayers(config);
  if (isAllLinear(targetModules)) {
    const paths = candidates.filter((path) => !matchesName(outputEmbedding, path) && inLayer(path));
    return { paths, unmatched: paths.length ? [] : ['all-linear'] };
  }
  if (typeof targetModules === 'string') {
    const pattern = pythonFullMatch(targetModules, 'targetModules');
    const paths = candidates.filter((path) => pattern.test(path));
    return { paths, unmatched: paths.length ? [] : [targetModules] };
  }
  // A whole path is taken whatever layersToTransform says (PEFT).
  const means = (entry: string, path: string): boolean =>
    path === entry || (path.endsWith(`.${entry}`) && inLayer(path));
  return {
    paths: candidates.filter((path) => targetModules.some((entry) => means(entry, path))),
    unmatched: targetModules.filter((entry) => !candidates.some((path) => means(entry, path))),
  };
}

/** What to say of the entries that match nothing. */
function explainUnmatched(unmatched: readonly string[], root: ModuleLike, linears: readonly string[]): string {
  const others = [...namedModules(root)].map(([path]) => path).filter((path) => !linears.includes(path));
  const notes = unmatched.flatMap((entry) => {
    const name = entry.slice(entry.lastIndexOf('.') + 1);
    const fused = fusedNames[name];
    if (fused && linears.some((path) => matchesName(fused, path)))
      return [`${entry} is part of ${fused} here: use ${fused}`];
    if (linears.some((path) => matchesName(entry, path)))
      return [`${entry} is there, but excluded or not in layersToTransform`];
    if (others.some((path) => path !== '' && matchesName(entry, path))) return [`${entry} is not a linear`];
    return [];
  });
  return notes.length ? ` ${notes.join('; ')}.` : '';
}

/**
 * The layers that a configuration means, in the order of the tree.
 * @throws Error that lists the model's linears, when an entry of targetModules (or all of them) matches none
 */
export function resolveTargets(
  root: ModuleLike,
  config: CompleteLoraConfig,
  options: ResolveOptions = {},
): ResolvedTargets {
  const { unmatched: onUnmatched = 'error', outputEmbedding = 'lm_head' } = options;
  const linears = [...linearsOf(root).keys()];
  const excluded = isExcluded(config);
  const candidates = linears.filter((path) => !excluded(path));
  const { paths, unmatched } = matchTargets(config, candidates, outputEmbedding);
  if (paths.length === 0 || (unmatched.length > 0 && onUnmatched === 'error')) {
    const named = unmatched.map((entry) => JSON.stringify(entry)).join(', ');
    throw new Error(
      `applyLora: every entry of targetModules must match a linear: ${named} ${unmatched.length > 1 ? 'match' : 'matches'} none.${explainUnmatched(unmatched, root, linears)} ${describeLinears(linears)}`,
    );
  }
  const targets = paths.map((path) => ({
    path,
    r: patternValue(config.rankPattern, path, config.r, 'rankPattern'),
    loraAlpha: patternValue(config.alphaPattern, path, config.loraAlpha, 'alphaPattern'),
  }));
  return { targets, unmatched };
}
