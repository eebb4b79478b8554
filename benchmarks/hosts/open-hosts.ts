/** Ourselves in other hosts than this process, which has V8 pair vectors as the command line does. */
import { fileURLToPath } from 'node:url';
import type { Peer } from '../peer.ts';
import { openProcessPeer } from '../process-peer.ts';
import type { HostName } from '../settings.ts';
import { openChromium } from './chromium.ts';

const libraryProgram = fileURLToPath(new URL('./library.ts', import.meta.url));

/** One peer a host and thread count, named after the host. */
export async function openHosts(hosts: readonly HostName[], threads: readonly number[]): Promise<Peer[]> {
  const opened: Peer[] = [];
  for (const count of threads) {
    if (hosts.includes('library'))
      opened.push(await openProcessPeer('library', [process.execPath, libraryProgram, `${count}`]));
    if (hosts.includes('chromium')) {
      const page = await openChromium(count);
      if (page) opened.push(page);
    }
  }
  return opened;
}
