/**
 * Peers live in benchmarks/peers, a workspace of its own with a folder a library: `pnpm bench` installs one when it is first
 * asked for, nothing else does.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { Peer } from './peer.ts';
import { openProcessPeer } from './process-peer.ts';

const root = fileURLToPath(new URL('./peers', import.meta.url));

/** A peer's folder below benchmarks/peers and the package there that names its version. */
export interface PeerPackage {
  readonly folder: string;
  readonly name: string;
}

const manifestOf = ({ folder, name }: PeerPackage): string => `${root}/${folder}/node_modules/${name}/package.json`;

/** Installs a peer where it is missing. False, with the reason printed, where that fails. */
export function installPeer(peer: PeerPackage): boolean {
  if (existsSync(manifestOf(peer))) return true;
  console.log(`installing ${peer.name} for the bench (once) ...`);
  const pnpm = process.env.npm_execpath?.includes('pnpm') ? [process.env.npm_execpath] : ['npx', '-y', 'pnpm@12.21.0'];
  const command = [...pnpm, 'install', '--ignore-scripts', '--frozen-lockfile', '--filter', `./${peer.folder}`];
  const { status } = spawnSync(command[0]!, command.slice(1), { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] });
  if (status !== 0) console.log(`${peer.name} is left out: it could not be installed.`);
  return status === 0;
}

/** `require` as the peer's folder sees it, and the version of its package. */
export function loadPeer(peer: PeerPackage): { require: NodeJS.Require; version: string } {
  const { version } = JSON.parse(readFileSync(manifestOf(peer), 'utf8')) as { version: string };
  return { require: createRequire(`${root}/${peer.folder}/package.json`), version };
}

/** Opens variants of a peer, each in a plain Node of its own, which runs the adapter with the name and thread count as arguments. */
export async function openNodePeers(
  peer: PeerPackage,
  adapter: string,
  variants: readonly { readonly name: string; readonly threads: number }[],
): Promise<Peer[]> {
  if (!installPeer(peer)) return [];
  const opened = variants.map(({ name, threads }) =>
    openProcessPeer(name, [process.execPath, fileURLToPath(adapter), name, String(threads)]),
  );
  const settled = await Promise.allSettled(opened);
  return settled.flatMap((result) => {
    if (result.status === 'fulfilled') return [result.value];
    console.log(`A variant of ${peer.name} is left out: ${result.reason}`);
    return [];
  });
}
