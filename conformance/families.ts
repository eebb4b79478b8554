import type { BackendName } from './backends.ts';
import { runDataCase } from './family-data.ts';
import { runLoraCase } from './family-lora.ts';
import { runNnCase } from './family-nn.ts';
import { runOpCase } from './family-ops.ts';
import { runPhi3Case } from './family-phi3.ts';
import { runQuantizationCase } from './family-quantization.ts';
import { runRunsCase } from './family-runs.ts';
import { runTokenizerCase } from './family-tokenizer.ts';
import { runTrainerCase } from './family-trainer.ts';
import type { FamilyRunner } from './findings.ts';

/** What a user may rely on, and who checks it. */
export interface Family {
  readonly name: string;
  /** What holds when its row is green. */
  readonly promise: string;
  /** Runs one case. A family without one is listed as absent: what it compares does not exist yet. */
  readonly run?: FamilyRunner;
  /** Computes no tensor, so it runs once, beside the first backend. */
  readonly once?: true;
  /** The family whose recording it compares with, if not one of its own. */
  readonly recordedAs?: string;
  /** The backends it is about; a backend that a family names runs no other. */
  readonly backends?: readonly BackendName[];
}

/** In the order of the table; reference/record.py records them in the same order. */
export const families: readonly Family[] = [
  { name: 'ops', promise: 'every op and every gradient is that of PyTorch', run: runOpCase },
  { name: 'nn', promise: 'modules, initialisers, optimizers and schedules are those of PyTorch', run: runNnCase },
  { name: 'phi3', promise: 'the model is Phi3ForCausalLM of transformers', run: runPhi3Case },
  {
    name: 'tokenizer',
    promise: 'ids, texts, chats and assistant masks are those of transformers',
    run: runTokenizerCase,
    once: true,
  },
  { name: 'lora', promise: 'your adapter behaves in PEFT as it does here', run: runLoraCase },
  { name: 'quantization', promise: 'your 4-bit file is that of bitsandbytes', run: runQuantizationCase },
  { name: 'trainer', promise: 'your loss curve is that of TRL', run: runTrainerCase },
  {
    name: 'data',
    promise: 'your split is that of datasets, your scores those of rouge_score',
    run: runDataCase,
    once: true,
  },
  { name: 'runs', promise: 'a whole run ends where TRL and PEFT end', run: runRunsCase },
  {
    name: 'gpujs',
    promise: 'an independent implementation gets the same from every op',
    run: runOpCase,
    recordedAs: 'ops',
    backends: ['gpujs-cpu', 'gpujs-webasm'],
  },
];

/** The family of that name; throws for one that no list knows. */
export function familyOf(name: string): Family {
  const found = families.find((f) => f.name === name);
  if (!found) throw new TypeError(`conformance: family ${name} must be listed in conformance/families.ts: it is not.`);
  return found;
}

/** Whether a backend runs a family's cases. */
export function runsOn({ backends }: Family, backend: BackendName): boolean {
  return backends ? backends.includes(backend) : !families.some((f) => f.backends?.includes(backend));
}
