/**
 * `node benchmarks/adapters/check.ts [NAMES]`: runs every work of every adapter (or of those named, with commas between) once in
 * a small shape on one and two threads, and compares with 64-bit floats. Installs what is missing.
 */
import { checkerOf } from '../check.ts';
import type { Peer, WorkSpec } from '../peer.ts';
import { openers } from '../peers.ts';
import { mlpLosses } from './mlp-reference.ts';
import { smallWorks, titleOf } from './small-works.ts';

type Check = ReturnType<typeof checkerOf>;

function mlpCheck(spec: Extract<WorkSpec, { op: 'mlpStep' }>): Check {
  const losses = mlpLosses(spec, 2);
  return (name, [got]) => {
    for (const [i, want] of losses.entries())
      if (!(Math.abs(got![i]! - want) <= 1e-5 * want))
        throw new Error(`${name}: the loss of step ${i} is ${got![i]}, expected ${want}`);
  };
}

const checks = smallWorks.map((spec) => ({
  spec,
  title: titleOf(spec),
  check: spec.op === 'mlpStep' ? mlpCheck(spec) : checkerOf(spec),
}));

/** What peers do less exactly than f32 allows; the bench names them and leaves them out of those rows. */
const known: Readonly<Record<string, string>> = {
  'jax-js log': 'off by 5e-5 of the value near 1',
};

/** How many works were right and wrong; prints the wrong ones and those that the peer lacks. */
async function tryAll(peer: Peer): Promise<{ right: number; wrong: number }> {
  const lacking: string[] = [];
  let [right, wrong] = [0, 0];
  for (const { spec, title, check } of checks)
    try {
      const work = await peer.work(spec);
      if (work === null) lacking.push(title);
      else {
        const seconds = work.seconds ? await work.seconds() : 1;
        check(`${peer.name}, ${title}`, await work.result(), work.roundoff);
        if (!(seconds > 0)) throw new Error(`${title}: took ${seconds} s`);
        work.dispose();
        right++;
      }
    } catch (error) {
      const reason = known[`${peer.name.replace(' threads', '')} ${title}`];
      console.log(`  ${reason === undefined ? 'WRONG' : `known to be ${reason}:`} ${(error as Error).message}`);
      if (reason === undefined) wrong++;
    }
  console.log(`${peer.name} ${peer.version}, ${peer.threads} threads: ${right} right, ${wrong} wrong`);
  if (lacking.length > 0) console.log(`  lacks ${lacking.join(', ')}`);
  return { right, wrong };
}

const names = process.argv[2]?.split(',') ?? Object.keys(openers);
let [right, wrong] = [0, 0];
for (const name of names) {
  const { open } = await openers[name]!();
  for (const peer of await open([1, 2])) {
    const counts = await tryAll(peer);
    right += counts.right;
    wrong += counts.wrong;
    await peer.close();
  }
}
console.log(`${right} passed, ${wrong} failed`);
process.exitCode = wrong > 0 ? 1 : 0;
