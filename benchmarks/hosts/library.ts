/** Ourselves as a library in a stranger's Node: no flag of V8 is set. `process-peer.ts` speaks to it. */
import { cpu } from '@lorikeet/cpu';
import { answer } from '../answer.ts';
import { ourWork } from '../ours/work.ts';

const threads = Number(process.argv[2]);
const backend = await cpu({ threads });
await answer({ version: `Node ${process.versions.node}`, threads }, async (spec) => ourWork(spec, backend));
await backend.close();
