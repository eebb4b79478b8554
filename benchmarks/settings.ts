/** What `pnpm bench` was asked for. */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';

export const hostNames = ['cli', 'library', 'chromium'] as const;
export type HostName = (typeof hostNames)[number];

export interface Settings {
  readonly filter: string;
  readonly rounds: number;
  /** Thread counts that ours is measured on, rising. */
  readonly threads: readonly number[];
  /** Null: all that there are. */
  readonly peers: readonly string[] | null;
  readonly hosts: readonly HostName[];
  readonly json: string | undefined;
  readonly tune: boolean;
}

const listed = (text: string): string[] => text.split(',').map((part) => part.trim());

const wholeNumber = (option: string, text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new RangeError(`bench: --${option} must be a whole number of at least 1: got ${text}.`);
  return value;
};

/** @throws RangeError for a value that an option does not take */
export function parseSettings(args: readonly string[], knownPeers: readonly string[]): Settings {
  const { values } = parseArgs({
    args: [...args],
    // What follows --tune belongs to it.
    strict: !args.includes('--tune'),
    options: {
      filter: { type: 'string', default: '' },
      rounds: { type: 'string', default: '10' },
      threads: { type: 'string' },
      peers: { type: 'string' },
      'no-peers': { type: 'boolean', default: false },
      host: { type: 'string', default: hostNames.join(',') },
      json: { type: 'string' },
      tune: { type: 'boolean', default: false },
    },
  });
  const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);
  const peers = values['no-peers'] ? [] : text(values.peers) === undefined ? null : listed(values.peers as string);
  for (const peer of peers ?? [])
    if (!knownPeers.includes(peer))
      throw new RangeError(`bench: --peers must be of ${knownPeers.join(', ')}: got ${peer}.`);
  const hosts = listed(text(values.host) ?? 'cli');
  for (const host of hosts)
    if (!(hostNames as readonly string[]).includes(host))
      throw new RangeError(`bench: --host must be of ${hostNames.join(', ')}: got ${host}.`);
  const counts =
    text(values.threads) === undefined
      ? [1, availableParallelism()]
      : listed(values.threads as string).map((count) => wholeNumber('threads', count));
  return {
    filter: text(values.filter) ?? '',
    rounds: wholeNumber('rounds', text(values.rounds) ?? '10'),
    threads: [...new Set(counts)].sort((a, b) => a - b),
    peers,
    hosts: hosts as HostName[],
    json: text(values.json),
    tune: values.tune === true,
  };
}
