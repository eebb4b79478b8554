/** Cases made of specs: the same work for our backends, for ourselves in other hosts, and for every peer that has it. */
import type { BenchCase, BenchContender, BenchContext, Limit } from './case.ts';
import { checkerOf } from './check.ts';
import { evict, fiveHundredOps } from './conditions.ts';
import { ourWork } from './ours/work.ts';
import type { Peer, PeerWork, WorkSpec } from './peer.ts';

export interface SpecCase<Spec extends WorkSpec> {
  readonly name: string;
  readonly shape: string;
  readonly unit: 'GFLOP/s' | 'GB/s';
  /** What is measured, by the end of the row's name; peers do the first. Others are also compared with the first. */
  readonly variants: Readonly<Record<string, () => Spec>>;
  /** FLOP or bytes of one call. */
  readonly work: (spec: Spec) => number;
  readonly limit: (spec: Spec) => Limit;
  /**
   * 'main': rows in every host, with cold caches and after 500 other ops. 'paired': beside ourselves without pairs, on the
   * fewest threads.
   */
  readonly also?: 'main' | 'paired';
  /** Peers on every thread count, not on the most alone. Default false: a run has an end. */
  readonly everyPeer?: boolean;
  /** Whom to ask, by name: those that other shapes have shown to be slow would need most of a run. Default all. */
  readonly peers?: (name: string) => boolean;
}

interface Part {
  readonly label: string;
  readonly row: string;
  readonly spec: WorkSpec;
  readonly work: number;
  readonly limit: Limit;
  readonly versus: Readonly<Record<string, string>>;
  readonly check: ReturnType<typeof checkerOf>;
}

const timing = ({ run, seconds }: PeerWork) => ({ ...(run && { run }), ...(seconds && { seconds }) });

async function checked(part: Part, name: string, work: PeerWork, context: BenchContext): Promise<PeerWork> {
  context.defer(() => work.dispose());
  part.check(`${part.row}, ${name}`, await work.result(), work.roundoff);
  return work;
}

/** Ours on every thread count. */
async function ours(part: Part, also: SpecCase<WorkSpec>['also'], context: BenchContext): Promise<BenchContender[]> {
  const contenders: BenchContender[] = [];
  for (const [threads, backend] of context.backends) {
    const work = await checked(part, `${threads} threads`, ourWork(part.spec, backend)!, context);
    const { row: name, limit, versus } = part;
    contenders.push({
      name: `${name}, ${threads} threads`,
      work: part.work,
      run: work.run!,
      row: { name, threads, limit, versus },
    });
    if (also !== 'main') continue;
    const after = { 'cold caches': evict(backend), 'after 500 ops': fiveHundredOps(backend, context.defer) };
    for (const [condition, prepare] of Object.entries(after))
      contenders.push({
        name: `${name}, ${condition}, ${threads} threads`,
        work: part.work,
        seconds: () => afterEach(prepare, work.run!),
        row: { name: `${name}, ${condition}`, threads, limit, versus: { 'lorikeet, warm': name } },
      });
  }
  return contenders;
}

/** Seconds of a call right after something else, the mean of three. */
async function afterEach(prepare: () => void, run: () => unknown): Promise<number> {
  let seconds = 0;
  for (let i = 0; i < 3; i++) {
    prepare();
    const start = performance.now();
    await run();
    seconds += (performance.now() - start) / 3000;
  }
  return seconds;
}

/** Ourselves elsewhere: a row of its own for a main case, and the column that shows what pairing vectors is worth. */
async function elsewhere(part: Part, isMain: boolean, host: Peer, context: BenchContext): Promise<BenchContender[]> {
  const fewest = Math.min(...context.backends.keys());
  if (!isMain && (host.name !== 'library' || host.threads !== fewest)) return [];
  const made = await host.work(part.spec);
  if (made === null) return [];
  const work = await checked(part, host.name, made, context);
  const { threads, version } = host;
  const name = `${part.row}, ${host.name}`;
  return [
    {
      name: `${name}, ${threads} threads`,
      work: part.work,
      ...timing(work),
      ...(isMain && { row: { name, threads, limit: part.limit } }),
      ...(host.name === 'library' && {
        peer: { name: 'lorikeet, not paired', version, threads, sameThreads: true, of: [part.row] },
      }),
    },
  ];
}

/** Variants of a library that differ in threads alone are one family: 'jax-js' and 'jax-js threads'. */
const familyOf = ({ name }: Peer): string => name.replace(/ threads$/, '');

/** Of each family the peer on the most threads. */
function widest(peers: readonly Peer[]): Peer[] {
  const chosen = new Map<string, Peer>();
  for (const peer of peers)
    if (peer.threads > (chosen.get(familyOf(peer))?.threads ?? 0)) chosen.set(familyOf(peer), peer);
  return [...chosen.values()];
}

async function peersOf(
  part: Part,
  peers: readonly Peer[],
  context: BenchContext,
  rows: readonly string[],
): Promise<BenchContender[]> {
  const contenders: BenchContender[] = [];
  for (const peer of peers) {
    const { name, version, threads } = peer;
    // Half the bytes are another work: who computes in bf16 stands beside our bf16 alone.
    const of = name.endsWith('bf16') ? rows.filter((row) => row.endsWith('bf16')) : rows;
    if (of.length === 0) continue;
    try {
      const made = await peer.work(part.spec);
      if (made === null) continue;
      const work = await checked(part, name, made, context);
      contenders.push({
        name: `${name}, ${threads} threads`,
        work: part.work * (made.part ?? 1),
        ...timing(work),
        peer: { name, version, threads, of },
      });
    } catch (error) {
      console.log(`${name} on ${threads} threads is left out: ${error instanceof Error ? error.message : error}`);
    }
  }
  return contenders;
}

export function specCase<Spec extends WorkSpec>(of: SpecCase<Spec>): BenchCase {
  const { name, shape, unit, variants, also } = of;
  const rowOf = (label: string): string => (label === '' ? name : `${name} ${label}`);
  const labels = Object.keys(variants);
  return {
    name,
    shape,
    unit,
    perUnit: 1e9,
    async contenders(context) {
      const contenders: BenchContender[] = [];
      for (const [i, label] of labels.entries()) {
        const spec = variants[label]!();
        const part: Part = {
          label,
          row: rowOf(label),
          spec,
          work: of.work(spec),
          limit: of.limit(spec),
          versus: i === 0 ? {} : { [`lorikeet ${labels[0]}`]: rowOf(labels[0]!) },
          check: checkerOf(spec),
        };
        contenders.push(...(await ours(part, also, context)));
        for (const host of also ? context.hosts : [])
          contenders.push(...(await elsewhere(part, also === 'main', host, context)));
        if (i > 0) continue;
        const all = context.peers.filter((peer) => of.peers?.(peer.name) ?? true);
        const peers = of.everyPeer ? all : widest(all);
        contenders.push(...(await peersOf(part, peers, context, labels.map(rowOf))));
      }
      return contenders;
    },
  };
}
